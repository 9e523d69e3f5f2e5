"""Tracking in MLflow: against a sqlite store, a real server, a dead one and one that never answers."""

from __future__ import annotations

import json
import logging
import os
import shutil
import statistics
import sys
import threading
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow import environment_variables
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from torch import nn

from art_ext.border import mlflow_upload
from art_ext.border.mlflow import (
    MLflowTracker,
    Tracking,
    clean_name,
    environment,
    load_model,
    resolve_tracking,
)
from art_ext.border.mlflow_manners import impatient
from art_ext.border.mlflow_models import save_model
from art_ext.border.mlflow_names import cleaned_keys
from art_ext.border.mlflow_outbox import Position
from art_ext.border.mlflow_trainers import tracker_for_trainers
from art_ext.engine.journal import FILE, Entry, Journal, read_from, read_journal
from art_ext.engine.observe import EpochReport, RunInfo
from art_ext.errors import ConfigError, DataError, ModelError

EXAMPLE = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)


def info(folder: Path | None = None, **changes: Any) -> RunInfo:
    known: dict[str, Any] = {
        "name": "pc_lc_pgd_at",
        "role": "hardened",
        "folder": folder,
        "params": {"pgd_at.eps": 0.3, "pgd_at.steps": 10, "use": ["pgd_at", "pc_lc"], "off": None},
        "recipe": {"use": [{"pgd_at": {"eps": 0.3}}], "range": (0.1, 0.2)},
        "plan": [("attack", "PGD", "pgd_at"), ("criterion", "PCLC", "pc_lc")],
        "data": {"name": "digits", "source": "sklearn", "digest": "0123abcd", "n_train": 1437, "n_test": 360},
        "tags": {"art_ext.plugins.pc_lc": "0.1.0"},
    }
    return RunInfo(**(known | changes))


def report(epoch: int, **metrics: float) -> EpochReport:
    return EpochReport(epoch, 9, epoch * 10, {"train/loss": 1 / epoch, "lr": 0.1, **metrics}, best=epoch == 2)


def client(tracking: Tracking | str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking if isinstance(tracking, str) else tracking.uri)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


# ------------------------------------------------------------------------------------- journal


def test_journal_has_a_line_an_epoch_and_one_at_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    journal.run_start(info())
    journal.epoch_end(report(1))
    journal.epoch_end(report(2, **{"train/clean_accuracy": 0.5}))
    assert len(read_journal(journal.path)) == 2  # there before the run has ended
    journal.run_end({"evaluate/pgd20/accuracy": 0.4})
    first, second, last = read_journal(journal.path)
    assert (first.run, first.role, first.epoch, first.step) == ("pc_lc_pgd_at", "hardened", 1, 10)
    assert not first.best
    assert second.best
    assert second.metrics["train/clean_accuracy"] == 0.5
    assert abs(second.time - time.time()) < 60
    assert (last.event, last.epoch, last.metrics) == ("end", 2, {"evaluate/pgd20/accuracy": 0.4})


def test_journal_lines_are_strict_json_even_for_a_loss_that_is_no_number(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.run_start(info())
    journal.epoch_end(report(1, a=float("nan"), b=float("-inf")))

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    json.loads(journal.path.read_text(), parse_constant=refuse)
    metrics = read_journal(journal.path)[0].metrics
    assert np.isnan(metrics["a"])
    assert metrics["b"] == float("-inf")


@pytest.mark.parametrize("torn", [b'{"event": "epo', b"\xff\xfe", b"[]"])
def test_a_torn_last_line_is_left_out_and_goes_when_the_run_goes_on(tmp_path: Path, torn: bytes) -> None:
    journal = Journal(tmp_path)
    journal.run_start(info())
    journal.epoch_end(report(1))
    with journal.path.open("ab") as file:
        file.write(torn)
    assert [entry.epoch for entry in read_journal(journal.path)] == [1]
    again = Journal(tmp_path)
    again.run_start(info())
    again.epoch_end(report(2))
    assert [entry.epoch for entry in read_journal(journal.path)] == [1, 2]


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(Entry("r", "fit", 1, 1, 0.0).line().rstrip())
    journal = Journal(tmp_path)
    journal.run_start(info())
    journal.epoch_end(report(2))
    assert [entry.epoch for entry in read_journal(path)] == [1, 2]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"rubbish\n" + Entry("r", "fit", 1, 1, 0.0).line())
    with pytest.raises(DataError, match=r"metrics\.jsonl.*byte 0"):
        read_journal(path)
    with pytest.raises(DataError, match="cannot read"):
        read_journal(tmp_path / "none.jsonl")


