"""MLflow at the border: the observer that tracks runs.

MLflow is imported when a run starts, not before: it takes seconds. Only its client is used, never
the "active run" of the process, except that a run which the user has opened may be joined.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import yaml
from torch import Tensor, nn

from art_ext.border.mlflow_manners import one_line
from art_ext.border.mlflow_models import load_model, save_model
from art_ext.border.mlflow_names import clean_name
from art_ext.border.mlflow_opening import dataset_of, environment, params_of, plain, tags_of
from art_ext.border.mlflow_outbox import ARTIFACTS, MODEL, Opening, Position, Registration
from art_ext.border.mlflow_upload import Uploader
from art_ext.border.mlflow_where import Tracking, resolve_tracking
from art_ext.engine.journal import FILE, Journal
from art_ext.engine.observe import EpochReport, Observer, RunInfo
from art_ext.errors import ConfigError
from art_ext.secrets import masked, masked_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "MLflowTracker",
    "Registration",
    "Tracking",
    "clean_name",
    "environment",
    "load_model",
    "resolve_tracking",
    "save_model",
]

_START_WAIT = 3.0  # seconds that a server may take to answer before training starts without it
_LOCAL_START_WAIT = 90.0  # creating the tables takes 6 s here, and much longer on a busy machine
_MODEL_WAIT = 60.0
_END_WAIT = 30.0
_FAILED_WAIT = 10.0
_KILLED_WAIT = 3.0
_TABLES_TAG = "mlflow.loggedArtifacts"

_log = logging.getLogger(__name__)


class MLflowTracker(Observer):
    """Tracks a run in MLflow: parameters, data set, metrics an epoch, files, network, status; on rank 0.

    Everything is written to the run's folder first (`mlflow_outbox`) and sent from there by a
    thread (`mlflow_upload`), so no event waits for a server longer than the start (3 s), the
    network (60 s) and the end (30 s). What could not be sent stays in the folder for `art-ext sync`;
    a run that goes on in the same folder goes on in MLflow too.

    Args:
        tracking: of `resolve_tracking`.
        experiment: its name; None takes MLFLOW_EXPERIMENT_NAME, else "art_ext".
        journal: the run's `Journal` when it is an observer of its own, placed before this one in
            the list; without it the tracker writes the journal itself.
        parent_run_id: makes the run a child of another; `RunInfo.parent` does that for one that may
            not be there yet.
        join_active: logs into the run that the user has open in this thread, if there is one, and
            leaves its end to the user.
        nested: makes the run a child of the user's open run instead, if there is one.
        model_of: folder of the run whose network the final metrics are about, where it is another.
        artifacts: further files to attach at the start, by their name in the run.
        device: what the run trains on, for `environment.json`.
    """

    def __init__(
        self,
        tracking: Tracking,
        experiment: str | None = None,
        *,
        journal: Journal | None = None,
        parent_run_id: str | None = None,
        join_active: bool = False,
        nested: bool = False,
        model_of: Path | None = None,
        artifacts: Mapping[str, Path] | None = None,
        device: str | None = None,
    ) -> None:
        self.tracking = self._own_tracking = tracking
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "art_ext"
        self.parent_run_id = parent_run_id
        self.join_active = join_active
        self.nested = nested
        self.model_of = model_of
        self.artifacts = dict(artifacts or {})
        self.device = device
        self._given_journal = journal
        self._own_journal: Journal | None = None
        self._uploader: Uploader | None = None
        self._opening = Opening("", {}, {})
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._folder = Path()
        self._tables: list[str] = []
        self._over = False

    # -- what a caller may want to know

    @property
    def run_id(self) -> str | None:
        """None before the start, on other ranks, and while the server has not answered."""
        return None if self._uploader is None else self._uploader.position.run_id

    @property
    def experiment_id(self) -> str | None:
        return None if self._uploader is None else self._uploader.position.experiment_id

    @property
    def version(self) -> str | None:
        """Of the registered model, once it is registered."""
        return None if self._uploader is None else self._uploader.position.version

    def describe(self) -> str:
        """One line: where this run is tracked, and its page when there is one."""
        if self.run_id and self.experiment_id and self.tracking.is_server:
            return f"{self.tracking.describe()}, run {self.tracking.run_url(self.experiment_id, self.run_id)}"
        return self.tracking.describe() + (f", run {self.run_id}" if self.run_id else "")

    @classmethod
    def reopened(cls, tracking: Tracking, folder: Path) -> MLflowTracker | None:
        """The tracker of a run that is over, to attach more or to register its network; `close` sends that.

        None where the folder holds no tracked run.
        """
        position, opening = Position.load(folder), Opening.load(folder)
        if position is None or opening is None:
            return None
        tracker = cls(tracking, position.experiment)
        tracker._folder, tracker._opening = folder, opening
        tracker._uploader = Uploader(tracking.uri, folder, position)
        return tracker

    def close(self) -> bool:
        """Sends what was added to a run that is over; False where something stays in the folder."""
        assert self._uploader is not None
        return self._finish(self._uploader.position.status, _END_WAIT)

    # -- events

    def run_start(self, info: RunInfo) -> None:
        if info.rank != 0:
            return
        import mlflow  # here, not in the thread: a second import at the same time would wait for it

        self._over, self._tables, self.tracking = False, [], self._own_tracking
        if info.folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="art_ext-run-", ignore_cleanup_errors=True)
            self._folder = Path(self._temporary.name)
        else:
            self._folder = Path(info.folder)
        journal = self._given_journal
        if journal is None:
            journal = self._own_journal = Journal(self._folder)
            journal.run_start(info)

        active = mlflow.active_run() if self.join_active or self.nested else None
        joined = active is not None and self.join_active
        parent = self.parent_run_id
        if active is not None:
            self.tracking = Tracking(mlflow.get_tracking_uri())
            parent = parent if joined else parent or active.info.run_id
        position = self._position(journal)
        if active is not None:
            position.experiment_id = active.info.experiment_id
        if active is not None and joined:
            position.run_id, position.joined = active.info.run_id, True
        params, long = params_of(masked_data(info.params))
        self._opening = Opening(
            masked(info.name),
            params,
            masked_data(tags_of(info, parent, position.process)),
            dataset_of(masked_data(info.data)),
            "evaluation" if info.role == "evaluation" else "training",
            parent=None if info.parent is None else os.path.relpath(info.parent, self._folder),
            model_of=None if self.model_of is None else os.path.relpath(self.model_of, self._folder),
        )
        before = Opening.load(self._folder)
        if position.asked and before is not None:  # a run that goes on was begun by another command
            later = {**before.later, "art_ext.process": position.process}
            self._opening = replace(
                self._opening, tags=before.tags, later=later, registration=before.registration
            )
        self._keep(lambda: self._opening.save(self._folder))
        self._keep(lambda: position.save(self._folder))
        self._uploader = Uploader(self.tracking.uri, self._folder, position)
        for name, text in long.items():
            self.attach_text(f"params/{name}.txt", text)
        self.attach_dict("recipe.yaml", info.recipe)
        self.attach_dict(
            "plan.json", [{"slot": slot, "part": part, "owner": owner} for slot, part, owner in info.plan]
        )
        self.attach_dict("environment.json", environment(self.device))
        for name, path in self.artifacts.items():
            self.attach_file(name, path)
        self._uploader.start(wait=_LOCAL_START_WAIT if self.tracking.is_local else _START_WAIT)

    def epoch_end(self, report: EpochReport) -> None:
        if self._own_journal is not None:
            self._own_journal.epoch_end(report)
        if self._uploader is not None:
            self._uploader.wake()

    def run_end(self, metrics: Mapping[str, float]) -> None:
        if self._own_journal is not None:
            self._own_journal.run_end(metrics)
        self._finish("FINISHED", _END_WAIT)

    def run_failed(self, error: BaseException) -> None:
        if self._own_journal is not None:
            self._own_journal.run_failed(error)
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        if self._uploader is not None and not stopped:
            self.attach_text("error.txt", f"{type(error).__name__}: {error}\n")
        self._finish("KILLED" if stopped else "FAILED", _FAILED_WAIT)

    def run_killed(self) -> None:
        if self._own_journal is not None:
            self._own_journal.run_killed()
        self._finish("KILLED", _KILLED_WAIT)

    # -- files

    def attach_text(self, name: str, text: str) -> None:
        """Attaches a text file; like all `attach_...`, from the start of the run to after its end."""
        self._attach(name, masked(text).encode())

    def attach_dict(self, name: str, data: Any) -> None:
        """Attaches data as YAML or JSON, by the name's ending."""
        values = masked_data(plain(data))
        if name.endswith((".yaml", ".yml")):
            self.attach_text(name, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        else:
            self.attach_text(name, json.dumps(values, indent=1) + "\n")

    def attach_table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Attaches a table, name.json, in the form that MLflow's pages show and `load_table` reads."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self.attach_dict(name, {"columns": list(columns), "data": rows})
        self._tables.append(name)
        self.tag(_TABLES_TAG, json.dumps([{"path": table, "type": "table"} for table in self._tables]))

    def attach_figure(self, name: str, figure: Figure) -> None:
        """Attaches a matplotlib figure as a picture, in the format of the name's ending."""
        picture = io.BytesIO()
        figure.savefig(picture, format=name.rpartition(".")[2], bbox_inches="tight")
        self._attach(name, picture.getvalue())

    def attach_file(self, name: str, path: Path) -> None:
        """Attaches a copy of a file as it is now."""
        self._attach(name, Path(path).read_bytes())

    def tag(self, name: str, value: str) -> None:
        """Sets a tag of the run."""
        self._open(self._opening.tagged(name, masked(value)))

    def register(self, wanted: Registration) -> None:
        """Has the run's network registered, once it is there; also after the end of the run."""
        self._open(replace(self._opening, registration=wanted))

    def log_model(
        self,
        model: nn.Module,
        architecture: Mapping[str, Any] | None,
        example: npt.NDArray[Any],
        recipe: Mapping[str, Any] | None = None,
        detectors: Mapping[str, Tensor] | None = None,
        earlier: Sequence[Any] = (),
    ) -> str | None:
        """Logs a network with this run, best before `run_end`, whose metrics are then tied to it.

        Returns:
            Its address `models:/m-...`, or None while it is not there: one line says so, and the
            network is in the run's folder, where `load_model` and `art-ext sync` find it.
        """
        if self._uploader is None:
            return None
        place = self._folder / MODEL
        try:
            save_model(place, model, architecture, example, masked_data(recipe or {}), detectors, earlier)
        except Exception as error:  # an odd network, a full disk: neither may cost the trained weights in memory
            _log.warning("the model could not be logged (%s)", one_line(error))
            return None
        if not self._uploader.flush(_MODEL_WAIT) or self._uploader.position.model_id is None:
            _log.warning("the model is not in MLflow yet; it is in %s", place)
            self._keep_folder()
            return None
        return f"models:/{self._uploader.position.model_id}"

    # -- inside

    def _open(self, opening: Opening) -> None:
        if self._uploader is None:
            return
        self._opening = opening
        self._keep(lambda: opening.save(self._folder))
        self._sent_again()

    def _attach(self, name: str, content: bytes) -> None:
        if self._uploader is None:
            return
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or not parts.name:
            raise ConfigError(f"an artifact cannot be named {name!r}; use a relative path without '..'")
        file = self._folder / ARTIFACTS / parts

        def write() -> None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

        if self._keep(write):
            self._sent_again()

    def _sent_again(self) -> None:
        assert self._uploader is not None
        self._uploader.wake()
        if self._over:
            self._uploader.flush(_FAILED_WAIT)

    def _keep(self, write: Callable[[], object]) -> bool:
        try:
            write()
        except OSError as error:
            _log.warning("cannot write %s (%s); the run goes on without it", self._folder, error.strerror)
            return False
        return True

    def _position(self, journal: Journal) -> Position:
        """Where an interrupted run in this folder stopped, or the beginning of a new one."""
        fresh = Position(self.tracking.shown, self.experiment, self.tracking.artifacts)
        known = Position.load(self._folder)
        if known and not known.joined and known.status != "FINISHED" and known.tracking_uri == self.tracking.shown:
            known.status, known.ended, known.process = None, False, fresh.process
            return known
        fresh.offset = journal.path.stat().st_size if journal.path.exists() else 0
        return fresh

    def _finish(self, status: str | None, wait: float) -> bool:
        uploader, self._own_journal, self._over = self._uploader, None, True
        if uploader is None:
            return True
        uploader.position.status = status
        sent = uploader.flush(wait)
        if not sent:
            self._keep_folder()
            _log.warning(
                "%d lines of %s were not sent to MLflow at %s; send them with: art-ext sync %s",
                uploader.unsent(),
                self._folder / FILE,
                self.tracking.shown,
                self._folder,
            )
        return sent

    def _keep_folder(self) -> None:
        """A temporary folder becomes a lasting one, when it holds what MLflow does not have."""
        if self._temporary is not None:
            self._temporary._finalizer.detach()  # type: ignore[attr-defined]
            self._temporary = None
