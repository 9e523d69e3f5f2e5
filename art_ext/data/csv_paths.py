"""Images that a CSV file lists: a path and a label in each line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from art_ext.data.entry import Data, DatasetOptions
from art_ext.data.holdout import stratified
from art_ext.data.listed import data_of_files, inside
from art_ext.errors import DataError

__all__ = ["csv_paths"]

_LARGEST = 1 << 30  # bytes
_TEST = ("val", "valid", "validation", "test")
_WANTED = "a first line such as path,label or path,label,split"


@dataclass(frozen=True)
class _Line:
    file: Path
    label: str
    part: str


def csv_paths(options: DatasetOptions) -> Data:
    """Images listed in a CSV file with the columns path and label, and perhaps split (train, val or test).

    The root is that file, or a folder with train.csv and val.csv (or test.csv). Paths are relative to the
    file's folder and stay in it, unless `outside` allows others. Without a split a fifth of each class is
    set aside. Labels are names or numbers.
    """
    root = options.folder("csv")
    notes: list[str] = []
    if root.is_dir():
        held = next((root / f"{part}.csv" for part in _TEST if (root / f"{part}.csv").is_file()), None)
        if held is None or not (root / "train.csv").is_file():
            raise DataError(f"data csv needs train.csv and val.csv or test.csv in {root}, or one file as its root")
        train, test = _lines(root / "train.csv", options), _lines(held, options)
    else:
        lines = _lines(root, options)
        train = [line for line in lines if line.part not in _TEST]
        test = [line for line in lines if line.part in _TEST]
        if not test:
            train, test = _parted(train)
            notes.append(f"{root.name} names no test images: a fifth of each class was set aside, {len(test)} images")
    names = _classes(train)
    number = {name: label for label, name in enumerate(names)}
    for line in test:
        if line.label not in number:
            raise DataError(
                f"{root} has test images of the class {line.label[:80]!r} and no training images; add some, or none"
            )
    parts = [[(line.file, number[line.label]) for line in part] for part in (train, test)]
    place = root if root.is_dir() else root.parent
    return data_of_files("csv", place, parts[0], parts[1], names, options, notes)


def _lines(file: Path, options: DatasetOptions) -> list[_Line]:
    rows = _rows(file)
    header = [column.strip().lower() for column in rows[0][1]] if rows else []
    if "path" not in header or "label" not in header:
        raise DataError(f"{file} lacks the columns path and label; it needs {_WANTED}")
    path, label = header.index("path"), header.index("label")
    part = header.index("split") if "split" in header else None
    found = []
    for number, row in rows[1:]:
        where = f"line {number} of {file}"
        if len(row) != len(header):
            raise DataError(f"{where} has {len(row)} columns and the first line {len(header)}; repair it")
        split = "" if part is None else row[part].strip().lower()
        if split not in ("", "train", "training", *_TEST):
            raise DataError(f"{where} has the split {split[:80]!r}; known are train, val and test")
        if not row[path].strip() or not row[label].strip():
            raise DataError(f"{where} lacks its {'path' if not row[path].strip() else 'label'}; repair it")
        place = inside(file.parent, row[path].strip(), where, allowed=options.outside)
        found.append(_Line(place, row[label].strip(), split))
    return found


def _rows(file: Path) -> list[tuple[int, list[str]]]:
    """The lines that are not empty, each with its number; fields between commas, semicolons or tabs."""
    try:
        if file.stat().st_size > _LARGEST:
            raise DataError(f"{file} is larger than 1 GiB; a list of paths is a text file")
        with file.open(encoding="utf-8-sig", newline="") as opened:
            first = opened.readline()
            opened.seek(0)
            between = max(",;\t", key=first.count)
            reader = csv.reader(opened, delimiter=between, strict=True)
            return [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except FileNotFoundError:
        raise DataError(f"data csv needs a .csv file as its root, and there is no {file}; it needs {_WANTED}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {file} as CSV ({' '.join(str(error).split())}); it needs {_WANTED}") from None


def _classes(lines: Sequence[_Line]) -> list[str]:
    """The labels in order: of numbers where all are, else of letters."""
    names = {line.label for line in lines}
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _parted(lines: Sequence[_Line]) -> tuple[list[_Line], list[_Line]]:
    if not lines:
        return [], []
    names = {name: label for label, name in enumerate(_classes(lines))}
    y = torch.tensor([names[line.label] for line in lines])
    rest, held = stratified(y, max(1, round(len(lines) / 5)), 0)
    return [lines[row] for row in rest.tolist()], [lines[row] for row in held.tolist()]
