"""Carlini and Wagner's L2 attack (S&P 2017): plain, of high confidence, or with a penalty beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from art_ext.errors import ConfigError
from art_ext.parts.noise import Keys
from art_ext.parts.norms import Norm, per_example
from art_ext.parts.objectives import Objective, Score, cw
from art_ext.parts.targeted import wrong_classes
from art_ext.types import Adversarial, Forward, Outputs

Penalty = Callable[[Outputs, Tensor], Tensor]
"""(outputs, target classes) to (N,), 0 where the detector is satisfied."""
INSIDE = 0.999999
"""Keeps atanh finite for black and white pixels, as in the authors' code."""
LARGEST = 1e10
STALLED = 0.9999
"""An example rests once its loss fell by less than this factor over a tenth of the steps."""


@dataclass(frozen=True)
class CarliniWagner:
    """min |x' - x|_2^2 + c (f(x') + penalty), over w with x' = tanh(w) scaled to the clip range.

    f = max(0, max_{j != t} z_j - z_t + confidence) for a target class t. Each example has its own c:
    multiplied by ten until the attack succeeds, then bisected. The nearest success is kept; where
    there is none, the iterate that came nearest to one. Distances are not bounded.

    Attributes:
        aim: "random": one drawn wrong class per example, as in the paper's tables; "any": any wrong one.
            A score that is targeted already keeps its targets.
        penalty: a term that must be 0 too for success; it needs a target class, so not aim "any".
        begin: another attack, whose results are the start; distances are still measured from x.
        within: an example whose result lies outside this ball keeps its image; None bounds nothing.
    """

    n_classes: int
    confidence: float = 0.0
    steps: int = 1000
    search_steps: int = 9
    initial_const: float = 1.0
    rate: float = 0.01
    clip: tuple[float, float] = (0.0, 1.0)
    aim: Literal["random", "any"] = "random"
    penalty: Penalty | None = None
    begin: CarliniWagner | None = None
    within: Norm | None = None
    objective: Objective = cw
    bn: Literal["eval"] = "eval"

    def __post_init__(self) -> None:
        if not all(abs(bound) != float("inf") for bound in self.clip):
            raise ConfigError("the C&W attack works in a box; give the classifier clip_values")
        if self.penalty is not None and self.aim == "any":
            raise ConfigError("a C&W attack on a detector needs target classes; set aim to random")

    @property
    def cost(self) -> int:
        """Forward and backward passes per example, at most."""
        return self.steps * self.search_steps + (0 if self.begin is None else self.begin.cost)

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        if self.aim == "random" and not score.targeted:
            score = replace(score, y=wrong_classes(keys, score.y, self.n_classes), targeted=True)
        start = x if self.begin is None else self.begin.craft(net, x, score, keys, mask).x
        made = _Search(self, net, x, start, score, mask).run()
        if self.within is None:
            return made
        near = self.within.of(made.delta) <= self.within.largest
        adv = torch.where(per_example(near), made.x, x)
        return Adversarial(adv, adv - x)

    def hinge(self, out: Outputs, score: Score) -> Tensor:
        """f plus the penalty; 0 is success; (N,)."""
        ahead = cw.measure(out, score.y)
        f = ((ahead if score.targeted else -ahead) + self.confidence).relu()
        return f if self.penalty is None else f + self.penalty(out, score.y)

    def __str__(self) -> str:
        extra = ", against the detector" if self.penalty is not None else ""
        bound = "unbounded" if self.within is None else f"kept within {self.within}"
        return (
            f"C&W(L2, {bound}, confidence {self.confidence:g}, {self.search_steps} x {self.steps} steps, "
            f"{self.aim} target{extra})"
        )


class _Search:
    """One attack on one batch: the box, the constants, the best so far."""

    def __init__(
        self, attack: CarliniWagner, net: Forward, x: Tensor, start: Tensor, score: Score, mask: Tensor | None
    ) -> None:
        self.attack, self.net, self.x, self.score, self.mask = attack, net, x, score, mask
        low, high = attack.clip
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        self.w0 = torch.atanh(((start - self.middle) / self.half).clamp(-1, 1) * INSIDE)
        n = len(x)
        self.const = x.new_full((n,), attack.initial_const)
        self.below, self.above = x.new_zeros(n), x.new_full((n,), LARGEST)
        self.best, self.best_hinge = x.clone(), x.new_full((n,), float("inf"))
        self.best_distance = x.new_full((n,), float("inf"))

    def run(self) -> Adversarial:
        for _ in range(self.attack.search_steps):
            self._bisect(self._descend())
        return Adversarial(self.best, self.best - self.x)

    def _inside(self, w: Tensor) -> Tensor:
        adv = torch.tanh(w) * self.half + self.middle
        return adv if self.mask is None else self.x + self.mask * (adv - self.x)

    def _descend(self) -> Tensor:
        """Adam at the present constants; (N,) bool: which examples succeeded on the way."""
        attack = self.attack
        w = self.w0.clone().requires_grad_()
        adam = torch.optim.Adam([w], lr=attack.rate)
        succeeded = torch.zeros(len(w), dtype=torch.bool, device=w.device)
        awake, mark = ~succeeded, torch.full_like(self.const, float("inf"))
        look = max(1, attack.steps // 10)
        for step in range(attack.steps):
            adv = self._inside(w)
            distance = (adv - self.x).square().flatten(1).sum(1)
            hinge = attack.hinge(self.net(adv), self.score)
            loss = distance + self.const * hinge
            (w.grad,) = torch.autograd.grad(loss.sum(), w)
            succeeded |= self._keep(adv.detach(), distance.detach(), hinge.detach(), awake) & awake
            adam.step()
            if step % look == look - 1:
                awake &= loss.detach() <= STALLED * mark
                mark = loss.detach()
                if not bool(awake.any()):
                    break
        return succeeded

    def _keep(self, adv: Tensor, distance: Tensor, hinge: Tensor, awake: Tensor) -> Tensor:
        success = hinge <= 0
        nearer = success & ((self.best_hinge > 0) | (distance < self.best_distance))
        better = awake & (nearer | (hinge < self.best_hinge))
        self.best = torch.where(per_example(better), adv, self.best)
        self.best_hinge = torch.where(better, hinge, self.best_hinge)
        self.best_distance = torch.where(better, distance, self.best_distance)
        return success

    def _bisect(self, succeeded: Tensor) -> None:
        self.above = torch.where(succeeded, torch.minimum(self.above, self.const), self.above)
        self.below = torch.where(succeeded, self.below, torch.maximum(self.below, self.const))
        between = (self.below + self.above) / 2
        self.const = torch.where(self.above < LARGEST, between, self.const * 10)
