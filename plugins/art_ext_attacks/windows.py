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
    """Windows and signs of some queries, keyed by example: in one tensor, from which a query is one look.

    Attributes:
        numbers: (N, Q, 6 + C) int64, or (M, 6 + C) for one query each: the window's corner, that of a
            second window, whether the window's shape is transposed, one number for the first corner and
            the signs, below `codes`, and a sign of -1 or 1 for each channel.
    """

    numbers: Tensor

    @classmethod
    def of(cls, keys: Keys, queries: int, size: int, like: Tensor) -> Draws:
        """Draws for images like (N, C, H, W)."""
        _, channels, height, width = like.shape
        u = keys.uniform((queries, 5 + channels))
        rows, columns = height - size + 1, width - size + 1
        places = (u[..., :4] * torch.tensor([rows, columns, rows, columns], device=u.device)).long()
        up = u[..., 5:] < 0.5
        bits = (up << torch.arange(channels, device=like.device)).sum(-1, keepdim=True) if channels < 16 else 0
        code = (places[..., :1] * columns + places[..., 1:2]) * 2 ** min(channels, 16) + bits
        return cls(torch.cat([places, (u[..., 4:5] < 0.5).long(), code, 2 * up.long() - 1], -1))

    def at(self, row: Tensor, query: Tensor) -> Draws:
        """Those of some examples (M,) and queries (M,)."""
        return Draws(self.numbers[row, query])

    @property
    def corner(self) -> tuple[Tensor, Tensor]:
        """Top and left of the window."""
        return self.numbers[..., 0], self.numbers[..., 1]

    @property
    def other_corner(self) -> tuple[Tensor, Tensor]:
        """Top and left of the second window."""
        return self.numbers[..., 2], self.numbers[..., 3]

    @property
    def turned(self) -> Tensor:
        """1 where the window's shape is transposed."""
        return self.numbers[..., 4]

    @property
    def code(self) -> Tensor:
        return self.numbers[..., 5]

    @property
    def sign(self) -> Tensor:
        return self.numbers[..., 6:]


def codes(size: int, shape: torch.Size) -> int:
    """How many proposals there are with windows of this size, on images (N, C, H, W)."""
    _, channels, height, width = shape
    return int((height - size + 1) * (width - size + 1) * 2 ** min(channels, 16))


@lru_cache(maxsize=64)
def offsets(length: int, size: int, device: torch.device) -> Tensor:
    """(length - size + 1, length): from each start of a window along a side, how far on each pixel lies."""
    every: Tensor = torch.arange(length, device=device) - torch.arange(length - size + 1, device=device)[:, None]
    return every


@lru_cache(maxsize=64)
def covered(length: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(length - size + 1, length): for each start of a window along a side, 1 at the pixels that it covers, else 0."""
    far = offsets(length, size, device)
    return ((far >= 0) & (far < size)).to(dtype)


@lru_cache(maxsize=64)
def within_reach(length: int, size: int, device: torch.device) -> Tensor:
    """(length - size + 1, length): the same offsets, of pixels outside the window those of its nearest pixel."""
    return offsets(length, size, device).clamp(0, size - 1)


def inside(corner: tuple[Tensor, Tensor], size: int, like: Tensor) -> Tensor:
    """(N, 1, H, W): 1 in the windows with these tops and lefts (N,), 0 elsewhere, on images like (N, C, H, W)."""
    (top, left), (height, width) = corner, like.shape[2:]
    rows = covered(height, size, like.dtype, like.device)[top]
    columns = covered(width, size, like.dtype, like.device)[left]
    return rows[:, None, :, None] * columns[:, None, None, :]


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


def placed(drawn: Draws, size: int, order: float, like: Tensor) -> Tensor:
    """(N, 1, H, W) the double bump in each example's window, anything elsewhere."""
    (top, left), (height, width) = drawn.corner, like.shape[2:]
    down = (within_reach(height, size, like.device) * size)[top] + (drawn.turned * size**2)[:, None]
    across = within_reach(width, size, like.device)[left]
    return double_bump(size, order).to(like).take(down[:, :, None] + across[:, None, :])[:, None]
