"""Augmentation on the device, keyed by example, so that it does not depend on the batch around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from art_ext.data.augment_policy import AutoAugment, Contrast, Cutout
from art_ext.data.augment_warp import ResizedCrop, Rotate, Trim
from art_ext.errors import ConfigError, unknown
from art_ext.parts.noise import Keys

__all__ = ["Augmentation", "HorizontalFlip", "OneOf", "RandomCrop", "Sometimes", "augmentation_from"]

Padding = Literal["reflect", "zero", "edge"]


class Augmentation(Protocol):
    """Changes images (N, C, H, W), each by its own key; the input is left as it was."""

    def __call__(self, x: Tensor, keys: Keys, /) -> Tensor: ...


@dataclass(frozen=True)
class RandomCrop:
    """Moves each image by up to `pad` pixels each way; what comes in is mirrored, zero, or the nearest pixel.

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
        nearest = _clamped if self.mode == "edge" else _mirrored
        pixel = nearest(rows, height)[:, :, None] * width + nearest(columns, width)[:, None, :]
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


@dataclass(frozen=True)
class Sometimes:
    """Runs other augmentations on a share of the images, drawn one by one; the rest stay as they are.

    Raises:
        ConfigError: unless the share lies above 0 and not above 1.
    """

    share: float
    then: tuple[Augmentation, ...]

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"share: of the images that vary, above 0 and not above 1, got {self.share!r}")

    def __call__(self, x: Tensor, keys: Keys, /) -> Tensor:
        rows = keys.stream("augment.share").uniform(()) < self.share
        return _changed(x, keys, rows, self.then)


@dataclass(frozen=True)
class OneOf:
    """Runs one of several augmentations on each image, each as likely."""

    choices: tuple[Augmentation, ...]

    def __call__(self, x: Tensor, keys: Keys, /) -> Tensor:
        keys = keys.stream("augment.one_of")
        chosen = (keys.uniform(()) * len(self.choices)).long()
        for number, choice in enumerate(self.choices):
            x = _changed(x, keys, chosen == number, (choice,))
        return x


def augmentation_from(settings: Mapping[str, object] | None) -> tuple[Augmentation, ...]:
    """Augmentations as a recipe writes them: `{crop: 4, flip: true}` or `{crop: {pad: 4, mode: zero}}`.

    They run in the order of `READERS`, however they are written: crop, flip, rotate: DEGREES,
    resized_crop: {scale: [LOW, HIGH], ratio: [LOW, HIGH]}, trim: SHARE, contrast: [LOW, HIGH],
    autoaugment: cifar10, cutout: PIXELS. `one_of: {...}` draws one of those inside it for each image and
    comes last; `share: 0.8` leaves the other images as they are.

    Raises:
        ConfigError: on an unknown name or a value that cannot be used.
    """
    settings = settings or {}
    for name in settings:
        if name not in (*READERS, "one_of", "share"):
            raise ConfigError(unknown("augmentation", str(name), (*READERS, "one_of", "share")))
    found = tuple(reader(settings[name]) for name, reader in READERS.items() if settings.get(name, False) is not False)
    if "one_of" in settings:
        found += (_one_of(settings["one_of"]),)
    if "share" not in settings:
        return found
    if not found:
        raise ConfigError("share: nothing is said to vary; name augmentations beside it")
    return (Sometimes(_number("share", settings["share"]), found),)


def _crop(given: object) -> RandomCrop:
    if not isinstance(given, Mapping):
        return RandomCrop(given)  # type: ignore[arg-type]  # its own check has the message
    _known("crop", given, ("pad", "mode"))
    if "pad" not in given:
        raise ConfigError("crop: pad is missing; write {crop: {pad: 4}} or {crop: 4}")
    return RandomCrop(**given)


def _flip(given: object) -> HorizontalFlip:
    if given is not True:
        raise ConfigError(f"flip: true or false is needed, got {given!r}")
    return HorizontalFlip()


def _resized_crop(given: object) -> ResizedCrop:
    if given is True:
        return ResizedCrop()
    if not isinstance(given, Mapping):
        raise ConfigError(f"resized_crop: true or {{scale: [LOW, HIGH], ratio: [LOW, HIGH]}} is needed, got {given!r}")
    _known("resized_crop", given, ("scale", "ratio"))
    return ResizedCrop(**{name: _range(f"resized_crop: {name}", value) for name, value in given.items()})


def _autoaugment(given: object) -> AutoAugment:
    if given != "cifar10":
        raise ConfigError(unknown("policy of autoaugment", str(given), ("cifar10",)))
    return AutoAugment()


def _one_of(given: object) -> OneOf:
    choices = augmentation_from(given) if isinstance(given, Mapping) else ()
    if len(choices) < 2:
        raise ConfigError(f"one_of: two augmentations or more are needed, {{flip: true, trim: 0.2}}, got {given!r}")
    return OneOf(choices)


READERS: dict[str, Callable[[object], Augmentation]] = {
    "crop": _crop,
    "flip": _flip,
    "rotate": lambda given: Rotate(_number("rotate", given)),
    "resized_crop": _resized_crop,
    "trim": lambda given: Trim(_number("trim", given)),
    "contrast": lambda given: Contrast(*_range("contrast", given)),
    "autoaugment": _autoaugment,
    "cutout": lambda given: Cutout(given),  # type: ignore[arg-type]  # its own check has the message
}
"""Augmentations by name, in the order in which they run, each with what makes it of a recipe's value."""


def _known(name: str, options: Mapping[str, object], known: tuple[str, ...]) -> None:
    for option in options:
        if option not in known:
            raise ConfigError(unknown(f"option of {name}", str(option), known))


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name}: a number is needed, got {value!r}")
    return float(value)


def _range(name: str, value: object) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ConfigError(f"{name}: two numbers, [LOW, HIGH], are needed, got {value!r}")
    return _number(name, value[0]), _number(name, value[1])


def _changed(x: Tensor, keys: Keys, rows: Tensor, augmentations: tuple[Augmentation, ...]) -> Tensor:
    """x with some of its images, (N,) bool, augmented; the input is left as it was."""
    if not bool(rows.any()):
        return x
    part, own = x[rows], keys[rows]
    for augmentation in augmentations:
        part = augmentation(part, own)
    changed = x.clone()
    changed[rows] = part
    return changed


def _clamped(position: Tensor, size: int) -> Tensor:
    return position.clamp(0, size - 1)


def _mirrored(position: Tensor, size: int) -> Tensor:
    last = size - 1
    return last - (last - position.abs()).abs()


def _inside(position: Tensor, size: int) -> Tensor:
    return (position >= 0) & (position < size)
