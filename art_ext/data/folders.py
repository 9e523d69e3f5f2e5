"""Image files in folders, read while training: Tiny ImageNet and any folder with a folder a class."""

from __future__ import annotations

from pathlib import Path

from art_ext.data.entry import Data, DatasetOptions
from art_ext.data.files import ENDINGS
from art_ext.data.listed import data_of_files, inside
from art_ext.data.readers import find_folder
from art_ext.errors import DataError

__all__ = ["image_folder", "tiny_imagenet"]


def tiny_imagenet(options: DatasetOptions) -> Data:
    """Tiny ImageNet (200 classes, 3x64x64); its labelled validation images are the test set.

    Read from root/tiny-imagenet-200: wnids.txt, words.txt, train/WNID/images/*.JPEG,
    val/val_annotations.txt and val/images.
    """
    root = options.folder("tiny_imagenet")
    needed = ["wnids.txt", "words.txt", "train", "val/val_annotations.txt", "val/images"]
    get = f"unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip into {root}"
    folder = find_folder("tiny_imagenet", root, ["tiny-imagenet-200"], needed, get)
    wnids = (folder / "wnids.txt").read_text().split()
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    words = dict(line.split("\t")[:2] for line in _lines(folder / "words.txt", columns=2))

    train: list[tuple[Path, int]] = []
    for wnid in wnids:
        files = sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
        if not files:
            raise DataError(f"there is no .JPEG in {folder / 'train' / wnid / 'images'}, the class {wnid}; {get}")
        train += [(file, label_of[wnid]) for file in files]
    test: list[tuple[Path, int]] = []
    annotations = folder / "val" / "val_annotations.txt"
    for line in _lines(annotations, columns=2):
        file, wnid = line.split("\t")[:2]
        if wnid not in label_of:
            raise DataError(f"{annotations} gives {file} the class {wnid}, which wnids.txt lacks; {get}")
        test.append((inside(folder / "val" / "images", file, str(annotations)), label_of[wnid]))
    return data_of_files("tiny_imagenet", folder, train, test, [words.get(wnid, wnid) for wnid in wnids], options)


def image_folder(options: DatasetOptions) -> Data:
    """Any images as root/train/CLASS/* and root/val/CLASS/* (or root/test/CLASS/*).

    Without `size` all images must be equally large. Grey and colour ones may be mixed.
    """
    root = options.folder("image_folder")
    layout = f"data image_folder needs {root / 'train'}/CLASS/* and {root / 'val'}/CLASS/* (or test for val)"
    held = next((root / part for part in ("val", "test") if (root / part).is_dir()), None)
    if not (root / "train").is_dir() or held is None:
        lacks = "train" if not (root / "train").is_dir() else "val and test"
        raise DataError(f"{layout}; there is no {lacks} in {root}, so make the folders or set another root")
    train, names = _samples(root / "train", layout)
    test, test_names = _samples(held, layout)
    strangers = sorted(set(test_names) - set(names))
    if strangers:
        raise DataError(
            f"{held} has the class {strangers[0]}, which {root / 'train'} lacks; add training images or remove it"
        )
    test = [(file, names.index(test_names[label])) for file, label in test]
    return data_of_files("image_folder", root, train, test, names, options)


def _samples(folder: Path, layout: str) -> tuple[list[tuple[Path, int]], list[str]]:
    """Every image under folder/CLASS, at any depth, with its class's number; classes in order of name."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise DataError(f"{layout}; there is no folder in {folder}, so make one for each class")
    samples: list[tuple[Path, int]] = []
    for label, place in enumerate(classes):
        files = sorted(file for file in place.rglob("*") if file.suffix.lower() in ENDINGS)
        if not files:
            raise DataError(
                f"{layout}; there is no image in {place} (known endings are {' '.join(ENDINGS)}), "
                "so add some or remove the folder"
            )
        samples += [(file, label) for file in files]
    return samples, [place.name for place in classes]


def _lines(file: Path, columns: int) -> list[str]:
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        if len(line.split("\t")) < columns:
            raise DataError(
                f"line {number} of {file} has fewer than {columns} columns between tabs; get the file again"
            )
    return lines
