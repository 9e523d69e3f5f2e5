"""A tracking server that refuses, hangs, dies, answers 500 or 401: nothing is lost, nothing comes twice."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow_servers import Server, Way
from torch import nn

import art_ext.border.mlflow as border
from art_ext.border import mlflow_send, mlflow_upload
from art_ext.border.mlflow import MLflowTracker, Registration, Tracking, resolve_tracking
from art_ext.border.mlflow_outbox import Position
from art_ext.border.mlflow_runs import complaint, open_runs
from art_ext.engine.observe import EpochReport, RunInfo
from art_ext.errors import ArtExtError, ConfigError
from art_ext.lifecycle.sync import outboxes, sync, unsent

MODES = ("refuse", "hang", "kill", "500", "401")
EPOCHS = 12


def info(folder: Path, **changes: Any) -> RunInfo:
    data = {"name": "digits", "source": "sklearn", "digest": "0123abcd", "n_train": 1437}
    return RunInfo("a run", role="hardened", folder=folder, params={"eps": 0.3}, data=data, **changes)


def report(epoch: int) -> EpochReport:
    return EpochReport(epoch, EPOCHS, epoch * 10, {"train/loss": 1 / epoch, "lr": 0.1})


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


EXAMPLE = np.zeros((2, 1, 8, 8), dtype=np.float32)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter waits for the end; the one for the start is what it is."""
    for name in ("_MODEL_WAIT", "_END_WAIT", "_FAILED_WAIT"):
        monkeypatch.setattr(border, name, 2.0)
    monkeypatch.setattr(mlflow_upload, "_PAUSES", (0.2,))
    monkeypatch.setattr(mlflow_upload, "_INTERVAL", 0.1)
    monkeypatch.setattr("art_ext.lifecycle.sync._TIMEOUT", 5)
    real = mlflow_upload.Uploader.__init__
    monkeypatch.setattr(mlflow_upload.Uploader, "__init__", lambda self, *args: real(self, *args, timeout=1))


def a_run(tracking: Tracking, folder: Path, name: str, half: Callable[[MLflowTracker], None]) -> None:
    """A whole run with all that it may send; `half` is called in the middle."""
    tracker = MLflowTracker(tracking, "faults")
    tracker.run_start(info(folder))
    for epoch in range(1, EPOCHS + 1):
        if epoch == EPOCHS // 2:
            half(tracker)
        tracker.epoch_end(report(epoch))
    tracker.attach_text("late/note.txt", "said in the second half")
    tracker.attach_table("table.json", {"attack": ["clean"], "accuracy": [0.9]})
    tracker.log_model(network(), {"name": "small"}, EXAMPLE)
    tracker.run_end({"evaluate/clean/accuracy": 0.9})
    again = MLflowTracker.reopened(tracking, folder)
    assert again is not None
    again.register(Registration(name, description="a card", tags={"art_ext.trusted": "true"}))
    again.close()


def check_all_is_there_once(uri: str, folder: Path, name: str) -> None:
    known, position = client(uri), Position.load(folder)
    assert position is not None
    run = known.get_run(position.run_id)
    assert run.info.status == "FINISHED"
    token = run.data.tags[mlflow_send.TOKEN]
    assert len(known.search_runs([run.info.experiment_id], f"tags.`{mlflow_send.TOKEN}` = '{token}'")) == 1
    for metric in ("train/loss", "lr"):
        points = known.get_metric_history(run.info.run_id, metric)
        assert Counter(point.step for point in points) == Counter(range(1, EPOCHS + 1)), metric
    assert len(known.get_metric_history(run.info.run_id, "evaluate/clean/accuracy")) == 1
    assert run.data.params == {"eps": "0.3"}
    assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["digits"]
    files = {item.path for item in known.list_artifacts(run.info.run_id)}
    assert files >= {"recipe.yaml", "plan.json", "environment.json", "late", "table.json"}
    assert "table.json" in run.data.tags["mlflow.loggedArtifacts"]
    (output,) = run.outputs.model_outputs
    (model,) = known.search_logged_models([run.info.experiment_id], f"tags.`{mlflow_send.TOKEN}` = '{token}'")
    assert (model.model_id, str(model.status)) == (output.model_id, "READY")
    assert [(metric.key, metric.value) for metric in model.metrics] == [("evaluate/clean/accuracy", 0.9)]
    (version,) = known.search_model_versions(f"name = '{name}'")
    assert (version.description, version.tags["art_ext.trusted"]) == ("a card", "true")
    assert known.get_model_version_by_alias(name, "challenger").version == version.version


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.usefixtures("hurried")
def test_what_a_fault_in_the_middle_kept_back_is_sent_once(
    mode: str, server: Server, way: Way, tmp_path: Path
) -> None:
    def half(tracker: MLflowTracker) -> None:
        deadline = time.monotonic() + 60
        while (position := Position.load(tmp_path)) and not position.offset and time.monotonic() < deadline:
            time.sleep(0.05)
        way.set(mode)

    a_run(resolve_tracking(way.uri, tmp_path), tmp_path, f"half-{mode}", half)
    position = Position.load(tmp_path)
    assert position is not None
    assert client(server.uri).get_run(position.run_id).info.status == "RUNNING"
    with pytest.raises(ArtExtError, match=r"sync again when it answers"):
        list(sync(tmp_path))
    way.set("open")
    (done,) = sync(tmp_path)
    assert "the network" in done.sent
    check_all_is_there_once(server.uri, tmp_path, f"half-{mode}")
    (again,) = sync(tmp_path)
    assert again.sent == ()
    check_all_is_there_once(server.uri, tmp_path, f"half-{mode}")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.usefixtures("hurried")
