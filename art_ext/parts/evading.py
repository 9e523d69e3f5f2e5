"""What an attacker raises who wants to be misclassified AND kept by detectors, whatever they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from art_ext.errors import ConfigError
from art_ext.parts.detectors import Detector
from art_ext.parts.objectives import Objective, Score, ce, cw
from art_ext.types import Forward, Outputs

LEAST = -1e6
"""Keeps the score of an empty bank, -inf, finite."""
Order = Literal["sum", "label_first"]


@dataclass(frozen=True)
class EvadingScore(Score):
    """A score whose aim is reached only by what is misclassified AND kept by the detectors."""

    detectors: tuple[Detector, ...] = ()

    def wrong(self, out: Outputs) -> Tensor:
        """(N,) bool: misclassified (as the target), and every detector keeps it."""
        wrong = super().wrong(out)
        for detector in self.detectors:
            wrong = wrong & detector.keeps(out)
        return wrong


@dataclass(frozen=True)
class Evading(Objective):
    """An objective that is bound to detectors as well; see `evading`."""

    detectors: tuple[Detector, ...] = ()

    def bind(self, net: Forward, x: Tensor, y: Tensor, *, targeted: bool = False) -> Score:
        if targeted:
            raise ConfigError(f"the objective {self.name} has no targeted form; leave targeted out")
        return EvadingScore(self.measure, y, detectors=self.detectors)


def shortfall(out: Outputs, detectors: tuple[Detector, ...]) -> Tensor:
    """sum over detectors of min(0, score - T); (N,), 0 where all keep the input.

    Raises:
        ConfigError: for a detector without a threshold.
    """
    total = torch.zeros_like(out.logits[:, 0])
    for detector in detectors:
        if detector.threshold is None:
            raise ConfigError(f"the detector {detector.name} has no threshold yet; calibrate it before attacking it")
        score = detector.score(out)
        # a score and a threshold of -inf, which keeps it, have no difference
        total = total + torch.where(score >= detector.threshold, 0.0, (score - detector.threshold).clamp(min=LEAST))
    return total


def squashed(score: Tensor) -> Tensor:
    """1 + s / (1 + |s|): in (0, 2), rising with the score."""
    score = score.clamp(min=LEAST)
    return 1 + score / (1 + score.abs())


def label_first(ahead: Tensor, reward: Tensor) -> Tensor:
    """The margin while the label is right, then the reward, squashed to lie above 0; (N,)."""
    return torch.where(ahead > 0, squashed(reward), ahead)


def fooling(detector: Detector) -> Objective:
    """A wrong label first, then as high a score as can be; needs no threshold."""

    def measure(out: Outputs, y: Tensor) -> Tensor:
        return label_first(cw.measure(out, y), detector.score(out))

    return Objective(f"fooling_{detector.name}", measure, needs=detector.needs, targetable=False)


def evading(*detectors: Detector, lam: float = 1.0, order: Order = "sum") -> Objective:
    """What an attacker raises who knows the detectors, which all must keep the input.

    order "sum": CE + lam sum min(0, score - T). order "label_first": the logit margin until the
    label is wrong, then lam sum min(0, score - T). Sweep lam over 0.1, 1 and 10.

    Raises:
        ConfigError: without detectors, or for lam <= 0.
    """
    if not detectors:
        raise ConfigError("an attack on detectors needs one or more of them")
    if lam <= 0:
        raise ConfigError(f"lam must be above 0, got {lam}")

    def measure(out: Outputs, y: Tensor) -> Tensor:
        penalty = lam * shortfall(out, detectors)
        if order == "sum":
            return ce.measure(out, y) + penalty
        ahead = cw.measure(out, y)
        return label_first(ahead, penalty)

    needs = frozenset().union(*(detector.needs for detector in detectors))
    name = "evading_" + "_".join(detector.name for detector in detectors)
    return Evading(name, measure, needs=needs, targetable=False, detectors=detectors)
