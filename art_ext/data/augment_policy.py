"""Augmentations of colour, cutout, and AutoAugment's policy for CIFAR-10; keyed by example.

Images are (N, C, H, W) in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from art_ext.errors import ConfigError
from art_ext.parts.noise import Keys

__all__ = ["CIFAR10_POLICY", "AutoAugment", "Contrast", "Cutout"]


@dataclass(frozen=True)
class Contrast:
    """Stretches each image about mid-grey by a factor from [low, high], and clips: 0.5 + factor (x - 0.5).

    Raises:
        ConfigError: unless 0 <= low <= high, both finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < math.inf:
            raise ConfigError(f"contrast: [LOW, HIGH] with 0 <= LOW <= HIGH is needed, got [{self.low}, {self.high}]")

    def __call__(self, x: Tensor, keys: Keys, /) -> Tensor:
        factor = self.low + (self.high - self.low) * keys.stream("augment.contrast").uniform(())
        return (0.5 + factor.to(x)[:, None, None, None] * (x - 0.5)).clamp(0, 1)


@dataclass(frozen=True)
class Cutout:
    """Blackens a square of each image around a random pixel; what of it lies outside is lost (DeVries, Taylor, 2017).

    Raises:
        ConfigError: unless the side is a whole number from 1.
    """

    size: int

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ConfigError(f"cutout: the side of the square is a number of pixels from 1, got {self.size!r}")

    def __call__(self, x: Tensor, keys: Keys, /) -> Tensor:
        centre = keys.stream("augment.cutout").uniform((2,))
        inside = []
        for share, side in zip(centre.unbind(1), x.shape[2:], strict=True):
            first = (share * side).long()[:, None] - self.size // 2
            place = torch.arange(side, device=x.device)
            inside.append((place >= first) & (place < first + self.size))
        return torch.where((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0, x)


Step = tuple[str, float, int]
"""An operation, its probability, and its magnitude from 0 to 9."""

CIFAR10_POLICY: tuple[tuple[Step, Step], ...] = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)
"""Table 7 of AutoAugment (Cubuk et al., CVPR 2019)."""

LARGEST = {
    "rotate": 30.0,
    "translate_x": 150 / 331,
    "translate_y": 150 / 331,
    "shear_y": 0.3,
    "brightness": 0.9,
    "color": 0.9,
    "contrast": 0.9,
    "sharpness": 0.9,
}
"""What magnitude 9 is, of operations whose magnitude gets a random sign: degrees, shares of a side, slopes, factors."""


@dataclass(frozen=True)
class AutoAugment:
    """One of the policy's pairs of operations for each image, each done with its probability (Cubuk et al., CVPR 2019).

    Images that meet the same operation at the same magnitude go through it together, which changes none of them.

    Raises:
        ConfigError: when called with images of other than 1 or 3 channels.
    """

    def __call__(self, x: Tensor, keys: Keys, /) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ConfigError(f"autoaugment changes grey and colour images, of 1 or 3 channels, got {x.shape[1]}")
        keys = keys.stream("augment.autoaugment")
        chosen = (keys.uniform(()) * len(CIFAR10_POLICY)).long().tolist()
        chances = keys.stream("chance").uniform((2,)).tolist()
        signs = keys.stream("sign").uniform((2,)).tolist()
        x = x.clone()
        for number in range(2):
            groups: dict[tuple[str, int], list[int]] = {}
            for row, pair in enumerate(chosen):
                name, probability, magnitude = CIFAR10_POLICY[pair][number]
                if chances[row][number] < probability:
                    sign = -1 if name in LARGEST and signs[row][number] < 0.5 else 1
                    groups.setdefault((name, sign * magnitude), []).append(row)
            for (name, magnitude), rows in groups.items():
                x[rows] = operated(x[rows], name, magnitude)
        return x


def operated(x: Tensor, name: str, magnitude: int) -> Tensor:
    """Images after one of AutoAugment's operations at a magnitude from -9 to 9; new pixels are black."""
    from torchvision.transforms.v2 import functional as image  # slow to import

    part = abs(magnitude) / 9
    size = math.copysign(part, magnitude) * LARGEST.get(name, 0.0)

    def moved(x: Tensor, across: float = 0, down: float = 0, shear: float = 0) -> Tensor:
        corner = [0.0, 0.0] if shear else None
        return image.affine(x, 0.0, [int(across), int(down)], 1.0, [0.0, shear], center=corner)  # type: ignore[no-any-return]

    operations: dict[str, Callable[[], Tensor]] = {
        "rotate": lambda: image.rotate(x, size),
        "translate_x": lambda: moved(x, across=size * x.shape[3]),
        "translate_y": lambda: moved(x, down=size * x.shape[2]),
        "shear_y": lambda: moved(x, shear=math.degrees(math.atan(size))),
        "brightness": lambda: image.adjust_brightness(x, 1 + size),
        "color": lambda: image.adjust_saturation(x, 1 + size),
        "contrast": lambda: image.adjust_contrast(x, 1 + size),
        "sharpness": lambda: image.adjust_sharpness(x, 1 + size),
        "posterize": lambda: image.posterize(x, 8 - round(4 * part)),
        "solarize": lambda: image.solarize(x, 1 - part),
        "autocontrast": lambda: image.autocontrast(x),
        "equalize": lambda: image.equalize(x),
        "invert": lambda: image.invert(x),
    }
    return operations[name]()
