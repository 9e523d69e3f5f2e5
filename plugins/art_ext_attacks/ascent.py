"""One run of APGD: geometry, state and step of the examples that still stand."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from art_ext.api import L1, ConfigError, Forward, Keys, Linf, Norm, Score
from art_ext_attacks.passes import climb, look
from art_ext_attacks.projections import onto_l1_ball

RHO = 0.75
"""Share of the steps since the last checkpoint that must have raised the objective."""
MOMENTUM = 0.75
"""alpha of the iteration: the share of the new step; the rest goes on with the last one."""
SHARE, SLOWER, SLOWEST, GROWN = 0.2, 1.5, 10.0, 0.95
"""Of L1: the first share of pixels in a step; what a step size is divided by; how far below eps it may
fall; and the part of its pixels that the best point may keep before the size starts again."""
TINY = 1e-12


def check_norm(attack: str, norm: Norm) -> None:
    """Refuses a norm without a projection, a dual norm and a random point in this package.

    Raises:
        ConfigError: naming the attack and the norm.
    """
    if norm.name not in ("linf", "l2", "l1"):
        raise ConfigError(f"{attack} attacks in linf, l2 and l1, not in {norm.name}; use pgd, or give it a norm")


def image_shaped(values: Tensor) -> Tensor:
    """(N,) to (N, 1, 1, 1)."""
    return values.reshape(-1, 1, 1, 1)


class Rowwise:
    """Base of dataclasses whose tensors have one row per example."""

    def __getitem__(self, rows: Tensor) -> Self:
        own: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(self)}  # type: ignore[arg-type]
        cut = {name: value[rows] for name, value in own.items() if isinstance(value, Tensor | Rowwise | Score | Keys)}
        return replace(self, **cut)  # type: ignore[type-var]


@dataclass(frozen=True)
class Region(Rowwise):
    """Ball, box and mask around clean images (N, C, H, W); in L-inf all three are one box."""

    norm: Norm
    eps: float
    x: Tensor
    low: Tensor
    high: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, norm: Norm, eps: float, x: Tensor, clip: tuple[float, float], mask: Tensor | None) -> Region:
        low, high = (torch.full_like(x, bound) for bound in clip)
        if isinstance(norm, Linf):
            reach = torch.full_like(x, eps) if mask is None else mask * eps
            low, high = torch.maximum(x - reach, low), torch.minimum(x + reach, high)
        return cls(norm, eps, x, low, high, mask)

    def inside(self, point: Tensor) -> Tensor:
        """The nearest point of ball and box; in L2 of the ball, then of the box."""
        if isinstance(self.norm, Linf):
            return torch.clamp(point, self.low, self.high)
        delta = point - self.x
        if not isinstance(self.norm, L1):
            return torch.clamp(self.x + self.norm.project(delta, self.eps), self.low, self.high)
        down, up = (self.x - self.low).flatten(1), (self.high - self.x).flatten(1)
        return self.x + onto_l1_ball(delta.flatten(1), self.eps, down, up).reshape(delta.shape)

    def start(self, keys: Keys) -> Tensor:
        """A random direction, out to the surface of the ball."""
        shape = tuple(self.x.shape[1:])
        if isinstance(self.norm, Linf):
            drawn = (2 * keys.uniform(shape) - 1).to(self.x.dtype)
        else:
            drawn = keys.normal(shape).to(self.x.dtype)
        if not isinstance(self.norm, L1):
            drawn = self.eps * drawn / image_shaped(self.norm.of(drawn)).clamp(min=TINY)
        return self.inside(self.x + (drawn if self.mask is None else drawn * self.mask))


@dataclass(frozen=True)
class Standing(Rowwise):
    """The state of the examples that no step has felled.

    Attributes:
        row: (N,) which rows of the run's images they are.
        point, before: the present and the last iterate.
        value, grad: of the objective at the present one.
        size: (N, 1, 1, 1) step sizes.
        best, best_value, best_grad: the point of the highest objective.
        rises: steps since the last checkpoint that raised the objective.
        checked: the best value at the last checkpoint.
        reduced: whether that checkpoint changed the size.
        share: in L1, the share of pixels in a step.
        support: in L1, how many pixels the best point changed at the last checkpoint.
    """

    region: Region
    score: Score
    row: Tensor
    point: Tensor
    before: Tensor
    value: Tensor
    grad: Tensor
    size: Tensor
    best: Tensor
    best_value: Tensor
    best_grad: Tensor
    rises: Tensor
    checked: Tensor
    reduced: Tensor
    share: Tensor
    support: Tensor


def checkpoints(steps: int) -> dict[int, int]:
    """How many steps have been taken when sizes are judged, each with the steps since the last time.

    Periods of 0.22 N that shrink by 0.03 N to 0.06 N (ICML 2020, section 3.1).
    """
    period, shrink, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    found: dict[int, int] = {}
    at = period
    while at <= steps:
        found[at] = period
        period = max(period - shrink, shortest)
        at += period
    return found


def sparse_checkpoints(steps: int) -> dict[int, int]:
    """The same in L1: every 0.04 N steps (ICML 2021, section 3.2)."""
    period = max(int(0.04 * steps), 1)
    return dict.fromkeys(range(period, steps + 1, period), period)


def ascend(
    net: Forward,
    region: Region,
    score: Score,
    start: Tensor,
    steps: int,
    *,
    warm: bool = False,
    settles: bool = True,
    eot: int = 1,
) -> Tensor:
    """Runs `steps` steps from `start`; gives the first success of each example, or its best point.

    Args:
        warm: in L1, whether the start comes from an earlier run, whose sparsity is kept.
        settles: whether a success ends the work on an example.
        eot: passes whose gradients are averaged.
    """
    made, sparse = start.clone(), isinstance(region.norm, L1)
    due = sparse_checkpoints(steps) if sparse else checkpoints(steps)
    value, grad, wrong = sight(net, start, score, eot)
    state = beginning(region, score, start, value, grad, warm)
    for step in range(1, steps + 1):
        if settles:
            state = settled(state, wrong, made)
        if len(state.row) == 0:
            return made
        point = sparse_step(state) if sparse else momentum_step(state, 1.0 if step == 1 else MOMENTUM)
        value, grad, wrong = sight(net, point, state.score, eot, last=step == steps)
        before, state = state, noted(state, point, value, grad)
        idle = at_rest(before, state) & ~wrong
        if bool(idle.any()):
            made[state.row[idle]] = state.best[idle]
            state, wrong = state[~idle], wrong[~idle]
        if step in due:
            if settles:  # before an example goes back to its best point
                state, wrong = settled(state, wrong, made), wrong[~wrong]
            state = judged_sparse(state) if sparse else judged(state, due[step])
    if settles:
        state = settled(state, wrong, made)
    made[state.row] = state.best
    return made


def sight(
    net: Forward, point: Tensor, score: Score, eot: int, *, last: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The score (N,), its gradient, which the last point goes without, and whether the aim is achieved (N,).

    Of several passes, the means, and the majority.
    """
    if last:
        out = look(net, point)
        return score.value(out), torch.zeros_like(point), score.wrong(out)
    out, value, grad = climb(net, point, score)
    wrong = score.wrong(out)
    if eot == 1:
        return value, grad, wrong
    votes = wrong.to(value.dtype)
    for _ in range(eot - 1):
        out, its_value, its_grad = climb(net, point, score)
        value, grad, votes = value + its_value, grad + its_grad, votes + score.wrong(out).to(value.dtype)
    return value / eot, grad / eot, votes > eot / 2


