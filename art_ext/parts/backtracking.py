"""PGD with dampened momentum whose steps shrink, per example, whenever they do not pay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_ext.errors import ConfigError
from art_ext.parts.attacks import PGD, Best, Keep, Walk
from art_ext.parts.noise import Keys
from art_ext.parts.norms import Eps, Linf, Norm, per_example, unit
from art_ext.parts.objectives import Score
from art_ext.types import Forward

SMALLEST_STEP = 1e-20


def normalised(norm: Norm, grad: Tensor) -> Tensor:
    """sign(G) in L-inf, else G / |G|_p, in L0 by the 1-norm; 0 where the gradient is 0. (N, C, H, W) to the same."""
    if isinstance(norm, Linf):
        return grad.sign()
    return unit(grad, max(norm.order, 1.0))


@dataclass(frozen=True)
class BacktrackingPGD(PGD):
    """PGD with dampened momentum and backtracking (Stutz, Hein, Schiele, ICML 2020, supplement).

    Of each example, with its own step size s, which starts at `step_size`:

    1. g <- mu g + (1 - mu) G, with G the normalised gradient of the score; g moves on in any case.
    2. the candidate is delta + s g, put into the ball, then the box.
    3. it is taken where its score is no lower; elsewhere delta stays, and s <- s / lr_factor for good.

    `steps` candidates and the start are looked at, and each example keeps the first with the highest
    score, whether or not it is misclassified; with `stop_when_wrong` the first that is. So where the
    score is flat an example walks on, and yet keeps the point where it came there. A point's gradient
    is computed in the pass that judges it, so a step is one pass forward and one back.

    Attributes:
        momentum: mu of the dampened momentum above, in [0, 1).
        lr_factor: what a step that does not pay is divided by, above 1; None takes every step.
    """

    momentum: float = 0.9
    keep: Keep = "best"
    lr_factor: float | None = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must lie in [0, 1), got {self.momentum}")
        if self.lr_factor is not None and self.lr_factor <= 1:
            raise ConfigError(f"lr_factor must be above 1, got {self.lr_factor}; None takes every step")
        if self.keep != "best":
            raise ConfigError("backtracking judges every point, so it keeps the best; leave keep out")
        if self.tau is not None or self.jitter:
            raise ConfigError("backtracking goes with neither tau nor jitter; leave them out")

    @property
    def cost(self) -> int:
        """Forward passes per example; one less goes back in each restart."""
        return (self.steps + 1) * self.restarts

    def _once(
        self, net: Forward, x: Tensor, score: Score, keys: Keys, eps: Eps, mask: Tensor | None, best: Best | None
    ) -> Tensor:
        walk = Walk.of(self, x, eps, mask)
        adv = walk.begin(self.start(self.norm, keys, x, eps), clamped=True)
        value, grad = _look(net, adv, score, best)
        size = torch.ones_like(per_example(value)) * walk.size
        velocity = torch.zeros_like(x)
        for step in range(self.steps):
            if self.stop_when_wrong and best is not None and len(best.open_rows()) == 0:
                break
            direction = normalised(self.norm, grad if mask is None else grad * mask)
            velocity.mul_(self.momentum).add_(direction, alpha=1 - self.momentum)
            candidate = walk.inside(adv.clone().addcmul_(size, velocity))
            its_value, its_grad = _look(net, candidate, score, best, last=step == self.steps - 1)
            if self.lr_factor is None:
                adv, value, grad = candidate, its_value, its_grad
                continue
            taken = its_value >= value
            rows = per_example(taken)
            adv = torch.where(rows, candidate, adv, out=adv)  # a buffer of our own: strides stay
            value, grad = torch.where(taken, its_value, value), torch.where(rows, its_grad, grad)
            size = torch.where(rows, size, (size / self.lr_factor).clamp(min=SMALLEST_STEP))
        return adv

    def __str__(self) -> str:
        how = "every step taken" if self.lr_factor is None else f"steps / {self.lr_factor:g} where they do not pay"
        return super().__str__().replace("PGD(", "backtracking PGD(", 1).replace(", keeps", f", {how}, keeps", 1)


def _look(
    net: Forward, adv: Tensor, score: Score, best: Best | None, *, last: bool = False
) -> tuple[Tensor, Tensor]:
    """The score (N,) at points, shown to `best`, and its gradient, which the last look goes without."""
    with torch.set_grad_enabled(not last):
        out = net(adv.requires_grad_(not last))
        value = score.value(out)
    grad = torch.zeros_like(adv) if last else torch.autograd.grad(value, adv, torch.ones_like(value))[0]
    adv.requires_grad_(False)
    value = value.detach()
    if best is not None:
        best.consider(adv, value, score.wrong(out), aim_first=best.settles)
    return value, grad
