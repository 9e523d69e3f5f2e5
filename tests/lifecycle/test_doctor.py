"""`art-ext doctor`: what is wrong, and its mend."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow_servers import Way

from art_ext.border.mlflow import MLflowTracker, Tracking
from art_ext.border.mlflow_outbox import Position
from art_ext.engine.observe import RunInfo
from art_ext.host.cli import main
from art_ext.lifecycle import doctor
from art_ext.lifecycle.doctor import Finding, examine

FINE = [("core", "loaded", ""), ("pc_lc", "loaded", "")]


@pytest.fixture(autouse=True)
def _no_second_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe of torchvision is a process of its own, which takes seconds; one test has it."""
    monkeypatch.setattr(doctor, "_pair", lambda: Finding("torch", "ok", "not looked at"))


def found(tracking: Tracking, runs: Path, plugins: Sequence[tuple[str, str, str]] = FINE) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(tracking, plugins, runs)}


def test_a_sound_installation_is_green(store: Tracking, tmp_path: Path) -> None:
    lines = found(store, tmp_path / "runs")
    assert {finding.status for finding in lines.values()} == {"ok"}, lines
    assert set(lines) >= {"python", "libraries", "torch", "devices", "processes", "tracking", "plugins", "open runs"}
    assert not (tmp_path / "runs").exists(), "looking makes nothing"


@pytest.mark.parametrize(("mode", "words"), [("refuse", "refused"), ("hang", "no answer within 3 s"), ("500", "500")])
def test_a_server_that_does_not_serve_is_red_within_seconds(mode: str, words: str, tmp_path: Path) -> None:
    way = Way(9)
    way.set(mode)
    began = time.monotonic()
    line = found(Tracking(way.uri), tmp_path)["tracking"]
    way.close()
    assert time.monotonic() - began < 6
    assert line.status == "red"
    assert words in line.sentence
    assert "MLFLOW_TRACKING_URI" in line.mend


def test_broken_plugins_and_full_or_closed_folders_are_named(
    store: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = [*FINE, ("bad", "broken", "ImportError: no module named x"), ("off", "blocked", "blocked by me")]
    monkeypatch.setattr(doctor, "_LEAST_FREE", 2**80)
    lines = found(store, tmp_path / "file" / "runs", plugins)
    assert lines["plugin bad"].sentence == "ImportError: no module named x"
    assert "ART_EXT_BLOCK_PLUGINS=bad" in lines["plugin bad"].mend
    assert "off (blocked by me)" in lines["plugins"].sentence
    assert lines["folder of temporary files"].mend.startswith("free some space")


def test_runs_that_were_left_are_listed_with_their_mend(store: Tracking, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    tracker = MLflowTracker(store, "exp")
    tracker.run_start(RunInfo("mine", folder=runs / "one"))
    assert found(store, runs)["open runs"].status == "ok", "it goes on"
    position = Position.load(runs / "one")
    assert position is not None
    gone = position.process.partition(":")[0] + ":999999999:1"
    tracker.tag("art_ext.process", gone)
    tracker.run_killed()
    assert found(store, runs)["open runs"].status == "ok", "it has ended"

    from mlflow import MlflowClient

    MlflowClient(store.uri).update_run(tracker.run_id, status="RUNNING")  # as kill -9 leaves it
    position = Position.load(runs / "one")
    assert position is not None
    position.process, position.status, position.ended = gone, None, False
    position.save(runs / "one")
    lines = found(store, runs)
    assert lines["run not sent"].mend == f"art-ext sync {runs / 'one'}"
    assert "the status KILLED" in lines["run not sent"].sentence
    assert f"art-ext sync runs:/{tracker.run_id}" in lines["open run"].mend
    with pytest.raises(SystemExit) as stop:
        main(["sync", f"runs:/{tracker.run_id}", "--tracking-uri", store.uri])
    assert not stop.value.code
    assert MlflowClient(store.uri).get_run(tracker.run_id).info.status == "KILLED"


@pytest.mark.slow
def test_the_command_says_it_as_json_and_exits_1_where_something_is_red(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:9")
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--json"])
    assert stop.value.code == 1
    said = capsys.readouterr().out
    lines = {line["what"]: line for line in json.loads(said)}
    assert lines["tracking"]["status"] == "red"
    assert lines["torch"]["status"] == "ok"
    assert "hunter2" not in said
