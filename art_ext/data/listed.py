"""Image files with labels as a data set: where they may lie, which cannot be read, what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from art_ext.data.entry import Data, DatasetOptions, Split, digest_of
from art_ext.data.files import Files
from art_ext.errors import DataError

__all__ = ["data_of_files", "inside", "readable"]

_NAMED = 5
"""How many damaged files a line names."""


def inside(folder: Path, name: str, source: str, *, allowed: bool = False) -> Path:
    """The path of a file that `source` lists, which must lie in `folder`, through no link out of it either.

    Args:
        allowed: whether it may lie anywhere.

    Raises:
        DataError: naming the file and the way out.
    """
    try:
        path = folder / name
        within = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        raise DataError(f"{source} lists {name[:200]!r}, which is no path; repair the list") from None
    if not within and not allowed:
        raise DataError(
            f"{source} lists {name[:200]!r}, which lies outside of {folder}; it was not opened: move the file there, "
            "or allow it with data.outside: true where the data set takes that"
        )
    return path


def data_of_files(
    name: str,
    root: Path,
    train: Sequence[tuple[Path, int]],
    test: Sequence[tuple[Path, int]],
    class_names: Sequence[str],
    options: DatasetOptions,
    notes: Sequence[str] = (),
) -> Data:
    """A data set of (file, label) pairs, without the files that cannot be read, as far as the options allow.

    Raises:
        DataError: for a part without images, a file that is not there, and too many that cannot be read.
    """
    for samples in (train, test):
        if not samples:
            raise DataError(f"data {name} has no images for one of its parts in {root}; get it again")
    listing = (f"{_shown(file, root)} {_bytes(file)} {label}" for part in (train, test) for file, label in part)
    digest = digest_of(listing)  # first, since it also finds files that are listed but missing
    parts = []
    for samples in (train, test):
        images = Files([file for file, _ in samples], options.size, options.channels)
        parts.append((images, torch.tensor([label for _, label in samples])))
    return readable(name, parts[0], parts[1], class_names, digest, str(root), options, notes)


def readable(
    name: str,
    train: tuple[Files, torch.Tensor],
    test: tuple[Files, torch.Tensor],
    class_names: Sequence[str],
    digest: str,
    source: str,
    options: DatasetOptions,
    notes: Sequence[str] = (),
) -> Data:
    """A data set of files and labels, without the files that cannot be read.

    Raises:
        DataError: for more unreadable training files than `max_corrupt` allows, and for any test file, unless
            `skip_corrupt_test` allows as many.
    """
    said, lost, splits = list(notes), list[str](), []
    for part, (images, y) in (("training", train), ("test", test)):
        bad = images.damaged()
        whole = Split(images, y)
        if not bad:
            splits.append(whole)
            continue
        files = [str(images.files[row]) for row in bad]
        _refuse_damaged(name, part, bad, images, options)
        lost += files
        kept = torch.tensor([row for row in range(len(images)) if row not in bad], dtype=torch.int64)
        splits.append(whole.at(kept))
        said.append(
            f"{len(bad)} of {len(images)} {part} files of {name} cannot be read and are left out, so n = {len(kept)}: "
            f"{_few(files)}"
        )
    return Data(name, splits[0], splits[1], tuple(class_names), digest, source, tuple(said), tuple(lost))


def _refuse_damaged(name: str, part: str, bad: dict[int, str], images: Files, options: DatasetOptions) -> None:
    share = len(bad) / len(images)
    files = [str(images.files[row]) for row in bad]
    if part == "test" and not options.skip_corrupt_test:
        raise DataError(
            f"{len(bad)} of {len(images)} test files of {name} cannot be read: {_few(files)}; replace or remove them, "
            "or leave them out of every figure with data.skip_corrupt_test: true"
        )
    if share > options.max_corrupt or len(bad) == len(images):
        raise DataError(
            f"{len(bad)} of {len(images)} {part} files of {name} cannot be read ({share:.1%}, and data.max_corrupt "
            f"allows {options.max_corrupt:.1%}): {_few(files)}; {next(iter(bad.values()))}"
        )


def _few(files: Sequence[str]) -> str:
    return ", ".join(files[:_NAMED]) + (f" and {len(files) - _NAMED} more" if len(files) > _NAMED else "")


def _shown(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def _bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except (OSError, ValueError):
        raise DataError(f"the image {file} is listed but not there; get the data again") from None
