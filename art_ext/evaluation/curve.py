"""The smallest eps that changes each image, by bisection, and accuracy as a function of eps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from art_ext.evaluation.record import CurvePoint, Estimate
from art_ext.evaluation.suite import Evaluator
from art_ext.evaluation.threat import Threat
from art_ext.parts.attacks import PGD
from art_ext.parts.noise import Keys
from art_ext.parts.norms import TINY, Eps, Norm, norm_named, per_example
from art_ext.parts.objectives import cw
from art_ext.parts.ranges import Listed

REACH = 4.0
"""The largest eps that is tried, as a multiple of the threat's."""
POINTS = 20
"""Steps of the curve, from 0 to twice the threat's eps."""


def budget_of(rounds: int, steps: int) -> str:
    """The search in words."""
    return f"the smallest of all attacks, and {rounds} rounds of bisection, each PGD({steps} steps, on margin)"


@dataclass(frozen=True)
class WarmStart:
    """The last successful perturbation of each image, brought to the present radius; a random point without one.

    Attributes:
        delta: (N, C, H, W) by example index from `first` on.
    """

    delta: Tensor
    place: Tensor
    clamped = True

    def __call__(self, norm: Norm, keys: Keys, x: Tensor, eps: Eps) -> Tensor:
        known = self.delta[self.place[keys.index]]
        size = norm.of(known)
        scaled = norm.project(known * (eps / per_example(size).clamp(min=TINY)), eps)
        return torch.where(per_example(size > 0), scaled, norm.uniform(keys, x, eps))

    def __str__(self) -> str:
        return "the last success"


def smallest_eps(
    evaluator: Evaluator,
    threat: Threat,
    right: Tensor,
    known: Tensor,
    standing: Tensor,
    *,
    rounds: int,
    steps: int,
    batch_size: int = 256,
    over: Callable[[], bool] = lambda: False,
) -> Tensor:
    """(N,) an upper bound of the smallest perturbation that changes each image; 0 where it is wrong when clean.

    PGD on the margin inside balls that halve the open interval, from the last success. Infinite where
    nothing up to `REACH` times the threat's eps succeeds.

    Args:
        right: (N,) bool, when clean.
        known: (N,) the smallest perturbation known to succeed; infinite where none is.
        standing: (N,) bool: nothing inside the threat's ball succeeded, so its eps is the lower end.
        over: asked before each round of a batch whether to stop; what is open then stays at `known`.
    """
    found = torch.where(right, known, torch.zeros_like(known))
    for index in torch.split(right.nonzero().squeeze(1), batch_size):
        if len(index) == 0 or over():
            break
        low = torch.where(standing[index], threat.eps, 0.0)
        found[index] = _bisect(evaluator, threat, index, low, found[index], rounds, steps, over)
    return found


def _bisect(
    evaluator: Evaluator,
    threat: Threat,
    index: Tensor,
    low: Tensor,
    high: Tensor,
    rounds: int,
    steps: int,
    over: Callable[[], bool],
) -> Tensor:
    x, y = evaluator.batch(index)
    n, reach = len(evaluator.y), REACH * threat.eps
    place = torch.zeros(n, dtype=torch.int64, device=x.device)
    place[index.to(x.device)] = torch.arange(len(index), device=x.device)
    delta = torch.zeros_like(x)
    high = torch.where(high > reach, torch.inf, high)
    hopeless = torch.zeros_like(high, dtype=torch.bool)
    for _ in range(rounds):
        middle = torch.where(high.isinf(), reach, (low + high) / 2)
        open_ = (~hopeless & (high - low > 1e-3 * threat.eps)).nonzero().squeeze(1)
        if len(open_) == 0 or over():
            break
        radii = torch.full((n,), threat.eps)
        radii[index] = middle.float()
        attack = PGD(
            norm_named(threat.norm, Listed(radii)),
            steps,
            objective=cw,
            start=WarmStart(delta, place),
            keep="best",
            clip=threat.clip,
            stop_when_wrong=True,
        )
        made, _ = evaluator.craft(attack, index[open_])
        rows = open_.to(x.device)
        wrong = (evaluator.predict(made) != y[rows]).cpu()
        size = threat.ball().of(made - x[rows]).cpu()
        success = wrong & (size <= middle[open_] * 1.0001)
        delta[rows[success.to(x.device)]] = (made - x[rows])[success.to(x.device)]
        hopeless[open_[~success]] |= high[open_[~success]].isinf()
        low[open_[~success]] = middle[open_[~success]]
        high[open_[success]] = size[success].clamp(min=TINY)
        low = torch.minimum(low, high)
    return high


def curve_of(smallest: Tensor, eps: float, seed: int, budget: str) -> tuple[CurvePoint, ...]:
    """Accuracy at 0 to twice `eps`: the share of images whose smallest successful perturbation is larger.

    Args:
        seed, budget: of the search for it, as each point says.
    """
    points = []
    for step in range(POINTS + 1):
        radius = 2 * eps * step / POINTS
        estimate = Estimate.of(int((smallest > radius * (1 + 1e-6)).sum()), len(smallest))
        points.append(CurvePoint(radius, estimate.accuracy, estimate.low, estimate.high, estimate.n, seed, budget))
    return tuple(points)
