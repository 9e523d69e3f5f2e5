"""Small data sets on disk, in the formats they are published in.

torchvision takes nothing but the full originals (it compares MD5 sums) and opens CIFAR with plain
pickle, which runs whatever code a file names. These readers take any file of the documented
format, subsets too, and run none. Folders are laid out as torchvision leaves them.
"""

from __future__ import annotations

import gzip
import math
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_ext.data.checks import check_images, check_labels
from art_ext.data.entry import Data, DatasetOptions, Split, digest_of
from art_ext.data.images import Bytes, Images
from art_ext.errors import DataError

__all__ = ["cifar10", "cifar100", "find_folder", "idx", "npz", "read_idx", "svhn", "unpickle_arrays"]

_LARGEST_IDX = 1 << 30  # bytes; the largest that is published has half of that
_CIFAR10: tuple[str, ...] = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def find_folder(name: str, root: Path, inside: Sequence[str], files: Sequence[str], get: str) -> Path:
    """The folder among root/`inside`[i] and root itself that has all the `files`.

    Raises:
        DataError: naming what is missing, where to put it, and where it is published (`get`).
    """
    places = [root / part for part in inside] + [root]
    lacks = {place: [file for file in files if not _there(place / file)] for place in places}
    best = min(places, key=lambda place: len(lacks[place]))
    if not lacks[best]:
        return best
    missing = "" if len(lacks[best]) == len(files) else f" (missing: {', '.join(lacks[best])})"
    raise DataError(f"data {name} needs the files {', '.join(files)} in {best}{missing}; {get}")


def _there(file: Path) -> bool:
    return file.exists() or (file.name.endswith("-ubyte") and file.with_name(file.name + ".gz").exists())


def cifar10(options: DatasetOptions) -> Data:
    """CIFAR-10 (Krizhevsky, 2009), the Python version: root/cifar-10-batches-py/data_batch_1, ..."""
    train = [f"data_batch_{number}" for number in range(1, 6)]
    return _cifar(options, "cifar10", "cifar-10-batches-py", "cifar-10-python.tar.gz", train, ["test_batch"], "labels")


def cifar100(options: DatasetOptions) -> Data:
    """CIFAR-100 with its fine labels, the Python version: root/cifar-100-python/train, test, meta."""
    return _cifar(
        options, "cifar100", "cifar-100-python", "cifar-100-python.tar.gz", ["train"], ["test"], "fine_labels"
    )


def _cifar(
    options: DatasetOptions, name: str, inside: str, archive: str, train: list[str], test: list[str], key: str
) -> Data:
    root = options.folder(name)
    extra = ["meta"] if name == "cifar100" else []
    folder = find_folder(
        name,
        root,
        [inside],
        [*train, *test, *extra],
        f"unpack {archive} from https://www.cs.toronto.edu/~kriz/cifar.html into {root}",
    )

    def read(files: list[str]) -> Split:
        parts = [_cifar_file(folder / file, key) for file in files]
        pixels = np.concatenate([part[0] for part in parts]).reshape(-1, 3, 32, 32)
        return Split(Bytes(torch.from_numpy(pixels)), torch.tensor([label for part in parts for label in part[1]]))

    names = _CIFAR10
    if extra:
        meta = unpickle_arrays(folder / "meta").get("fine_label_names")
        if not isinstance(meta, list) or not meta:
            raise DataError(f"{folder / 'meta'} has no fine_label_names; unpack {archive} again")
        names = tuple(str(label) for label in meta)
    return _data(name, read(train), read(test), names, folder)


def _cifar_file(file: Path, key: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
    content = unpickle_arrays(file)
    pixels, labels = content.get("data"), content.get(key)
    if not (
        isinstance(pixels, np.ndarray)
        and isinstance(labels, list)
        and pixels.dtype == np.uint8
        and pixels.shape == (len(labels), 3072)
        and all(isinstance(label, int) for label in labels)
    ):
        raise DataError(f"{file} is no CIFAR file: it needs data, bytes (N, 3072), and {key}, N numbers; get it again")
    return pixels, labels


class _ArraysOnly(pickle.Unpickler):
    """Opens pickles of plain values and NumPy arrays; whatever else a file names is refused."""

    def find_class(self, module: str, name: str) -> Any:
        core = module.replace("numpy._core", "numpy.core")
        if (core, name) == ("numpy.core.multiarray", "_reconstruct"):
            # what an array itself says it is rebuilt with: the function has no public name
            return np.empty(0).__reduce__()[0]
        allowed = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): _latin1}
        try:
            return allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the old pickle format; other codecs are not needed and not offered."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding}")
    return text.encode("latin1")


