"""Sends a run to MLflow from a thread of its own, so that a slow or dead server costs training nothing.

What has to be sent lies in files (the journal, the attached files), never only in memory. The
thread reads the journal from the position it has reached, sends, and notes the new position in
`uploaded.json`. Whatever fails for want of a connection is tried again later, in the same order.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from art_ext.engine.journal import Entry, read_from

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

__all__ = ["POSITION", "Opening", "Position", "Uploader", "clean_name", "impatient", "one_line", "quiet"]

POSITION = "uploaded.json"

_METRICS_A_BATCH = 1000  # MLflow's own limits
_PARAMS_A_BATCH = 100
_NAME_LENGTH = 250
_INTERVAL = 2.0  # seconds in which short epochs gather: a batch costs 0.3 s of Python on sqlite
_PAUSES = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
_TOKEN = "art_ext.token"

_log = logging.getLogger("art_ext.border.mlflow")

T = TypeVar("T")


# ------------------------------------------------------------------------------------ names


def clean_name(name: str, taken: frozenset[str] | set[str] = frozenset()) -> str:
    """A name in MLflow's alphabet: letters, digits, `_ - . space /`, and no empty or dotted path part.

    Args:
        taken: names in use; a clash gets a number.
    """
    kept = "".join(c if (c.isascii() and c.isalnum()) or c in "_-. /" else "_" for c in name)
    parts = [part for part in kept.split("/") if part not in ("", ".", "..")]
    cleaned = "/".join(parts)[:_NAME_LENGTH].rstrip("/") or "_"
    free, number = cleaned, 2
    while free in taken:
        free = f"{cleaned[: _NAME_LENGTH - 5]}_{number}"
        number += 1
    return free


def cleaned_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same mapping with clean names; those that are clean already keep theirs."""
    exact = {name for name in values if clean_name(name) == name}
    result = {name: values[name] for name in values if name in exact}
    for name in sorted(set(values) - exact):
        result[clean_name(name, set(result))] = values[name]
    return result


def one_line(error: BaseException) -> str:
    """An error as a short clause."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (first or type(error).__name__)[:160]


def root_cause(error: BaseException) -> str:
    """What lies below the layers of an HTTP client: "Connection refused" rather than its wrapping."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return one_line(error)


# --------------------------------------------------------------- MLflow's manners, for a while

_patience_lock = threading.Lock()
_patience: list[tuple[int, int]] = []
_ours: set[str] = set()


@contextmanager
def impatient(timeout: int, retries: int) -> Iterator[None]:
    """Short timeouts for MLflow's requests, and nothing printed, while it holds; what the user set stays.

    MLflow takes them from environment variables only, and its defaults block for 4 to 20 minutes.
    Where several hold at once, the most patient one counts.
    """
    _set_patience(add=(timeout, retries))
    try:
        yield
    finally:
        _set_patience(drop=(timeout, retries))


def _set_patience(add: tuple[int, int] | None = None, drop: tuple[int, int] | None = None) -> None:
    with _patience_lock:
        if add is not None:
            _patience.append(add)
        if drop is not None:
            _patience.remove(drop)
        timeout = max((timeout for timeout, _ in _patience), default=None)
        retries = max((retries for _, retries in _patience), default=None)
        for name, value in (
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", timeout),
            ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", retries),
            ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false" if _patience else None),
            ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true" if _patience else None),
        ):
            if name in os.environ and name not in _ours:
                continue
            if value is None:
                os.environ.pop(name, None)
                _ours.discard(name)
            else:
                os.environ[name] = str(value)
                _ours.add(name)