def beginning(
    region: Region, score: Score, start: Tensor, value: Tensor, grad: Tensor, warm: bool
) -> Standing:
    """The state at the start of a run."""
    n, pixels, sparse = len(start), start.shape[1:].numel(), isinstance(region.norm, L1)
    support = changed(start - region.x) if warm else torch.full_like(value, pixels)
    share = support / pixels / 1.5 if warm else torch.full_like(value, SHARE)
    size = (1.0 if sparse else 2.0) * region.eps
    return Standing(
        region,
        score,
        torch.arange(n, device=start.device),
        start,
        start,
        value,
        grad,
        image_shaped(torch.full_like(value, size)),
        start,
        value,
        grad,
        torch.zeros_like(value),
        value,
        torch.ones_like(value, dtype=torch.bool),
        share,
        support,
    )


def settled(state: Standing, wrong: Tensor, made: Tensor) -> Standing:
    """Writes successes into `made`; the state of the others."""
    if not bool(wrong.any()):
        return state
    made[state.row[wrong]] = state.point[wrong]
    return state[~wrong]


def momentum_step(state: Standing, share: float) -> Tensor:
    """The next point of L-inf and L2: algorithm 1, lines 7 and 8."""
    region, norm = state.region, state.region.norm
    grad = state.grad if region.mask is None else state.grad * region.mask
    z = region.inside(state.point + state.size * norm.steepest(grad))
    if share == 1:
        return z
    return region.inside(state.point + share * (z - state.point) + (1 - share) * (state.point - state.before))


