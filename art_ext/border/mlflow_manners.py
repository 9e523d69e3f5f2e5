"""MLflow made patient, impatient and quiet; its errors as short clauses."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["impatient", "one_line", "quiet", "root_cause"]


def one_line(error: BaseException) -> str:
    """An error as a short clause."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (first or type(error).__name__)[:160]


def root_cause(error: BaseException) -> str:
    """What lies below the layers of an HTTP client: "Connection refused" rather than its wrapping."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return one_line(error)


_patience_lock = threading.Lock()
_patience: list[tuple[int, int]] = []
_ours: dict[str, str] = {}
"""What was written here, by name; a variable with another value is the user's."""


@contextmanager
def impatient(timeout: int, retries: int) -> Iterator[None]:
    """Short timeouts for MLflow's requests, and nothing printed, while it holds; what the user set stays.

    MLflow takes them from environment variables only, and its defaults block for 4 to 20 minutes.
    Where several hold at once, the most patient one counts. Afterwards the variables have MLflow's defaults: one that
    is taken away would break a thread that copies the environment just then.
    """
    _set_patience(add=(timeout, retries))
    try:
        yield
    finally:
        _set_patience(drop=(timeout, retries))


def _set_patience(add: tuple[int, int] | None = None, drop: tuple[int, int] | None = None) -> None:
    from mlflow import environment_variables

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
            ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", False if _patience else None),
            ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", True if _patience else None),
        ):
            if os.environ.get(name) in (None, _ours.get(name)):
                _ours[name] = str(getattr(environment_variables, name).default if value is None else value).lower()
                os.environ[name] = _ours[name]


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
