"""A data set as recipes and plugins see it: what it is called, how it is opened, what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_ext.data.checks import check_labels
from art_ext.data.files import Channels
from art_ext.data.holdout import stratified
from art_ext.data.images import DatasetImages, Images, Picked, labels_of
from art_ext.errors import ConfigError, DataError, unknown

__all__ = ["Data", "DatasetEntry", "DatasetOptions", "Split", "digest_of", "split_from"]

UNEVEN = 10
"""How many times as large as the smallest class the largest may be without a word."""
LARGEST_SIDE = 4096


@dataclass(frozen=True)
class Split:
    """Images and their labels."""

    x: Images
    """(N, C, H, W); rows come out as float32 in [0, 1]."""
    y: Tensor
    """(N,) int64 class indices."""

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise DataError(f"a split has {len(self.x)} images and {len(self.y)} labels; give one label for each image")

    def __len__(self) -> int:
        return len(self.y)

    def at(self, index: Tensor) -> Split:
        """The rows `index`, (n,) int64, without copying pixels."""
        return Split(Picked(self.x, index), self.y[index])


@dataclass(frozen=True)
class Data:
    """A data set, opened."""

    name: str
    train: Split
    test: Split
    """Never used for training or for choosing the best epoch."""
    class_names: tuple[str, ...]
    digest: str
    """The first 16 hex digits of a SHA-256 over the contents (for sets on disk: file names and sizes)."""
    source: str
    """Where it was read, or how it was made; for people."""
    notes: tuple[str, ...] = ()
    """What a reader of results must know: rows that were left out, or set aside; a line each."""
    damaged: tuple[str, ...] = ()
    """The files that could not be read and were left out."""

    @classmethod
    def of(
        cls,
        dataset: object,
        test: object | None = None,
        *,
        name: str = "data",
        class_names: Sequence[str] | None = None,
        source: str = "a torch data set",
    ) -> Data:
        """Map-style torch data sets of (image, label) pairs as a data set, read when asked for.

        Args:
            test: None sets a fifth of each class of `dataset` aside, the same rows each time.
            class_names: default is what the data set says (`classes`), else the labels.

        Raises:
            DataError: for data sets without rows, pairs or labels.
        """
        train = split_from(dataset)
        notes: tuple[str, ...] = ()
        if test is None:
            train, held = _parted(train)
            notes = (f"no test images were given: a fifth of {name} was set aside, {len(held)} images",)
        else:
            held = split_from(test)
        names = class_names if class_names is not None else getattr(dataset, "classes", None)
        if not isinstance(names, list | tuple):
            names = [str(label) for label in range(int(torch.cat([train.y, held.y]).max()) + 1)]
        listing = [f"{train.x.shape} {held.x.shape}"]
        return cls(name, train, held, tuple(map(str, names)), digest_of(train.y, held.y, listing), source, notes)

    def __post_init__(self) -> None:
        for part, split in (("training", self.train), ("test", self.test)):
            if len(split) == 0:
                raise DataError(f"the {part} part of {self.name} is empty; check {self.source}")
            check_labels(split.y, self.n_classes, len(split.x), f"the {part} part of {self.name}")
        train, test = tuple(self.train.x.shape[1:]), tuple(self.test.x.shape[1:])
        if train != test:
            raise DataError(
                f"{self.name} has training images of shape {train} and test images of shape {test}; make them equal"
            )

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    def counts(self) -> dict[str, int]:
        """Training images of each class."""
        each = torch.bincount(self.train.y, minlength=self.n_classes).tolist()
        return dict(zip(self.class_names, each, strict=True))

    def imbalance(self) -> str:
        """One line where the largest class has more than ten times as many images as the smallest; else ""."""
        each = torch.bincount(self.train.y, minlength=self.n_classes)
        most, least = int(each.argmax()), int(each.argmin())
        if int(each[most]) <= UNEVEN * int(each[least]):
            return ""
        ratio = f"{int(each[most]) / int(each[least]):.0f} to 1" if int(each[least]) else "the second has none"
        return (
            f"classes are uneven: {self.class_names[most]} has {int(each[most])} training images and "
            f"{self.class_names[least]} {int(each[least])} ({ratio}); accuracy over all images hides the small ones"
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.train.x.shape[1:])


@dataclass(frozen=True)
class DatasetOptions:
    """What a recipe's `data:` may say besides the name."""

    root: Path | None = None
    """The folder (or file) that holds the data."""
    size: int | None = None
    """Side in pixels that images are scaled to and cut at."""
    channels: Channels = 3
    """1 makes all images grey, 3 colour."""
    max_corrupt: float = 0.01
    """The share of training files that may be unreadable; they are left out, and listed."""
    skip_corrupt_test: bool = False
    """Whether unreadable test files may be left out as well, up to the same share; they count as an error else."""
    outside: bool = False
    """Whether a list of files may name files outside of its own folder."""

    def folder(self, name: str) -> Path:
        """The root of the data set `name`, which needs one.

        Raises:
            ConfigError: if none was given.
        """
        if self.root is None:
            raise ConfigError(f"data {name} needs root, the place that holds it; for example root: data")
        return self.root


