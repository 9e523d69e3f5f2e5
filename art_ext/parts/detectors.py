"""Scores for rejecting inputs at test time: high means "keep"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.errors import ConfigError
from art_ext.parts.objectives import Objective, other_confidence
from art_ext.types import Outputs


class Detector:
    """Base of detectors: a score, what it fits (where it has something to fit), and a threshold.

    Attributes:
        name: as recipes and ART users spell it.
        needs: extra outputs that the score reads, such as "features".
        adversaries: the objectives of an attacker who knows the score and wants to be misclassified
            AND kept, strongest first; none where that takes an attack of its own.
        threshold: an input is kept if and only if its score is at least this; None until calibrated.
        bank: what `fit` keeps, for a score that has something to fit; empty until then.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    adversaries: ClassVar[tuple[Objective, ...]] = ()
    threshold: float | None = None
    bank: Sequence[Tensor] = ()

    def fit(self, out: Outputs, y: Tensor) -> None:
        """Fits what the score compares with, on clean training outputs; most scores have nothing to fit."""

    @property
    def has_bank(self) -> bool:
        """Whether `fit` must be called before the score is defined."""
        return type(self).fit is not Detector.fit

    def score(self, out: Outputs) -> Tensor:
        """(N,) scores, high for inputs to keep."""
        raise NotImplementedError

    def calibrate(self, out: Outputs, y: Tensor, tpr: float = 0.99) -> float:
        """Sets the threshold on held-out clean outputs: those classified correctly keep a share `tpr`."""
        right = out.logits.argmax(1) == y
        if not bool(right.any()):
            raise ConfigError("a threshold needs correctly classified held-out examples, and there are none")
        self.threshold = threshold_at(self.score(out)[right], tpr)
        return self.threshold

    def keeps(self, out: Outputs) -> Tensor:
        """(N,) bool: the score reaches the threshold."""
        if self.threshold is None:
            raise ConfigError(f"the detector {self.name} has no threshold yet; calibrate it on held-out clean data")
        return self.score(out) >= self.threshold

    def state_dict(self) -> Mapping[str, Tensor]:
        """What must be saved with the model."""
        value = math.nan if self.threshold is None else self.threshold
        return {"threshold": torch.tensor(value, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        value = float(state["threshold"])
        self.threshold = None if math.isnan(value) else value

    def __str__(self) -> str:
        return self.name


def score_of(detector: Any) -> Any:
    """The score behind a detector as ART knows it; anything else as it is."""
    inside = getattr(detector, "detector", None)
    return inside if isinstance(inside, Detector) else detector


def threshold_at(scores: Tensor, tpr: float) -> float:
    """The score that a share `tpr` of the given scores reaches (Stutz et al., ICML 2020).

    Sorted ascending, it is scores[floor(n (1 - tpr) + 1e-9)]; the small term guards float noise.

    Raises:
        ConfigError: unless 0 < tpr <= 1 and there are scores.
    """
    if not 0 < tpr <= 1:
        raise ConfigError(f"tpr must lie in (0, 1], got {tpr}")
    if len(scores) == 0:
        raise ConfigError("a threshold needs at least one score")
    ordered = scores.sort().values
    return float(ordered[min(math.floor(len(ordered) * (1 - tpr) + 1e-9), len(ordered) - 1)])


def log_confidence(logits: Tensor) -> Tensor:
    """max_k log softmax(z)_k; (N, K) to (N,), at most 0."""
    return F.log_softmax(logits, 1).amax(1)


class Confidence(Detector):
    """max_k p_k, the confidence of the prediction."""

    name = "confidence"
    adversaries = (other_confidence,)

    def score(self, out: Outputs) -> Tensor:
        return F.softmax(out.logits, 1).amax(1)