def test_reading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.run_start(info())
    journal.epoch_end(report(1))
    _, offset = read_from(journal.path, 0)
    journal.epoch_end(report(2))
    entries, _ = read_from(journal.path, offset)
    assert [entry.epoch for entry in entries] == [2]


def test_only_rank_0_writes(tmp_path: Path, store: Tracking) -> None:
    for observer in (Journal(tmp_path / "run"), MLflowTracker(store, "exp")):
        observer.run_start(info(tmp_path / "run", rank=1))
        observer.epoch_end(report(1))
        observer.run_end({})
    assert not (tmp_path / "run").exists()
    assert client(store).get_experiment_by_name("exp") is None


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        Journal(tmp_path / "file").run_start(info())


# --------------------------------------------------------------------------------------- where


def test_the_default_store_is_absolute_and_does_not_depend_on_mlruns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")
    monkeypatch.chdir(tmp_path)
    tracking = resolve_tracking(None, Path())
    assert tracking.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking.artifacts == (tmp_path / "mlartifacts").as_uri()
    assert str(tmp_path / "mlflow.db") in tracking.describe()
    assert str(tmp_path / "mlartifacts") in tracking.describe()
    command, arguments = tracking.ui_command().split(" ", 1)
    assert shutil.which(command) == str(Path(sys.executable).parent / "mlflow"), "this environment's"
    assert arguments == f"ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db --port 5000"


def test_an_address_given_wins_over_the_environment_and_that_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5001")
    assert resolve_tracking(None, tmp_path).uri == "http://127.0.0.1:5001"
    assert resolve_tracking("http://127.0.0.1:5002/", tmp_path).ui_command() == "http://127.0.0.1:5002"
    monkeypatch.chdir(tmp_path)
    assert resolve_tracking("sqlite:///a.db", tmp_path).uri == f"sqlite:///{tmp_path}/a.db"


