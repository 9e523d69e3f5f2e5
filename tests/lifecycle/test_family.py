"""One harden in MLflow, without the training: parent and children, card, registry, gate, promotion, comparison."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from art_ext.border.mlflow import MLflowTracker, Tracking
from art_ext.border.mlflow_runs import artifact
from art_ext.border.timm import architecture, build_model
from art_ext.border.weights import digest_of_weights
from art_ext.engine import checkpoint
from art_ext.engine.observe import EpochReport, RunInfo
from art_ext.errors import Stopped
from art_ext.evaluation.examples import Examples
from art_ext.evaluation.record import Estimate, EvaluationRecord, ModelInfo, read_evaluation
from art_ext.evaluation.threat import Threat
from art_ext.host.cli import main
from art_ext.host.evaluations import Asked, place_for
from art_ext.host.publishing import publish_evaluation
from art_ext.lifecycle import compare
from art_ext.lifecycle.family import Family, publish_version
from art_ext.lifecycle.sync import sync

Record = Callable[..., EvaluationRecord]
EXAMPLE = np.zeros((2, 1, 8, 8), dtype=np.float32)
DATA = {"name": "digits", "source": "sklearn", "digest": "0123abcd", "n_test": 40}
N = 40


def art_ext(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


def client(tracking: Tracking) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking.uri)


def examples(clean: int, robust: int) -> Examples:
    """N images of class 0, of which the first ones are right."""
    index = torch.arange(N)
    predicted = (index >= clean).long()
    standing = index < robust
    attacks = {"pgd40": (index < clean, (~standing).long(), torch.ones(N))}
    return Examples(index, torch.zeros(N, dtype=torch.long), predicted, torch.ones(N), standing, attacks)


def hardened(
    store: Tracking, record: Record, folder: Path, seed: int, clean: int = 38, robust: int = 20, *, stale: bool = False
) -> None:
    """What `art-ext harden` leaves: a run folder, its runs, a registered network with its evaluation."""
    net = build_model("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=seed).eval()
    evaluation = folder / "evaluation" / "hardened"
    digest = digest_of_weights(dict(net.state_dict())) if not stale else "sha256:" + "b" * 64
    mine = record(clean, robust, N, model=ModelInfo(str(folder), digest, ("pgd_at",), {"train": {"seed": seed}}))
    mine.write(evaluation)
    examples(clean, robust).write(evaluation)
    parent = RunInfo("pgd_at", role="harden", folder=folder, data=DATA)
    with Family(store, parent, experiment="digits", register="digits") as family:
        tracker = MLflowTracker(store, "digits")
        tracker.run_start(RunInfo("pgd_at hardened", "hardened", folder / "hardened", data=DATA, parent=folder))
        tracker.epoch_end(EpochReport(1, 1, 10, {"train/loss": 0.5}))
        tracker.log_model(net, architecture(net), EXAMPLE)
        checkpoint.save(folder / "hardened" / "best.pt", {"net": net.state_dict(), "epoch": 1, "step": 10})
        shutil.copy(folder / "hardened" / "model" / "architecture.json", folder / "hardened")
        tracker.run_end({})
        family.trained(folder / "hardened", evaluation)
    assert "registered as models:/digits/" in family.links()[-1]


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "threat: {norm: linf, eps: 0.15}\nbound: value\n"
        "clean_accuracy: {at_least: 0.9}\nrobust_accuracy: {at_least: 0.3, below_champion: 0.0}\n"
    )
    return str(path)


def test_from_the_first_champion_to_the_next(
    store: Tracking, record: Record, tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--policy", policy, "--tracking-uri", store.uri]
    champion = ["--against", "models:/digits@champion", "--promote"]
    hardened(store, record, tmp_path / "one", seed=1, robust=16)
    known = client(store)

    runs = known.search_runs([known.get_experiment_by_name("digits").experiment_id])
    by_role = {run.data.tags["art_ext.role"]: run for run in runs}
    assert set(by_role) == {"harden", "hardened", "evaluation"}
    parent = by_role["harden"].info.run_id
    assert {by_role[role].data.tags["mlflow.parentRunId"] for role in ("hardened", "evaluation")} == {parent}
    assert by_role["harden"].data.metrics["evaluate/worst_case/accuracy"] == 0.4
    assert all(run.inputs.dataset_inputs[0].dataset.name == "digits" for run in runs)
    assert {run.info.status for run in runs} == {"FINISHED"}
    (version,) = known.search_model_versions("name = 'digits'")
    assert version.description.startswith("# Robustness card: digits\n\n**Trusted.**")
    assert "| worst case, linf 0.15 | 40.0%" in version.description
    assert version.tags["art_ext.worst_case"].startswith("40.0%")
    model = known.get_logged_model(by_role["hardened"].outputs.model_outputs[0].model_id)
    metric = {m.key: m for m in model.metrics}["evaluate/worst_case/accuracy"]
    assert (metric.value, metric.dataset_name) == (0.4, "digits")
    names = {item.path for item in known.list_artifacts(by_role["hardened"].info.run_id, "evaluation")}
    assert names == {f"evaluation/{name}" for name in ("card.json", "card.md", "evaluation.json", "examples.parquet")}

    assert art_ext("gate", "models:/digits@challenger", *where, *champion) == 0  # nobody to compare with yet
    assert "models:/digits@champion is version 1" in capsys.readouterr().out

    hardened(store, record, tmp_path / "worse", seed=2, robust=15)
    assert art_ext("gate", "models:/digits@challenger", *where, *champion, "--output", str(tmp_path / "gate")) == 1
    out = capsys.readouterr().out
    assert "fail  robust_accuracy.below_champion" in out
    assert "paired: 0 images won, 1 lost" in out
    assert known.get_model_version_by_alias("digits", "champion").version in (1, "1")
    assert "failure" in (tmp_path / "gate" / "gate.xml").read_text()

    hardened(store, record, tmp_path / "better", seed=3, robust=20)
    assert art_ext("gate", str(tmp_path / "better"), *where, "--against", "models:/digits@champion", "--promote") == 0
    out = capsys.readouterr().out
    assert "paired: 4 images won, 0 lost" in out
    assert "models:/digits@champion is version 3; before it was version 1" in out
    assert known.get_registered_model("digits").tags["art_ext.previous.champion"] == "1"

    hardened(store, record, tmp_path / "stale", seed=4, robust=30, stale=True)
    assert art_ext("gate", str(tmp_path / "stale"), *where) == 1
    assert "fail  same_model" in capsys.readouterr().out
    assert art_ext("gate", "models:/digits@challenger", *where) == 2  # MLflow has none of these weights: evaluate it
    caught = capsys.readouterr()
    assert "has no evaluation of its present weights; it is evaluated now" in caught.out
    assert "nothing says what to evaluate" in caught.err  # the test's network comes without a recipe


def test_an_evaluation_that_asks_for_something_else_stands_beside_the_run_s_own(
    store: Tracking, record: Record, tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another threat gets files and a run of its own; the network's run, card and gate keep what they had."""
    folder = tmp_path / "run"
    hardened(store, record, folder, seed=1, robust=16)
    own = read_evaluation(folder / "evaluation" / "hardened")
    known = client(store)
    (before,) = known.search_model_versions("name = 'digits'")
    other = record(35, 30, N, model=own.model, threat=Threat("l2", 0.5), suite="quick")
    place = place_for(folder / "hardened", Asked.of(other), Asked.of(own))
    assert place == folder / "evaluation" / "hardened-l2-0.5-quick-40"
    other.write(place)
    examples(35, 30).write(place)
    assert publish_evaluation(str(folder), other, place, store.uri) is not None

    runs = known.search_runs([known.get_experiment_by_name("digits").experiment_id])
    evaluations = [run for run in runs if run.data.tags["art_ext.role"] == "evaluation"]
    assert {run.data.params["norm"] for run in evaluations} == {"linf", "l2"}
    assert len({run.data.tags["mlflow.parentRunId"] for run in evaluations}) == 1
    (trained,) = [run for run in runs if run.data.tags["art_ext.role"] == "hardened"]
    with artifact(store.uri, trained.info.run_id, "evaluation") as kept:
        assert kept is not None
        assert read_evaluation(kept) == own
    (theirs,) = [run for run in evaluations if run.data.params["norm"] == "l2"]
    with artifact(store.uri, theirs.info.run_id, "evaluation") as kept:
        assert kept is not None
        assert read_evaluation(kept) == other
    model = known.get_logged_model(trained.outputs.model_outputs[0].model_id)
    assert {m.key: m.value for m in model.metrics}["evaluate/worst_case/accuracy"] == 0.4
    (after,) = known.search_model_versions("name = 'digits'")
    assert (after.description, after.tags) == (before.description, before.tags)

    # each policy finds the evaluation that it asks for, wherever the model is named from
    l2 = tmp_path / "l2.yaml"
    l2.write_text("threat: {norm: l2, eps: 0.5}\nsuite: quick\nrobust_accuracy: {at_least: 0.6}\n")
    l1 = tmp_path / "l1.yaml"
    l1.write_text("threat: {norm: l1, eps: 0.5}\nsuite: quick\n")
    for model in (str(folder), str(folder / "hardened"), "models:/digits@challenger"):
        where = ["--tracking-uri", store.uri]
        assert art_ext("gate", model, "--policy", policy, *where) == 0, model
        assert art_ext("gate", model, "--policy", str(l2), *where) == 1, model
        assert "the lower end of 75.0%" in capsys.readouterr().out
        assert art_ext("gate", model, "--policy", str(l1), *where) == 1, model
        assert "evaluated against linf 0.15" in capsys.readouterr().out

    # from the registry, another threat leaves the card alone, and the same one renews it
    assert not publish_version(other, place, "models:/digits@challenger", store)
    assert client(store).search_model_versions("name = 'digits'")[0].description == before.description
    assert publish_version(replace(own, notes=("once more",)), tmp_path, "models:/digits@challenger", store)
    assert "once more" in client(store).search_model_versions("name = 'digits'")[0].description


