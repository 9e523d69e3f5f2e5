"""Data sets that need no download: scikit-learn's digits, plain and on its two photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.data.entry import Data, DatasetOptions, Split, digest_of
from art_ext.data.holdout import stratified
from art_ext.data.images import Bytes
from art_ext.parts.noise import Keys

__all__ = ["blend", "digits", "digits_on_photos"]

_SEED = 2020
_N_TEST = 360
_NAMES = tuple(str(digit) for digit in range(10))


def digits(options: DatasetOptions) -> Data:
    """The 1,797 digits of the UCI test set, 1x8x8, pixels in 1/16; 1,437 to train, 360 to test."""
    pixels, y = _digits()
    return _halves("digits", pixels, y, "scikit-learn load_digits")


def digits_on_photos(options: DatasetOptions) -> Data:
    """The same digits and the same split, painted onto crops of two photographs: 3x32x32, in bytes.

    Made from a fixed seed: each digit has its own place, size, slant, colour and background.
    """
    pixels, y = _digits()
    images = blend(pixels, _photos(), _SEED)
    return _halves("digits_on_photos", Bytes(images), y, "scikit-learn load_digits on crops of load_sample_images")


def blend(digits: Tensor, photos: Sequence[Tensor], seed: int) -> Tensor:
    """Digits (N, 1, 8, 8) in [0, 1] on crops of photos (3, H, W) in [0, 1]: bytes (N, 3, 32, 32).

    The crop loses a third of its contrast on the side where the ink is (a dark crop its lights),
    and the ink, of a light or dark colour, covers 75 to 95 per cent: so every digit can be read.
    """
    n = len(digits)
    keys = Keys(seed, 0, torch.arange(n))
    # strokes are grey at 8x8; a gain makes them as solid as they look
    mask = (1.4 * _placed(digits, keys.stream("place").uniform((4,)))).clamp(max=1)
    crops = _crops(photos, keys.stream("crop").uniform((4,)), 32)
    draw = keys.stream("ink").uniform((4,))
    grey = (crops * torch.tensor([0.30, 0.59, 0.11])[:, None, None]).sum(1, keepdim=True)
    behind = (grey * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1e-6)
    light = (behind < 0.5)[:, None, None, None]
    ink = (0.25 * draw[:, :3])[:, :, None, None]
    ink = torch.where(light, 1 - ink, ink)
    ground = torch.where(light, 0.67 * crops, 0.33 + 0.67 * crops)
    cover = mask * (0.75 + 0.2 * draw[:, 3])[:, None, None, None]
    return ((1 - cover) * ground + cover * ink).mul(255).round().clamp(0, 255).to(torch.uint8)


def _placed(digits: Tensor, draw: Tensor) -> Tensor:
    """The digits enlarged to 22-30 of 32 pixels, moved, turned by up to 12 degrees: (N, 1, 32, 32)."""
    scale = (22 + 8 * draw[:, 0]) / 32
    angle = math.radians(12) * (2 * draw[:, 1] - 1)
    shift = (1 - scale)[:, None] * (2 * draw[:, 2:] - 1)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    # affine_grid maps outputs to inputs, so this is the inverse: move back, turn back, shrink
    turn = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    theta = torch.cat([turn, -(turn @ shift[:, :, None])], dim=2)
    grid = F.affine_grid(theta, [len(digits), 1, 32, 32], align_corners=False)
    return F.grid_sample(digits, grid, mode="bicubic", padding_mode="zeros", align_corners=False).clamp(0, 1)


def _crops(photos: Sequence[Tensor], draw: Tensor, side: int) -> Tensor:
    """One crop of a random photo for each row of `draw`, 1 to 3 times as large as it comes out."""
    crops = []
    for which, size, top, left in draw.tolist():
        photo = photos[int(which * len(photos))]
        cut = int(side * (1 + 2 * size))
        row, column = int(top * (photo.shape[1] - cut)), int(left * (photo.shape[2] - cut))
        part = photo[None, :, row : row + cut, column : column + cut]
        crops.append(F.interpolate(part, size=(side, side), mode="bilinear", antialias=True))
    return torch.cat(crops)


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    return pixels, torch.tensor(bunch.target, dtype=torch.int64)


def _photos() -> list[Tensor]:
    from sklearn.datasets import load_sample_images

    return [torch.tensor(np.asarray(photo)).permute(2, 0, 1) / 255 for photo in load_sample_images().images]


def _halves(name: str, images: Tensor | Bytes, y: Tensor, source: str) -> Data:
    train, test = stratified(y, _N_TEST, _SEED)
    pixels = images.pixels if isinstance(images, Bytes) else images

    def part(rows: Tensor) -> Split:
        return Split(Bytes(pixels[rows]) if isinstance(images, Bytes) else pixels[rows], y[rows])

    return Data(name, part(train), part(test), _NAMES, digest_of(pixels, y), source)
