"""Clients of MLflow's stores: a database in a file is made once, however many begin at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from art_ext.border.mlflow_outbox import Position

_RUN = """
import sys
from pathlib import Path
from art_ext.border.mlflow import MLflowTracker, Tracking
from art_ext.engine.observe import RunInfo
tracker = MLflowTracker(Tracking(sys.argv[1]), "exp")
sys.stdin.readline()
tracker.run_start(RunInfo("a run", role="hardened", folder=Path(sys.argv[2])))
tracker.run_end({"accuracy": 0.5})
"""


@pytest.mark.slow
def test_runs_that_make_the_database_at_once_all_arrive(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    folders = [tmp_path / str(number) for number in range(3)]
    runs = [
        subprocess.Popen([sys.executable, "-c", _RUN, uri, str(folder)], stdin=subprocess.PIPE, text=True)
        for folder in folders
    ]
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.close()
    assert [run.wait(300) for run in runs] == [0, 0, 0]
    positions = [Position.load(folder) for folder in folders]
    assert all(position is not None and position.ended for position in positions)
    client = MlflowClient(tracking_uri=uri)
    for position in positions:
        assert position is not None
        assert position.run_id is not None
        assert client.get_run(position.run_id).data.metrics["accuracy"] == 0.5
