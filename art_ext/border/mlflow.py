"""MLflow at the border: where runs are tracked, and the observer that tracks them.

MLflow is imported when a run starts, not before: it takes seconds. Only its client is used, never
the "active run" of the process, except that a run which the user has opened may be joined.
"""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch import nn

from art_ext.border import mlflow_models
from art_ext.border.mlflow_models import load_model, log_model, save_model
from art_ext.border.mlflow_upload import Opening, Position, Uploader, clean_name, cleaned_keys, one_line
from art_ext.engine.journal import FILE, Journal
from art_ext.engine.observe import EpochReport, Observer, RunInfo
from art_ext.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "MLflowTracker",
    "Tracking",
    "clean_name",
    "environment",
    "load_model",
    "log_model",
    "resolve_tracking",
    "save_model",
    "tracker_for_trainers",
]

_LONGEST_PARAM = 6000
_LONGEST_TAG = 5000
_LONGEST_DIGEST = 36
_START_WAIT = 12.0  # seconds: one request that hangs, and a little
_LOCAL_START_WAIT = 90.0  # creating the tables takes 6 s here, and much longer on a busy machine
_END_WAIT = 30.0
_FAILED_WAIT = 10.0
_TABLES_TAG = "mlflow.loggedArtifacts"

_log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------- where


@dataclass(frozen=True)
class Tracking:
    """Where runs are tracked.

    Attributes:
        uri: a server's or a store's address.
        artifacts: where the artifacts of new experiments go, as a file address; None for a server,
            which decides that itself.
    """

    uri: str
    artifacts: str | None = None

    @property
    def is_server(self) -> bool:
        return self.uri.startswith(("http://", "https://"))

    @property
    def is_local(self) -> bool:
        """Nothing on a network can keep it from answering."""
        return self.uri.startswith(("sqlite:", "file:"))

    @property
    def shown(self) -> str:
        """The address without a user's name and password."""
        parts = urlsplit(self.uri)
        if "@" not in parts.netloc:
            return self.uri
        return urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}"))

    def describe(self) -> str:
        """One line that says where runs go."""
        if self.is_server:
            return f"MLflow server {self.shown}"
        beside = f", artifacts in {_path_of(self.artifacts)}" if self.artifacts else ""
        return f"MLflow store {self.shown}{beside}"

    def ui_command(self) -> str:
        """The exact line that opens MLflow's pages on these runs; for a server, its address."""
        if self.is_server:
            return self.shown.rstrip("/")
        return f"{_mlflow_command()} ui --backend-store-uri {shlex.quote(self.shown)} --port 5000"

    def run_url(self, experiment_id: str, run_id: str) -> str:
        """The page of a run: on the server, or where `ui_command` shows it."""
        base = self.shown.rstrip("/") if self.is_server else "http://127.0.0.1:5000"
        return f"{base}/#/experiments/{experiment_id}/runs/{run_id}"


def _mlflow_command() -> str:
    """How this shell can call the mlflow of this environment, which may not be the one on its path."""
    beside = Path(sys.executable).parent / "mlflow"
    found = shutil.which("mlflow")
    if found is not None and Path(found) == beside:
        return "mlflow"
    here = Path.cwd()
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))


