"""Data that people bring: CSV lists, timm's layouts, torch data sets; mixed sizes and colours, damaged files."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from art_ext.data.datasets import BUILTIN, Data
from art_ext.errors import ConfigError, DataError

ENTRIES = {entry.name: entry for entry in BUILTIN}


def picture(path: Path, *, grey: bool = False, side: tuple[int, int] = (8, 8), value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = side if grey else (*side, 3)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)
    return path


def folder(root: Path, train: int = 10, test: int = 4) -> Path:
    for part, n in (("train", train), ("val", test)):
        for label in ("cat", "dog"):
            for i in range(n):
                picture(root / part / label / f"{i}.png", value=50 if label == "cat" else 200)
    return root


def listed(root: Path, lines: list[str], name: str = "list.csv", head: str = "path,label") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join([head, *lines]) + "\n")
    return root / name


# ------------------------------------------------------------------------------------------- CSV


def test_a_csv_with_a_split_column(tmp_path):
    lines = []
    for part, n in (("train", 6), ("test", 3)):
        for label in ("b", "a"):
            for i in range(n):
                picture(tmp_path / part / f"{label}{i}.png", value=10 if label == "a" else 250)
                lines.append(f"{part}/{label}{i}.png,{label},{part}")
    data = ENTRIES["csv"].open(root=listed(tmp_path, lines, head="path,label,split"))
    assert (data.class_names, len(data.train), len(data.test), data.input_shape) == (("a", "b"), 12, 6, (3, 8, 8))
    for row in range(12):
        assert float(data.train.x[torch.tensor([row])].mean()) == pytest.approx((10, 250)[data.train.y[row]] / 255)


def test_a_csv_without_a_split_sets_a_fifth_of_each_class_aside_and_says_so(tmp_path):
    lines = [f"{picture(tmp_path / f'{i}.png').name};{i % 2 + 9}" for i in range(20)]
    data = ENTRIES["csv"].open(root=listed(tmp_path, lines, head="path;label"))
    assert data.class_names == ("9", "10")  # numbers in their order, not that of letters
    assert torch.bincount(data.test.y).tolist() == [2, 2]
    assert data.notes == ("list.csv names no test images: a fifth of each class was set aside, 4 images",)


def test_a_folder_of_two_csv_files(tmp_path):
    for name in ("train", "val"):
        lines = [f"{picture(tmp_path / 'x' / f'{name}{i}.png').relative_to(tmp_path)},{i}" for i in (0, 1)]
        listed(tmp_path, lines, f"{name}.csv")
    data = ENTRIES["csv"].open(root=tmp_path)
    assert (len(data.train), len(data.test)) == (2, 2)


@pytest.mark.parametrize("name", ["../out.png", "/etc/hosts", "a/../../out.png", "link.png", "x\0.png"])
def test_a_csv_names_no_file_outside_of_its_folder(tmp_path, name):
    inner = tmp_path / "inner"
    picture(tmp_path / "out.png")
    picture(inner / "in.png")
    (inner / "link.png").symlink_to(tmp_path / "out.png")
    with pytest.raises(DataError) as raised:
        ENTRIES["csv"].open(root=listed(inner, ["in.png,a", f"{name},b"]))
    assert "line 3 of" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_outside_files_can_be_allowed(tmp_path):
    lines = [f"{picture(tmp_path / 'far' / f'{i}.png')},{i % 2}" for i in range(10)]
    data = ENTRIES["csv"].open(root=listed(tmp_path / "near", lines), outside=True)
    assert len(data.train) == 8


@pytest.mark.parametrize(
    ("head", "lines", "said"),
    [
        ("file,label", ["a.png,x"], "lacks the columns path and label"),
        ("path,label", ["a.png"], "line 2 of .* has 1 columns"),
        ("path,label", ["a.png,"], "lacks its label"),
        ("path,label,split", ["a.png,x,holdout"], "known are train, val and test"),
        ("path,label", ["gone.png,x", "a.png,x", "a.png,x"], "listed but not there"),
        ("path,label,split", ["a.png,x,train", "a.png,y,test"], "the class 'y' and no training images"),
    ],
)
def test_a_garbled_csv_is_one_line(tmp_path, head, lines, said):
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=said) as raised:
        ENTRIES["csv"].open(root=listed(tmp_path, lines, head=head))
    assert "\n" not in str(raised.value)


def test_a_csv_that_is_none(tmp_path):
    with pytest.raises(DataError, match="there is no"):
        ENTRIES["csv"].open(root=tmp_path / "no.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(DataError, match="cannot read"):
        ENTRIES["csv"].open(root=tmp_path / "b.csv")


# -------------------------------------------------------------------------- colours, sizes, damage


def test_grey_and_colour_and_deep_and_any_size_become_alike(tmp_path):
    root = folder(tmp_path, train=3, test=2)
    picture(root / "train" / "cat" / "grey.png", grey=True, side=(20, 31), value=50)
    Image.fromarray(np.full((9, 9), 50 * 257, np.uint16)).save(root / "train" / "cat" / "deep.png")
    Image.new("RGBA", (12, 10), (50, 50, 50, 255)).save(root / "train" / "cat" / "alpha.png")
    for channels in (1, 3):
        data = ENTRIES["image_folder"].open(root=root, size=6, channels=channels)
        x = data.train.x[torch.arange(len(data.train))]
        assert x.shape == (9, channels, 6, 6)
        cats = x[data.train.y == 0]
        assert torch.allclose(cats, torch.full_like(cats, 50 / 255), atol=1e-6)


def damage(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.write_bytes(path.read_bytes()[:45])


def test_a_few_unreadable_training_files_are_left_out_counted_and_listed(tmp_path):
    root = folder(tmp_path, train=50)
    damage(root, "train/cat/0.png")
    data = ENTRIES["image_folder"].open(root=root)
    assert (len(data.train), len(data.test)) == (99, 8)
    assert [Path(file).name for file in data.damaged] == ["0.png"]
    assert data.notes[0].startswith("1 of 100 training files of image_folder cannot be read and are left out, so n = 9")
    assert int((data.train.y == 0).sum()) == 49
    assert data.train.x[torch.arange(99)].shape == (99, 3, 8, 8)


def test_too_many_unreadable_training_files_stop_it(tmp_path):
    root = folder(tmp_path, train=10)
    damage(root, "train/cat/0.png", "train/dog/3.png")
    with pytest.raises(DataError, match=r"2 of 20 training files .* \(10.0%, and data.max_corrupt allows 1.0%\)"):
        ENTRIES["image_folder"].open(root=root)
    assert len(ENTRIES["image_folder"].open(root=root, max_corrupt=0.2).train) == 18


def test_an_unreadable_test_file_is_an_error_unless_it_is_allowed_and_then_n_says_so(tmp_path):
    root = folder(tmp_path, train=4, test=50)
    damage(root, "val/dog/7.png")
    with pytest.raises(DataError, match=r"1 of 100 test files of image_folder cannot be read.*skip_corrupt_test"):
        ENTRIES["image_folder"].open(root=root)
    data = ENTRIES["image_folder"].open(root=root, skip_corrupt_test=True)
    assert len(data.test) == 99
    assert "test files" in data.notes[0]
    assert "n = 99" in data.notes[0]
    with pytest.raises(DataError, match="max_corrupt"):
        ENTRIES["image_folder"].open(root=root, skip_corrupt_test=True, max_corrupt=0.001)


@pytest.mark.parametrize(
    "option", [{"size": 0}, {"size": 10**9}, {"channels": 2}, {"max_corrupt": 1}, {"outside": True}]
)
def test_an_option_that_cannot_be_is_refused(tmp_path, option):
    with pytest.raises(ConfigError) as raised:
        ENTRIES["image_folder"].open(root=tmp_path, **option)
    assert "\n" not in str(raised.value)


# -------------------------------------------------------------------------------- other libraries


def test_timm_s_readers_read_folders_and_archives_alike(tmp_path):
    root = folder(tmp_path / "folders")
    (root / "val").rename(root / "validation")
    packed = tmp_path / "packed"
    packed.mkdir()
    for part in ("train", "validation"):
        with tarfile.open(packed / f"{part}.tar", "w") as archive:
            for file in sorted((root / part).rglob("*.png")):
                archive.add(file, file.relative_to(root / part))
    opened = [ENTRIES["timm"].open(root=place) for place in (root, packed)]
    for data in opened:
        assert (data.class_names, len(data.train), len(data.test)) == (("cat", "dog"), 20, 8)
        x = data.train.x[torch.arange(20)]
        assert torch.allclose(x.mean((1, 2, 3)), torch.tensor([50 / 255, 200 / 255])[data.train.y], atol=1e-6)
    assert sorted(file.name for file in packed.iterdir()) == ["train.tar", "validation.tar"]  # no index is written


def test_timm_s_reader_counts_damaged_files_too(tmp_path):
    root = folder(tmp_path)
    damage(root, "val/cat/1.png")
    with pytest.raises(DataError, match="1 of 8 test files of timm cannot be read"):
        ENTRIES["timm"].open(root=root)


def test_a_hugging_face_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [Image.new("L", (9, 7), 10 * i) for i in range(8)]
    part = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 4}, features=features)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "saved")
    data = ENTRIES["hugging_face"].open(root=tmp_path / "saved", size=6, channels=1)
    assert (data.class_names, data.input_shape, len(data.test)) == (("cat", "dog"), (1, 6, 6), 8)


def test_hugging_face_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match="needs the package datasets"):
        ENTRIES["hugging_face"].open(root=tmp_path)


# ---------------------------------------------------------------------------------- torch data sets


def test_any_torch_data_set_is_data():
    x, y = torch.rand(50, 1, 5, 7), torch.arange(50) % 5
    data = Data.of(TensorDataset(x, y), TensorDataset(x[:10], y[:10]), class_names=list("abcde"))
    assert (data.n_classes, data.input_shape, len(data.test), data.notes) == (5, (1, 5, 7), 10, ())
    assert torch.equal(data.train.x[torch.tensor([3])], x[3:4])


def test_without_test_rows_a_fifth_is_set_aside_once_and_for_all():
    x, y = torch.rand(50, 1, 5, 7), torch.arange(50) % 5
    one, two = (Data.of(TensorDataset(x, y), name="mine") for _ in range(2))
    assert torch.bincount(one.test.y).tolist() == [2] * 5
    assert torch.equal(one.test.x[torch.arange(10)], two.test.x[torch.arange(10)])
    assert "a fifth of mine was set aside, 10 images" in one.notes[0]


class Faulty(Dataset):
    targets = (0, 1, 0, 1)

    def __len__(self):
        return 4

    def __getitem__(self, row):
        if row == 2:
            raise OSError("image file is truncated")
        return torch.zeros(1, 4, 4), self.targets[row]


def test_a_torch_data_set_that_raises_is_named_with_its_row():
    data = Data.of(Faulty(), Faulty())
    with pytest.raises(DataError, match=r"Faulty\[2\] cannot be read \(image file is truncated\)"):
        data.test.x[torch.arange(4)]


def test_uneven_classes_are_said_in_one_line():
    y = torch.tensor([0] * 110 + [1] * 10 + [2] * 50)
    uneven = Data.of(TensorDataset(torch.zeros(170, 1, 2, 2), y), TensorDataset(torch.zeros(170, 1, 2, 2), y))
    assert uneven.counts() == {"0": 110, "1": 10, "2": 50}
    assert uneven.imbalance().startswith("classes are uneven: 0 has 110 training images and 1 10 (11 to 1)")
    even = Data.of(TensorDataset(torch.zeros(160, 1, 2, 2), y[10:]), TensorDataset(torch.zeros(170, 1, 2, 2), y))
    assert even.imbalance() == ""
