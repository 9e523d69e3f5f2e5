"""Every data set is opened from tiny files in the format it is published in, and each bad file is named."""

import gzip
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from art_ext.data.batches import ArrayBatches
from art_ext.data.datasets import BUILTIN, Data, Split
from art_ext.data.files import Files
from art_ext.data.images import Bytes, load_all
from art_ext.data.readers import read_idx
from art_ext.errors import ConfigError, DataError

ENTRIES = {entry.name: entry for entry in BUILTIN}
RNG = np.random.default_rng(0)


def _bytes(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _write_pickle(path, content, old=True):
    """As Python 2 with NumPy 1 wrote it: protocol 2, and the module's name of then."""
    raw = pickle.dumps(content, protocol=2)
    path.write_bytes(raw.replace(b"cnumpy._core.", b"cnumpy.core.") if old else raw)


def _write_cifar10(root, n=4):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    pixels = _bytes(6, n, 3072)
    for number, file in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        content = {"data": pixels[number], "labels": [(number + i) % 10 for i in range(n)], "batch_label": file}
        _write_pickle(folder / file, content, old=number % 2 == 0)
    return pixels


def _write_cifar100(root, n=6):
    folder = root / "cifar-100-python"
    folder.mkdir()
    for file in ("train", "test"):
        labels = {"fine_labels": [i * 10 for i in range(n)], "coarse_labels": list(range(n))}
        _write_pickle(folder / file, {b"data": _bytes(n, 3072), **labels})
    _write_pickle(folder / "meta", {"fine_label_names": [f"class {i}" for i in range(100)]})


def _write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    raw = header + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def _write_mnist(folder, ending="", n=7):
    folder.mkdir(parents=True)
    pixels = _bytes(n, 28, 28)
    for part in ("train", "t10k"):
        _write_idx(folder / f"{part}-images-idx3-ubyte{ending}", pixels)
        _write_idx(folder / f"{part}-labels-idx1-ubyte{ending}", np.arange(n, dtype=np.uint8))
    return pixels


def _image(path, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    pixels = _bytes(*shape)
    Image.fromarray(pixels).save(path)
    return pixels


def _write_tiny_imagenet(root):
    folder = root / "tiny-imagenet-200"
    for wnid in ("n02", "n01"):
        for number in range(3):
            _image(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", (64, 64), "L" if number else "RGB")
    for number in range(2):
        _image(folder / "val" / "images" / f"val_{number}.JPEG", (64, 64))
    (folder / "wnids.txt").write_text("n02\nn01\n")
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius\nn02\tbullfrog\nn03\tother\n")
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\t0\t0\t9\t9\nval_1.JPEG\tn02\t0\t0\t9\t9\n")
    return folder


def _write_folder(root):
    first = _image(root / "train" / "ant" / "0.png")
    for path in ("train/ant/1.png", "train/bee/0.png", "train/bee/1.jpg", "val/bee/0.png"):
        _image(root / path)
    return first


def _fails(entry, says, error=DataError, **options):
    with pytest.raises(error, match=says) as caught:
        ENTRIES[entry].open(**options)
    assert "\n" not in str(caught.value)


def _rows(split, *index):
    return split.x[torch.tensor(index)]


@pytest.mark.parametrize(("name", "shape"), [("digits", (1, 8, 8)), ("digits_on_photos", (3, 32, 32))])
def test_on_board_sets_are_whole_disjoint_and_the_same_each_time(name, shape):
    data, again = ENTRIES[name].open(), ENTRIES[name].open()
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.input_shape == shape
    assert data.n_classes == 10
    assert data.digest == again.digest
    assert all(35 <= count <= 37 for count in data.test.y.bincount().tolist())
    train, test = load_all(data.train.x), load_all(data.test.x)
    assert min(train.min(), test.min()) >= 0
    assert max(train.max(), test.max()) <= 1
    assert torch.equal(train, load_all(again.train.x))
    if name == "digits_on_photos":  # the plain digits do hold a few identical images
        assert not {x.numpy().tobytes() for x in train} & {x.numpy().tobytes() for x in test}


def test_both_on_board_sets_have_the_same_split():
    plain, photos = ENTRIES["digits"].open(), ENTRIES["digits_on_photos"].open()
    assert torch.equal(plain.train.y, photos.train.y)
    assert torch.equal(plain.test.y, photos.test.y)


def test_cifar10_is_read_from_its_pickles(tmp_path):
    pixels = _write_cifar10(tmp_path)
    for root in (tmp_path, tmp_path / "cifar-10-batches-py"):
        data = ENTRIES["cifar10"].open(root=root)
        assert (len(data.train), len(data.test)) == (20, 4)
        assert data.input_shape == (3, 32, 32)
        assert isinstance(data.train.x, Bytes)
        assert torch.equal(_rows(data.train, 5)[0], torch.tensor(pixels[1, 1]).reshape(3, 32, 32) / 255)
        assert data.train.y[4:8].tolist() == [1, 2, 3, 4]
        assert data.class_names[3] == "cat"


def test_cifar100_is_read_with_its_names(tmp_path):
    _write_cifar100(tmp_path)
    data = ENTRIES["cifar100"].open(root=str(tmp_path))
    assert data.n_classes == 100
    assert data.class_names[7] == "class 7"
    assert data.test.y.tolist() == [0, 10, 20, 30, 40, 50]


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_that_names_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _write_cifar10(tmp_path)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(pickle.dumps({"data": _Evil()}))
    _fails("cifar10", r"data_batch_3 as a pickle of arrays \(it asks for .*mkdir\)", root=".")
    assert not (tmp_path / "ran").exists()
    _write_pickle(file, ["no", "dictionary"])
    _fails("cifar10", "data_batch_3 holds a list", root=".")
    _write_pickle(file, {"data": _bytes(2, 3000), "labels": [0, 1]})
    _fails("cifar10", "data_batch_3 is no CIFAR file", root=".")
    file.write_bytes(b"\x80\x02}q")
    _fails("cifar10", "cannot read .*data_batch_3", root=".")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cifar10", r"files data_batch_1, .*test_batch in .*cifar-10-batches-py; unpack cifar-10-python\.tar\.gz from"),
        ("cifar100", r"files train, test, meta in .*cifar-100-python; unpack"),
        ("svhn", r"files train_32x32\.mat, test_32x32\.mat in .*http://ufldl\.stanford\.edu"),
        ("mnist", r"train-images-idx3-ubyte, .* in .*MNIST"),
        ("kmnist", r"t10k-labels-idx1-ubyte in .*KMNIST.*codh\.rois"),
        ("fashion_mnist", r"in .*FashionMNIST.*zalandoresearch"),
        ("tiny_imagenet", r"files wnids\.txt, .*val/val_annotations\.txt.* in .*tiny-imagenet-200; unpack"),
        ("image_folder", r"needs .*train/CLASS/\* and .*; there is no train in"),
        ("npz", r"needs an \.npz file as its root, and .* is no file"),
    ],
)
def test_missing_files_are_listed_with_their_place_and_source(name, says, tmp_path):
    _fails(name, says, root=tmp_path)
    _fails(name, f"data {name} needs root", error=ConfigError)


def test_one_missing_file_is_named(tmp_path):
    _write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    _fails("cifar10", r"\(missing: test_batch\)", root=tmp_path)


def test_svhn_is_read_from_matlab_files(tmp_path):
    from scipy.io import savemat

    pixels = _bytes(32, 32, 3, 5)
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [2], [9], [10]], np.uint8)})
    data = ENTRIES["svhn"].open(root=tmp_path)
    assert data.train.y.tolist() == [0, 1, 2, 9, 0]
    assert torch.equal(_rows(data.train, 3)[0], torch.tensor(pixels[..., 3]).permute(2, 0, 1) / 255)
    savemat(tmp_path / "test_32x32.mat", {"X": pixels[..., :4], "y": np.arange(5)})
    _fails("svhn", r"test_32x32\.mat is no SVHN file", root=tmp_path)
    (tmp_path / "test_32x32.mat").write_bytes(b"<html>404</html>")
    _fails("svhn", r"cannot read .*test_32x32\.mat as a MATLAB file", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "inside", "ending"),
    [("mnist", "MNIST/raw", ""), ("kmnist", "KMNIST", ".gz"), ("fashion_mnist", ".", ".gz")],
)
def test_idx_files_are_read_also_compressed(name, inside, ending, tmp_path):
    pixels = _write_mnist(tmp_path / "data" / inside, ending)
    data = ENTRIES[name].open(root=tmp_path / "data")
    assert data.input_shape == (1, 28, 28)
    assert data.n_classes == 10
    assert data.test.y.tolist() == list(range(7))
    assert torch.equal(_rows(data.test, 2)[0, 0], torch.tensor(pixels[2]) / 255)