def unpickle_arrays(file: Path) -> dict[str, Any]:
    """The dictionary pickled in `file`, by Python 2 or 3, without running code that the file names.

    Raises:
        DataError: if it is no pickle of a dictionary, is damaged, or asks for anything but arrays.
    """
    try:
        with file.open("rb") as opened:
            content = _ArraysOnly(opened, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"cannot read {file} as a pickle of arrays ({_line(error)}); get the file again") from None
    if not isinstance(content, dict):
        raise DataError(f"{file} holds a {type(content).__name__}, not a dictionary; get the file again")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def svhn(options: DatasetOptions) -> Data:
    """SVHN, cropped digits (Netzer et al., 2011): root/train_32x32.mat and test_32x32.mat."""
    root = options.folder("svhn")
    files = ["train_32x32.mat", "test_32x32.mat"]
    get = "download both (format 2) from http://ufldl.stanford.edu/housenumbers/"
    folder = find_folder("svhn", root, [], files, get)
    train, test = (_svhn_file(folder / file) for file in files)
    return _data("svhn", train, test, tuple("0123456789"), folder)


def _svhn_file(file: Path) -> Split:
    from scipy.io import loadmat

    try:
        content = loadmat(file, variable_names=["X", "y"])
        pixels, labels = content["X"], content["y"].ravel()
    except Exception as error:  # scipy raises many kinds on a damaged file
        raise DataError(f"cannot read {file} as a MATLAB file with X and y ({_line(error)}); get it again") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != len(labels):
        raise DataError(f"{file} is no SVHN file: X has to be bytes (32, 32, 3, N) and y N labels; get it again")
    images = np.ascontiguousarray(pixels.transpose(3, 2, 0, 1))
    # the published labels call the digit 0 "10"
    return Split(Bytes(torch.from_numpy(images)), torch.from_numpy(labels.astype(np.int64) % 10))


@dataclass(frozen=True)
class _Idx:
    name: str
    inside: str
    home: str
    classes: tuple[str, ...]

    def __call__(self, options: DatasetOptions) -> Data:
        root = options.folder(self.name)
        files = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
        get = f"download them from {self.home} (as .gz will do)"
        folder = find_folder(self.name, root, [f"{self.inside}/raw", self.inside], files, get)
        train, test = (_idx_split(folder / images, folder / labels) for images, labels in (files[:2], files[2:]))
        return _data(self.name, train, test, self.classes, folder)


def idx(name: str, inside: str, home: str, classes: tuple[str, ...]) -> Callable[[DatasetOptions], Data]:
    """A loader for MNIST and the sets in its format: root/`inside`/raw/train-images-idx3-ubyte[.gz], ..."""
    return _Idx(name, inside, home, classes)


def _idx_split(images: Path, labels: Path) -> Split:
    pixels, y = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or y.ndim != 1 or len(pixels) != len(y):
        raise DataError(
            f"{images} holds {tuple(pixels.shape)} and {labels} {tuple(y.shape)}; (N, H, W) and (N,) are needed, "
            "so get both again"
        )
    return Split(Bytes(pixels[:, None]), y.to(torch.int64))


def read_idx(file: Path) -> Tensor:
    """The bytes in an IDX file (MNIST's format), or in the same file with .gz, as a uint8 tensor.

    The format: two zero bytes, the type (8: unsigned bytes), the number of axes, then each axis's
    length as a big-endian 32-bit number, then the values.

    Raises:
        DataError: if it is no such file, or is cut short.
    """
    if not file.exists():
        file = file.with_name(file.name + ".gz")
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            head = opened.read(4)
            if len(head) < 4 or head[:3] != b"\0\0\x08":
                raise DataError(f"{file} is no IDX file of bytes: it starts with {head.hex()}; get the file again")
            axes = opened.read(4 * head[3])
            shape = [int.from_bytes(axes[at : at + 4], "big") for at in range(0, len(axes), 4)]
            count = math.prod(shape)
            values = opened.read(min(count, _LARGEST_IDX) + 1)  # no more than it says: it may be a bomb
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {file} ({_line(error)}); get the file again") from None
    if len(values) != count or len(axes) != 4 * head[3]:
        has = "more" if len(values) > count else f"{len(values)}"
        raise DataError(f"{file} says it holds {shape}, {count} bytes, but has {has}; get the file again")
    return torch.from_numpy(np.frombuffer(values, np.uint8).reshape(shape).copy())


