"""Where runs are tracked: a server, or a store in a file."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from art_ext.errors import ConfigError
from art_ext.secrets import masked

__all__ = ["Tracking", "resolve_tracking"]


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
        return masked(self.uri)

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
