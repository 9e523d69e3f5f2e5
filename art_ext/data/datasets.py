"""The data sets that come with art_ext, as the hook `art_ext_datasets` returns them."""

from __future__ import annotations

from art_ext.data.csv_paths import csv_paths
from art_ext.data.entry import Data, DatasetEntry, DatasetOptions, Split, split_from
from art_ext.data.folders import image_folder, tiny_imagenet
from art_ext.data.foreign import hugging_face, timm_reader
from art_ext.data.onboard import digits, digits_on_photos
from art_ext.data.readers import cifar10, cifar100, idx, npz, svhn

__all__ = ["BUILTIN", "Data", "DatasetEntry", "DatasetOptions", "Split", "split_from"]

_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

_FILES = ("root", "size", "channels", "max_corrupt", "skip_corrupt_test")

mnist = idx("mnist", "MNIST", "http://yann.lecun.com/exdb/mnist/", tuple("0123456789"))
kmnist = idx("kmnist", "KMNIST", "http://codh.rois.ac.jp/kmnist/", _KUZUSHIJI)
fashion_mnist = idx("fashion_mnist", "FashionMNIST", "https://github.com/zalandoresearch/fashion-mnist", _FASHION)

BUILTIN: tuple[DatasetEntry, ...] = (
    DatasetEntry("digits", "1,797 handwritten digits, 1x8x8; on board", digits),
    DatasetEntry("digits_on_photos", "the same digits on crops of photographs, 3x32x32; on board", digits_on_photos),
    DatasetEntry("cifar10", "60,000 photographs of 10 classes, 3x32x32", cifar10, ("root",)),
    DatasetEntry("cifar100", "60,000 photographs of 100 classes, 3x32x32", cifar100, ("root",)),
    DatasetEntry("svhn", "99,289 house numbers, 3x32x32", svhn, ("root",)),
    DatasetEntry("mnist", "70,000 handwritten digits, 1x28x28", mnist, ("root",)),
    DatasetEntry("kmnist", "70,000 cursive Japanese characters of 10 classes, 1x28x28", kmnist, ("root",)),
    DatasetEntry("fashion_mnist", "70,000 pieces of clothing of 10 classes, 1x28x28", fashion_mnist, ("root",)),
    DatasetEntry(
        "tiny_imagenet",
        "110,000 photographs of 200 classes, 3x64x64, read while training",
        tiny_imagenet,
        _FILES,
    ),
    DatasetEntry("image_folder", "your images, a folder a class, read while training", image_folder, _FILES),
    DatasetEntry("csv", "your images, listed with their labels in a CSV file", csv_paths, (*_FILES, "outside")),
    DatasetEntry("timm", "your images in the folders or .tar archives that timm reads", timm_reader, _FILES),
    DatasetEntry(
        "hugging_face",
        "your images as the package datasets keeps them, where it is installed",
        hugging_face,
        ("root", "size", "channels"),
    ),
    DatasetEntry("npz", "your arrays x_train, y_train, x_test, y_test in one .npz file", npz, ("root",)),
)