def sparse_step(state: Standing) -> Tensor:
    """The next point of L1: equal steps on the pixels with the largest gradients (ICML 2021, algorithm 1)."""
    region = state.region
    grad = state.grad if region.mask is None else state.grad * region.mask
    size = grad.flatten(1).abs()
    pixels = size.shape[1]
    count = (state.share * pixels).long().clamp(1, pixels)
    least = size.topk(int(count.max()), dim=1).values.gather(1, count[:, None] - 1)
    direction = grad.sign() * (size >= least).reshape(grad.shape)
    return region.inside(state.point + state.size * direction / image_shaped(changed(direction)).clamp(min=1))


def noted(state: Standing, point: Tensor, value: Tensor, grad: Tensor) -> Standing:
    """The state after a step to `point`."""
    better = value > state.best_value
    rows = image_shaped(better)
    return replace(
        state,
        point=point,
        before=state.point,
        value=value,
        grad=grad,
        best=torch.where(rows, point, state.best),
        best_value=torch.where(better, value, state.best_value),
        best_grad=torch.where(rows, grad, state.best_grad),
        rises=state.rises + (value > state.value),
    )


def at_rest(before: Standing, after: Standing) -> Tensor:
    """(N,) bool: the examples that all further steps would leave where they are.

    Their gradient is zero, the same point came back with the same value, and it is their best one.
    """
    same = after.value == before.value
    if not bool(same.any()):
        return same
    for grad in (before.grad, after.grad):
        same &= ~grad.flatten(1).any(1)
    for one, other in ((after.point, before.point), (before.point, before.before), (after.point, after.best)):
        same &= (one == other).flatten(1).all(1)
    return same


def judged(state: Standing, period: int) -> Standing:
    """Halves the sizes that conditions 1 and 2 of section 3.1 find too large; those go back to their best points."""
    too_few = state.rises <= RHO * period
    no_gain = ~state.reduced & (state.checked >= state.best_value)
    reduced = too_few | no_gain
    return replace(
        restarted(state, reduced),
        size=torch.where(image_shaped(reduced), state.size / 2, state.size),
        rises=torch.zeros_like(state.rises),
        checked=state.best_value,
        reduced=reduced,
    )


def judged_sparse(state: Standing) -> Standing:
    """Of L1: where the best point lost pixels, the size starts again, from that point; elsewhere it falls."""
    eps, support = state.region.eps, changed(state.best - state.region.x)
    sparser = support < GROWN * state.support
    size = torch.where(image_shaped(sparser), torch.full_like(state.size, eps), state.size / SLOWER)
    return replace(
        restarted(state, sparser),
        size=size.clamp(min=eps / SLOWEST),
        share=support / state.best.shape[1:].numel() / 1.5,
        support=support,
    )


def restarted(state: Standing, rows: Tensor) -> Standing:
    """Goes back to the best point and its gradient in the given rows (N,)."""
    images = image_shaped(rows)
    return replace(
        state,
        point=torch.where(images, state.best, state.point),
        grad=torch.where(images, state.best_grad, state.grad),
    )


def changed(delta: Tensor) -> Tensor:
    """(N,) how many pixels are not 0."""
    return (delta != 0).flatten(1).sum(1).to(delta.dtype)