def test_the_run_s_own_evaluation_keeps_its_folder(record: Record, tmp_path: Path) -> None:
    role, own = tmp_path / "hardened", record(340, n=360)
    usual = Asked.of(own)
    assert place_for(role, usual, usual) == tmp_path / "evaluation" / "hardened"
    for changes, name in (
        ({"eps": 0.1}, "linf-0.1-standard-360"),
        ({"suite": "quick"}, "linf-0.15-quick-360"),
        ({"n": 20, "split": "test split (first 20, classes in turn)"}, "linf-0.15-standard-20"),
        ({"data": "other digits"}, "linf-0.15-standard-360-other_digits"),
        ({"seed": 3}, "linf-0.15-standard-360-seed3"),
        ({"end": "robust>=0.4"}, "linf-0.15-standard-360-robust_0.4"),
    ):
        for known in (False, True):  # the recipe says what is the run's own, until it is there
            if known:
                own.write(tmp_path / "evaluation" / "hardened")
            found = place_for(role, replace(usual, **changes), usual)
            assert found == tmp_path / "evaluation" / f"hardened-{name}"
        shutil.rmtree(tmp_path / "evaluation")
    # what a run has is its own, whatever its recipe says; one that was cut short is gone on with
    own.write(tmp_path / "evaluation" / "hardened")
    assert place_for(role, usual, replace(usual, suite="full")).name == "hardened"
    replace(own, complete=False).write(tmp_path / "evaluation" / "hardened")
    assert place_for(role, replace(usual, end="5 minutes"), usual).name == "hardened"
    (tmp_path / "evaluation" / "hardened" / "evaluation.json").write_text("{")
    assert place_for(role, usual, usual).name == "hardened"