def npz(options: DatasetOptions) -> Data:
    """An .npz file of x_train, y_train, x_test, y_test: bytes (N, H, W, C) or (N, H, W), or floats
    (N, C, H, W) in [0, 1]; labels as indices or one-hot rows."""
    root = options.folder("npz")
    wanted = ("x_train", "y_train", "x_test", "y_test")
    if not root.is_file():
        raise DataError(
            f"data npz needs an .npz file as its root, and {root} is no file; write {', '.join(wanted)} with np.savez"
        )
    try:
        _refuse_bomb(root, wanted)
        with np.load(root, allow_pickle=False) as opened:
            held = list(opened.files)
            arrays = {name: opened[name] for name in wanted if name in held}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, AttributeError, MemoryError, SyntaxError) as error:
        raise DataError(f"cannot read {root} as an .npz of plain arrays ({_line(error)}); save it again") from None
    except (NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # odd compression, a password
        raise DataError(f"cannot read {root} as an .npz of plain arrays ({_line(error)}); save it again") from None
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise DataError(f"{root} lacks {', '.join(missing)} and holds {', '.join(held) or 'nothing'}; name them so")
    train_y, test_y = (
        check_labels(arrays[f"y_{part}"], None, len(arrays[f"x_{part}"]), f"y_{part} of {root.name}")
        for part in ("train", "test")
    )
    train, test = (_npz_images(arrays[f"x_{part}"], f"x_{part} of {root.name}") for part in ("train", "test"))
    n_classes = int(max(train_y.max(), test_y.max())) + 1
    if arrays["y_train"].ndim == 2:
        n_classes = max(n_classes, arrays["y_train"].shape[1])
    names = tuple(str(label) for label in range(n_classes))
    return _data("npz", Split(train, train_y), Split(test, test_y), names, root)


def _refuse_bomb(file: Path, names: Sequence[str]) -> None:
    """Refuses an archive whose arrays would not fit in memory, before anything of it is unpacked."""
    with zipfile.ZipFile(file) as archive:
        says = sum(member.file_size for member in archive.infolist() if member.filename.removesuffix(".npy") in names)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if says > memory:
        raise DataError(
            f"{file} has {file.stat().st_size:,} bytes and says that it unpacks to {says:,}, more than the memory of "
            "this machine, so it was not read; save fewer images, or as files in folders"
        )


def _npz_images(x: npt.NDArray[Any], what: str) -> Images:
    if x.dtype == np.uint8 and x.ndim in (3, 4) and 0 not in x.shape:
        pixels = torch.from_numpy(x)[:, None] if x.ndim == 3 else torch.from_numpy(x).permute(0, 3, 1, 2)
        if pixels.shape[1] > 4:
            raise DataError(f"{what} has the shape {x.shape}, but bytes are (N, H, W, C); use x.transpose(0, 2, 3, 1)")
        return Bytes(pixels)
    if x.dtype.kind != "f":
        raise DataError(f"{what} is {x.dtype} {x.shape}; bytes (N, H, W, C) or floats (N, C, H, W) are needed")
    check_images(x, (0.0, 1.0), what)
    return torch.from_numpy(x.astype(np.float32, copy=False))


def _data(name: str, train: Split, test: Split, names: tuple[str, ...], place: Path) -> Data:
    parts = [part for split in (train, test) for part in (_held(split.x), split.y)]
    return Data(name, train, test, names, digest_of(*parts), str(place))


def _held(images: Images) -> Tensor:
    held = images.pixels if isinstance(images, Bytes) else images
    assert isinstance(held, Tensor)
    return held


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())
