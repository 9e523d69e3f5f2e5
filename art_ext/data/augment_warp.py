"""Augmentations that resample: rotation, and boxes that are enlarged to the whole image; keyed by example."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.errors import ConfigError
from art_ext.parts.noise import Keys

__all__ = ["ResizedCrop", "Rotate", "Trim", "enlarged", "rotated"]


@dataclass(frozen=True)
class Rotate:
    """Rotates each image about its centre by an angle from [-degrees, degrees]: nearest pixel, zeros from outside.

    Raises:
        ConfigError: unless the angle lies above 0 and not above 180.
    """

    degrees: float

    def __post_init__(self) -> None:
        if not 0 < self.degrees <= 180:
            raise ConfigError(f"rotate: the largest angle lies above 0 and not above 180, got {self.degrees!r}")

    def __call__(self, x: Tensor, keys: Keys, /) -> Tensor:
        return rotated(x, (2 * keys.stream("augment.rotate").uniform(()) - 1) * self.degrees)


@dataclass(frozen=True)
class ResizedCrop:
    """Enlarges a box of each image to the whole: its share of the area from `scale`, its width / height from `ratio`.

    The ratio is uniform on a logarithmic scale. A side that would be longer than the image's is as long.

    Raises:
        ConfigError: for ends that are not above 0 and in order, or a share above 1.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high < math.inf:
                raise ConfigError(f"resized_crop: {name} is [LOW, HIGH] with 0 < LOW <= HIGH, got [{low:g}, {high:g}]")
        if self.scale[1] > 1:
            raise ConfigError(f"resized_crop: scale is a share of the image, at most 1, got {self.scale[1]:g}")

    def __call__(self, x: Tensor, keys: Keys, /) -> Tensor:
        height, width = x.shape[2:]
        area, shape, top, left = keys.stream("augment.resized_crop").uniform((4,)).double().unbind(1)
        area = (self.scale[0] + area * (self.scale[1] - self.scale[0])) * height * width
        narrow, wide = math.log(self.ratio[0]), math.log(self.ratio[1])
        shape = (narrow + shape * (wide - narrow)).exp()
        sides = (area / shape).sqrt().round().clamp(1, height), (area * shape).sqrt().round().clamp(1, width)
        top, left = (top * (height - sides[0] + 1)).floor(), (left * (width - sides[1] + 1)).floor()
        return enlarged(x, top, left, *sides)


@dataclass(frozen=True)
class Trim:
    """Cuts up to a share off each side of each image, one by one, and enlarges what is left to the whole.

    Raises:
        ConfigError: unless the share lies above 0 and below 1/2.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 0.5:
            raise ConfigError(f"trim: the share of a side lies above 0 and below 0.5, got {self.share!r}")

    def __call__(self, x: Tensor, keys: Keys, /) -> Tensor:
        height, width = x.shape[2:]
        cut = keys.stream("augment.trim").uniform((4,)).double() * self.share
        top, down = (cut[:, :2] * height).round().unbind(1)
        left, right = (cut[:, 2:] * width).round().unbind(1)
        return enlarged(x, top, left, height - top - down, width - left - right)


def enlarged(x: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """The box of each image, (N,) pixels each, at the size of the whole: bilinear, nothing from outside the box."""
    rows, columns = _inside(top, height, x.shape[2]), _inside(left, width, x.shape[3])
    shape = (-1, *x.shape[2:])
    grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], -1).to(x)
    return F.grid_sample(x, grid, "bilinear", "border", align_corners=False)


def rotated(x: Tensor, degrees: Tensor) -> Tensor:
    """Each image turned counter-clockwise about its centre by its own (N,) angle; nearest pixel, zeros from outside."""
    height, width = x.shape[2:]
    turn = torch.deg2rad(degrees.double())
    matrix = torch.zeros(len(x), 2, 3, dtype=turn.dtype, device=turn.device)
    matrix[:, 0, 0] = matrix[:, 1, 1] = turn.cos()
    matrix[:, 0, 1], matrix[:, 1, 0] = -turn.sin() * height / width, turn.sin() * width / height
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False).to(x)
    return F.grid_sample(x, grid, "nearest", "zeros", align_corners=False)


def _inside(first: Tensor, length: Tensor, side: int) -> Tensor:
    """(N, side): where the pixels of a whole side lie along a part of it, in grid_sample's [-1, 1]."""
    centres = torch.arange(side, dtype=first.dtype, device=first.device) + 0.5
    place = first[:, None] + centres * (length / side)[:, None]
    place = torch.clamp(place, first[:, None] + 0.5, (first + length)[:, None] - 0.5)
    return 2 * place / side - 1