def test_mistakes_of_a_gates_call_are_one_line_and_exit_2(
    store: Tracking, tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.yaml").write_text("threat: {norm: linf}\n")
    for words, arguments in (
        ("cannot be read", ["models:/a@b", "--policy", "none.yaml"]),
        ("threat.eps is missing", ["models:/a@b", "--policy", str(tmp_path / "wrong.yaml")]),
        ("no version of a registered model", [str(tmp_path / "empty"), "--policy", policy, "--promote"]),
        ("models:/NAME@ALIAS", ["models:/a", "--policy", policy, "--promote"]),
    ):
        assert art_ext("gate", *arguments, "--tracking-uri", store.uri) == 2, arguments
        caught = capsys.readouterr()
        assert words in caught.err
        assert caught.err.count("\n") == 1


def test_a_family_that_is_stopped_is_killed_and_goes_on_under_the_same_run(store: Tracking, tmp_path: Path) -> None:
    info = RunInfo("pgd_at", role="harden", folder=tmp_path / "run")
    first = Family(store, info, experiment="digits")
    with pytest.raises(Stopped), first:
        raise Stopped(15, "stopped by SIGTERM")
    run = first.tracker.run_id
    assert client(store).get_run(run).info.status == "KILLED"
    with Family(store, info, experiment="digits") as second:
        assert client(store).get_run(run).info.status == "RUNNING"
    assert second.tracker.run_id == run
    assert client(store).get_run(run).info.status == "FINISHED"


def test_runs_are_compared_from_folders_and_from_an_experiment(
    store: Tracking, record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hardened(store, record, tmp_path / "one", seed=1, robust=16)
    hardened(store, record, tmp_path / "two", seed=2, robust=26)
    sources = [str(tmp_path / name) for name in ("one", "two")]
    assert art_ext("compare", *sources, "--json", "--tracking-uri", store.uri) == 0
    found = json.loads(capsys.readouterr().out)
    assert [model["worst_case"]["accuracy"] for model in found["models"]] == [0.4, 0.65]
    assert [model["trusted"] for model in found["models"]] == [True, True]
    (pair,) = found["paired"]
    assert (pair["worst_case"]["only_first"], pair["worst_case"]["only_second"]) == (0, 10)
    assert pair["worst_case"]["p"] == pytest.approx(2 / 2**10)
    assert pair["clean"]["p"] == 1.0
    assert art_ext("compare", *sources, "--tracking-uri", store.uri) == 0
    out = capsys.readouterr().out
    assert "images that only one has right: clean 0 to 0 (p = 1), worst case 0 to 10 (p = 0.00195)" in out
    tracked = compare.from_experiment(store.uri, "digits")
    assert {model.worst_case.accuracy for model in tracked if model.worst_case} == {0.4, 0.65}
    assert art_ext("compare", "digts", "--tracking-uri", store.uri) == 2
    assert "did you mean digits" in capsys.readouterr().err
    assert art_ext("compare", str(tmp_path), "--tracking-uri", store.uri) == 3
    assert "neither an evaluation nor" in capsys.readouterr().err


def test_a_run_without_an_evaluation_is_compared_by_its_result(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    rows = [{"attack": "clean", "accuracy": 0.9, "low": 0.8, "high": 0.95, "n": 40}]
    result = {"hardened": {"best": rows, "worst_case": 0.5, "train_seconds": 12.4}}
    (run / "result.json").write_text(json.dumps(result))
    (run / "recipe.json").write_text(json.dumps({"use": [{"pgd_at": {}}], "threat": {"norm": "linf", "eps": 0.15}}))
    (found,) = compare.from_folder(tmp_path)
    assert found.cells()[:2] == ("run/hardened", "pgd_at")
    assert found.worst_case == Estimate.of(20, 40)
    assert (found.attacked, found.trusted, found.train_seconds) == ("training", None, 12.4)


def test_models_on_other_images_are_not_paired(record: Record, tmp_path: Path) -> None:
    for name, changes in (("a", {}), ("b", {"data": replace(record().data, digest="other")})):
        record(38, 20, N, **changes).write(tmp_path / name / "evaluation" / "hardened")
        examples(38, 20).write(tmp_path / name / "evaluation" / "hardened")
    found = [*compare.from_folder(tmp_path / "a"), *compare.from_folder(tmp_path / "b")]
    assert compare.differences(found) == []
    (same,) = compare.differences([found[0], found[0]])
    assert same.robust.won == 0


def test_what_was_not_there_in_time_is_registered_by_sync(store: Tracking, record: Record, tmp_path: Path) -> None:
    from art_ext.border.mlflow_outbox import Position

    hardened_away = Tracking("http://127.0.0.1:9")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("art_ext.border.mlflow_upload._PAUSES", (0.1,))
        with pytest.raises(AssertionError):  # nothing says that it is registered
            hardened(hardened_away, record, tmp_path / "run", seed=1)
    for place in (tmp_path / "run", *(tmp_path / "run").rglob("*/")):
        position = Position.load(place)
        if position is not None:
            position.tracking_uri, position.artifact_location = store.uri, store.artifacts
            position.save(place)
    assert len(list(sync(tmp_path / "run"))) == 3
    (version,) = client(store).search_model_versions("name = 'digits'")
    assert version.description.startswith("# Robustness card: digits")
    assert client(store).get_model_version_by_alias("digits", "challenger").version == version.version
    assert all(done.sent == () for done in sync(tmp_path / "run"))
