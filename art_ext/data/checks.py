"""Checks of a user's arrays before any work starts; each failure is one `DataError` line.

Nothing is copied: an array is read in slices, and a pixel is looked for only in a slice that is bad.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_ext.errors import DataError

__all__ = ["check_images", "check_labels"]

_SLICE = 1 << 24  # pixels read at a time


def check_images(x: Tensor | npt.NDArray[Any], clip: tuple[float, float] | None, what: str = "x") -> None:
    """Checks images (N, C, H, W): shape, finite numbers, values within `clip` (None: any range).

    Raises:
        DataError: naming `what`, the first bad row or the range found, and the way out.
    """
    _check_array(x, what)
    shape = tuple(x.shape)
    if len(shape) != 4:
        hint = {
            1: "give a batch of images",
            2: f"reshape each row to channels, height and width: {what}.reshape(len({what}), C, H, W)",
            3: f"for grey images add the channel axis: {what}[:, None]; for a single image: {what}[None]",
        }.get(len(shape), "drop the other axes")
        raise DataError(f"{what} has the shape {shape}, but images are (N, C, H, W); {hint}")
    if shape[0] == 0:
        raise DataError(f"{what} is empty: its shape is {shape}; give at least one image")
    if 0 in shape:
        raise DataError(f"{what} has images without pixels: its shape is {shape}, and images are (N, C, H, W)")
    if shape[3] in (1, 3) and shape[1] == shape[2] > 4:
        raise DataError(
            f"{what} has the shape {shape}, which has its channels last; images are (N, C, H, W), so use "
            f"{what}.transpose(0, 3, 1, 2)"
        )
    lowest, highest = _range(x, what)
    if clip is None:
        return
    low, high = (float(bound) for bound in clip)
    slack = 1e-6 * (high - low)  # float32 rounding of a range that touches its bounds
    if lowest < low - slack or highest > high + slack:
        raise DataError(
            f"{what} has values from {lowest:.6g} to {highest:.6g}, outside the clip range [{low:g}, {high:g}]; "
            f"{_rescaling(lowest, highest, low, high, what)}"
        )


def check_labels(y: object, n_classes: int | None, n: int | None, what: str = "y", *, training: bool = False) -> Tensor:
    """Labels as class indices, (N,) int64.

    Args:
        y: indices (N,) or (N, 1), or one-hot rows (N, K), as an array, a tensor or a list.
        n_classes: K; None where it is not known.
        n: how many images there are; None where it is not known.
        what: the name that messages use.
        training: also refuses labels of one class alone.

    Raises:
        DataError: naming `what`, the first bad row and the way out.
    """
    array = _as_numpy(y, what)
    if array.size == 0:
        raise DataError(f"{what} is empty; give one label for each image")
    if array.ndim == 2 and array.shape[1] == 1 and n_classes != 1:
        array = array[:, 0]
    if array.ndim not in (1, 2):
        raise DataError(f"{what} has the shape {array.shape}, but labels are indices (N,) or one-hot rows (N, K)")
    if n is not None and len(array) != n:
        raise DataError(f"{what} has {len(array)} labels, but there are {n} images; give one label for each image")
    indices = _from_one_hot(array, n_classes, what) if array.ndim == 2 else _from_indices(array, n_classes, what)
    if training and (indices == indices[0]).all():
        raise DataError(
            f"{what} has only the class {int(indices[0])} in all {len(indices)} rows; training needs two or more "
            "classes (is the set sorted and cut?)"
        )
    return torch.from_numpy(indices)


def _check_array(x: object, what: str) -> None:
    if isinstance(x, Tensor):
        if x.is_complex():
            raise DataError(f"{what} has complex numbers; pixels are real")
        return
    if not isinstance(x, np.ndarray):
        raise DataError(f"{what} is a {type(x).__name__}; give a NumPy array or a tensor of images (N, C, H, W)")
    if x.dtype.kind not in "fiub":
        hint = "; are the images of different sizes?" if x.dtype.kind == "O" else ""
        raise DataError(f"{what} has the type {x.dtype}, but pixels are numbers such as float32{hint}")


def _range(x: Tensor | npt.NDArray[Any], what: str) -> tuple[float, float]:
    rows = max(1, _SLICE // int(np.prod(x.shape[1:])))
    lowest, highest = np.inf, -np.inf
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        low, high = float(part.min()), float(part.max())  # both become NaN where any pixel is
        if not (np.isfinite(low) and np.isfinite(high)):
            row, value = _first_bad(part)
            raise DataError(f"{what} has {value} in row {start + row}; remove or repair that image")
        lowest, highest = min(lowest, low), max(highest, high)
    return lowest, highest


def _first_bad(part: Tensor | npt.NDArray[Any]) -> tuple[int, float]:
    for row, image in enumerate(part):
        flat = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image, dtype=np.float64).ravel()
        bad = ~np.isfinite(flat)
        if bad.any():
            return row, float(flat[bad][0])
    raise AssertionError("the slice was finite after all")


def _rescaling(lowest: float, highest: float, low: float, high: float, what: str) -> str:
    if (low, high) == (0.0, 1.0) and lowest >= 0 and 1 < highest <= 255:
        return f"divide {what} by 255, or give the classifier clip_values=(0, 255)"
    if (low, high) == (0.0, 1.0) and lowest >= -1 and highest <= 1:
        return f"use ({what} + 1) / 2, or give the classifier clip_values=(-1, 1)"
    return f"rescale {what}, or give the classifier clip_values that hold it"


def _as_numpy(y: object, what: str) -> npt.NDArray[Any]:
    try:
        array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    except ValueError:  # rows of different lengths
        raise DataError(
            f"{what} has rows of different lengths; labels are indices (N,) or one-hot rows (N, K)"
        ) from None
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"{what} has the type {array.dtype}, but labels are class indices 0, 1, 2, ...; number the classes first"
        )
    return array


def _from_indices(array: npt.NDArray[Any], n_classes: int | None, what: str) -> npt.NDArray[np.int64]:
    if array.dtype.kind == "f":
        odd = ~(np.isfinite(array) & (array == np.floor(array)))
        if odd.any():
            row = int(odd.argmax())
            raise DataError(f"{what} has the label {array[row]:g} in row {row}; labels are whole class indices")
    highest = np.inf if n_classes is None else n_classes - 1
    bad = (array < 0) | (array > highest)
    if bad.any():
        row = int(bad.argmax())
        wanted = "0 or more" if n_classes is None else f"0 to {n_classes - 1} for {n_classes} classes"
        hint = "; do your labels start at 1?" if array.min() == 1 and array.max() == n_classes else ""
        raise DataError(f"{what} has the label {int(array[row])} in row {row}, but labels are {wanted}{hint}")
    return array.astype(np.int64)


def _from_one_hot(array: npt.NDArray[Any], n_classes: int | None, what: str) -> npt.NDArray[np.int64]:
    if n_classes is not None and array.shape[1] != n_classes:
        raise DataError(
            f"{what} has one-hot rows of {array.shape[1]} classes, but the model has {n_classes}; "
            "give as many columns as there are classes"
        )
    bad = ((array != 0) & (array != 1)).any(axis=1) | (array.sum(axis=1) != 1)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{what} is not one-hot in row {row}, {np.array2string(array[row], precision=3, threshold=8)}; "
            "a row has a single 1 and else 0 (or give class indices)"
        )
    return np.asarray(array.argmax(axis=1), dtype=np.int64)
