"""Where pixels come from: tensors, bytes, NumPy arrays, files, torch datasets, behind one protocol.

Whatever holds the pixels, a batch of them is a float32 tensor (n, C, H, W). What fits stays as it
is (a CIFAR in bytes is a quarter of its floats, an ART user's array is never copied), what does
not is read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_ext.data.files import Files
from art_ext.errors import DataError

__all__ = [
    "ArrayRows",
    "Bytes",
    "DatasetImages",
    "Images",
    "Picked",
    "as_images",
    "decodes_files",
    "device_of",
    "labels_of",
    "load_all",
    "on_device",
]

_FITS_ON_DEVICE = 1 << 30  # bytes: CIFAR and all smaller sets, a small part of any accelerator's memory


class Images(Protocol):
    """Images by row number; a float32 tensor (N, C, H, W) is one already."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, C, H, W)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """The rows `index`, (n,) int64, as float32 (n, C, H, W); a data set's are in [0, 1]."""


class Bytes:
    """uint8 pixels (N, C, H, W) in [0, 255], which come out as float32 in [0, 1].

    The tensor may be a permuted view of (N, H, W, C): only the rows asked for are rearranged.
    """

    def __init__(self, pixels: Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise DataError(f"Bytes takes uint8 pixels (N, C, H, W), got {pixels.dtype} {tuple(pixels.shape)}")
        self.pixels = pixels

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        return self.pixels[index].to(torch.float32, memory_format=torch.contiguous_format).div_(255)


class ArrayRows:
    """A NumPy array (N, C, H, W) of any number type, read-only or not; converted row by row, never scaled."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        # advanced indexing copies, so the result is writable and x itself stays untouched
        return torch.from_numpy(np.ascontiguousarray(self.array[index.cpu().numpy()], dtype=np.float32))


class Picked:
    """Some rows of other images, in the order of `rows`, (n,) int64; nothing is copied."""

    def __init__(self, images: Images, rows: Tensor) -> None:
        self.images = images
        self.rows = rows

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        return self.images[self.rows[index]]


class DatasetImages:
    """The images of a map-style torch `Dataset` that gives (image, label) pairs.

    An image may be a tensor or array (C, H, W) or a PIL image; bytes and PIL images are scaled to
    [0, 1], floats are taken as they are. Its transforms run each time a row is asked for.
    """

    def __init__(self, dataset: Any) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise DataError(
                f"{type(dataset).__name__} has no length or rows; wrap an iterable data set in a DataLoader instead"
            )
        if len(dataset) == 0:
            raise DataError(f"{type(dataset).__name__} is empty")
        self.dataset = dataset
        self.shape: tuple[int, ...] = (len(dataset), *self._read(0).shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor, /) -> Tensor:
        rows = index.tolist()
        images = [self._read(row) for row in rows]
        for row, image in zip(rows, images, strict=True):
            if image.shape != self.shape[1:]:
                raise DataError(
                    f"image {row} of {type(self.dataset).__name__} is {tuple(image.shape)}, but image 0 is "
                    f"{tuple(self.shape[1:])}; add a transform that makes them equal"
                )
        return torch.stack(images) if images else torch.empty(0, *self.shape[1:])

    def _read(self, row: int) -> Tensor:
        try:
            item = self.dataset[row]
        except DataError:
            raise
        except Exception as error:  # a damaged file, or the data set's own code
            said, kind = " ".join(str(error).split())[:160] or type(error).__name__, type(self.dataset).__name__
            raise DataError(f"{kind}[{row}] cannot be read ({said}); repair or remove it") from None
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise DataError(f"{type(self.dataset).__name__}[{row}] is no (image, label) pair")
        image = item[0]
        if isinstance(image, Tensor):
            pixels = image
        elif isinstance(image, np.ndarray):
            pixels = torch.tensor(image)
        else:  # PIL: (H, W) or (H, W, C)
            pixels = torch.tensor(np.asarray(image))
            pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        if pixels.ndim != 3:
            raise DataError(
                f"image {row} of {type(self.dataset).__name__} has the shape {tuple(pixels.shape)}; (C, H, W) is needed"
            )
        return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()


def as_images(x: Tensor | npt.NDArray[Any] | Images) -> Images:
    """The images of a user's x, (N, C, H, W), without copying and without scaling.

    Pixels keep their values whatever their type, since they are in the classifier's clip range.
    """
    if isinstance(x, np.ndarray):
        plain = x.dtype == np.float32 and x.dtype.isnative and x.flags.writeable and min(x.strides, default=0) >= 0
        return torch.from_numpy(x) if plain else ArrayRows(x)
    if isinstance(x, Tensor) and x.dtype != torch.float32:
        return _Cast(x)
    return x


class _Cast:
    """A tensor of another number type; the rows asked for become float32, unscaled."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.shape: tuple[int, ...] = tuple(tensor.shape)

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        return self.tensor[index].to(torch.float32)


def on_device(images: Images, device: torch.device) -> Images:
    """The same images, held on the device where they are a small tensor; else as they are."""
    if isinstance(images, Tensor):
        return images.to(device) if images.numel() * images.element_size() <= _FITS_ON_DEVICE else images
    if isinstance(images, Bytes):
        return Bytes(images.pixels.to(device)) if images.pixels.numel() <= _FITS_ON_DEVICE else images
    if isinstance(images, Picked):
        held = on_device(images.images, device)
        return images if held is images.images else Picked(held, images.rows.to(device))
    return images


def device_of(images: Images) -> torch.device:
    """Where the pixels lie, and so where an index into them should lie."""
    if isinstance(images, Picked):
        return device_of(images.images)
    pixels = images.pixels if isinstance(images, Bytes) else images.tensor if isinstance(images, _Cast) else images
    return pixels.device if isinstance(pixels, Tensor) else torch.device("cpu")


def decodes_files(images: Images) -> bool:
    """Whether asking for rows means reading and decoding files, which is worth doing ahead of time.

    A torch data set also does slow work, but its transforms draw from torch's global generator: a
    thread of ours would make the numbers depend on timing.
    """
    return decodes_files(images.images) if isinstance(images, Picked) else isinstance(images, Files)


def load_all(images: Images, rows: int | None = None) -> Tensor:
    """The first `rows` images, or all, as one float32 tensor (n, C, H, W); for what fits in memory."""
    n = len(images) if rows is None else min(rows, len(images))
    if isinstance(images, Tensor):
        return images[:n]
    out = torch.empty(n, *images.shape[1:])
    for start in range(0, n, 1024):
        index = torch.arange(start, min(start + 1024, n))
        out[start : start + 1024] = images[index].to(out.device)
    return out


def labels_of(dataset: Any) -> Tensor:
    """The labels of a map-style torch `Dataset`, (N,) int64.

    They are taken from where torch and torchvision keep them, and else (or under a
    `target_transform`) by reading every item once.
    """
    from torch.utils.data import Subset, TensorDataset

    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) >= 2:
        return dataset.tensors[1].to(torch.int64)
    if getattr(dataset, "target_transform", None) is None:
        for name in ("targets", "labels"):
            kept = getattr(dataset, name, None)
            if isinstance(kept, Tensor | np.ndarray | list | tuple) and len(kept) == len(dataset):
                return torch.tensor(np.asarray(kept), dtype=torch.int64)
    return torch.tensor([int(dataset[row][1]) for row in range(len(dataset))], dtype=torch.int64)