def resolve_tracking(uri: str | None, project: Path) -> Tracking:
    """The address given, else MLFLOW_TRACKING_URI, else a store in the project's folder.

    The default is stated in full, since MLflow's own depends on the working folder and on whether
    there happens to be an `./mlruns` in it.

    Raises:
        ConfigError: for a plain folder or another address that MLflow no longer writes to.
    """
    given = uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    if given is None:
        return _sqlite(Path(project).expanduser().resolve() / "mlflow.db")
    scheme = urlsplit(given).scheme
    if scheme == "sqlite":
        name = given.removeprefix("sqlite:///")
        if name == given or name in ("", ":memory:"):
            raise ConfigError(f"the tracking address {given} names no file; write sqlite:////absolute/path/mlflow.db")
        return _sqlite(Path(name).resolve())
    if scheme in ("", "file") or len(scheme) == 1:  # one letter: a drive
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
            folder = Path(_path_of(given)).resolve()
            return Tracking(folder.as_uri())
        raise ConfigError(
            f"MLflow no longer tracks runs in a folder such as {given}; "
            "use sqlite:////absolute/path/mlflow.db or a server's http:// address"
        )
    if "://" not in given and not given.startswith("databricks"):
        raise ConfigError(f"the tracking address {given!r} is none; use sqlite:////path/mlflow.db or http://host:port")
    return Tracking(given)


def _sqlite(database: Path) -> Tracking:
    return Tracking(f"sqlite:///{database.as_posix()}", artifacts=(database.parent / "mlartifacts").as_uri())


def _path_of(address: str | None) -> str:
    from urllib.request import url2pathname

    parts = urlsplit(address or "")
    return url2pathname(parts.path) if parts.scheme == "file" else str(address)


# -------------------------------------------------------------------------------------- tracker


