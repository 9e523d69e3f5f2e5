"""Rejection: the reference vectors, counts by hand, and the ranks of ties."""

import json
import math
from pathlib import Path

import pytest
import torch

from art_ext.errors import ConfigError
from art_ext.evaluation.rejection import (
    Rejection,
    eligible,
    false_positive_rate,
    keep_rate,
    roc_auc,
    strongest,
    thresholded_error,
    thresholded_robust_error,
)
from art_ext.parts.detectors import Confidence, Detector, threshold_at
from art_ext.types import Outputs

FILE = Path(__file__).parents[1] / "vectors" / "ccat.json"
VECTORS = {entry["name"]: entry for entry in json.loads(FILE.read_text())}


def bools(*values):
    return torch.tensor(values, dtype=torch.bool)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", ["A_evaluation_worst_case", "A_evaluation_all_attempts"])
def test_the_evaluation_reproduces_the_reference(name, dtype):
    entry = VECTORS[name]
    given, expected = entry["inputs"], entry["expected"]
    clean, y = torch.tensor(given["clean_probabilities"], dtype=dtype), torch.tensor(given["labels"])
    attempts = torch.tensor(given["adversarial_probabilities"], dtype=dtype)
    n = attempts.shape[1]
    cut = int((1 - given["validation"]) * len(clean))
    held, held_y = clean[cut:], y[cut:]
    if "errors" in given:
        other = attempts.scatter(2, y[:n].expand(len(attempts), n)[:, :, None], 0).amax(2)
        torch.testing.assert_close(-other, torch.tensor(given["errors"], dtype=dtype))
        adversarial, pairs = attempts[strongest(other), torch.arange(n)], torch.arange(n)
    else:
        adversarial, pairs = attempts.flatten(0, 1), torch.arange(n).repeat(len(attempts))
    score, wrong = clean[pairs].amax(1), clean[pairs].argmax(1) != y[pairs]
    adv_score, adv_wrong = adversarial.amax(1), adversarial.argmax(1) != y[pairs]
    for tpr in (99, 98, 95):
        tau = threshold_at(held.amax(1)[held.argmax(1) == held_y], tpr / 100)
        found = Rejection.of(score, wrong, adv_score, adv_wrong, tau)
        assert tau == pytest.approx(expected[f"threshold_{tpr}"], abs=1e-6)
        assert found.fpr == pytest.approx(expected[f"fpr_{tpr}"])
        assert found.error == pytest.approx(expected[f"test_error_{tpr}"])
        assert found.robust_error == pytest.approx(expected[f"robust_test_error_{tpr}"])
        assert found.unthresholded == pytest.approx(expected["robust_test_error"])
        right = held.argmax(1) == held_y
        assert keep_rate(held.amax(1)[right] >= tau) == pytest.approx(expected[f"validation_tpr_{tpr}"])
        test_clean = clean[:cut]
        test_right = test_clean.argmax(1) == y[:cut]
        assert keep_rate(test_clean.amax(1)[test_right] >= tau) == pytest.approx(expected[f"test_tpr_{tpr}"])
    assert found.auc_all_clean == pytest.approx(expected["roc_auc"])
    assert found.n_eligible / found.n == pytest.approx(expected["success_rate"])


def test_distal_images_reproduce_the_reference():
    entry = VECTORS["A_distal_fpr"]
    given = entry["inputs"]
    clean, y = torch.tensor(given["clean_probabilities"]).double(), torch.tensor(given["labels"])
    cut = int((1 - given["validation"]) * len(clean))  # of the clean images, not of the distal ones
    held = clean[cut:]
    tau = threshold_at(held.amax(1)[held.argmax(1) == y[cut:]], 0.99)
    assert tau == pytest.approx(entry["expected"]["threshold_99"], abs=1e-7)
    distal = torch.tensor(given["distal_probabilities"]).double().amax(1)
    assert keep_rate(distal >= tau) == pytest.approx(entry["expected"]["fpr_99"])


def test_thresholded_errors_by_hand():
    wrong, kept = bools(0, 1, 1, 0), bools(1, 1, 0, 1)
    adv_wrong, adv_kept = bools(1, 1, 1, 1), bools(0, 0, 0, 1)
    assert thresholded_error(wrong, kept) == pytest.approx(1 / 3)
    # Kept at all: examples 0, 1, 3. Wrong and kept: 1 when clean, 3 when attacked.
    assert thresholded_robust_error(wrong, kept, adv_wrong, adv_kept) == pytest.approx(2 / 3)
    assert false_positive_rate(wrong, adv_wrong, adv_kept) == pytest.approx(1 / 4)
    assert false_positive_rate(wrong, adv_wrong, adv_kept, of_all=False) == pytest.approx(1 / 2)
    assert eligible(wrong, adv_wrong).tolist() == [True, False, False, True]


