"""What Square draws: sizes of its windows, places, signs, and the shape that L2 and L1 put into a window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from art_ext.api import Keys
from art_ext_attacks.ascent import Rowwise

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Of 10,000 queries, those after which the share of pixels in a window is halved (section 4.1)."""
SCHEDULED = 10_000


def share_at(query: int, queries: int, first: float, *, rescale: bool) -> float:
    """p of a query: `first`, halved at each of `HALVINGS`, which shrink with fewer queries where asked."""
    at = int(query / queries * SCHEDULED) if rescale else query
    return first / float(2 ** sum(at > halving for halving in HALVINGS))


def side(share: float, height: int, width: int, *, odd: bool) -> int:
    """Pixels of a window's side: sqrt(p h w), at least 1; in L2 and L1 odd and at least 3; never above the image's."""
    pixels = max(round(math.sqrt(share * height * width)), 3 if odd else 1)
    return min(pixels + (odd and pixels % 2 == 0), height, width)


@dataclass(frozen=True)
class Draws(Rowwise):
    """Windows and signs of some queries, keyed by example.

    Attributes:
        top, left: (N, Q) the window's corner.
        other_top, other_left: (N, Q) that of a second window.
        turned: (N, Q) bool, whether the window's shape is transposed.
        sign: (N, Q, C) of -1 and 1.
        code: (N, Q) one number for corner and signs, below `codes`.
    """

    top: Tensor
    left: Tensor
    other_top: Tensor
    other_left: Tensor
    turned: Tensor
    sign: Tensor
    code: Tensor

    @classmethod
    def of(cls, keys: Keys, queries: int, size: int, like: Tensor) -> Draws:
        """Draws for images like (N, C, H, W)."""
        _, channels, height, width = like.shape
        u = keys.uniform((queries, 5 + channels))
        rows, columns = height - size + 1, width - size + 1
        top, other_top = (u[..., 0] * rows).long(), (u[..., 2] * rows).long()
        left, other_left = (u[..., 1] * columns).long(), (u[..., 3] * columns).long()
        up = u[..., 5:] < 0.5
        bits = (up << torch.arange(channels, device=like.device)).sum(-1) if channels < 16 else torch.zeros_like(top)
        code = (top * columns + left) * 2 ** min(channels, 16) + bits
        sign = torch.where(up, 1.0, -1.0).to(like.dtype)
        return cls(top, left, other_top, other_left, u[..., 4] < 0.5, sign, code)

    def at(self, query: Tensor) -> Draws:
        """Those of one query (N,) per example: each part without its second axis."""
        rows = torch.arange(len(query), device=query.device)
        parts = (self.top, self.left, self.other_top, self.other_left, self.turned, self.sign, self.code)
        return Draws(*(part[rows, query] for part in parts))


def codes(size: int, shape: torch.Size) -> int:
    """How many proposals there are with windows of this size, on images (N, C, H, W)."""
    _, channels, height, width = shape
    return int((height - size + 1) * (width - size + 1) * 2 ** min(channels, 16))


def inside(top: Tensor, left: Tensor, size: int, shape: torch.Size) -> Tensor:
    """(N, 1, H, W) bool: the windows with these corners (N,)."""
    down = torch.arange(shape[2], device=top.device) - top[:, None]
    across = torch.arange(shape[3], device=top.device) - left[:, None]
    rows, columns = (down >= 0) & (down < size), (across >= 0) & (across < size)
    return rows[:, None, :, None] & columns[:, None, None, :]


@lru_cache(maxsize=64)
def bump(height: int, width: int, order: float) -> Tensor:
    """(height, width) of a peak in the middle that falls outwards, of norm 1 (section 3.4, eq. (2)).

    At distance d from the middle: the sum over k >= d of 1 / (k + 1)^2, in L1 of 1 / (k + 1)^4.
    """
    middle = (height // 2, width // 2)
    far = max(middle) + 1
    terms = 1 / torch.arange(1, far + 1, dtype=torch.float64) ** (2 if order == 2 else 4)
    sums = torch.cat([terms.flip(0).cumsum(0).flip(0), torch.zeros(far)])
    down = (torch.arange(height) - middle[0]).abs()
    across = (torch.arange(width) - middle[1]).abs()
    shape: Tensor = sums[torch.maximum(down[:, None], across[None, :])]
    shape /= torch.linalg.vector_norm(shape, order).clamp(min=1e-30)
    return shape


@lru_cache(maxsize=64)
def double_bump(size: int, order: float) -> Tensor:
    """(2, size, size): a bump above a negative one, of norm 1 together, and its transpose."""
    half = size // 2
    shape = torch.cat([bump(half, size, order), -bump(size - half, size, order)]) if half else bump(1, 1, order)
    shape /= torch.linalg.vector_norm(shape, order)
    return torch.stack([shape, shape.T])


def placed(turned: Tensor, top: Tensor, left: Tensor, size: int, order: float, like: Tensor) -> Tensor:
    """(N, 1, H, W) the double bump in each example's window, 0 elsewhere; `turned` (N,) chooses the transpose."""
    shapes = double_bump(size, order).to(like)
    down = (torch.arange(like.shape[2], device=top.device) - top[:, None]).clamp(0, size - 1)
    across = (torch.arange(like.shape[3], device=top.device) - left[:, None]).clamp(0, size - 1)
    values = shapes[turned.long()[:, None, None], down[:, :, None], across[:, None, :]][:, None]
    return values * inside(top, left, size, like.shape)