def test_a_server_that_is_gone_at_the_start_holds_up_nothing_and_gets_all(
    mode: str, server: Server, way: Way, tmp_path: Path
) -> None:
    way.set(mode)
    began, seconds = time.monotonic(), []
    a_run(
        resolve_tracking(way.uri, tmp_path),
        tmp_path,
        f"start-{mode}",
        lambda tracker: seconds.append(time.monotonic() - began),
    )
    assert seconds[0] < 5
    assert not Position.load(tmp_path).run_id  # type: ignore[union-attr]
    way.set("open")
    list(sync(tmp_path))
    check_all_is_there_once(server.uri, tmp_path, f"start-{mode}")


# ---------------------------------------------------------------------- without a server: a store


class Lost(Exception):
    """An answer that did not come."""


WRITES = (
    "create_run", "log_batch", "log_inputs", "create_logged_model", "log_model_artifacts", "finalize_logged_model",
    "log_outputs", "log_artifact", "set_tag", "create_registered_model", "create_model_version",
    "set_registered_model_alias", "set_terminated",
)  # fmt: skip


def breaking(monkeypatch: pytest.MonkeyPatch, at: int, *, arrives: bool) -> Callable[[], int]:
    """The request of that number, counted over all that change something, fails, before or after it was done."""
    from mlflow import MlflowClient

    count = 0
    for name in WRITES:
        real = getattr(MlflowClient, name)

        def request(self: Any, *args: Any, real: Any = real, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count != at:
                return real(self, *args, **kwargs)
            if arrives:
                real(self, *args, **kwargs)
            raise Lost

        monkeypatch.setattr(MlflowClient, name, request)
    return lambda: count


@pytest.fixture(scope="module")
def unsent_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder of which nothing was sent: its server refused."""
    folder = tmp_path_factory.mktemp("unsent") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_upload, "_PAUSES", (0.2,))
        a_run(Tracking("http://127.0.0.1:9"), folder, "unsent", lambda tracker: None)
    position = Position.load(folder)
    assert position is not None
    assert (position.run_id, position.status) == (None, "FINISHED")
    return folder


def moved(folder: Path, place: Path, store: Tracking) -> Path:
    """A copy of a run that belongs to a store."""
    import shutil

    shutil.copytree(folder, place)
    position = Position.load(place)
    assert position is not None
    position.tracking_uri, position.artifact_location = store.uri, store.artifacts
    position.save(place)
    return place


def synced_in_spite_of(monkeypatch: pytest.MonkeyPatch, at: int, arrives: bool, run: Path, store: Tracking) -> int:
    with monkeypatch.context() as patch:
        count = breaking(patch, at, arrives=arrives)
        try:
            list(sync(run))
        except ArtExtError:
            list(sync(run))
        return count()


@pytest.mark.parametrize("at", [1, 4, 5, 8])
def test_a_sync_that_is_broken_off_goes_on_where_it_was(
    at: int, unsent_run: Path, store: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = moved(unsent_run, tmp_path / "run", store)
    assert synced_in_spite_of(monkeypatch, at, True, run, store) > at
    check_all_is_there_once(store.uri, run, "unsent")


@pytest.mark.slow
@pytest.mark.parametrize("arrives", [True, False])
def test_a_sync_may_be_broken_off_at_any_request(
    arrives: bool, unsent_run: Path, migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    at, last = 0, 1
    while at < last:
        at += 1
        place = tmp_path / str(at)
        place.mkdir()
        shutil.copy(migrated, place / "mlflow.db")
        store = resolve_tracking(None, place)
        run = moved(unsent_run, place / "run", store)
        last = synced_in_spite_of(monkeypatch, at, arrives, run, store) - 1
        check_all_is_there_once(store.uri, run, "unsent")
    assert at > 15


_GOES_ON = """
import sys, threading
from pathlib import Path
from art_ext.border.mlflow import MLflowTracker, Tracking
from art_ext.engine.observe import EpochReport, RunInfo
tracker = MLflowTracker(Tracking(*sys.argv[1:3]), "exp")
tracker.run_start(RunInfo("a run", role="hardened", folder=Path(sys.argv[3])))
tracker.epoch_end(EpochReport(1, 12, 10, {"lr": 0.1}))
print("begun", flush=True)
threading.Event().wait()
"""


def test_a_killed_run_ends_as_killed_and_one_that_goes_on_is_left_alone(store: Tracking, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-c", _GOES_ON, store.uri, str(store.artifacts), str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            assert unsent(run) == []
            with pytest.raises(ConfigError, match="still going on"):
                list(sync(run))
        finally:
            process.kill()
    assert "the status KILLED" in unsent(run)
    (done,) = sync(run)
    assert done.status == "KILLED"
    assert client(store.uri).get_run(done.run_id).info.status == "KILLED"
    assert unsent(run) == []


def test_runs_that_a_dead_process_left_open_are_found(store: Tracking, tmp_path: Path) -> None:
    tracker = MLflowTracker(store, "exp")
    tracker.run_start(info(tmp_path / "run"))
    assert open_runs(store) == []
    tags = client(store.uri).get_run(tracker.run_id).data.tags
    gone = tags["art_ext.process"].partition(":")[0] + ":999999999:1"
    client(store.uri).set_tag(tracker.run_id, "art_ext.process", gone)
    assert [run.run_id for run in open_runs(store)] == [tracker.run_id]
    tracker.run_end({})
    assert open_runs(store) == []


def test_a_run_that_was_told_to_stop_is_killed_and_goes_on_as_the_same_run(store: Tracking, tmp_path: Path) -> None:
    first = MLflowTracker(store, "exp")
    first.run_start(info(tmp_path))
    first.epoch_end(report(1))
    first.epoch_end(report(2))
    first.run_killed()
    assert client(store.uri).get_run(first.run_id).info.status == "KILLED"
    second = MLflowTracker(store, "exp")
    second.run_start(info(tmp_path))
    assert client(store.uri).get_run(first.run_id).info.status == "RUNNING"
    for epoch in (2, 3):  # the second epoch is done again, from the checkpoint before it
        second.epoch_end(report(epoch))
    second.run_end({})
    assert second.run_id == first.run_id
    steps = [point.step for point in client(store.uri).get_metric_history(first.run_id, "lr")]
    assert sorted(steps) == [1, 2, 3]


def test_children_wait_for_the_run_that_they_belong_to(store: Tracking, tmp_path: Path) -> None:
    """Nothing could be sent; sync makes the parent before its children, and ties them."""
    parent, child = tmp_path / "harden", tmp_path / "harden" / "hardened"
    away = Tracking("http://127.0.0.1:9")
    for folder, above in ((parent, None), (child, parent)):
        tracker = MLflowTracker(away, "exp")
        tracker.run_start(info(folder, parent=above))
        tracker.run_end({})
    assert outboxes(parent) == [parent, child]
    for folder in (parent, child):
        position = Position.load(folder)
        assert position is not None
        position.tracking_uri, position.artifact_location = store.uri, store.artifacts
        position.save(folder)
    made, of = sync(parent)
    assert client(store.uri).get_run(of.run_id).data.tags["mlflow.parentRunId"] == made.run_id


def test_no_secret_of_the_address_is_written_or_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "http://ann:hunter2-and-more@127.0.0.1:9"
    tracker = MLflowTracker(resolve_tracking(uri, tmp_path), "exp")
    tracker.run_start(info(tmp_path / "run", recipe={"track": {"uri": uri}}, tags={"from": uri}))
    tracker.run_failed(RuntimeError(f"cannot reach {uri}"))
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes(), path
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        list(sync(tmp_path / "run"))
    with pytest.raises(ConfigError, match="not at"):
        list(sync(tmp_path / "run", "http://127.0.0.1:10"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ArtExtError, match="sync again") as caught:
        list(sync(tmp_path / "run"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_does_not_serve_is_told_in_words(mode: str, silent_server: str) -> None:
    """The way has no server behind it: the faults are its own."""
    way = Way(9)
    way.set(mode)
    began = time.monotonic()
    said = complaint(Tracking(way.uri), 1.0)
    way.close()
    assert time.monotonic() - began < 3
    assert said
    wanted = {"hang": "no answer within 1 s", "500": "it answers 500", "401": "401"}
    assert wanted.get(mode, "refused") in said


# ---------------------------------------------------------------------------------- what it costs


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_steps_are_as_fast_as_without_tracking(mode: str, server: Server, way: Way, tmp_path: Path) -> None:
    """Rounds of 200 steps, tracked and untracked in turn, in CPU seconds of this process with all its threads.

    Those do not depend on what else the machine does; what the tracker takes of them, training cannot have.
    """
    hidden = [nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.rand(256, 1, 8, 8), torch.arange(256) % 10

    def steps(tracker: MLflowTracker | None) -> float:
        began = time.process_time()
        for step in range(200):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step % 20 == 19 and tracker is not None:
                tracker.epoch_end(report(step // 20 + 1))
        return time.process_time() - began

    ratios = []
    for number in range(5):
        way.set("open")
        tracker = MLflowTracker(resolve_tracking(way.uri, tmp_path), "speed")
        tracker.run_start(info(tmp_path / str(number)))
        way.set(mode)
        untracked = steps(None)
        ratios.append(steps(tracker) / untracked)
    print(f"{mode}: tracked over untracked {statistics.median(ratios):.3f}", [round(ratio, 3) for ratio in ratios])
    assert statistics.median(ratios) < 1.05