def test_nothing_kept_is_no_error():
    none, all_of_them = bools(0, 0), bools(1, 1)
    assert thresholded_error(all_of_them, none) == 0
    assert thresholded_robust_error(all_of_them, none, all_of_them, none) == 0
    assert false_positive_rate(all_of_them, all_of_them, all_of_them, of_all=False) == 0
    assert keep_rate(bools()) == 0


def test_with_everything_kept_it_is_the_ordinary_robust_error():
    generator = torch.Generator().manual_seed(0)
    wrong, adv_wrong = (torch.rand(50, generator=generator) < share for share in (0.2, 0.6))
    kept = torch.ones(50, dtype=torch.bool)
    expected = float((wrong | adv_wrong).double().mean())
    assert thresholded_robust_error(wrong, kept, adv_wrong, kept) == pytest.approx(expected)


def test_auc_counts_pairs_and_halves_ties():
    assert roc_auc(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 0.0])) == 1
    assert roc_auc(torch.tensor([0.0]), torch.tensor([1.0])) == 0
    assert roc_auc(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0, 1.0])) == 0.5
    assert roc_auc(torch.tensor([]), torch.tensor([1.0])) is None
    assert roc_auc(torch.tensor([1.0]), torch.tensor([])) is None
    inf = float("inf")
    assert roc_auc(torch.tensor([0.0, inf]), torch.tensor([-inf, 0.0])) == pytest.approx(3.5 / 4)
    with pytest.raises(ConfigError, match="NaN"):
        roc_auc(torch.tensor([math.nan]), torch.tensor([1.0]))


def test_auc_equals_a_count_over_all_pairs_and_sklearn():
    from sklearn.metrics import roc_auc_score

    generator = torch.Generator().manual_seed(1)
    positive, negative = (torch.randint(0, 6, (n,), generator=generator).float() + s for n, s in ((40, 1), (30, 0)))
    gaps = positive[:, None] - negative[None]
    count = float(((gaps > 0) + 0.5 * (gaps == 0)).mean())
    assert roc_auc(positive, negative) == pytest.approx(count)
    labels = [1] * 40 + [0] * 30
    assert roc_auc(positive, negative) == pytest.approx(roc_auc_score(labels, torch.cat([positive, negative])))


def test_an_auc_looks_at_eligible_images_alone():
    score, adv_score = torch.tensor([0.9, 0.8, 0.1, 0.7]), torch.tensor([0.2, 0.85, 0.99, 0.95])
    wrong, adv_wrong = bools(0, 0, 1, 0), bools(1, 1, 1, 0)
    found = Rejection.of(score, wrong, adv_score, adv_wrong, 0.5)
    assert found.n_eligible == 2
    assert found.auc == pytest.approx(3 / 4)  # clean 0.9, 0.8 against 0.2, 0.85
    assert found.auc_all_clean == pytest.approx((1 + 1 + 0 + 1 + 1 + 0 + 0 + 0) / 8)
    assert found.as_record()["n"] == 4
    nobody = Rejection.of(score, wrong, adv_score, bools(0, 0, 0, 0), 0.5)
    assert (nobody.auc, nobody.auc_all_clean, nobody.n_eligible) == (None, 1.0, 0)
    with pytest.raises(ConfigError, match="pairs"):
        Rejection.of(score, wrong, adv_score[:2], adv_wrong[:2], 0.5)


def test_the_first_of_equals_is_the_strongest():
    assert strongest(torch.tensor([[0.1, 0.5], [0.3, 0.5]])).tolist() == [1, 0]


def test_thresholds_take_the_given_share_and_nothing_rounder():
    scores = torch.arange(1000).double()
    assert threshold_at(scores, 0.99) == 10
    assert threshold_at(scores, 0.995) == 5  # the authors' code rounds 1 - TPR to two decimals
    assert threshold_at(scores, 0.9) == 100  # 1 - 0.9 is a little less than 0.1 in floats
    assert threshold_at(scores, 1.0) == 0
    assert threshold_at(scores.flip(0)[:3], 0.5) == 998


def test_detectors_know_their_bank_and_their_adversary():
    class Banked(Detector):
        name = "banked"

        def fit(self, out, y):
            pass

    assert Banked().has_bank
    assert not Confidence().has_bank
    assert [o.name for o in Confidence.adversaries] == ["other_confidence"]
    assert Banked.adversaries == ()
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    value = Confidence.adversaries[0].measure(Outputs(logits), torch.tensor([0, 0]))
    torch.testing.assert_close(value, torch.softmax(logits, 1)[:, 1])