class MLflowTracker(Observer):
    """Tracks a run in MLflow: parameters, data set, metrics an epoch, files, status; on rank 0.

    Everything is written to the run's folder first and sent from there by a thread
    (`mlflow_upload`), so no event waits for a server longer than the start (12 s) and the end
    (30 s). What could not be sent stays in the folder, with `uploaded.json` saying how far it got;
    a run that goes on in the same folder goes on in MLflow too.

    Args:
        tracking: of `resolve_tracking`.
        experiment: its name; None takes MLFLOW_EXPERIMENT_NAME, else "art_ext".
        journal: the run's `Journal` when it is an observer of its own, placed before this one in
            the list; without it the tracker writes the journal itself.
        parent_run_id: makes the run a child of another.
        join_active: logs into the run that the user has open in this thread, if there is one, and
            leaves its end to the user.
        nested: makes the run a child of the user's open run instead, if there is one.
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
        artifacts: Mapping[str, Path] | None = None,
        device: str | None = None,
    ) -> None:
        self.tracking = self._own_tracking = tracking
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "art_ext"
        self.parent_run_id = parent_run_id
        self.join_active = join_active
        self.nested = nested
        self.artifacts = dict(artifacts or {})
        self.device = device
        self._given_journal = journal
        self._own_journal: Journal | None = None
        self._uploader: Uploader | None = None
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

    def describe(self) -> str:
        """One line: where this run is tracked, and its page when there is one."""
        if self.run_id and self.experiment_id and self.tracking.is_server:
            return f"{self.tracking.describe()}, run {self.tracking.run_url(self.experiment_id, self.run_id)}"
        return self.tracking.describe() + (f", run {self.run_id}" if self.run_id else "")

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
        if active is not None and joined:
            self.tracking = Tracking(mlflow.get_tracking_uri())
        elif active is not None and parent is None:
            parent = active.info.run_id
        position = self._position(journal)
        if active is not None and joined:
            position.run_id, position.experiment_id = active.info.run_id, active.info.experiment_id
            position.joined = True
        params, long = _params(info.params)
        self._uploader = Uploader(
            self.tracking.uri,
            position,
            Opening(info.name, params, _tags(info, parent), _dataset(info.data)),
            folder=self._folder,
            journal=journal.path,
            artifact_location=self.tracking.artifacts,
        )
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

    # -- files

    def attach_text(self, name: str, text: str) -> None:
        """Attaches a text file; like all `attach_...`, from the start of the run to after its end."""
        self._attach(name, text.encode())

    def attach_dict(self, name: str, data: Any) -> None:
        """Attaches data as YAML or JSON, by the name's ending."""
        plain = _plain(data)
        if name.endswith((".yaml", ".yml")):
            self.attach_text(name, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
        else:
            self.attach_text(name, json.dumps(plain, indent=1) + "\n")

    def attach_table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Attaches a table, name.json, in the form that MLflow's pages show and `load_table` reads."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self.attach_dict(name, {"columns": list(columns), "data": rows})
        if self._uploader is not None:
            self._tables.append(name)
            listed = json.dumps([{"path": table, "type": "table"} for table in self._tables])
            self._uploader.tag(_TABLES_TAG, listed)

    def attach_figure(self, name: str, figure: Figure) -> None:
        """Attaches a matplotlib figure as a picture, in the format of the name's ending."""
        picture = io.BytesIO()
        figure.savefig(picture, format=name.rpartition(".")[2], bbox_inches="tight")
        self._attach(name, picture.getvalue())

    def attach_file(self, name: str, path: Path) -> None:
        """Attaches a copy of a file as it is now."""
        self._attach(name, Path(path).read_bytes())

    def _attach(self, name: str, content: bytes) -> None:
        if self._uploader is None:
            return
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or not parts.name:
            raise ConfigError(f"an artifact cannot be named {name!r}; use a relative path without '..'")
        staged = self._folder / "artifacts" / parts
        try:
            staged.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(content)
        except OSError as error:
            _log.warning("cannot write %s (%s); the run goes on without it", staged, error.strerror)
            return
        self._uploader.attach(str(parts), staged)
        if self._over:
            self._uploader.flush(_FAILED_WAIT)

    # -- the network

    def log_model(
        self,
        model: nn.Module,
        architecture: Mapping[str, Any] | None,
        example: npt.NDArray[Any],
        recipe: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Logs a network with this run, best before `run_end`, whose metrics are then tied to it.

        Returns:
            Its address `models:/m-...`, or None when it could not be logged; one line says why and
            the model is in the run's folder instead, where `load_model` finds it.
        """
        if self._uploader is None:
            return None
        try:
            if self.run_id is None:
                raise ConnectionError("the run does not exist there yet")
            tags = {"art_ext.version": _version("art_ext")}
            uri = self.tracking.uri
            address = mlflow_models.log_model(uri, self.run_id, model, architecture, example, recipe, tags=tags)
        except Exception as error:
            self._keep_model(error, model, architecture, example, recipe)
            return None
        self._uploader.model_id = address.removeprefix("models:/")
        return address

    # -- inside

    def _keep_model(
        self,
        reason: Exception,
        model: nn.Module,
        architecture: Mapping[str, Any] | None,
        example: npt.NDArray[Any],
        recipe: Mapping[str, Any] | None,
    ) -> None:
        place = self._folder / "model"
        try:
            save_model(place, model, architecture, example, recipe)
        except Exception as error:  # an odd network, a full disk: neither may cost the trained weights in memory
            _log.warning("the model could not be logged (%s)", one_line(error))
            return
        _log.warning("the model could not be logged to MLflow (%s); it is in %s", one_line(reason), place)
        self._keep_folder()

    def _position(self, journal: Journal) -> Position:
        """Where an interrupted run in this folder stopped, or the beginning of a new one."""
        known = Position.load(self._folder)
        if known and not known.joined and known.status != "FINISHED" and known.tracking_uri == self.tracking.shown:
            known.status, known.ended, known.files = None, False, []
            return known
        start = journal.path.stat().st_size if journal.path.exists() else 0
        return Position(self.tracking.shown, self.experiment, offset=start)

    def _finish(self, status: str, wait: float) -> None:
        uploader, self._own_journal, self._over = self._uploader, None, True
        if uploader is None:
            return
        uploader.position.status = status
        if not uploader.flush(wait):
            self._keep_folder()
            _log.warning(
                "%d lines of %s were not sent to MLflow at %s; %s there says how far it got",
                uploader.unsent(),
                self._folder / FILE,
                self.tracking.shown,
                "uploaded.json",
            )

    def _keep_folder(self) -> None:
        """A temporary folder becomes a lasting one, when it holds what MLflow does not have."""
        if self._temporary is not None:
            self._temporary._finalizer.detach()  # type: ignore[attr-defined]
            self._temporary = None


class _TrainerTracker(MLflowTracker):
    """For a trainer that is called directly: joins the user's run, says where, logs the network at the end."""

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...] | None) -> None:
        super().__init__(resolve_tracking(None, Path.cwd()), join_active=True)
        self.model = model
        self.input_shape = input_shape

    def run_start(self, info: RunInfo) -> None:
        super().run_start(info)
        if info.rank == 0:
            print(f"tracked in {self.describe()}; track=False turns it off", file=sys.stderr)

    def run_end(self, metrics: Mapping[str, float]) -> None:
        if self.run_id is not None and self.input_shape is not None:
            example = np.zeros((2, *self.input_shape), dtype=np.float32)
            self.log_model(self.model, _architecture(self.model, self.input_shape), example)
        super().run_end(metrics)


