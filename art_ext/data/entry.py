"""A data set as recipes and plugins see it: what it is called, how it is opened, what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from art_ext.data.checks import check_labels
from art_ext.data.images import DatasetImages, Images, Picked, labels_of
from art_ext.errors import ConfigError, DataError, unknown

__all__ = ["Data", "DatasetEntry", "DatasetOptions", "Split", "digest_of", "split_from"]


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

    def folder(self, name: str) -> Path:
        """The root of the data set `name`, which needs one.

        Raises:
            ConfigError: if none was given.
        """
        if self.root is None:
            raise ConfigError(f"data {name} needs root, the place that holds it; for example root: data")
        return self.root


@dataclass(frozen=True)
class DatasetEntry:
    """A data set by name; plugins return these from the hook `art_ext_datasets`."""

    name: str
    description: str
    load: Callable[[DatasetOptions], Data]
    takes: tuple[str, ...] = ()
    """Which of `DatasetOptions` it uses: "root", "size"."""

    def options(self, **given: object) -> DatasetOptions:
        """The options from a recipe or the command line.

        Raises:
            ConfigError: on an option that this data set does not take, or a value that is none.
        """
        for option in given:
            if option not in self.takes:
                known = f"{unknown(f'option of data {self.name}', option, self.takes)}"
                raise ConfigError(known if self.takes else f"{known}; {self.name} takes none")
        root, size = given.get("root"), given.get("size")
        if root is not None and not isinstance(root, str | Path):
            raise ConfigError(f"data.root is a path, got {root!r}")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigError(f"data.size is a number of pixels from 1, got {size!r}")
        return DatasetOptions(Path(root).expanduser() if root is not None else None, size)

    def open(self, **given: object) -> Data:
        """`load` with checked options.

        Raises:
            ConfigError: as `options`.
            DataError: if the data is missing or cannot be read.
        """
        return self.load(self.options(**given))


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
