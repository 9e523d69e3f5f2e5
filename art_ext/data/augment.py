"""Augmentation on the device, keyed by example, so that it does not depend on the batch around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from art_ext.errors import ConfigError, unknown
from art_ext.parts.noise import Keys

__all__ = ["Augmentation", "HorizontalFlip", "RandomCrop", "augmentation_from"]

Padding = Literal["reflect", "zero"]


class Augmentation(Protocol):
    """Changes images (N, C, H, W), each by its own key; the input is left as it was."""

    def __call__(self, x: Tensor, keys: Keys, /) -> Tensor: ...


@dataclass(frozen=True)
class RandomCrop:
    """Moves each image by up to `pad` pixels each way; what comes in from outside is mirrored or zero.

    The same as padding by `pad` and cutting out the old size at random, without the padded copy.

    Raises:
        ConfigError: if `pad` or `mode` cannot be used, or images are no larger than `pad`.
    """

    pad: int
    mode: Padding = "reflect"

    def __post_init__(self) -> None:
        if isinstance(self.pad, bool) or not isinstance(self.pad, int) or self.pad < 0:
            raise ConfigError(f"crop: pad is a number of pixels, 0 or more, got {self.pad!r}")
        if self.mode not in get_args(Padding):
            raise ConfigError(unknown("mode of crop", str(self.mode), get_args(Padding)))

    def __call__(self, x: Tensor, keys: Keys, /) -> Tensor:
        height, width = x.shape[2:]
        if self.pad >= min(height, width):
            raise ConfigError(f"crop: pad {self.pad} needs images larger than {self.pad} pixels, got {height}x{width}")
        shift = (keys.stream("augment.crop").uniform((2,)) * (2 * self.pad + 1)).long() - self.pad
        rows = shift[:, :1] + torch.arange(height, device=x.device)
        columns = shift[:, 1:] + torch.arange(width, device=x.device)
        pixel = _mirrored(rows, height)[:, :, None] * width + _mirrored(columns, width)[:, None, :]
        moved = x.flatten(2).gather(2, pixel.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view(x.shape)
        if self.mode == "zero":
            inside = _inside(rows, height)[:, None, :, None] & _inside(columns, width)[:, None, None, :]
            moved = torch.where(inside, moved, 0)
        return moved


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors each image left to right with probability 1/2."""

    def __call__(self, x: Tensor, keys: Keys, /) -> Tensor:
        mirrored = keys.stream("augment.flip").uniform(()) < 0.5
        return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def augmentation_from(settings: Mapping[str, object] | None) -> tuple[Augmentation, ...]:
    """Augmentations as a recipe writes them: `{crop: 4, flip: true}` or `{crop: {pad: 4, mode: zero}}`.

    They run in the order crop, flip, however they are written.

    Raises:
        ConfigError: on an unknown name or a value that cannot be used.
    """
    settings = settings or {}
    for name in settings:
        if name not in ("crop", "flip"):
            raise ConfigError(unknown("augmentation", str(name), ("crop", "flip")))
    made: list[Augmentation] = []
    crop, flip = settings.get("crop", False), settings.get("flip", False)
    if isinstance(crop, Mapping):
        made.append(_crop_from(crop))
    elif crop is not False and crop != 0:
        made.append(RandomCrop(crop))  # type: ignore[arg-type]  # its own check has the message
    if not isinstance(flip, bool):
        raise ConfigError(f"flip: true or false is needed, got {flip!r}")
    if flip:
        made.append(HorizontalFlip())
    return tuple(made)


def _crop_from(settings: Mapping[str, object]) -> RandomCrop:
    for name in settings:
        if name not in ("pad", "mode"):
            raise ConfigError(unknown("option of crop", str(name), ("pad", "mode")))
    if "pad" not in settings:
        raise ConfigError("crop: pad is missing; write {crop: {pad: 4}} or {crop: 4}")
    return RandomCrop(**settings)  # type: ignore[arg-type]  # its own check has the message


def _mirrored(position: Tensor, size: int) -> Tensor:
    last = size - 1
    return last - (last - position.abs()).abs()


def _inside(position: Tensor, size: int) -> Tensor:
    return (position >= 0) & (position < size)
