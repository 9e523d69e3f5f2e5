"""Attacks of someone who wants to be misclassified AND kept by a detector: what every evaluation of one runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.parts.attacks import PGD, Attack, Best, for_evaluation
from art_ext.parts.detectors import Detector
from art_ext.parts.evading import squashed
from art_ext.parts.noise import Keys
from art_ext.parts.norms import Norm
from art_ext.parts.objectives import Objective, Score
from art_ext.types import Adversarial, Forward, Outputs

STEPS_ACROSS = 10
"""The step is that of so many steps, however many there are: where confidence is flat, small ones lead nowhere."""
MOMENTUM = 0.75


def towards(detector: Detector) -> Objective:
    """log p_t of a target class t until the prediction is t, then the detector's score, squashed to (0, 2).

    Of a rejection by confidence that is the confidence in t all the way (Stutz, Hein, Schiele, ICML 2020).
    """

    def measure(out: Outputs, y: Tensor, target: Tensor) -> Tensor:
        value = F.log_softmax(out.logits, 1).gather(1, target[:, None]).squeeze(1)
        there = (out.logits.argmax(1) == target).nonzero().squeeze(1)
        if len(there) == 0:
            return value
        part = Outputs(out.logits[there], {name: extra[there] for name, extra in out.extras.items()})
        return value.index_put((there,), squashed(detector.score(part)).to(value.dtype))

    return Objective(f"towards_{detector.name}", measure, needs=detector.needs, targetable=False)


@dataclass(frozen=True)
class MultiTargeted:
    """PGD with momentum towards each of the likeliest wrong classes in turn, and then up the detector's score.

    Each image keeps, of all classes and starts, the misclassified point with the highest score.

    Attributes:
        targets: how many wrong classes, those with the largest logits of the clean image.
    """

    norm: Norm
    detector: Detector
    objective: Objective
    targets: int
    steps: int
    restarts: int = 1
    clip: tuple[float, float] = (0.0, 1.0)
    bn: Literal["eval"] = "eval"

    @property
    def cost(self) -> int:
        return self.steps * self.restarts * self.targets

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        eps = self.norm.largest
        size = self.norm.usual_step(eps, STEPS_ACROSS)
        step = float(size) if isinstance(size, float | int) else None
        pgd = PGD(
            self.norm, self.steps, step, self.objective, restarts=self.restarts, momentum=MOMENTUM, clip=self.clip,
            keep="best",
        )  # fmt: skip
        with torch.no_grad():
            logits = net(x).logits
        wrong = logits.scatter(1, score.y[:, None], float("-inf"))
        likely = wrong.sort(dim=1, descending=True, stable=True).indices[:, : min(self.targets, logits.shape[1] - 1)]
        best = Best(x)
        for rank, target in enumerate(likely.unbind(1)):
            aim = Score(self.objective.measure, score.y, False, (target,))
            made = pgd.craft(net, x, aim, keys.stream("target", rank), mask)
            with torch.no_grad():
                out = net(made.x)
            best.consider(made.x, self.detector.score(out), aim.wrong(out))
        return Adversarial(best.x, best.x - x)

    def __str__(self) -> str:
        times = f", {self.restarts} restarts" if self.restarts > 1 else ""
        return (
            f"PGD({self.norm}, {self.steps} steps{times}, momentum {MOMENTUM:g}) towards each of {self.targets} wrong "
            f"classes, then up the score of {self.detector}"
        )


def evasions(
    detector: Detector, own: PGD | None, base: PGD, effort: tuple[int, int, int], n_classes: int
) -> list[tuple[str, Attack]]:
    """What an attacker who knows a fitted detector runs on every image, with names.

    PGD on each adversary that the detector names, which goes on after success, and `MultiTargeted`.

    Args:
        own: the plan's attack as an evaluation runs it, taken where it raises one of the same adversaries.
        base: PGD in the threat's ball.
        effort: wrong classes, steps and restarts of `MultiTargeted`.
    """
    found: list[tuple[str, Attack]] = []
    for objective in detector.adversaries:
        chosen = own if own is not None and own.objective is objective else base
        attack = for_evaluation(chosen, objective=objective, stop_when_wrong=False)
        found.append((f"pgd{attack.steps}_{objective.name}", attack))
    targets, steps, restarts = effort
    if n_classes > 1:
        aimed = MultiTargeted(
            base.norm, detector, towards(detector), min(targets, n_classes - 1), steps, restarts, base.clip
        )
        found.append((f"evade_{detector.name}", aimed))
    return found


def raised_by(attack: Attack | None, detectors: Sequence[Detector]) -> bool:
    """Whether an attack's objective is an adversary that one of the detectors names."""
    return attack is not None and any(attack.objective is one for item in detectors for one in item.adversaries)
