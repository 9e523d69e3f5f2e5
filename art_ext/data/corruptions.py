"""Common corruptions (Hendrycks and Dietterich, ICLR 2019): what cameras and files do to images, no adversary.

Each function takes images (N, C, H, W) in [0, 1], a severity from 1 to 5 and keys, and returns images
in [0, 1]. Strengths are those of the authors' 32 x 32 images; lengths grow with the image. Noise is
keyed by example. Snow, frost and glass blur are left out; fog is noise of several octaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.parts.noise import Keys

__all__ = ["CORRUPTIONS", "Corruption"]

Corruption = Callable[[Tensor, int, Keys], Tensor]

SIDE = 32
"""Side of the images that the strengths are meant for."""
ANGLES = 16
"""Directions that a motion blur may have."""


def _scale(x: Tensor) -> float:
    return min(x.shape[2:]) / SIDE


def _normal(x: Tensor, keys: Keys) -> Tensor:
    return keys.normal(tuple(x.shape[1:])).to(x.dtype)


def gaussian_noise(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """x + c N(0, 1)."""
    return (x + (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1] * _normal(x, keys)).clamp(0, 1)


def shot_noise(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """Poisson noise of c photons a pixel, as its normal limit: x + sqrt(x / c) N(0, 1)."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return (x + (x.clamp(min=0) / photons).sqrt() * _normal(x, keys)).clamp(0, 1)


def impulse_noise(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """A share c of the values becomes black or white."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    hit = keys.uniform(tuple(x.shape[1:]), lane=1) < share
    white = keys.uniform(tuple(x.shape[1:]), lane=2) < 0.5
    return torch.where(hit, white.to(x.dtype), x)


def speckle_noise(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """x + c x N(0, 1)."""
    return (x + (0.06, 0.10, 0.12, 0.16, 0.20)[severity - 1] * x * _normal(x, keys)).clamp(0, 1)


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolves each image with a kernel (h, w), or its own of (N, h, w); borders are repeated."""
    n, channels = x.shape[:2]
    kernels = kernel.to(x).expand(n, *kernel.shape[-2:])
    down, right = kernels.shape[1] // 2, kernels.shape[2] // 2
    padded = F.pad(x, (right, right, down, down), mode="replicate")
    weight = kernels[:, None, None].expand(n, channels, 1, -1, -1).reshape(n * channels, 1, *kernels.shape[1:])
    return F.conv2d(padded.reshape(1, n * channels, *padded.shape[2:]), weight, groups=n * channels).reshape(x.shape)


def _gaussian(sigma: float) -> Tensor:
    """A normalised Gaussian window (h, h) of three deviations."""
    reach = max(1, math.ceil(3 * sigma))
    line = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * sigma**2))
    window = line[:, None] * line
    return window / window.sum()


