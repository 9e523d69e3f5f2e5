"""Sweeps and `art_ext.autolog`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import art_ext
from art_ext.border.mlflow import Tracking
from art_ext.border.mlflow_auto import Choices, choices
from art_ext.errors import ConfigError
from art_ext.host import sweeping
from art_ext.host.cli import main
from art_ext.lifecycle.sweep import label_of, parse, points


def client(store: Tracking) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(store.uri)


def test_values_are_split_at_commas_outside_of_brackets() -> None:
    assert parse(["pc_lc.xi=0.9,0.995", "a={b: [1, 2]},c"]) == {
        "pc_lc.xi": ["0.9", "0.995"],
        "a": ["{b: [1, 2]}", "c"],
    }


@pytest.mark.parametrize("texts", [["a"], ["a="], ["a=1,,2"], ["=1"], ["a=1", "a=2"], ["a=1,1"]])
def test_a_sweep_without_values_or_with_one_twice_is_refused(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match="--sweep"):
        parse(texts)


def test_each_value_meets_each_and_the_number_is_bounded() -> None:
    made = points(parse(["a=1,2", "b=x,y,z"]))
    assert len(made) == 6
    assert made[:2] == [("a=1", "b=x"), ("a=1", "b=y")]
    assert label_of(("pc_lc.xi=0.9", "use=[{a: b}]")) == "pc_lc.xi=0.9,use=_a_b"
    with pytest.raises(ConfigError, match="201 runs"):
        points({"a": [str(i) for i in range(201)]})


def test_the_runs_of_a_sweep_are_children_of_one_and_a_failed_one_does_not_end_the_others(
    store: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    asked = []

    def harden(recipe: Any, *, output: Path, parent: Path, **_: Any) -> None:
        asked.append((recipe.train.seed, recipe.track.run_name, output, parent))
        if recipe.train.seed == 1:
            raise ConfigError("that one does not go")

    monkeypatch.setattr(sweeping, "harden", harden)
    with pytest.raises(sweeping.SweepError, match=r"1 of 3 runs failed: train\.seed=1"):
        sweeping.sweep("digits/pgd_at", [], ["train.seed=0,1,2"], output=tmp_path / "out", echo=print)
    assert [(seed, name) for seed, name, _, _ in asked] == [(i, f"train.seed={i}") for i in range(3)]
    assert {parent for *_, parent in asked} == {tmp_path / "out"}
    assert {output.name for _, _, output, _ in asked} == {f"train.seed={i}" for i in range(3)}
    (run,) = client(store).search_runs([client(store).get_experiment_by_name("digits").experiment_id])
    assert run.data.tags["art_ext.role"] == "sweep"
    assert run.data.params == {"train.seed": '["0", "1", "2"]'}


def test_a_value_that_is_none_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["harden", "digits/pgd_at", "--sweep", "pgd_at.eps=0.1,many", "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "pgd_at.eps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------- autolog


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    art_ext.autolog()
    import art_ext.border.mlflow_auto as auto

    auto._present = Choices()


def fit(**options: Any) -> Any:
    from art.estimators.classification import PyTorchClassifier

    from art_ext_baselines import PGDATTrainer

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    classifier = PyTorchClassifier(
        net, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )
    x = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    trainer = PGDATTrainer(classifier, eps=0.1, steps=1, verbose=False, **options)
    trainer.fit(x, np.arange(40) % 10, nb_epochs=1, batch_size=20)
    return classifier


def test_autolog_says_where_trainings_and_evaluations_go(store: Tracking, tmp_path: Path) -> None:
    art_ext.autolog(uri=store.uri, experiment="called", register="linear")
    classifier = fit()
    known = client(store)
    experiment = known.get_experiment_by_name("called").experiment_id
    (run,) = known.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert "train/loss" in run.data.metrics
    assert known.get_model_version_by_alias("linear", "challenger").run_id == run.info.run_id
    fit(track=False)
    assert len(known.search_runs([experiment])) == 1

    x = np.random.default_rng(1).random((12, 1, 8, 8), dtype=np.float32)
    art_ext.audit(classifier, x, np.arange(12) % 10, eps=0.05, verbose=False)
    found = {run.data.tags["art_ext.role"]: run for run in known.search_runs([experiment])}
    assert set(found) == {"fit", "evaluation"}
    assert 0 <= found["evaluation"].data.metrics["evaluate/worst_case/accuracy"] <= 1
    names = {item.path for item in known.list_artifacts(found["evaluation"].info.run_id, "evaluation")}
    assert names >= {"evaluation/evaluation.json", "evaluation/card.md"}


def test_autolog_can_be_turned_off_and_refuses_what_cannot_be(store: Tracking, tmp_path: Path) -> None:
    assert choices() == Choices()
    art_ext.autolog(disable=True)
    fit()
    assert not (tmp_path / "mlflow.db").exists()
    with pytest.raises(ConfigError, match="sqlite:////"):
        art_ext.autolog(uri="./mlruns")
    with pytest.raises(ConfigError, match="log_models"):
        art_ext.autolog(register="x", log_models=False)
