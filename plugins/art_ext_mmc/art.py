"""MMC and its relatives as ART knows trainers and attacks."""

from art_ext.border.art import MethodAttack, MethodTrainer
from art_ext_mmc.ingredient import GSCE, LGM, MMC, MMLDA, CenterLoss, MMCRand


class MMCTrainer(MethodTrainer):
    """Trains a classifier with MMC: `MMCTrainer(classifier, center_norm=10, dim=64).fit(x, y, nb_epochs=20)`.

    Its head gives place to one with fixed centres, in the same model.
    """

    ingredient = MMC


class MMCRandTrainer(MethodTrainer):
    """MMC with centres drawn at random."""

    ingredient = MMCRand


class MMLDATrainer(MethodTrainer):
    """MM-LDA: `MMLDATrainer(classifier, dim=64).fit(x, y)`."""

    ingredient = MMLDA


class CenterLossTrainer(MethodTrainer):
    """Cross-entropy with centre loss."""

    ingredient = CenterLoss


class LGMTrainer(MethodTrainer):
    """Large-margin Gaussian mixture loss."""

    ingredient = LGM


class GSCETrainer(MethodTrainer):
    """Generalised softmax cross-entropy."""

    ingredient = GSCE


class MMCAttack(MethodAttack):
    """PGD on the logit margin of the distances, linear in z; `targeted=True` moves to the centre of y.

    For a classifier trained by `MMCTrainer`. ART's own PGD raises cross-entropy, which saturates there.
    """

    ingredient = MMC


class MMLDAAttack(MethodAttack):
    """PGD on the logit margin, for a classifier trained by `MMLDATrainer`."""

    ingredient = MMLDA