class _OthersOnly(logging.Filter):
    """Drops records of one thread."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self.thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self.thread or record.levelno >= logging.ERROR


@contextmanager
def quiet() -> Iterator[None]:
    """Silences, for the calling thread, what libraries below MLflow say about retries and migrations."""
    mute = _OthersOnly(threading.get_ident())
    loggers = [
        logging.getLogger(name)
        for name in (
            "urllib3.connectionpool",
            "alembic.runtime.migration",
            "alembic.runtime.plugins",
            "mlflow.store.db.utils",
        )
    ]
    for logger in loggers:
        logger.addFilter(mute)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(mute)


# ----------------------------------------------------------------------------------- position


_saving = threading.Lock()  # the run's thread and the uploader's both save


@dataclass
class Position:
    """How far a run has been sent: what a later sync needs to send the rest, and only the rest.

    Attributes:
        tracking_uri: where to, without passwords.
        run_id: None until the run exists there.
        joined: the run belongs to somebody else, who ends it.
        opened: parameters, tags and data set were sent.
        offset: bytes of the journal that were sent.
        files: artifacts that were sent.
        status: what the run ended with, or None while it goes on.
        ended: the status was sent.
    """

    tracking_uri: str
    experiment: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str | None = None
    experiment_id: str | None = None
    joined: bool = False
    opened: bool = False
    offset: int = 0
    files: list[str] = field(default_factory=list)
    status: str | None = None
    ended: bool = False

    def save(self, folder: Path) -> None:
        """Replaces `uploaded.json` in one move, so that a crash leaves the old or the new one."""
        path = folder / POSITION
        with _saving:
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps({"schema": 1, **asdict(self)}, indent=1) + "\n")
            fresh.replace(path)

    @classmethod
    def load(cls, folder: Path) -> Position | None:
        """The position in a folder, or None without a readable one."""
        try:
            known = json.loads((folder / POSITION).read_text())
            known.pop("schema")
            return cls(**known)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(frozen=True)
class Opening:
    """What is sent once, when a run starts.

    Attributes:
        params: any length; the long ones have been moved to files before.
        dataset: name, digest, source_type, source, profile as MLflow's Dataset takes them, or None.
    """

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    dataset: Mapping[str, str] | None = None


# ----------------------------------------------------------------------------------- uploader


class Uploader:
    """The thread that brings a run's files to MLflow. Its methods never raise and never block for long.

    Args:
        uri: of the store or server.
        artifact_location: for an experiment that has to be created; None leaves it to the server.
        folder: where `uploaded.json` is kept.
        journal: the run's `metrics.jsonl`.
        timeout: seconds that one request may take.
    """

    def __init__(
        self,
        uri: str,
        position: Position,
        opening: Opening,
        folder: Path,
        journal: Path,
        artifact_location: str | None = None,
        timeout: int = 10,
    ) -> None:
        self.uri = uri
        self.position = position
        self.opening = opening
        self.folder = folder
        self.journal = journal
        self.artifact_location = artifact_location
        self.timeout = timeout
        self.model_id: str | None = None
        self._files: dict[str, Path] = {}
        self._tags: dict[str, str] = {}
        self._client: MlflowClient | None = None
        self._first_try = threading.Event()
        self._changed = threading.Condition()
        self._todo = False
        self._deadline: float | None = None
        self._thread: threading.Thread | None = None
        self._warned = False
        self._complete = False
        self._tried_before = False

    # -- called by the training thread

    def start(self, wait: float) -> None:
        """Starts sending; returns when the run exists, the first attempt failed, or after `wait` seconds."""
        self._ensure_thread()
        self.wake()
        self._first_try.wait(wait)
        if not self._first_try.is_set():
            self._warn(f"no answer in {wait:.0f} s")

    def wake(self) -> None:
        """There is more in the files."""
        with self._changed:
            self._todo = True
            self._complete = False
            self._changed.notify_all()

    def attach(self, name: str, path: Path) -> None:
        """Has a file sent as the artifact `name`; again when it was sent before."""
        with self._changed:
            self._files[name] = path
            if name in self.position.files:
                self.position.files.remove(name)
        self.wake()

    def tag(self, name: str, value: str) -> None:
        """Has a tag of the run set."""
        with self._changed:
            self._tags[name] = value
        self.wake()

    def flush(self, timeout: float) -> bool:
        """Waits for everything to be sent, no longer than `timeout` seconds; the thread ends."""
        with contextlib.suppress(OSError):
            self._save()  # the status too has to outlive a server that is gone
        self._ensure_thread()
        with self._changed:
            self._deadline = time.monotonic() + timeout
            self._todo = True
            self._complete = False
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return self._complete

    def unsent(self) -> int:
        """Journal lines that have not been sent."""
        try:
            return len(read_from(self.journal, self.position.offset)[0])
        except Exception:
            return 0

    # -- the thread

    def _ensure_thread(self) -> None:
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                self._deadline = None
                # a daemon: a request that hangs must not keep the process from ending
                self._thread = threading.Thread(target=self._loop, name="art_ext-mlflow", daemon=True)
                self._thread.start()

    def _loop(self) -> None:
        failures = 0
        last_chances = 2  # at the end; a server that is gone should not hold up the result
        pause = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._todo or self._deadline is not None)
                if self._deadline is None:
                    self._changed.wait_for(lambda: self._deadline is not None, timeout=pause)
                elif failures > 1:
                    self._changed.wait(timeout=0.5)
                self._todo = False
            try:
                with impatient(self.timeout, retries=0), quiet():
                    self._send_all()
                failures, pause = 0, _INTERVAL
                if self._warned:
                    self._warned = False
                    _log.info("MLflow answers again; everything was sent")
            except Exception as error:
                self._warn(root_cause(error))
                pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
                failures += 1
                with self._changed:
                    self._todo = True
                    last_chances -= self._deadline is not None
            self._first_try.set()
            with self._changed:
                if not self._todo:
                    self._complete = True
                closing = self._deadline is not None
                over = closing and (self._complete or last_chances <= 0 or time.monotonic() >= (self._deadline or 0))
            if over:
                return

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "MLflow at %s cannot be reached (%s); training goes on, and the metrics are kept in %s",
                self.position.tracking_uri,
                reason,
                self.journal,
            )

    def _send_all(self) -> None:
        if self._client is None:
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self.uri)
        self._send_run(self._client)
        run_id = self.position.run_id
        assert run_id is not None
        if not self.position.opened:
            self._send_opening(self._client, run_id)
            self.position.opened = True
            self._save()
        self._first_try.set()
        self._send_points(self._client, run_id)
        self._send_files(self._client, run_id)
        self._send_tags(self._client, run_id)
        self._send_status(self._client, run_id)

    def _send_run(self, client: MlflowClient) -> None:
        position = self.position
        if position.run_id is not None:
            if position.experiment_id is None or (not position.joined and not self._tried_before):
                run = client.get_run(position.run_id)
                position.experiment_id = run.info.experiment_id
                if not position.joined and run.info.status != "RUNNING" and not position.status:
                    client.update_run(position.run_id, status="RUNNING")
            self._tried_before = True
            return
        if position.experiment_id is None:
            position.experiment_id = self._experiment(client)
        # a request that timed out may have arrived: look before creating the run a second time
        found: Sequence[Any] = ()
        if self._tried_before:
            wanted = f"tags.`{_TOKEN}` = '{position.token}'"
            found = client.search_runs([position.experiment_id], filter_string=wanted, max_results=1)
        self._tried_before = True
        run = found[0] if found else client.create_run(
            position.experiment_id, run_name=self.opening.name, tags={_TOKEN: position.token, **self.opening.tags}
        )
        position.run_id = run.info.run_id
        self._save()

    def _experiment(self, client: MlflowClient) -> str:
        from mlflow.exceptions import MlflowException

        name = self.position.experiment
        known = client.get_experiment_by_name(name)
        if known is None:
            try:
                return client.create_experiment(name, artifact_location=self.artifact_location)
            except MlflowException:
                known = client.get_experiment_by_name(name)  # somebody else was faster
                if known is None:
                    raise
        if known.lifecycle_stage != "active":
            raise RuntimeError(f"the experiment {name} was deleted there; restore it, or name another one")
        return known.experiment_id

    def _send_opening(self, client: MlflowClient, run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        params = dict(self.opening.params)
        if self.position.joined:
            params = _beside(params, client.get_run(run_id).data.params)
        tags = [RunTag(key, value) for key, value in self.opening.tags.items()]
        for some in _chunks([Param(key, value) for key, value in params.items()], _PARAMS_A_BATCH):
            self._deliver("parameters", partial(client.log_batch, run_id, params=some))
        for more in _chunks(tags, _PARAMS_A_BATCH):
            self._deliver("tags", partial(client.log_batch, run_id, tags=more))
        if self.opening.dataset is not None:
            made = DatasetInput(
                Dataset(**self.opening.dataset), tags=[InputTag("mlflow.data.context", "training")]
            )
            self._deliver("the data set", partial(client.log_inputs, run_id, datasets=[made]))

    def _send_points(self, client: MlflowClient, run_id: str) -> None:
        if not self.journal.exists():
            return
        entries, end = read_from(self.journal, self.position.offset)
        points = [point for entry in entries for point in self._metrics(entry)]
        # sent twice is sent once: MLflow drops a point of equal name, step, time and value
        for some in _chunks(points, _METRICS_A_BATCH):
            self._deliver("metrics", partial(client.log_batch, run_id, metrics=some))
        if end != self.position.offset:
            self.position.offset = end
            self._save()

    def _metrics(self, entry: Entry) -> list[Metric]:
        from mlflow.entities import Metric

        model_id = self.model_id if entry.event == "end" else None
        return [
            Metric(name, value, round(entry.time * 1000), entry.epoch, model_id=model_id)
            for name, value in cleaned_keys(entry.metrics).items()
        ]

    def _send_files(self, client: MlflowClient, run_id: str) -> None:
        with self._changed:
            waiting = {name: path for name, path in self._files.items() if name not in self.position.files}
        for name, path in waiting.items():
            parent, _, _ = name.rpartition("/")
            self._deliver(f"the file {name}", partial(client.log_artifact, run_id, str(path), parent or None))
            with self._changed:
                if self._files[name] is path:
                    self.position.files.append(name)
            self._save()

    def _send_tags(self, client: MlflowClient, run_id: str) -> None:
        with self._changed:
            waiting = dict(self._tags)
        for name, value in waiting.items():
            self._deliver(f"the tag {name}", partial(client.set_tag, run_id, name, value))
            with self._changed:
                if self._tags.get(name) == value:
                    del self._tags[name]

    def _send_status(self, client: MlflowClient, run_id: str) -> None:
        position = self.position
        if position.status is None or position.ended:
            return
        if not position.joined:
            self._deliver("the status", partial(client.set_terminated, run_id, status=position.status))
        position.ended = True
        self._save()

    def _deliver(self, what: str, send: Callable[[], object]) -> None:
        """Sends one thing. What MLflow refuses is named and left behind; what did not arrive raises."""
        from mlflow.exceptions import MlflowException

        try:
            send()
        except MlflowException as error:
            answer: Any = error
            status = answer.get_http_status_code()
            if not 400 <= status < 500 or status in (401, 403, 408, 429):
                raise
            _log.warning("MLflow refused %s of the run %s (%s)", what, self.opening.name, one_line(error))

    def _save(self) -> None:
        self.position.save(self.folder)


def _beside(params: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Parameters for a run that has some already; MLflow never lets a value change, so those get a new name."""
    result: dict[str, str] = {}
    for key, value in params.items():
        name, number = key, 2
        while known.get(name, value) != value:
            name, number = f"{key[: _NAME_LENGTH - 5]}.{number}", number + 1
        result[name] = value
    return result


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
