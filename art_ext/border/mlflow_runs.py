"""Runs in MLflow, looked at from outside: does the server answer, which runs were left open, what does a run hold."""

from __future__ import annotations

import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from art_ext.border.mlflow_manners import impatient, one_line, quiet
from art_ext.border.mlflow_outbox import is_running
from art_ext.border.mlflow_store import client_of
from art_ext.border.mlflow_where import Tracking
from art_ext.errors import ConfigError, ModelError, did_you_mean
from art_ext.secrets import masked

__all__ = ["TrackedRun", "artifact", "complaint", "end_run", "evaluations_of", "find_run", "open_runs", "runs_of"]

_SECONDS = 30
_PAGE = 1000


@dataclass(frozen=True)
class TrackedRun:
    """A run as MLflow has it."""

    run_id: str
    name: str
    status: str
    experiment: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]

    @property
    def parent(self) -> str | None:
        return self.tags.get("mlflow.parentRunId")

    @property
    def role(self) -> str:
        return self.tags.get("art_ext.role", "")

    @property
    def left_open(self) -> bool:
        """RUNNING there, while the process that began it, on this machine, has ended."""
        return self.status == "RUNNING" and is_running(self.tags.get("art_ext.process", "")) is False


def complaint(tracking: Tracking, seconds: float = 3.0) -> str | None:
    """Why a server does not serve, in a few words; None where it answers within that time, and for a local store."""
    if not tracking.is_server:
        return None
    parts = urlsplit(tracking.uri)
    plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    try:
        with urllib.request.urlopen(f"{plain}/health", timeout=seconds):
            pass
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            return f"it answers {error.code} {error.reason}"
    except OSError as error:
        reason = getattr(error, "reason", error)
        return f"no answer within {seconds:g} s" if isinstance(reason, TimeoutError) else masked(one_line(reason))
    try:  # what /health says needs no password
        with impatient(max(1, int(seconds)), retries=0), quiet():
            client_of(tracking.uri).search_experiments(max_results=1)
    except Exception as error:
        return masked(one_line(error))
    return None


def open_runs(tracking: Tracking) -> list[TrackedRun]:
    """Runs that this machine began and that were left RUNNING when their process ended."""
    with _asking("the runs"):
        client = client_of(tracking.uri)
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(ids, "attributes.status = 'RUNNING'", max_results=_PAGE) if ids else []
        return [run for run in map(_run, found) if run.left_open]


def find_run(uri: str, run_id: str) -> TrackedRun:
    """The run of that id.

    Raises:
        ModelError: where there is none, or the server cannot be asked.
    """
    with _asking(f"the run {run_id}"):
        return _run(client_of(uri).get_run(run_id))


def end_run(uri: str, run_id: str, status: str = "KILLED") -> None:
    """Sets the status of a run that ended without saying so."""
    with _asking(f"the run {run_id}"):
        client_of(uri).set_terminated(run_id, status=status)


def runs_of(uri: str, experiment: str) -> list[TrackedRun]:
    """The runs of an experiment, the latest first.

    Raises:
        ConfigError: where there is no such experiment.
        ModelError: where the server cannot be asked.
    """
    with _asking(f"the experiment {experiment}"):
        client = client_of(uri)
        known = client.get_experiment_by_name(experiment)
        if known is not None:
            return [_run(run) for run in client.search_runs([known.experiment_id], max_results=_PAGE)]
        names = [item.name for item in client.search_experiments(max_results=_PAGE)]
    raise ConfigError(f"{experiment!r} is neither a run folder nor an experiment; {did_you_mean(experiment, names)}")


def evaluations_of(uri: str, digest: str) -> list[TrackedRun]:
    """Runs that hold an evaluation of the network of that digest, the latest first."""
    with _asking("the evaluations"):
        client = client_of(uri)
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        wanted = f"tags.`art_ext.evaluates` = '{digest}'"
        return [_run(run) for run in client.search_runs(ids, wanted, max_results=10)] if ids else []


@contextmanager
def artifact(uri: str, run_id: str, folder: str) -> Iterator[Path | None]:
    """A folder of a run's artifacts, downloaded for a while; None where the run has none of that name.

    Raises:
        ModelError: where it cannot be downloaded.
    """
    if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts:
        raise ConfigError(f"an artifact cannot be named {folder!r}; use a relative path without '..'")
    with tempfile.TemporaryDirectory(prefix="art_ext-artifact-") as place:
        with _asking(f"the artifacts of the run {run_id}"):
            client = client_of(uri)
            held = bool(client.list_artifacts(run_id, folder))
            path = Path(client.download_artifacts(run_id, folder, place)) if held else None
        yield path


def _run(run: Any) -> TrackedRun:
    data = run.data
    name = run.info.run_name or run.info.run_id
    return TrackedRun(
        run.info.run_id, name, run.info.status, run.info.experiment_id, data.metrics, data.params, data.tags
    )


@contextmanager
def _asking(what: str) -> Iterator[None]:
    with impatient(_SECONDS, retries=1), quiet():
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            raise ModelError(f"cannot ask MLflow for {what} ({masked(one_line(error))})") from None
