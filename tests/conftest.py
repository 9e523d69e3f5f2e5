"""One thread, one migrated MLflow database and one MLflow server for all tests.

The tensors are tiny, and threads only get in the way, here and in the processes that tests start.
Creating MLflow's tables takes seconds, so tests copy a database; a server takes longer still.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from mlflow_servers import Server, Way

if TYPE_CHECKING:
    from art_ext.border.mlflow import Tracking

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def logging_stays_on() -> Iterator[None]:
    """What a benchmark under test silences does not stay silent for the tests after it."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def nobody_sends() -> None:
    """The senders of earlier tests have ended: HTTP clients draw their pauses from Python's global generator.

    A test that ends as a crash does leaves a sender that waits for more until the process ends.
    """
    senders = [thread for thread in threading.enumerate() if thread.name == "art_ext-mlflow"]
    for thread in senders:
        if (loop := vars(thread).get("_target")) is not None:
            loop.__self__.flush(0)
    for thread in senders:
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # the place of the default experiment's artifacts is written down now
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(tmp_path: Path, migrated: Path) -> Tracking:
    """A fresh sqlite store."""
    from art_ext.border.mlflow import resolve_tracking

    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(migrated, project / "mlflow.db")
    return resolve_tracking(None, project)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Server]:
    """One server for all tests, gone when they are; a test that ends one starts its own."""
    started = Server(tmp_path_factory.mktemp("server"), migrated)
    try:
        started.wait()
        yield started
    finally:
        started.kill()


@pytest.fixture
def way(server: Server) -> Iterator[Way]:
    """A way to the server that can fail."""
    made = Way(server.port)
    try:
        yield made
    finally:
        made.close()
