"""Nearest points: of a hyperplane inside a box, for each norm, and of the L1 ball inside a box.

All are batched over rows of D numbers. Each row's result depends on that row alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 60
"""Newton steps at most; a piecewise linear function needs one for each piece it crosses."""
ROUNDING = 8
"""Units in the last place up to which a difference is rounding: APGD counts the pixels that a point changes."""


def onto_hyperplane(p: float, w: Tensor, gap: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """The shortest step d, in the p-norm, with w . d = gap and -down <= d <= up.

    Where the box does not reach the hyperplane, d goes as far towards it as the box lets it.

    Args:
        p: infinity, 2 or 1.
        w: (N, D) normals.
        gap: (N,) what w . d must be.
        down, up: (N, D) room below and above, finite and not negative.

    Returns:
        d (N, D).
    """
    # With a = |w| and the room in the direction that helps, a step of sizes s has a . s = |gap|, 0 <= s <= room.
    direction = w.sign() * torch.where(gap < 0, -1.0, 1.0).to(w.dtype)[:, None]
    room = up * direction.clamp(min=0) + down * (-direction).clamp(min=0)
    sizes = {float("inf"): _equal_sizes, 2.0: _proportional_sizes, 1.0: _few_sizes}[p]
    return direction * sizes(w.abs(), gap.abs(), room)


def _equal_sizes(a: Tensor, gap: Tensor, room: Tensor) -> Tensor:
    """s = min(t, room) with the smallest t, as the largest size counts."""
    return torch.minimum(_level(a, a, gap, room, torch.ones_like(a))[:, None], room)


def _proportional_sizes(a: Tensor, gap: Tensor, room: Tensor) -> Tensor:
    """s = min(t a, room): the multiplier t of the Lagrangian of |s|_2."""
    level = _level(a, a * a, gap, room, a)[:, None]
    # a size that is bounded by nothing stays 0 where its weight is 0
    return torch.minimum(torch.where(a > 0, level * a, torch.zeros_like(a)), room)


def _level(a: Tensor, gain: Tensor, gap: Tensor, room: Tensor, rate: Tensor) -> Tensor:
    """(N,) the t with sum a min(t rate, room) = gap; infinity where no t is enough.

    The sum is concave and piecewise linear in t, so Newton steps from 0 rise to the solution and
    stop there; a row that has arrived computes the same t again.
    """
    full = torch.zeros_like(a, dtype=torch.bool)
    level, most = torch.zeros_like(gap), a * room
    for _ in range(ROUNDS):
        spent = (most * full.to(a.dtype)).sum(1)
        slope = (gain * (~full).to(a.dtype)).sum(1)
        level = torch.where(slope > 0, (gap - spent).clamp(min=0) / slope, float("inf"))
        level = torch.where(gap == 0, 0.0, level)
        now = full | (rate * level[:, None] > room)
        if torch.equal(now, full):
            break
        full = now
    return level


def _few_sizes(a: Tensor, gap: Tensor, room: Tensor) -> Tensor:
    """The largest weights are used up first, as a knapsack of parts is filled."""
    ordered, index = a.sort(dim=1, descending=True, stable=True)
    limit = room.gather(1, index)
    gains = torch.where(ordered > 0, ordered * limit, torch.zeros_like(limit))
    before = gains.cumsum(1) - gains
    left = torch.where(before < gap[:, None], gap[:, None] - before, torch.zeros_like(before))
    size = torch.where(ordered > 0, left / ordered.clamp(min=torch.finfo(a.dtype).tiny), torch.zeros_like(left))
    return torch.zeros_like(a).scatter(1, index, torch.minimum(size, limit))


def onto_l1_ball(delta: Tensor, radius: float, down: Tensor, up: Tensor) -> Tensor:
    """The nearest point, in L2, of {|d|_1 <= radius, -down <= d <= up} (Croce and Hein, ICML 2021, prop. 2.1).

    d = sign(delta) min(max(|delta| - t, 0), room), with the smallest t >= 0 that fits the ball. The
    norm falls piecewise linearly in t; its corners are sorted and the piece of the radius is solved.

    Args:
        delta: (N, D).
        down, up: (N, D) room below and above, not negative.
    """
    size, room = delta.abs(), torch.where(delta < 0, down, up)
    kept = torch.minimum(size, room)
    rows = (kept.sum(1) > radius * (1 + ROUNDING * torch.finfo(size.dtype).eps)).nonzero().squeeze(1)
    if len(rows):
        level = _soft_level(size[rows], room[rows], radius)
        left = size[rows] - level
        above = left > ROUNDING * torch.finfo(size.dtype).eps * size[rows]
        kept[rows] = torch.where(above, torch.minimum(left, room[rows]), torch.zeros_like(left))
    return delta.sign() * kept


def _soft_level(size: Tensor, room: Tensor, radius: float) -> Tensor:
    """(N, 1) the t with sum min(max(size - t, 0), room) = radius, where t = 0 gives more than the radius."""
    starts, ends = size, (size - room).clamp(min=0)  # as t falls, a part starts to grow at one and ends at the other
    corners, order = torch.cat([starts, ends], 1).sort(dim=1, descending=True, stable=True)
    change = torch.where(order < size.shape[1], 1.0, -1.0).to(size.dtype)
    growing = change.cumsum(1)
    drop = corners - torch.cat([corners[:, 1:], torch.zeros_like(corners[:, :1])], 1)
    after = (growing * drop).cumsum(1)  # the norm at the next corner, at last at t = 0
    piece = (after <= radius).sum(1, keepdim=True).clamp(max=corners.shape[1] - 1)
    before = torch.where(piece > 0, after.gather(1, (piece - 1).clamp(min=0)), torch.zeros_like(after[:, :1]))
    return (corners.gather(1, piece) - (radius - before) / growing.gather(1, piece).clamp(min=1)).clamp(min=0)