def test_passwords_are_not_shown() -> None:
    for uri in ("https://me:secret@host.example/base", "postgresql://me:secret@db.example/mlflow"):
        tracking = resolve_tracking(uri, Path())
        assert tracking.uri == uri
        shown = tracking.describe() + tracking.ui_command() + tracking.run_url("1", "r")
        assert "secret" not in shown
        assert ".example" in shown


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "sqlite://", "sqlite:///:memory:", "mlruns:here"])
def test_addresses_that_cannot_be_tracked_to_are_refused_with_a_way_out(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sqlite:////"):
        resolve_tracking(uri, tmp_path)


def test_names_are_cleaned_to_mlflows_alphabet() -> None:
    from mlflow.utils.validation import _validate_metric_name

    names = ["robust/pgd20/linf_8_255", "acc@8/255", "/a//b/../c", "ünï", "", "..", "x" * 400, "a:b", "loss (%)"]
    for name in names:
        _validate_metric_name(clean_name(name))
    assert clean_name("robust/pgd20/linf_8_255") == "robust/pgd20/linf_8_255"
    assert cleaned_keys({"a@b": 1, "a_b": 2, "a%b": 3}) == {"a_b": 2, "a_b_2": 3, "a_b_3": 1}


# ------------------------------------------------------------------------------- a sqlite store


def test_a_run_holds_parameters_data_metrics_files_and_ends_finished(tmp_path: Path, store: Tracking) -> None:
    import matplotlib.figure

    folder = tmp_path / "run"
    tracker = MLflowTracker(store, "exp", device="cpu")
    tracker.run_start(info(folder, params={"pgd_at.eps": 0.3, "use": ["a", "b"], "note": "x" * 7000}))
    assert tracker.run_id is not None
    assert client(store).get_run(tracker.run_id).info.status == "RUNNING"
    for epoch in (1, 2, 3):
        tracker.epoch_end(report(epoch, **{"acc@8/255": 0.25}))
    tracker.attach_table("table.json", {"attack": ["clean", "pgd"], "accuracy": [0.9, np.float32(0.5)]})
    figure = matplotlib.figure.Figure()
    figure.subplots().plot([1, 2])
    tracker.attach_figure("pictures/loss.png", figure)
    tracker.run_end({"evaluate/pgd20/accuracy": 0.5, "evaluate/pgd20/accuracy_low": 0.4})

    run = client(store).get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "pc_lc_pgd_at"
    assert run.data.params["pgd_at.eps"] == "0.3"
    assert run.data.params["use"] == '["a", "b"]'
    assert run.data.params["note"] == "7000 characters, in the artifact params/note.txt"
    assert run.data.tags["art_ext.role"] == "hardened"
    assert run.data.tags["art_ext.plugins.pc_lc"] == "0.1.0"
    assert run.data.metrics["evaluate/pgd20/accuracy_low"] == 0.4
    assert run.data.metrics["acc_8/255"] == 0.25
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == ("digits", "0123abcd")
    assert json.loads(dataset.profile)["n_train"] == 1437
    history = client(store).get_metric_history(tracker.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]

    artifacts = folder.parent / "project" / "mlartifacts" / tracker.run_id / "artifacts"
    assert yaml.safe_load((artifacts / "recipe.yaml").read_text())["range"] == [0.1, 0.2]
    assert json.loads((artifacts / "plan.json").read_text())[0] == {"slot": "attack", "part": "PGD", "owner": "pgd_at"}
    assert (artifacts / "params" / "note.txt").read_text() == "x" * 7000
    assert (artifacts / "pictures" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((artifacts / "table.json").read_text())["data"] == [["clean", 0.9], ["pgd", 0.5]]
    assert json.loads((artifacts / "environment.json").read_text())["device"] == "cpu"
    position = Position.load(folder)
    assert position is not None
    assert position.ended
    assert position.offset == (folder / FILE).stat().st_size


def test_no_run_is_left_active_and_mlflows_settings_are_as_before(store: Tracking) -> None:
    import mlflow

    def settings() -> dict[str, object]:
        """As MLflow reads them: what was not set may have its default afterwards."""
        kind, found = environment_variables._EnvironmentVariable, vars(environment_variables).items()
        return {name: variable.get() for name, variable in found if isinstance(variable, kind)}

    before, others = settings(), {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    uri = mlflow.get_tracking_uri()
    tracker = MLflowTracker(store, "exp")
    tracker.run_start(info())
    assert mlflow.active_run() is None
    tracker.epoch_end(report(1))
    tracker.run_end({})
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == uri
    assert settings() == before
    assert {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")} == others
    assert not [thread for thread in threading.enumerate() if thread.name == "art_ext-mlflow"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("nan"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")],
)
def test_a_run_that_fails_says_so(store: Tracking, tmp_path: Path, error: BaseException, status: str) -> None:
    tracker = MLflowTracker(store, "exp")
    tracker.run_start(info(tmp_path / "run"))
    tracker.epoch_end(report(1))
    tracker.run_failed(error)
    run = client(store).get_run(tracker.run_id)
    assert run.info.status == status
    assert run.data.metrics["train/loss"] == 1.0
    assert read_journal(tmp_path / "run" / FILE)[-1].error == type(error).__name__


def test_the_users_open_run_is_joined_and_left_open(store: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    mlflow.set_tracking_uri(store.uri)
    with mlflow.start_run(run_name="mine") as mine:
        mlflow.log_param("pgd_at.eps", 0.1)
        for eps in (0.3, 0.4):  # two fits in one run: no value is lost, none changes
            tracker = MLflowTracker(resolve_tracking("http://127.0.0.1:9", Path()), join_active=True)
            tracker.run_start(info(params={"pgd_at.eps": eps}))
            tracker.epoch_end(report(1))
            tracker.run_end({"evaluate/clean/accuracy": 0.9})
            assert tracker.run_id == mine.info.run_id
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == mine.info.run_id
        assert client(store).get_run(mine.info.run_id).info.status == "RUNNING"
    run = client(store).get_run(mine.info.run_id)
    assert run.info.status == "FINISHED"
    assert {key: run.data.params[key] for key in ("pgd_at.eps", "pgd_at.eps.2", "pgd_at.eps.3")} == {
        "pgd_at.eps": "0.1",
        "pgd_at.eps.2": "0.3",
        "pgd_at.eps.3": "0.4",
    }
    assert run.data.metrics["train/loss"] == 1.0


def test_runs_can_be_children_of_a_run(store: Tracking) -> None:
    import mlflow

    mlflow.set_tracking_uri(store.uri)
    with mlflow.start_run() as parent:
        nested = MLflowTracker(store, "exp", nested=True)
        nested.run_start(info())
        nested.run_end({})
    child = MLflowTracker(store, "exp", parent_run_id=nested.run_id)
    child.run_start(info())
    child.run_end({})
    assert client(store).get_run(nested.run_id).data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert client(store).get_run(child.run_id).data.tags["mlflow.parentRunId"] == nested.run_id


def test_a_journal_that_observes_too_is_only_read(tmp_path: Path, store: Tracking) -> None:
    journal = Journal(tmp_path / "run")
    tracker = MLflowTracker(store, "exp", journal=journal)
    for observer in (journal, tracker):
        observer.run_start(info(tmp_path / "run"))
    for observer in (journal, tracker):
        observer.epoch_end(report(1))
    for observer in (journal, tracker):
        observer.run_end({"evaluate/clean/accuracy": 0.9})
    assert [entry.event for entry in read_journal(journal.path)] == ["epoch", "end"]
    assert client(store).get_run(tracker.run_id).data.metrics["evaluate/clean/accuracy"] == 0.9


def test_an_interrupted_run_goes_on_in_mlflow_without_repeating_points(tmp_path: Path, store: Tracking) -> None:
    first = MLflowTracker(store, "exp")
    first.run_start(info(tmp_path / "run"))
    first.epoch_end(report(1))
    first.run_failed(KeyboardInterrupt())
    second = MLflowTracker(store, "exp")
    second.run_start(info(tmp_path / "run"))
    assert second.run_id == first.run_id
    second.epoch_end(report(2))
    second.run_end({})
    run = client(store).get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert [point.step for point in client(store).get_metric_history(first.run_id, "train/loss")] == [1, 2]


def test_points_that_are_sent_twice_are_there_once(tmp_path: Path, store: Tracking) -> None:
    tracker = MLflowTracker(store, "exp")
    tracker.run_start(info(tmp_path / "run"))
    tracker.epoch_end(report(1))
    tracker.run_failed(KeyboardInterrupt())
    position = Position.load(tmp_path / "run")
    assert position is not None
    position.offset = 0  # as if the answer to the first request had been lost
    position.save(tmp_path / "run")
    again = MLflowTracker(store, "exp")
    again.run_start(info(tmp_path / "run"))
    again.run_end({})
    assert len(client(store).get_metric_history(tracker.run_id, "train/loss")) == 1


def test_files_stay_inside_the_run(store: Tracking) -> None:
    tracker = MLflowTracker(store, "exp")
    tracker.run_start(info())
    for name in ("../x.txt", "/etc/x.txt", "a/../../x", ""):
        with pytest.raises(ConfigError, match="cannot be named"):
            tracker.attach_text(name, "x")
    tracker.run_end({})
    tracker.attach_text("later.txt", "after the end")
    assert "later.txt" in [file.path for file in client(store).list_artifacts(tracker.run_id)]


def test_many_metrics_and_parameters_arrive_whole(store: Tracking) -> None:
    tracker = MLflowTracker(store, "exp")
    tracker.run_start(info(params={f"p{i}": i for i in range(230)}))
    tracker.epoch_end(report(1, **{f"m{i}": float(i) for i in range(1200)}))
    tracker.run_end({})
    run = client(store).get_run(tracker.run_id)
    assert len(run.data.params) == 230
    assert len(run.data.metrics) == 1202


def test_the_environment_names_no_machine_and_no_user() -> None:
    import getpass
    import platform

    text = json.dumps(environment())
    assert set(environment()["libraries"]) >= {"torch", "numpy", "art", "timm", "mlflow"}
    assert platform.node() not in text
    assert str(Path.home()) not in text
    assert getpass.getuser() not in text or len(getpass.getuser()) < 5


def test_epoch_end_costs_the_training_thread_little(tmp_path: Path, store: Tracking) -> None:
    tracker = MLflowTracker(store, "exp")
    tracker.run_start(info(tmp_path / "run"))
    work, wall = [], []
    for epoch in range(1, 31):
        start, started = time.perf_counter(), time.thread_time()
        tracker.epoch_end(report(epoch))
        work.append(time.thread_time() - started)
        wall.append(time.perf_counter() - start)
    tracker.run_end({})
    assert statistics.median(work) < 0.005
    assert statistics.median(wall) < 0.05  # on a busy machine most of it is waiting for a turn


def test_timeouts_are_short_unless_the_user_chose_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    with impatient(10, 0):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
        with impatient(60, 2):  # the most patient one counts
            assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == str(MLFLOW_HTTP_REQUEST_TIMEOUT.default)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "33")  # by the user, later
    with impatient(10, 0):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "33"


def test_the_environment_can_be_copied_while_timeouts_change() -> None:
    """As libraries do in other threads; a variable that is taken away meanwhile is a KeyError there."""
    stop, failed = threading.Event(), []

    def copy() -> None:
        while not stop.is_set():
            try:
                dict(os.environ)
            except KeyError as error:
                failed.append(error)

    thread = threading.Thread(target=copy)
    thread.start()
    for _ in range(3000):
        with impatient(10, 0):
            pass
    stop.set()
    thread.join()
    assert not failed


# ------------------------------------------------------------------------ servers that misbehave


def train(tracker: MLflowTracker, epochs: range, pause: float = 0.02) -> float:
    """Epochs that take `pause` each; the time the longest event took."""
    longest = 0.0
    for epoch in epochs:
        time.sleep(pause)
        start = time.perf_counter()
        tracker.epoch_end(report(epoch))
        longest = max(longest, time.perf_counter() - start)
    return longest


def test_a_dead_server_costs_one_warning_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = time.monotonic()
    with caplog.at_level(logging.INFO):
        tracker = MLflowTracker(Tracking("http://127.0.0.1:9"), "exp")
        tracker.run_start(info(tmp_path / "run"))
        assert train(tracker, range(1, 20)) < 0.5
        tracker.run_end({"evaluate/clean/accuracy": 0.9})
    assert time.monotonic() - start < 8
    assert tracker.run_id is None
    assert len(read_journal(tmp_path / "run" / FILE)) == 20
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "Connection refused" in warnings[0]
    assert len(warnings) == 2  # one when it happens, one at the end that says what is missing
    assert "cannot be reached" in warnings[0]
    assert "20 lines" in warnings[1]
    assert all("\n" not in warning for warning in warnings)


def test_what_a_run_without_a_folder_could_not_send_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    tracker = MLflowTracker(Tracking("http://127.0.0.1:9"), "exp")
    tracker.run_start(info())
    tracker.epoch_end(report(1))
    tracker.run_end({})
    kept = Path(caplog.records[-1].args[1])  # type: ignore[index, arg-type]
    del tracker
    assert len(read_journal(kept)) == 2


def test_a_server_that_never_answers_does_not_hold_up_training(
    tmp_path: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import art_ext.border.mlflow as border

    monkeypatch.setattr(border, "_START_WAIT", 1.0)
    monkeypatch.setattr(border, "_END_WAIT", 1.0)
    tracker = MLflowTracker(Tracking(silent_server), "exp")
    start = time.monotonic()
    tracker.run_start(info(tmp_path / "run"))
    assert time.monotonic() - start < 5
    assert train(tracker, range(1, 20)) < 0.5
    start = time.monotonic()
    tracker.run_end({})
    assert time.monotonic() - start < 5
    assert len(read_journal(tmp_path / "run" / FILE)) == 20


@pytest.mark.slow
def test_the_real_waits_are_bounded_too(tmp_path: Path, silent_server: str) -> None:
    tracker = MLflowTracker(Tracking(silent_server), "exp")
    start = time.monotonic()
    tracker.run_start(info(tmp_path / "run"))
    assert time.monotonic() - start < 15
    assert train(tracker, range(1, 5)) < 0.5
    start = time.monotonic()
    tracker.run_failed(KeyboardInterrupt())
    assert time.monotonic() - start < 12


def test_a_run_is_created_once_when_its_answer_was_lost(
    tmp_path: Path, store: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    real = MlflowClient.create_run
    calls = []

    def late(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = real(self, *args, **kwargs)
        calls.append(run.info.run_id)
        raise TimeoutError("the answer did not come")

    monkeypatch.setattr(MlflowClient, "create_run", late)
    monkeypatch.setattr(mlflow_upload, "_PAUSES", (0.1,))
    tracker = MLflowTracker(store, "exp")
    tracker.run_start(info(tmp_path / "run"))
    tracker.epoch_end(report(1))
    tracker.run_end({})
    assert calls == [tracker.run_id]
    assert client(store).get_run(tracker.run_id).info.status == "FINISHED"


def test_a_deleted_experiment_is_a_warning(store: Tracking, caplog: pytest.LogCaptureFixture) -> None:
    made = client(store).create_experiment("gone")
    client(store).delete_experiment(made)
    tracker = MLflowTracker(store, "gone")
    tracker.run_start(info())
    tracker.run_end({})
    assert "deleted" in caplog.text


@pytest.mark.slow
def test_a_real_server_holds_a_run_and_a_model_and_may_die_in_the_next(
    server: Any, way: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = resolve_tracking(server.uri, tmp_path)
    tracker = MLflowTracker(tracking, "exp")
    tracker.run_start(info(tmp_path / "run"))
    train(tracker, range(1, 4))
    net = small_net().eval()
    address = tracker.log_model(net, None, EXAMPLE)
    assert address is not None
    tracker.run_end({"evaluate/clean/accuracy": 0.9})
    assert capsys.readouterr().out == ""  # the table of a result must not be torn by MLflow's own lines
    assert f"/runs/{tracker.run_id}" in tracker.describe()
    run = client(server.uri).get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["evaluate/clean/accuracy"] == 0.9
    assert len(client(server.uri).get_metric_history(tracker.run_id, "train/loss")) == 3
    names = {file.path for file in client(server.uri).list_artifacts(tracker.run_id)}
    assert names >= {"recipe.yaml", "plan.json", "environment.json"}
    again = load_model(address, into=small_net(), uri=server.uri)
    x = torch.from_numpy(EXAMPLE)
    assert torch.equal(again(x), net(x))

    tracker = MLflowTracker(resolve_tracking(way.uri, tmp_path), "exp")
    tracker.run_start(info(tmp_path / "next"))
    train(tracker, range(1, 4))
    deadline = time.monotonic() + 60
    while (position := Position.load(tmp_path / "next")) and not position.offset and time.monotonic() < deadline:
        time.sleep(0.1)
    assert client(server.uri).get_run(tracker.run_id).info.status == "RUNNING"
    way.set("kill")
    assert train(tracker, range(4, 40), pause=0.05) < 0.5
    start = time.monotonic()
    tracker.run_end({})
    assert time.monotonic() - start < 32
    entries = read_journal(tmp_path / "next" / FILE)
    assert [entry.epoch for entry in entries] == [*range(1, 40), 39]
    position = Position.load(tmp_path / "next")
    assert position is not None
    assert (position.run_id, position.status, position.ended) == (tracker.run_id, "FINISHED", False)
    rest, _ = read_from(tmp_path / "next" / FILE, position.offset)
    assert 36 <= len(rest) < 40  # what was sent before is not in it, everything after is


def test_a_store_that_comes_back_gets_everything(
    tmp_path: Path, store: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    real = MlflowClient.log_batch
    down = threading.Event()

    def flaky(self: Any, *args: Any, **kwargs: Any) -> Any:
        if down.is_set():
            raise ConnectionError("refused")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", flaky)
    monkeypatch.setattr(mlflow_upload, "_PAUSES", (0.1,))
    monkeypatch.setattr(mlflow_upload, "_INTERVAL", 0.1)
    tracker = MLflowTracker(store, "exp")
    tracker.run_start(info(tmp_path / "run"))
    down.set()
    train(tracker, range(1, 10), pause=0.05)
    down.clear()
    train(tracker, range(10, 12))
    tracker.run_end({})
    history = client(store).get_metric_history(tracker.run_id, "train/loss")
    assert sorted(point.step for point in history) == list(range(1, 12))


# -------------------------------------------------------------------------------------- models


@pytest.fixture
def fake_timm(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """Stands for `art_ext.border.timm`: these tests are about what goes in and comes out of MLflow."""
    seen: dict[str, Any] = {}

    def rebuild(architecture: dict[str, Any], weights: dict[str, torch.Tensor], change: Any = None) -> nn.Module:
        seen.update(architecture)
        net = small_net()
        net.load_state_dict(weights)
        return net

    module = types.ModuleType("art_ext.border.timm")
    module.rebuild = rebuild  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "art_ext.border.timm", module)
    return seen


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored model, as a folder."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model(folder, small_net(), {"name": "small"}, EXAMPLE, {"use": ["pgd_at"]})
    return folder


def test_a_logged_model_can_be_served_attacked_and_trained(store: Tracking, fake_timm: Mapping[str, Any]) -> None:
    import mlflow.pyfunc

    net = small_net().train()
    net(torch.from_numpy(EXAMPLE))  # moves the running statistics
    tracker = MLflowTracker(store, "exp")
    tracker.run_start(info())
    address = tracker.log_model(net, {"name": "small"}, EXAMPLE[:1], {"use": ["pgd_at"]})
    tracker.run_end({"evaluate/pgd20/accuracy": 0.5})
    assert net.training
    assert address is not None

    model = load_model(address, uri=store.uri)
    assert fake_timm == {"name": "small"}
    assert not model.training
    x = torch.from_numpy(EXAMPLE).requires_grad_()
    logits = model(x)
    assert torch.equal(logits, net.eval()(x))
    logits.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(weight.grad is not None for weight in model.parameters())
    model.train()

    assert torch.equal(load_model(f"runs:/{tracker.run_id}/model", uri=store.uri)(x), logits)
    logged = client(store).get_logged_model(address.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in logged.metrics} == {"evaluate/pgd20/accuracy": 0.5}

    mlflow.set_tracking_uri(store.uri)
    served = mlflow.pyfunc.load_model(address)
    assert served.metadata.signature.inputs.inputs[0].type == np.dtype("float32")
    np.testing.assert_allclose(served.predict(EXAMPLE), logits.detach().numpy(), atol=1e-6)


@pytest.mark.slow
def test_a_network_of_timms_comes_back_with_its_pixels_layer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from art_ext.border.timm import architecture, build_model

    net = build_model("resnet10t", num_classes=10, input_shape=(3, 32, 32), mean=0.5, std=0.25, seed=0).eval()
    images = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    save_model(tmp_path / "model", net, architecture(net), images, {"name": "x"})
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]  # it can be served too
    model = load_model(str(tmp_path / "model"))
    x = torch.from_numpy(images)
    assert torch.equal(model(x), net(x))
    for (name, ours), (_, theirs) in zip(model.named_parameters(), net.named_parameters(), strict=True):
        assert ours.requires_grad, name
        assert ours.data_ptr() != theirs.data_ptr()


def test_a_registered_model_loads_by_version_and_alias(store: Tracking, fake_timm: Mapping[str, Any]) -> None:
    import mlflow

    tracker = MLflowTracker(store, "exp")
    tracker.run_start(info())
    address = tracker.log_model(small_net(), {"name": "small"}, EXAMPLE)
    tracker.run_end({})
    mlflow.set_tracking_uri(store.uri)  # the registry looks the model up there, whatever its client was given
    registry = client(store)
    registry.create_registered_model("digits")
    version = registry.create_model_version("digits", address, tracker.run_id)
    registry.set_registered_model_alias("digits", "champion", version.version)
    mlflow.set_tracking_uri(None)
    for name in ("models:/digits/1", "models:/digits@champion"):
        assert load_model(name, uri=store.uri)(torch.from_numpy(EXAMPLE)).shape == (3, 10)


class Branching(nn.Module):
    """Cannot be exported: what it computes depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(64, 10)
        self.b = self.a  # tied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        if flat.sum() > 3:
            flat = flat * 2
        return self.b(self.a(flat).new_zeros(len(x), 64) + flat)


def test_a_network_that_cannot_be_exported_keeps_its_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = Branching().eval()
    save_model(tmp_path / "model", net, None, EXAMPLE)
    assert "cannot be exported" in caplog.text
    assert "\n" not in caplog.records[-1].getMessage()
    assert not (tmp_path / "model" / "data").exists()
    with pytest.raises(ModelError, match=r"test_mlflow\.Branching.*into="):
        load_model(str(tmp_path / "model"))
    x = torch.from_numpy(EXAMPLE)
    assert torch.equal(load_model(str(tmp_path / "model"), into=Branching())(x), net(x))
    with pytest.raises(ModelError, match="do not fit"):
        load_model(str(tmp_path / "model"), into=small_net())


def test_a_loader_that_an_artifact_names_is_not_run(
    tmp_path: Path, saved: Path, fake_timm: Mapping[str, Any]
) -> None:
    import shutil

    evil = tmp_path / "model"
    shutil.copytree(saved, evil)
    trace = tmp_path / "trace"
    (evil / "code").mkdir()
    (evil / "code" / "evil_loader.py").write_text(f"open({str(trace)!r}, 'w').close()\ndef _load_pyfunc(path): ...\n")
    card = yaml.safe_load((evil / "MLmodel").read_text())
    card["flavors"]["python_function"] = {"loader_module": "evil_loader", "code": "code"}
    (evil / "MLmodel").write_text(yaml.safe_dump(card))
    assert load_model(str(evil))(torch.from_numpy(EXAMPLE)).shape == (3, 10)
    (evil / "MLmodel").write_text("!!python/object/apply:os.system ['touch " + str(trace) + "']\n")
    with pytest.raises(ModelError, match="not logged by art_ext"):
        load_model(str(evil))
    assert not trace.exists()
    assert "evil_loader" not in sys.modules


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "link", "", 3, "missing"])
def test_files_outside_of_the_artifact_are_not_read(tmp_path: Path, saved: Path, name: Any) -> None:
    import shutil

    model = tmp_path / "model"
    shutil.copytree(saved, model)
    (tmp_path / "secret").write_text("x")
    (model / "link").symlink_to(tmp_path / "secret")
    card = yaml.safe_load((model / "MLmodel").read_text())
    card["flavors"]["art_ext"]["weights"] = name
    (model / "MLmodel").write_text(yaml.safe_dump(card))
    with pytest.raises(ModelError, match=r"outside|lacks"):
        load_model(str(model))


@pytest.mark.parametrize(("file", "content"), [("weights.safetensors", b"\x80\x04K\x01."), ("architecture.json", b"[")])
def test_damaged_files_are_named(tmp_path: Path, saved: Path, file: str, content: bytes) -> None:
    import shutil

    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged weights|cannot read the architecture"):
        load_model(str(tmp_path / "model"))


def test_unknown_models_are_one_clear_line(store: Tracking, tmp_path: Path) -> None:
    for address in ("models:/none/1", "models:/m-00000000000000000000000000000000", "runs:/none/model"):
        with pytest.raises(ModelError, match="cannot download"):
            load_model(address, uri=store.uri)
    with pytest.raises(ModelError, match="no folder"):
        load_model(str(tmp_path / "none"))


def test_a_model_that_cannot_be_logged_is_in_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = MLflowTracker(Tracking("http://127.0.0.1:9"), "exp")
    tracker.run_start(info(tmp_path / "run"))
    assert tracker.log_model(small_net(), None, EXAMPLE) is None
    tracker.run_end({})
    assert str(tmp_path / "run" / "model") in caplog.text
    assert load_model(str(tmp_path / "run" / "model"), into=small_net())(torch.from_numpy(EXAMPLE)).shape == (3, 10)


def test_a_trainer_called_directly_says_where_it_tracks(
    store: Tracking, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(store.uri.removeprefix("sqlite:///").removesuffix("/mlflow.db"))
    tracker = tracker_for_trainers(small_net())
    tracker.run_start(info())
    tracker.epoch_end(report(1))
    tracker.run_end({})
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert store.uri in line
    assert "track=False" in line
    assert tracker.run_id is not None
    assert client(store).get_run(tracker.run_id).info.status == "FINISHED"
