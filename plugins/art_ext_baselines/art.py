"""The baselines as ART knows trainers and attacks."""

from art_ext.border.art import AroundTrainer, MethodAttack, MethodTrainer
from art_ext_baselines.awp import AWP
from art_ext_baselines.fast_at import FastAT
from art_ext_baselines.fat import FAT
from art_ext_baselines.free_at import FreeAT
from art_ext_baselines.gce import GuidedComplementEntropy
from art_ext_baselines.gradient_attacks import BIM, FGSM, MIM, CWMargin, PlainPGD
from art_ext_baselines.mart import MART
from art_ext_baselines.pgd_at import PGDAT
from art_ext_baselines.trades import TRADES


class PGDATTrainer(MethodTrainer):
    """PGD adversarial training: `PGDATTrainer(classifier, eps=0.15, steps=10).fit(x, y, nb_epochs=15)`."""

    ingredient = PGDAT


class PGDATAttack(MethodAttack):
    """The attack of PGD-AT: `PGDATAttack(classifier, eps=0.15, steps=20, objective="margin").generate(x, y)`."""

    ingredient = PGDAT


class TRADESTrainer(MethodTrainer):
    """TRADES; takes ART's arguments too: `TRADESTrainer(classifier, attack, beta)`."""

    ingredient = TRADES
    art_arguments = ("attack", "beta")


class TRADESAttack(MethodAttack):
    """PGD on KL(p(x) || p(x')), the inner attack of TRADES."""

    ingredient = TRADES


class MARTTrainer(MethodTrainer):
    """MART: `MARTTrainer(classifier, eps=0.15, beta=5).fit(x, y, nb_epochs=15)`."""

    ingredient = MART
    art_arguments = ("attack", "beta")


class MARTAttack(MethodAttack):
    """PGD on CE from x + 0.001 N(0, 1), the inner attack of MART."""

    ingredient = MART


class FATTrainer(MethodTrainer):
    """Friendly adversarial training: `FATTrainer(classifier, eps=0.15, milestones=(6, 12)).fit(x, y, nb_epochs=15)`."""

    ingredient = FAT
    art_arguments = ()


class FATAttack(MethodAttack):
    """FAT's PGD without the early stop, which a real attacker would not have."""

    ingredient = FAT


class AWPTrainer(AroundTrainer):
    """AT-AWP, `AWPTrainer(classifier, eps=0.15, gamma=0.01)`, or AWP around another base.

    `AWPTrainer(classifier, TRADES(eps=0.15), gamma=0.005)`; without a base it takes the options of PGD-AT too.
    """

    ingredient = AWP
    usual_base = PGDAT


class FastATTrainer(MethodTrainer):
    """Fast adversarial training; takes ART's arguments too: `FastATTrainer(classifier, eps)`."""

    ingredient = FastAT
    art_arguments = ("eps",)


class FreeATTrainer(MethodTrainer):
    """Free adversarial training: `FreeATTrainer(classifier, eps=0.15, replays=4).fit(x, y, nb_epochs=5)`.

    An epoch replays each batch; `nb_epochs` is another method's divided by `replays`.
    """

    ingredient = FreeAT
    art_arguments = ("eps",)


class GuidedComplementEntropyTrainer(MethodTrainer):
    """Guided complement entropy: `GuidedComplementEntropyTrainer(classifier).fit(x, y, nb_epochs=15)`."""

    ingredient = GuidedComplementEntropy
    art_arguments = ()


class GuidedComplementEntropyAttack(MethodAttack):
    """PGD on the logit margin, as an attacker who knows guided complement entropy would run it."""

    ingredient = GuidedComplementEntropy


class FGSMAttack(MethodAttack):
    """FGSM: `FGSMAttack(classifier, eps=0.15).generate(x, y)`; an example that is wrong already stays as it is."""

    ingredient = FGSM


class BIMAttack(MethodAttack):
    """The basic iterative method: `BIMAttack(classifier, eps=0.15, steps=10).generate(x, y)`."""

    ingredient = BIM


class MIMAttack(MethodAttack):
    """The momentum iterative method: `MIMAttack(classifier, eps=0.15, momentum=1.0).generate(x, y)`."""

    ingredient = MIM


class PGDAttack(MethodAttack):
    """PGD: `PGDAttack(classifier, eps=0.15, steps=20, restarts=5).generate(x, y)`."""

    ingredient = PlainPGD


class CWMarginAttack(MethodAttack):
    """PGD on the logit margin: `CWMarginAttack(classifier, eps=0.15, steps=20).generate(x, y)`."""

    ingredient = CWMargin
