"""evaluation.json and examples.parquet: what is written is what is read."""

import json
from dataclasses import replace

import pytest
import torch

from art_ext.border.mlflow_evaluation import points_of
from art_ext.errors import DataError
from art_ext.evaluation.examples import Examples, read_examples
from art_ext.evaluation.record import (
    AttackResult,
    Baseline,
    Check,
    CurvePoint,
    DataInfo,
    Estimate,
    EvaluationRecord,
    ModelInfo,
    RejectionResult,
    Verdict,
    read_evaluation,
)
from art_ext.evaluation.threat import Threat
from art_ext.evaluation.verdict import conclude


def record(**changes):
    some = Estimate.of(30, 40)
    attack = AttackResult("pgd", "gradient", "PGD", 0.5, 0.3, 0.7, 40, 30, 600, 580, 1.5, 0, of="pgd_at")
    rejection = RejectionResult(
        "confidence", "PGD", "evade", 0.99, 0.4, 0.98, 0.1, 0.5, 0.6, 0.2, 0.3, None, 1.0, 0, 40, denied=None
    )
    parts = {
        "model": ModelInfo("runs/a", "sha256:1", ("pgd_at",), {"use": [{"pgd_at": {}}]}, {"baselines": "art_ext 1"}),
        "data": DataInfo("digits", "here", "sha256:2", 40, ("0", "1"), "test split"),
        "threat": Threat("linf", 0.15),
        "suite": "quick",
        "seed": 3,
        "clean": Estimate.of(39, 40),
        "attacks": (attack,),
        "worst_case": some,
        "verdict": Verdict(some.accuracy, some.low, some.high, False, "do not trust", ("one", "two")),
        "checks": (Check("one_step", "One step", "fail", "it is", {"only_first": 9}, 0.001, 0.2),),
        "rejection": (rejection,),
        "curve": (CurvePoint(0.0, 1.0, 0.9, 1.0),),
        "baseline": Baseline(some, (attack,), some),
        "notes": ("a note",),
        "complete": False,
        "seconds": 2.5,
    }
    return EvaluationRecord(**{**parts, **changes})


def test_what_is_written_is_read_back(tmp_path):
    written = record()
    path = written.write(tmp_path)
    assert path == tmp_path / "evaluation.json"
    assert read_evaluation(tmp_path) == read_evaluation(path) == written
    plain = json.loads(path.read_text())
    assert plain["schema"] == 1
    assert next(iter(plain)) == "schema"
    assert [item.name for item in tmp_path.iterdir()] == ["evaluation.json"]
    assert record(baseline=None) == EvaluationRecord.from_record(record(baseline=None).as_record())


def test_each_threshold_and_adversary_of_a_detector_has_its_own_metrics():
    evade = record().rejection[0]
    rows = [
        evade,
        replace(evade, asked_tpr=0.95, fpr=0.1),
        replace(evade, aim="deny", attack="PGD on less", denied=0.7),
        replace(evade, aim="distal", attack="noise", robust_error=None, unthresholded=None, fpr=0.4),
    ]
    points = points_of(record(rejection=tuple(rows)))
    place = "evaluate/rejection/confidence"
    assert points[f"{place}/at_0.99/evade/fpr"] == 0.2
    assert points[f"{place}/at_0.95/evade/fpr"] == 0.1
    assert points[f"{place}/at_0.99/deny/denied"] == 0.7
    assert points[f"{place}/at_0.99/distal/fpr"] == 0.4
    assert f"{place}/at_0.99/distal/robust_error" not in points
    assert all(value is not None for value in points.values())


def test_a_later_minor_version_s_keys_are_left_out():
    data = record().as_record()
    data["attacks"][0]["colour"] = data["colour"] = "blue"
    assert EvaluationRecord.from_record(json.loads(json.dumps(data))) == record()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read"),
        ("{", "is no evaluation"),
        ("[]", "schema 1"),
        ('{"schema": 2}', r"schema 1 \(schema: 2\)"),
        ('{"schema": 1}', "lacks something"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, text, said):
    if text is not None:
        (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(DataError, match=said) as error:
        read_evaluation(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_attacks_are_found_by_name():
    assert record().attack("pgd").budget == "PGD"
    assert record().attack("square") is None
    assert record().attack("pgd").estimate.n == 40


def test_examples_keep_which_images_an_attack_was_run_on(tmp_path):
    attacked = torch.tensor([True, True, False])
    examples = Examples(
        torch.tensor([4, 7, 9]),
        torch.tensor([0, 1, 2]),
        torch.tensor([0, 1, 0]),
        torch.tensor([0.9, 0.8, 0.7]),
        torch.tensor([True, False, False]),
        {"pgd": (attacked, torch.tensor([0, 2, -1]), torch.tensor([0.6, 0.5, 0.0]))},
        torch.tensor([float("inf"), 0.1, 0.0]),
    )
    examples.write(tmp_path)
    found = read_examples(tmp_path)
    for name in ("index", "label", "predicted", "confidence", "right", "smallest_eps"):
        assert torch.equal(getattr(found, name), getattr(examples, name)), name
    for got, wanted in zip(found.attacks["pgd"], examples.attacks["pgd"], strict=True):
        assert torch.equal(got, wanted)

    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "examples.parquet").to_pylist()
    assert [row["right/pgd"] for row in rows] == [True, False, None]
    assert [row["right"] for row in rows] == [True, True, False]
    assert rows[0]["smallest_eps"] is None
    with pytest.raises(DataError, match="cannot read the examples"):
        read_examples(tmp_path / "none")


def test_a_verdict_says_what_rejection_makes_of_the_figure_and_which_detector_falls():
    def row(detector, error, **changes):
        made = RejectionResult(
            detector, "all", "evade", 0.99, 0.4, 0.98, 0.1, error, 0.8, 0.2, 0.3, None, 1.0, 0, 40, denied=None
        )
        return replace(made, **changes)

    rows = [
        row("firm", 0.5),
        row("weak", 0.7),
        row("firm", 0.3, asked_tpr=0.95),
        row("firm", 0.1, aim="deny"),
        row("firm", 0.2, aim="listed"),
    ]
    some = Estimate.of(8, 40)
    found = conclude(some, Threat("linf", 0.1), (), (), None, (), rows)
    assert found.trusted
    assert found.sentence.endswith(
        "; of what firm keeps at 99% TPR 50.0% is wrong, and 80.0% with nothing rejected"
        "; of what weak keeps at 99% TPR 70.0% is wrong, and 80.0% with nothing rejected: it falls"
    )