def test_damaged_idx_files_are_named(tmp_path):
    for name, raw, says in [
        ("a", b"<!DOCTYPE html>", "no IDX file of bytes: it starts with 3c21444f"),
        ("b", b"\0\0\x08\x01\0\0\0\x09123", r"holds \[9\], 9 bytes, but has 3"),
        ("c.gz", b"\x1f\x8b\x08\0", "cannot read .*c.gz"),
    ]:
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError, match=says):
            read_idx(tmp_path / name)


def test_tiny_imagenet_streams_from_its_folders(tmp_path):
    folder = _write_tiny_imagenet(tmp_path)
    data = ENTRIES["tiny_imagenet"].open(root=tmp_path)
    assert isinstance(data.train.x, Files)
    assert data.input_shape == (3, 64, 64)
    assert data.class_names == ("bullfrog", "goldfish, Carassius")
    assert data.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.y.tolist() == [1, 0]
    with Image.open(folder / "val" / "images" / "val_1.JPEG") as image:
        expected = torch.tensor(np.asarray(image.convert("RGB"))).permute(2, 0, 1) / 255
    assert torch.equal(_rows(data.test, 1)[0], expected)
    grey = _rows(data.train, 1)[0]
    assert torch.equal(grey[0], grey[2])
    assert ENTRIES["tiny_imagenet"].open(root=tmp_path, size=32).input_shape == (3, 32, 32)

    seen = list(ArrayBatches(data.train.x, data.train.y, 4, seed=0).epoch(0))
    assert sorted(torch.cat([batch.index for batch in seen]).tolist()) == list(range(6))
    for batch in seen:
        assert torch.equal(batch.x, data.train.x[batch.index])

    (folder / "val" / "images" / "val_0.JPEG").unlink()
    _fails("tiny_imagenet", r"val_0\.JPEG is listed but not there", root=tmp_path)
    (folder / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn09\t0\n")
    _fails("tiny_imagenet", r"gives val_1\.JPEG the class n09, which wnids\.txt lacks", root=tmp_path)
    (folder / "val" / "val_annotations.txt").write_text("val_1.JPEG n01\n")
    _fails("tiny_imagenet", r"line 1 of .*val_annotations\.txt has fewer than 2 columns", root=tmp_path)


def test_an_image_folder_is_read(tmp_path):
    first = _write_folder(tmp_path)
    data = ENTRIES["image_folder"].open(root=tmp_path)
    assert data.class_names == ("ant", "bee")
    assert data.train.y.tolist() == [0, 0, 1, 1]
    assert data.test.y.tolist() == [1]
    assert torch.equal(_rows(data.train, 0)[0], torch.tensor(first).permute(2, 0, 1) / 255)
    (tmp_path / "val").rename(tmp_path / "test")
    assert len(ENTRIES["image_folder"].open(root=tmp_path).test) == 1


def test_bad_image_folders_are_named(tmp_path):
    _write_folder(tmp_path)
    _image(tmp_path / "train" / "ant" / "2.png", (12, 8))
    data = ENTRIES["image_folder"].open(root=tmp_path)
    with pytest.raises(DataError, match=r"2\.png is 12x8, but .*0\.png is 8x8; set size"):
        _rows(data.train, 0, 2)
    data = ENTRIES["image_folder"].open(root=tmp_path, size=8)
    assert _rows(data.train, 0, 2).shape == (2, 3, 8, 8)

    broken = tmp_path / "train" / "bee" / "0.png"
    for content in (b"not an image", broken.read_bytes()[:60], b""):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot read the image .*bee.0\.png .*replace or remove"):
            list(ArrayBatches(data.train.x, data.train.y, 2, seed=0).epoch(0))

    _image(tmp_path / "val" / "wasp" / "0.png")
    _fails("image_folder", r"has the class wasp, which .*train lacks", root=tmp_path)
    (tmp_path / "train" / "cat").mkdir()
    _fails("image_folder", "there is no image in .*cat ", root=tmp_path)


def _write_npz(path, **changed):
    arrays = {
        "x_train": _bytes(6, 8, 9, 3),
        "y_train": np.arange(6) % 3,
        "x_test": _bytes(3, 8, 9, 3),
        "y_test": np.eye(3)[[2, 1, 0]],
    }
    arrays.update(changed)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return arrays


def test_npz_files_are_read(tmp_path):
    file = tmp_path / "mine.npz"
    arrays = _write_npz(file)
    data = ENTRIES["npz"].open(root=file)
    assert data.input_shape == (3, 8, 9)
    assert data.test.y.tolist() == [2, 1, 0]
    assert torch.equal(_rows(data.train, 4)[0], torch.tensor(arrays["x_train"][4]).permute(2, 0, 1) / 255)
    _write_npz(file, x_train=RNG.random((6, 1, 8, 8)), x_test=_bytes(3, 8, 8))
    assert ENTRIES["npz"].open(root=file).input_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"y_test": None}, "lacks y_test and holds x_train, y_train, x_test; name them so"),
        ({"x_train": np.full((6, 3, 8, 9), 7.0)}, r"x_train of mine\.npz has values from 7 to 7"),
        ({"x_train": _bytes(6, 3, 8, 9)}, r"bytes are \(N, H, W, C\); use x\.transpose"),
        ({"x_train": np.zeros((6, 3, 8, 9), dtype=np.int64)}, "is int64"),
        ({"x_test": _bytes(3, 4, 4, 3)}, r"training images of shape \(3, 8, 9\) and test images of shape \(3, 4, 4\)"),
        ({"y_train": np.arange(5)}, "y_train of mine.npz has 5 labels, but there are 6 images"),
        ({"y_train": np.array([None] * 6)}, "as an .npz of plain arrays"),
    ],
)
def test_bad_npz_files_are_named(changed, says, tmp_path):
    _write_npz(tmp_path / "mine.npz", **changed)
    _fails("npz", says, root=tmp_path / "mine.npz")


