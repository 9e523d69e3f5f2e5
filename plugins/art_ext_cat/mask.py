"""Mask networks: from the full adversarial image to one number in (0, 1) for each of its values, eq. (11)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_ext.api import ConfigError, unknown

Trunk = Literal["conv", "resnet18"]
SMALLEST_MAP = 4
"""Pixels that a residual trunk leaves of the shorter side: the paper's 32x32 images become maps of 4x4."""


class MaskNetwork(nn.Module):
    """A trunk, nearest up-sampling to the image's size, a 3x3 convolution to its channels, a sigmoid.

    The paper's networks: `conv` for grey images, `resnet18` for colour images; here either takes any
    number of channels and any size. With torch's own first weights M starts near 0.5 in `conv`; in `resnet18`
    its values are spread around that.

    Args:
        trunk: see `conv_trunk` and `residual_trunk`.
        shape: (C, H, W) of the images.
        clip: smallest and largest pixel; the trunk sees them as 0 and 1.

    Raises:
        ConfigError: for another trunk, or for what are no images.
    """

    def __init__(self, trunk: Trunk, shape: tuple[int, ...], clip: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        if trunk not in get_args(Trunk):
            raise ConfigError(unknown("trunk", str(trunk), get_args(Trunk)))
        if len(shape) != 3:
            raise ConfigError(f"a mask network reads images (C, H, W), not the shape {shape}; reshape the inputs")
        channels, height, width = shape
        if trunk == "conv":
            self.trunk, features = conv_trunk(channels), 128
        else:
            self.trunk, features = residual_trunk(channels, min(height, width)), 512
        self.out = nn.Conv2d(features, channels, 3, padding=1)
        self.low, self.high = clip if math.isfinite(clip[1] - clip[0]) else (0.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) pixels to (N, C, H, W) in (0, 1)."""
        features = self.trunk((x.to(self.out.weight.dtype) - self.low) / (self.high - self.low))
        logits = self.out(F.interpolate(features, size=x.shape[-2:], mode="nearest"))
        return torch.sigmoid(logits.to(x.dtype))


def conv_trunk(channels: int) -> nn.Sequential:
    """Three 3x3 convolutions, the first of stride 2, each with LeakyReLU(0.2): the paper's for grey images."""
    return nn.Sequential(
        nn.Conv2d(channels, 64, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.LeakyReLU(0.2),
    )


def residual_trunk(channels: int, side: int) -> nn.Sequential:
    """ResNet-18 with a 3x3 stem, without pooling and head (He et al., CVPR 2016): the paper's for colour images.

    Its stages halve the map as long as `SMALLEST_MAP` pixels remain: thrice from 32 pixels on, as in
    the paper; smaller images keep a map that can tell places apart.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        BasicBlock(64, 64, 1),
        BasicBlock(64, 64, 1),
    ]
    for before, after in ((64, 128), (128, 256), (256, 512)):
        stride = 2 if side >= 2 * SMALLEST_MAP else 1
        side //= stride
        layers += [BasicBlock(before, after, stride), BasicBlock(after, after, 1)]
    return nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """relu(BN conv relu BN conv x + shortcut x), the post-activation block of ResNet-18."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inside(x) + self.shortcut(x))