def gaussian_blur(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """A Gaussian window of deviation c."""
    return _filtered(x, _gaussian((0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1] * _scale(x)))


def defocus_blur(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """A disk, its edge softened: a lens out of focus."""
    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1]
    radius, soft = radius * _scale(x), soft * _scale(x)
    reach = max(1, math.ceil(radius))
    line = torch.arange(-reach, reach + 1)
    disk = (line[:, None].square() + line.square() <= radius**2).float()
    blurred = F.conv2d(F.pad(disk[None, None], [1] * 4), _gaussian(soft)[None, None], padding="same")[0, 0]
    return _filtered(x, blurred / blurred.sum())


def motion_blur(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """A line of c pixels, fading, in a direction of each image's own."""
    reach, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    reach, sigma = max(1, round(reach * _scale(x))), sigma * _scale(x)
    along = torch.arange(0, reach + 1)
    weight = torch.exp(-along.square() / (2 * sigma**2))
    size = 2 * reach + 1
    turn = torch.arange(ANGLES)[:, None] * (2 * math.pi / ANGLES)
    spot = (reach + (along * turn.sin()).round()).long() * size + (reach + (along * turn.cos()).round()).long()
    lines = torch.zeros(ANGLES, size * size).scatter_add_(1, spot, weight.expand(ANGLES, -1))
    lines = (lines / lines.sum(1, keepdim=True)).reshape(ANGLES, size, size)
    chosen = (keys.uniform(()).reshape(len(x)) * ANGLES).long()
    return _filtered(x, lines.to(x.device)[chosen])


def zoom_blur(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """The mean of the image and of its centre at growing zooms."""
    last = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    zooms = torch.arange(1, last, 0.01).tolist()
    total = x.clone()
    for zoom in zooms:
        theta = torch.eye(2, 3, dtype=x.dtype, device=x.device) / zoom
        grid = F.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
        total = total + F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return (total / (len(zooms) + 1)).clamp(0, 1)


def fog(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """A bright cloud of octaves of noise, each `decay` times weaker than the coarser one before it."""
    strength, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    height, width = x.shape[2:]
    cloud = x.new_zeros(len(x), 1, height, width)
    octaves = max(1, min(height, width).bit_length() - 1)
    for octave in range(1, octaves + 1):
        cells = min(2**octave, height, width)
        noise = keys.stream("fog", octave).uniform((1, cells, cells)).to(x.dtype)
        cloud = cloud + F.interpolate(noise, (height, width), mode="bilinear", align_corners=True) / decay**octave
    low, high = cloud.amin((1, 2, 3), keepdim=True), cloud.amax((1, 2, 3), keepdim=True)
    cloud = strength * (cloud - low) / (high - low).clamp(min=1e-12)
    top = x.amax((1, 2, 3), keepdim=True)
    return ((x + cloud) * top / (top + strength)).clamp(0, 1)


def brightness(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """Every value rises by c."""
    return (x + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]).clamp(0, 1)


def contrast(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """Values move towards the mean of their channel: c (x - mean) + mean."""
    mean = x.mean((2, 3), keepdim=True)
    return ((0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1] * (x - mean) + mean).clamp(0, 1)


def elastic(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """Pixels wander by a smooth random field."""
    reach, sigma = ((0.5, 1.5), (0.8, 1.5), (1.1, 1.5), (1.4, 1.5), (1.8, 1.5))[severity - 1]
    side = _scale(x)
    field = 2 * keys.stream("elastic").uniform((2, *x.shape[2:])).to(x.dtype) - 1
    field = _filtered(field, _gaussian(sigma * side))
    field = reach * side * field / field.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
    grid = F.affine_grid(torch.eye(2, 3).to(x).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    lengths = x.new_tensor([x.shape[3], x.shape[2]]) / 2
    moved = grid + field.permute(0, 2, 3, 1) / lengths
    return F.grid_sample(x, moved, padding_mode="reflection", align_corners=False).clamp(0, 1)


def pixelate(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """Scaled down to a share c of its side, and up again in blocks."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    height, width = (max(1, int(side * share)) for side in x.shape[2:])
    return F.interpolate(F.adaptive_avg_pool2d(x, (height, width)), x.shape[2:], mode="nearest")


def jpeg(x: Tensor, severity: int, keys: Keys) -> Tensor:
    """Compressed by a JPEG codec of quality c; of other than 1 or 3 channels each on its own."""
    from torchvision.transforms.v2 import functional as image

    quality = (80, 65, 58, 50, 40)[severity - 1]
    levels = (x.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    if x.shape[1] not in (1, 3):
        levels = levels.flatten(0, 1)[:, None]
    coded: Tensor = image.jpeg(levels, quality)
    return coded.reshape(x.shape).to(x) / 255


CORRUPTIONS: Mapping[str, Corruption] = {
    function.__name__: function
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        speckle_noise,
        gaussian_blur,
        defocus_blur,
        motion_blur,
        zoom_blur,
        fog,
        brightness,
        contrast,
        elastic,
        pixelate,
        jpeg,
    )
}
"""The corruptions by name."""
