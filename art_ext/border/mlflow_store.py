"""Clients of MLflow's stores."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["client_of"]

_SQLITE = "sqlite:"
_WAIT = 120.0  # seconds for another process that makes the tables: 6 s here, and much longer on a busy machine


def client_of(uri: str) -> MlflowClient:
    """A client of the store or server at an address.

    The tables of a database in a file are made at its first use, by one process at a time: two that make them at
    once leave a database that MLflow cannot open any more.

    Raises:
        TimeoutError: where another process is making them all the time.
    """
    from mlflow import MlflowClient

    with _alone(uri):
        client = MlflowClient(tracking_uri=uri)
        if uri.startswith(_SQLITE):
            client.search_experiments(max_results=1)
    return client


def _alone(uri: str) -> AbstractContextManager[object]:
    """A lock that this user's processes share; not beside the database, where it would stay for good."""
    if not uri.startswith(_SQLITE):
        return nullcontext()
    user = getattr(os, "getuid", int)()
    name = hashlib.sha256(f"{user} {uri}".encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"art_ext-{name}.lock", timeout=_WAIT)
