"""Each bad input of a user gets its own line; good input is not copied."""

import numpy as np
import pytest
import torch

from art_ext.data.checks import check_images, check_labels
from art_ext.errors import DataError

GOOD = np.full((4, 3, 8, 8), 0.5, dtype=np.float32)


def _with(value, row=2):
    x = GOOD.copy()
    x[row, 1, 3, 3] = value
    return x


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (GOOD[:0], r"x is empty: its shape is \(0, 3, 8, 8\)"),
        (GOOD[:, 0], r"x has the shape \(4, 8, 8\), .*\(N, C, H, W\); .*x\[:, None\]"),
        (GOOD.reshape(4, -1), r"x has the shape \(4, 192\), .*reshape\(len\(x\), C, H, W\)"),
        (GOOD.transpose(0, 2, 3, 1), r"channels last.*x\.transpose\(0, 3, 1, 2\)"),
        (GOOD[:, :, :0], "images without pixels"),
        (_with(np.nan), "x has nan in row 2"),
        (_with(-np.inf, row=1), "x has -inf in row 1"),
        (_with(200), r"values from 0\.5 to 200, outside the clip range \[0, 1\]; divide x by 255"),
        (_with(-0.5), r"values from -0\.5 to 0\.5, outside the clip range \[0, 1\]; use \(x \+ 1\) / 2"),
        (_with(1e6), r"to 1e\+06, outside the clip range \[0, 1\]; rescale x"),
        (GOOD.tolist(), "x is a list; give a NumPy array or a tensor"),
        (GOOD.astype(str), "x has the type <U"),
        (np.array([GOOD[0], GOOD[1, :, :4], None], dtype=object)[:2], "different sizes"),
    ],
)
def test_bad_images_are_named(x, says):
    with pytest.raises(DataError, match=says) as caught:
        check_images(x, (0.0, 1.0))
    assert "\n" not in str(caught.value)


def test_good_images_pass_in_every_form_and_range():
    check_images(GOOD, (0, 1))
    check_images(torch.from_numpy(GOOD), (0, 1))
    check_images((GOOD * 255).astype(np.uint8), (0, 255))
    check_images(GOOD * 1e6, None)
    check_images(GOOD * 2 + np.float32(1e-7), (0, 1))


def test_the_row_of_a_bad_pixel_is_right_in_a_later_slice(monkeypatch):
    monkeypatch.setattr("art_ext.data.checks._SLICE", 2 * 3 * 8 * 8)
    with pytest.raises(DataError, match="x_val has nan in row 3"):
        check_images(torch.from_numpy(_with(np.nan, row=3)), (0, 1), "x_val")


@pytest.mark.parametrize(
    ("y", "says"),
    [
        ([], "y is empty"),
        ([0, 1, 2], "y has 3 labels, but there are 4 images"),
        ([0, 1, 2, 3], "the label 3 in row 3, but labels are 0 to 2 for 3 classes$"),
        ([1, 2, 3, 1], "the label 3 in row 2, .*do your labels start at 1"),
        ([0, -1, 2, 0], "the label -1 in row 1"),
        ([0, 1.5, 2, 0], "the label 1.5 in row 1; labels are whole"),
        ([0, np.nan, 2, 0], "the label nan in row 1"),
        (["cat", "dog", "cat", "dog"], "class indices 0, 1, 2"),
        ([[1, 0], [0, 1], [1, 0], [0, 1]], "one-hot rows of 2 classes, but the model has 3"),
        ([[1, 0, 0], [0, 1, 0], [1, 0, 1], [1, 0, 0]], r"not one-hot in row 2, \[1 0 1\]"),
        ([[1, 0, 0], [0, 0.5, 0.5], [1, 0, 0], [1, 0, 0]], "not one-hot in row 1"),
        ([[0, 0, 0]] * 4, "not one-hot in row 0"),
        ([[0], [1, 2]], "rows of different lengths"),
        (np.zeros((4, 3, 1)), r"y has the shape \(4, 3, 1\)"),
        ([1, 1, 1, 1], "only the class 1 in all 4 rows"),
    ],
)
def test_bad_labels_are_named(y, says):
    with pytest.raises(DataError, match=says) as caught:
        check_labels(y, 3, 4, training=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "y",
    [
        [0, 2, 1, 0],
        np.array([0, 2, 1, 0], dtype=np.uint8),
        torch.tensor([0, 2, 1, 0], dtype=torch.int32),
        np.array([[0], [2], [1], [0]]),
        np.array([0.0, 2.0, 1.0, 0.0]),
        np.eye(3, dtype=np.float32)[[0, 2, 1, 0]],
    ],
)
def test_good_labels_become_indices(y):
    indices = check_labels(y, 3, 4, training=True)
    assert indices.dtype == torch.int64
    assert indices.tolist() == [0, 2, 1, 0]


def test_one_class_is_allowed_outside_training():
    assert check_labels([1, 1], 3, 2).tolist() == [1, 1]
