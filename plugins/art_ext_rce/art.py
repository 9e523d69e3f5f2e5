"""RCE and the attacks of its paper as ART knows trainers and attacks."""

from typing import Literal

from art.estimators.classification import PyTorchClassifier

from art_ext.border.art import MethodAttack, MethodTrainer
from art_ext.border.art_detectors import MethodDetector
from art_ext_rce.attacks import CWHighConfidence, CWWhiteBox, EvadeDetectors
from art_ext_rce.detectors import LID, RCE_SIGMA2, KDensity, LogOdds, NonMaxEntropy
from art_ext_rce.ingredient import RCE


class RCETrainer(MethodTrainer):
    """Trains a classifier with reverse cross-entropy: `RCETrainer(classifier).fit(x, y, nb_epochs=20)`.

    The head is negated in the same model, so that `predict` gives the reversed logits.
    """

    ingredient = RCE


class RCEAttack(MethodAttack):
    """PGD on the cross-entropy of the reversed logits."""

    ingredient = RCE


def unbounded(attack: type[MethodAttack]) -> type[MethodAttack]:
    """For an attack without a ball: norm, eps and their like are refused, not ignored."""
    attack.attack_params = [*MethodAttack.attack_params, *attack.ingredient.model_fields]
    return attack


@unbounded
class CWHighConfidenceAttack(MethodAttack):
    """C&W-hc: `CWHighConfidenceAttack(classifier, confidence=10, steps=1000).generate(x, y)`."""

    ingredient = CWHighConfidence


@unbounded
class CWWhiteBoxAttack(MethodAttack):
    """C&W-wb: `CWWhiteBoxAttack(classifier, detector=fitted).generate(x, y)`."""

    ingredient = CWWhiteBox


class EvadeDetectorsAttack(MethodAttack):
    """PGD against calibrated detectors: `EvadeDetectorsAttack(classifier, detectors=(d,), eps=0.15)`."""

    ingredient = EvadeDetectors


class ConfidenceDetector(MethodDetector):
    """Rejects by the confidence of the prediction, ranked by log odds; fit it on held-out clean images."""

    def __init__(self, classifier: PyTorchClassifier, tpr: float = 0.95) -> None:
        super().__init__(classifier, LogOdds(), tpr)


class NonMaxEntropyDetector(MethodDetector):
    """Rejects by non-ME: `NonMaxEntropyDetector(classifier).fit(x, y)`, on held-out clean images."""

    def __init__(self, classifier: PyTorchClassifier, tpr: float = 0.95) -> None:
        super().__init__(classifier, NonMaxEntropy(), tpr)


class KDensityDetector(MethodDetector):
    """Rejects by K-density; the last `held_out` of the images given to `fit` set the threshold, the others the bank."""

    def __init__(
        self,
        classifier: PyTorchClassifier,
        tpr: float = 0.95,
        sigma2: float | Literal["median"] = RCE_SIGMA2,
        per_class: int = 1000,
        held_out: float = 0.1,
    ) -> None:
        super().__init__(classifier, KDensity(sigma2, per_class), tpr, held_out)


class LIDDetector(MethodDetector):
    """Rejects by local intrinsic dimension, the comparator; `fit` as for K-density."""

    def __init__(
        self, classifier: PyTorchClassifier, tpr: float = 0.95, k: int = 20, per_class: int = 100, held_out: float = 0.1
    ) -> None:
        super().__init__(classifier, LID(k, per_class), tpr, held_out)
