"""Data sets in the layouts of other libraries: timm's folders and archives, Hugging Face's, where installed."""

from __future__ import annotations

import importlib
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from art_ext.data.entry import Data, DatasetOptions, digest_of
from art_ext.data.files import Files
from art_ext.data.listed import readable
from art_ext.errors import ConfigError, DataError

__all__ = ["hugging_face", "timm_reader"]

_TEST = ("validation", "val", "test")
_LARGEST = 1 << 28


# ---------------------------------------------------------------------------------------------- timm


def timm_reader(options: DatasetOptions) -> Data:
    """Images as timm's readers take them: root/train and root/validation (or val, test), each a folder with a
    folder a class, or root/train.tar and root/validation.tar with the same inside.

    Nothing is unpacked, and no index of a stranger's is opened.
    """
    root = options.folder("timm")
    train, test = _place(root, ("train",)), _place(root, _TEST)
    opened = [_Reader(place) for place in (train, test)]
    names = opened[0].class_names
    strangers = sorted(set(opened[1].class_names) - set(names))
    if strangers:
        raise DataError(f"{test} has the class {strangers[0]}, which {train} lacks; add training images or remove it")
    parts = [_reader_part(reader, names, options) for reader in opened]
    listing = [f"{file} {label}" for files, y in parts for file, label in zip(files.files, y.tolist(), strict=True)]
    sizes = [f"{place.name} {place.stat().st_size}" for place in (train, test) if place.is_file()]
    return readable("timm", parts[0], parts[1], names, digest_of([*listing, *sizes]), str(root), options)


def _place(root: Path, parts: Sequence[str]) -> Path:
    for part in parts:
        for place in (root / part, root / f"{part}.tar"):
            if place.exists():
                return place
    raise DataError(
        f"data timm needs {root / parts[0]} or {root / parts[0]}.tar, with a folder a class; set another root"
    )


class _Reader:
    """timm's reader of a folder or an archive; one file is opened at a time."""

    def __init__(self, place: Path) -> None:
        from timm.data.readers.reader_factory import create_reader

        # an index beside an archive is a pickle, and would be written as well
        options: dict[str, Any] = {"cache_tarinfo": False} if place.is_file() else {}
        try:
            self._reader: Any = create_reader("", root=str(place), **options)
        except Exception as error:  # timm raises as it comes, tarfile too
            said = " ".join(str(error).split())[:160]
            raise DataError(f"timm cannot read {place} ({said}); it needs a folder a class with images in it") from None
        self._lock = threading.Lock()
        self.place = place
        number = self._reader.class_name_to_idx if place.is_file() else self._reader.class_to_idx
        self.class_names = sorted(number, key=number.__getitem__)

    def __len__(self) -> int:
        return len(self._reader)

    def labels(self) -> list[str]:
        targets = self._reader.targets if self.place.is_file() else [target for _, target in self._reader.samples]
        return [self.class_names[int(target)] for target in targets]

    def names(self) -> list[str]:
        return [str(self._reader.filename(row, basename=False)) for row in range(len(self))]

    def open(self, row: int) -> BinaryIO:
        with self._lock:
            stream, _ = self._reader[row]
            with stream:
                content = stream.read(_LARGEST + 1)  # an archive may claim any size for what it holds
        if len(content) > _LARGEST:
            raise OSError("larger than 256 MiB")
        return io.BytesIO(content)


def _reader_part(reader: _Reader, names: Sequence[str], options: DatasetOptions) -> tuple[Files, torch.Tensor]:
    number = {name: label for label, name in enumerate(names)}
    y = torch.tensor([number[label] for label in reader.labels()])
    return Files(reader.names(), options.size, options.channels, reader.open), y


# --------------------------------------------------------------------------------------- Hugging Face


def hugging_face(options: DatasetOptions) -> Data:
    """A Hugging Face data set on this machine: a folder of `save_to_disk`, or of images (`imagefolder`).

    It needs the package datasets, and a column of images and one of class labels. Nothing is fetched,
    and no loading script is run.
    """
    root = options.folder("hugging_face")
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise ConfigError("data hugging_face needs the package datasets, which is not installed; install it") from None
    if not root.is_dir():
        raise DataError(f"data hugging_face needs a folder as its root, and {root} is none; nothing is fetched by name")
    try:
        saved = (root / "dataset_dict.json").is_file() or (root / "dataset_info.json").is_file()
        held: Any = (
            datasets.load_from_disk(str(root)) if saved else datasets.load_dataset("imagefolder", data_dir=str(root))
        )
    except Exception as error:  # the library's own errors, and Arrow's
        said = " ".join(str(error).split())[:160]
        raise DataError(f"datasets cannot read {root} ({said}); save it with save_to_disk") from None
    splits = dict(held) if isinstance(held, dict) else {"train": held}
    if "train" not in splits:
        raise DataError(f"{root} has the splits {', '.join(splits)} and no train; name one so")
    train = splits["train"]
    test = next((splits[part] for part in _TEST if part in splits), None)
    image, label = _columns(train, root)
    names = getattr(train.features[label], "names", None)
    rows = [None if part is None else _Rows(part, image, label, options) for part in (train, test)]
    return Data.of(rows[0], rows[1], name=root.name, class_names=names, source=str(root))


def _columns(split: Any, root: Path) -> tuple[str, str]:
    kinds = {name: type(feature).__name__ for name, feature in split.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    if not images or not labels:
        raise DataError(f"{root} has the columns {', '.join(kinds)}, and needs one of images and one of class labels")
    return images[0], labels[0]


class _Rows:
    """One split as a torch data set of (image, label) pairs."""

    def __init__(self, split: Any, image: str, label: str, options: DatasetOptions) -> None:
        self.split, self.image, self.options = split, image, options
        self.targets = [int(value) for value in split[label]]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        from PIL import ImageOps

        image = self.split[row][self.image].convert("L" if self.options.channels == 1 else "RGB")
        size = self.options.size
        return (image if size is None else ImageOps.fit(image, (size, size))), self.targets[row]
