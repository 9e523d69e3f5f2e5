"""docs/enterprise.md as a new team would follow it: its commands, in an empty folder, against a real server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from mlflow_servers import NO_JOBS, free_port

from art_ext.border.mlflow_outbox import Position
from art_ext.engine.journal import read_journal

PAGE = Path(__file__).parents[2] / "docs" / "enterprise.md"


def commands(port: int) -> str:
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 9
    # job control, as in a shell that somebody types into: a background job is a process group
    head = "set -e -u -o pipefail -m\ntrap 'kill -9 -- -$SERVER' EXIT\n"
    return head + "\n".join(blocks).replace("5055", str(port)).replace("python <<", f"{sys.executable} <<")


@pytest.mark.slow
def test_the_walk_through_the_page_succeeds(tmp_path: Path, migrated: Path) -> None:
    from mlflow import MlflowClient

    shutil.copy(migrated, tmp_path / "server.db")  # the tables, which take a server long to make
    (tmp_path / "walk.sh").write_text(commands(free_port()))
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
        **NO_JOBS,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "ART_EXT_PLUGIN_SECONDS": "600",  # on a machine that is busy with other tests
        "DO_NOT_TRACK": "true",
    }
    done = subprocess.Popen(
        ["bash", "walk.sh"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = done.communicate(timeout=2400)
    finally:
        if done.poll() is None:
            os.killpg(done.pid, signal.SIGTERM)
    assert done.returncode == 0, out[-3000:] + err[-3000:]
    assert "Traceback" not in out + err

    client = MlflowClient(f"sqlite:///{tmp_path}/server.db")
    champion = client.get_model_version_by_alias("digits", "champion")
    assert str(champion.version) == "2"
    assert client.get_registered_model("digits").tags["art_ext.previous.champion"] == "1"
    assert str(client.get_model_version_by_alias("digits", "challenger").version) == "3"
    assert champion.tags["art_ext.gate"] == "passed"
    assert champion.description.startswith("# Robustness card: digits")
    assert {case.get("name") for case in ElementTree.parse(tmp_path / "gate" / "gate.xml").iter("testcase")} >= {
        "same_model",
        "trust",
        "robust_accuracy.below_champion",
    }
    assert not list(ElementTree.parse(tmp_path / "gate" / "gate.xml").iter("failure"))
    figures = dict(re.findall(r"^(clean|ART's PGD): ([0-9.]+)$", out, re.MULTILINE))
    clean, attacked = float(figures["clean"]), float(figures["ART's PGD"])
    assert clean > 0.8
    assert 0.2 < attacked < clean

    # the run whose server was killed: all of it is there, once
    outage = tmp_path / "runs" / "outage"
    places = [outage, outage / "undefended", outage / "hardened"]
    positions = [Position.load(place) for place in (*places, outage / "evaluation" / "hardened")]
    runs = [client.get_run(position.run_id) for position in positions if position is not None]
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs[1:]} == {runs[0].info.run_id}
    for place, run in zip(places[1:], runs[1:3], strict=True):
        epochs = [entry.epoch for entry in read_journal(place / "metrics.jsonl") if entry.event == "epoch"]
        points = client.get_metric_history(run.info.run_id, "train/loss")
        assert sorted(point.step for point in points) == epochs
    (logged,) = runs[2].outputs.model_outputs
    model = client.get_logged_model(logged.model_id)
    assert "evaluate/worst_case/accuracy" in {metric.key for metric in model.metrics}
    assert len(client.search_model_versions("name = 'digits'")) == 3
    left = client.search_runs([runs[0].info.experiment_id], "attributes.status = 'RUNNING'")
    assert left == []