def test_a_file_that_is_no_npz_is_named(tmp_path):
    for content in (b"", b"PK\x03\x04 cut short", b"text"):
        (tmp_path / "mine.npz").write_bytes(content)
        _fails("npz", r"cannot read .*mine\.npz", root=tmp_path / "mine.npz")


def test_options_are_checked():
    _fails("cifar10", "unknown option of data cifar10 'rot'; did you mean root", error=ConfigError, rot="data")
    _fails("cifar10", "unknown option of data cifar10 'size'", error=ConfigError, root="data", size=3)
    _fails("digits", "unknown option of data digits 'root'; digits takes none", error=ConfigError, root="data")
    _fails("image_folder", "data.size is a number", error=ConfigError, root="data", size="big")
    _fails("image_folder", "data.root is a path, got 3", error=ConfigError, root=3)
    assert len(ENTRIES) == len(BUILTIN)
    assert all(entry.description for entry in BUILTIN)


def test_a_plugin_makes_its_own_data():
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % 2
    data = Data("mine", Split(x, y), Split(x, y), ("a", "b"), "0" * 16, "memory")
    assert (data.n_classes, data.input_shape) == (2, (1, 4, 4))
    part = data.train.at(torch.tensor([3, 1]))
    assert torch.equal(load_all(part.x), x[[3, 1]])
    assert part.y.tolist() == [1, 1]
    with pytest.raises(DataError, match="6 images and 5 labels"):
        Split(x, y[:5])
    with pytest.raises(DataError, match="labels are 0 to 0 for 1 classes"):
        Data("mine", Split(x, y), Split(x, y), ("a",), "", "memory")
