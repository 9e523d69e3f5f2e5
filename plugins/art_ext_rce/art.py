"""RCE, its detectors and C&W-wb as ART knows them."""

from __future__ import annotations

from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_ext.border.art import MethodAttack, MethodTrainer
from art_ext.border.art_detectors import ScoreDetector
from art_ext_rce.attacks import CWWhiteBox
from art_ext_rce.detectors import CE_SIGMA2, LID, RCE_SIGMA2, KDensity, LogOdds, NonMaxEntropy
from art_ext_rce.ingredient import RCE, is_negated

TPR = 0.95
"""Share of correctly classified clean images that the paper's detectors keep."""


class RCETrainer(MethodTrainer):
    """Trains a classifier with reverse cross-entropy: `RCETrainer(classifier).fit(x, y, nb_epochs=20)`.

    The head is negated in the same model, so that `predict` gives the reversed logits.
    """

    ingredient = RCE


class RCEAttack(MethodAttack):
    """PGD on the cross-entropy of the reversed logits."""

    ingredient = RCE


class CWWhiteBoxAttack(MethodAttack, bounded=False):
    """C&W-wb against a fitted `KDensityDetector`: `CWWhiteBoxAttack(classifier, detector=fitted).generate(x, y)`."""

    ingredient = CWWhiteBox

    @classmethod
    def example(cls, estimator: PyTorchClassifier) -> CWWhiteBoxAttack:
        """A small one, against K-density fitted on noise."""
        return cls(estimator, detector=fitted_on_noise(estimator), steps=4, search_steps=2)


class ConfidenceDetector(ScoreDetector):
    """Rejects by the confidence of the prediction, ranked by log odds; fit it on held-out clean images."""

    score = LogOdds
    usual_tpr = TPR


class NonMaxEntropyDetector(ScoreDetector):
    """Rejects by non-ME: `NonMaxEntropyDetector(classifier).fit(x, y)`, on held-out clean images."""

    score = NonMaxEntropy
    usual_tpr = TPR


class KDensityDetector(ScoreDetector):
    """Rejects by K-density: `KDensityDetector(classifier, sigma2="median", per_class=1000).fit(x, y)`.

    A share of `held_out` of the images given to `fit` sets the threshold, the others the bank. `sigma2` is the authors'
    when left out: 0.1 / 0.26 for a network of reversed logits, 1 / 0.26 for any other.
    """

    score = KDensity
    usual_tpr = TPR

    def __init__(
        self, classifier: PyTorchClassifier, tpr: float | None = None, held_out: float = 0.1, **options: Any
    ) -> None:
        model = getattr(classifier, "model", None)
        reversed_logits = isinstance(model, nn.Module) and is_negated(model)
        options.setdefault("sigma2", RCE_SIGMA2 if reversed_logits else CE_SIGMA2)
        super().__init__(classifier, tpr, held_out, **options)


class LIDDetector(ScoreDetector):
    """Rejects by local intrinsic dimension, `LIDDetector(classifier, k=20)`, the comparator; `fit` as for K-density."""

    score = LID
    usual_tpr = TPR


def fitted_on_noise(classifier: PyTorchClassifier) -> KDensityDetector:
    """K-density that knows 64 images of noise, labelled as the classifier takes them: for trying out attacks on it."""
    detector = KDensityDetector(classifier, sigma2="median")
    low, high = classifier.clip_values
    x = np.random.default_rng(0).uniform(low, high, (64, *classifier.input_shape)).astype(np.float32)
    detector.fit(x, classifier.predict(x).argmax(1))
    return detector
