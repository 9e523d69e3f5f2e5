"""The outbox of a run: all that MLflow is to have, as files in the run's folder, and how far they were sent.

    metrics.jsonl    points, by the journal
    artifacts/       files
    model/           the network, as `mlflow_models.save_model` writes it
    outbox.json      name, parameters, tags, data set; which runs it belongs to; what is to be registered
    uploaded.json    what was sent

Nothing that has to be sent lives in memory alone, so another process can send it later.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

__all__ = [
    "ARTIFACTS",
    "MODEL",
    "OUTBOX",
    "POSITION",
    "Opening",
    "Position",
    "Registration",
    "file_digest",
    "is_running",
    "process_name",
]

OUTBOX = "outbox.json"
POSITION = "uploaded.json"
ARTIFACTS = "artifacts"
MODEL = "model"

_saving = threading.Lock()  # the run's thread and the uploader's both save


class _File:
    """A dataclass kept as JSON in a folder, replaced in one move, so that a crash leaves the old or the new one."""

    _name = ""

    def save(self, folder: Path) -> None:
        path = folder / self._name
        with _saving:
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps({"schema": 1, **asdict(self)}, indent=1) + "\n")  # type: ignore[call-overload]
            fresh.replace(path)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What a folder holds, or None without a readable one."""
        try:
            known = json.loads((folder / cls._name).read_text())
            known.pop("schema")
            return cls._read(known)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @classmethod
    def _read(cls, known: dict[str, Any]) -> Self:
        return cls(**known)


@dataclass(frozen=True)
class Registration:
    """What the registry is to know of a run's network.

    Attributes:
        name: of the registered model; it is made where it does not exist.
        alias: moved to the new version, or None.
        description: of the version, Markdown.
    """

    name: str
    alias: str | None = "challenger"
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Opening(_File):
    """What a run tells MLflow of itself, besides its metrics and files.

    Attributes:
        params: any length; the long ones have been moved to files before.
        dataset: name, digest, source_type, source, profile as MLflow's Dataset takes them, or None.
        context: what the data set is for: "training" or "evaluation".
        parent: folder of the run that this one is a part of, seen from this one's folder.
        model_of: folder of the run whose network the final metrics are about, seen from this one's folder.
        later: tags that came after the start.
    """

    _name = OUTBOX

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    dataset: Mapping[str, str] | None = None
    context: str = "training"
    parent: str | None = None
    model_of: str | None = None
    later: Mapping[str, str] = field(default_factory=dict)
    registration: Registration | None = None

    @classmethod
    def _read(cls, known: dict[str, Any]) -> Self:
        asked = known.pop("registration")
        return cls(**known, registration=None if asked is None else Registration(**asked))

    def tagged(self, name: str, value: str) -> Opening:
        return replace(self, later={**self.later, name: value})


@dataclass
class Position(_File):
    """How far a run has been sent: what a later sync needs to send the rest, and only the rest.

    Attributes:
        tracking_uri: where to, without passwords.
        experiment: its name.
        artifact_location: of an experiment that has to be made; None leaves it to the server.
        process: the one that writes here, while it runs.
        asked: a request to create the run has left; its answer may have been lost.
        run_id: None until the run is known to exist there.
        joined: the run belongs to somebody else, who ends it.
        opened: parameters, tags and data set were sent.
        offset: bytes of the journal that were sent.
        files: artifacts that were sent, with the digest of what was sent.
        tags: later tags that were sent.
        model_id: of the logged network; model_sent: its files are there; model_tied: the run names it.
        version: of the registered model, with its alias set; registered: digest of what it was told.
        status: what the run ended with, or None while it goes on.
        ended: the status was sent.
        refused: what MLflow will not take, and why.
    """

    _name = POSITION

    tracking_uri: str
    experiment: str
    artifact_location: str | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: str = field(default_factory=lambda: process_name())
    asked: bool = False
    run_id: str | None = None
    experiment_id: str | None = None
    joined: bool = False
    opened: bool = False
    offset: int = 0
    files: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    model_asked: bool = False
    model_id: str | None = None
    model_sent: bool = False
    model_tied: bool = False
    version_asked: bool = False
    version: str | None = None
    registered: str = ""
    status: str | None = None
    ended: bool = False
    refused: dict[str, str] = field(default_factory=dict)


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------- processes


def process_name(pid: int | None = None) -> str:
    """A process as `machine:pid:start`: the machine is hashed, and the start tells a pid that was used again."""
    pid = os.getpid() if pid is None else pid
    return f"{_machine()}:{pid}:{_started(pid)}"


def is_running(process: str) -> bool | None:
    """Whether a process of `process_name` still runs; None for another machine's."""
    machine, _, rest = process.partition(":")
    pid, _, start = rest.partition(":")
    if machine != _machine() or not pid.isdigit():
        return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's: a pid that was used again
        return start == _started(int(pid)) != ""
    return start == _started(int(pid))


def _machine() -> str:
    return hashlib.sha256(f"art_ext {platform.node()}".encode()).hexdigest()[:12]


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty where that cannot be seen, and for one that has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