def _root(value: object) -> Path:
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise ConfigError(f"data.root is a path, got {value!r}")
    try:
        return Path(value).expanduser()
    except RuntimeError:  # the home of nobody
        raise ConfigError(f"data.root is a path, and {value} starts with nobody's home") from None


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_SIDE:
        raise ConfigError(f"data.size is a number of pixels from 1 to {LARGEST_SIDE}, got {value!r}")
    return value


def _channels(value: object) -> int:
    if isinstance(value, bool) or value not in (1, 3):
        raise ConfigError(f"data.channels is 1 for grey or 3 for colour, got {value!r}")
    return int(str(value))


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"data.max_corrupt is a share from 0 to below 1, got {value!r}")
    return float(value)


def _switch(option: str) -> Callable[[object], bool]:
    def read(value: object) -> bool:
        if not isinstance(value, bool):
            raise ConfigError(f"data.{option} is true or false, got {value!r}")
        return value

    return read


_READ: Mapping[str, Callable[[object], object]] = {
    "root": _root,
    "size": _size,
    "channels": _channels,
    "max_corrupt": _share,
    "skip_corrupt_test": _switch("skip_corrupt_test"),
    "outside": _switch("outside"),
}


@dataclass(frozen=True)
class DatasetEntry:
    """A data set by name; plugins return these from the hook `art_ext_datasets`."""

    name: str
    description: str
    load: Callable[[DatasetOptions], Data]
    takes: tuple[str, ...] = ()
    """Which of `DatasetOptions` it uses: "root", "size", ..."""

    def options(self, **given: object) -> DatasetOptions:
        """The options from a recipe or the command line.

        Raises:
            ConfigError: on an option that this data set does not take, or a value that is none.
        """
        for option in given:
            if option not in self.takes:
                known = f"{unknown(f'option of data {self.name}', option, self.takes)}"
                raise ConfigError(known if self.takes else f"{known}; {self.name} takes none")
        found: dict[str, Any] = {key: _READ[key](value) for key, value in given.items() if value is not None}
        return DatasetOptions(**found)

    def open(self, **given: object) -> Data:
        """`load` with checked options.

        Raises:
            ConfigError: as `options`.
            DataError: if the data is missing or cannot be read.
        """
        return self.load(self.options(**given))


def _parted(split: Split) -> tuple[Split, Split]:
    """Four fifths and one fifth of each class."""
    rest, held = stratified(split.y, max(1, round(len(split) / 5)), 0)
    return split.at(rest), split.at(held)


def split_from(dataset: object) -> Split:
    """A map-style torch `Dataset` of (image, label) pairs as a split, read when asked for.

    Raises:
        DataError: if it has no length, is empty, or gives anything else than pairs.
    """
    images = DatasetImages(dataset)
    return Split(images, labels_of(dataset))


def digest_of(*parts: Tensor | Iterable[str]) -> str:
    """The first 16 hex digits of a SHA-256 over tensors (with type and shape) or lines of text."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(np.ascontiguousarray(part.cpu().numpy()).data)
        else:
            for line in part:
                digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:16]