def tracker_for_trainers(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> MLflowTracker:
    """The tracker of a trainer that is called directly.

    Args:
        model: logged at the end of the run.
        input_shape: (C, H, W); without it the network is not logged, since MLflow wants an example.
    """
    return _TrainerTracker(model, input_shape)


def _architecture(model: nn.Module, input_shape: tuple[int, ...]) -> Mapping[str, Any] | None:
    """What timm needs to build the network again, or None for another library's or the user's own."""
    from art_ext.border.timm import architecture

    try:
        return architecture(model, input_shape)
    except ModelError:
        return None


# ---------------------------------------------------------------------------- what is sent first


def _params(values: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Parameters as MLflow takes them, and the texts too long for it, which go to files."""
    params: dict[str, str] = {}
    long: dict[str, str] = {}
    for name, value in cleaned_keys(values).items():
        text = value if isinstance(value, str) else json.dumps(_plain(value))
        if len(text) > _LONGEST_PARAM:
            long[name] = text
            text = f"{len(text)} characters, in the artifact params/{name}.txt"
        params[name] = text
    return params, long


def _tags(info: RunInfo, parent: str | None) -> dict[str, str]:
    tags = {str(key): str(value)[:_LONGEST_TAG] for key, value in cleaned_keys(info.tags).items()}
    tags |= {"art_ext.version": _version("art_ext"), "art_ext.role": info.role}
    tags |= {"mlflow.source.name": "art_ext", "mlflow.source.type": "LOCAL"}
    if parent is not None:
        tags["mlflow.parentRunId"] = parent
    return tags


def _dataset(data: Mapping[str, Any]) -> dict[str, str] | None:
    if not data:
        return None
    profile = {key: value for key, value in data.items() if key not in ("name", "digest", "source")}
    return {
        "name": str(data.get("name", "data"))[:500],
        "digest": str(data.get("digest", "unknown"))[:_LONGEST_DIGEST],
        "source_type": "local",
        "source": json.dumps({"uri": str(data.get("source", data.get("name", "unknown")))}),
        "profile": json.dumps(_plain(profile)),
    }


def environment(device: str | None = None) -> dict[str, Any]:
    """The versions and the hardware that a result depends on; nothing that tells whose machine it is."""
    libraries = {
        name: _version(distribution)
        for name, distribution in {
            "art_ext": "art_ext",
            "torch": "torch",
            "torchvision": "torchvision",
            "numpy": "numpy",
            "art": "adversarial-robustness-toolbox",
            "timm": "timm",
            "mlflow": "mlflow",
            "lightning_fabric": "lightning-fabric",
        }.items()
    }
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": libraries,
        "device": device or ("cuda" if accelerators else "cpu"),
        "accelerators": accelerators,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return "none"


def _plain(value: Any) -> Any:
    """Data that JSON and YAML can hold: mappings, lists, numbers, text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return str(value)
