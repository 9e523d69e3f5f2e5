"""Image files, decoded when asked for, and which of them cannot be."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_ext.errors import DataError

__all__ = ["ENDINGS", "Channels", "Files"]

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
Channels = Literal[1, 3]

_THREADS = min(8, os.cpu_count() or 1)
_WHOLLY = 50_000
"""Up to so many files each is decoded to see whether it can be; of more, only what they start with is read."""


class Files:
    """Image files by row number, grey and colour alike, a few decoded at a time in threads.

    Args:
        files: their paths, or what messages call them where `open_row` opens them; a row's number is its
            position here.
        size: side of the square that comes out: the shorter side is scaled to it and the middle cut
            out. None: no scaling; all files must have the size of the first.
        channels: 3 makes grey images colour, 1 makes colour images grey.
        open_row: opens the file of a row; None opens the path.

    Raises:
        DataError: on a file that is no image, is cut short, or differs in size; it names the file.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        size: int | None = None,
        channels: Channels = 3,
        open_row: Callable[[int], BinaryIO] | None = None,
    ) -> None:
        if not files:
            raise DataError("no image files were given")
        self.files = files
        self.size = size
        self.channels = channels
        self._open_row = open_row
        self._height_width: tuple[int, int] | None = (size, size) if size is not None else None
        self._first = 0

    @property
    def shape(self) -> tuple[int, ...]:
        if self._height_width is None:
            self._height_width = self._pixels(self._first).shape[:2]
        return (len(self.files), self.channels, *self._height_width)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        _ = self.shape
        with ThreadPoolExecutor(_THREADS) as pool:
            rows = list(pool.map(self._read, index.tolist()))
        pixels = torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, *self.shape[2:], self.channels)
        return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def damaged(self) -> dict[int, str]:
        """The rows that cannot be read, each with the reason; with very many files, as far as their starts tell."""
        wholly = len(self) <= _WHOLLY

        def reason(row: int) -> str:
            try:
                self._pixels(row, decode=wholly)
            except _Unreadable as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(_THREADS) as pool:
            found = {row: said for row, said in enumerate(pool.map(reason, range(len(self)))) if said}
        self._first = next((row for row in range(len(self)) if row not in found), 0)
        return found

    def _read(self, row: int) -> npt.NDArray[np.uint8]:
        pixels = self._pixels(row)
        wanted, found = self._height_width, pixels.shape[:2]
        if wanted is not None and found != wanted:
            raise DataError(
                f"the image {self.files[row]} is {found[1]}x{found[0]}, but {self.files[self._first]} is "
                f"{wanted[1]}x{wanted[0]}; set size to scale them all"
            )
        return pixels

    def _pixels(self, row: int, decode: bool = True) -> npt.NDArray[np.uint8]:
        """(H, W, channels) bytes."""
        from PIL import Image, ImageOps

        file = self.files[row]
        try:
            opened: Any
            with self._open(row) as stream, Image.open(stream) as opened:
                if not decode:
                    return np.empty((opened.height, opened.width, self.channels), np.uint8)
                image = _converted(opened, self.channels)
        except (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            reason = reason if reason and str(file) not in reason and "BytesIO" not in reason else "not an image"
            raise _Unreadable(file, " ".join(reason.split())) from None
        if self.size is not None:
            image = ImageOps.fit(image, (self.size, self.size), method=Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def _open(self, row: int) -> BinaryIO:
        return Path(self.files[row]).open("rb") if self._open_row is None else io.BytesIO(self._open_row(row).read())


class _Unreadable(DataError):
    """A file that is no image, or is cut short."""

    def __init__(self, file: str | Path, reason: str) -> None:
        self.reason = reason
        super().__init__(f"cannot read the image {file} ({reason}); replace or remove the file")


def _converted(image: Any, channels: Channels) -> Any:
    """The image in 8 bits a channel; deep grey ones (16 bits) are scaled, where PIL would cut them off."""
    from PIL import Image

    if image.mode.startswith("I"):
        deep = np.asarray(image)
        image = Image.fromarray((np.clip(deep, 0, 65535) // 257).astype(np.uint8))
    return image.convert("L" if channels == 1 else "RGB")
