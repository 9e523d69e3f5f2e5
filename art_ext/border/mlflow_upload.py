"""Sends a run to MLflow from a thread of its own, so that a slow or dead server costs training nothing.

What has to be sent lies in the run's folder (`mlflow_outbox`). The thread sends it in the order of
`mlflow_send`; whatever fails for want of a connection is tried again later.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path

from art_ext.border.mlflow_manners import impatient, quiet, root_cause
from art_ext.border.mlflow_outbox import Position
from art_ext.border.mlflow_send import Sender
from art_ext.engine.journal import FILE, read_from
from art_ext.secrets import masked

__all__ = ["Uploader"]

_INTERVAL = 2.0  # seconds in which short epochs gather: a batch costs 0.3 s of Python on sqlite
_PAUSES = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0)

_log = logging.getLogger("art_ext.border.mlflow")


class Uploader:
    """The thread that brings a run's folder to MLflow. Its methods never raise and never block for long.

    Args:
        uri: of the store or server.
        folder: the run's.
        position: of that folder.
        timeout: seconds that one request may take.
    """

    def __init__(self, uri: str, folder: Path, position: Position, timeout: int = 10) -> None:
        self.folder, self.position, self.timeout = folder, position, timeout
        self._sender = Sender(uri, folder, position)
        self._first_try = threading.Event()
        self._changed = threading.Condition()
        self._todo = False
        self._deadline: float | None = None
        self._thread: threading.Thread | None = None
        self._warned = False
        self._complete = False
        self._failures = 0

    # -- called by the training thread

    def start(self, wait: float) -> None:
        """Starts sending; returns when the run exists, the first attempt failed, or after `wait` seconds."""
        self._ensure_thread()
        self.wake()
        self._first_try.wait(wait)
        if not self._first_try.is_set():
            self._warn(f"no answer in {wait:.0f} s")

    def wake(self) -> None:
        """There is more in the folder."""
        with self._changed:
            self._todo = True
            self._complete = False
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Waits for everything to be sent, no longer than `timeout` seconds; the thread ends."""
        with contextlib.suppress(OSError):
            self.position.save(self.folder)  # the status too has to outlive a server that is gone
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
            return len(read_from(self.folder / FILE, self.position.offset)[0])
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
        last_chances = 2 if self._failures == 0 else 1  # a server that is gone should not hold up the result
        pause = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._todo or self._deadline is not None)
                if self._deadline is None:
                    self._changed.wait_for(lambda: self._deadline is not None, timeout=pause)
                elif self._failures > 1:
                    self._changed.wait(timeout=0.5)
                self._todo = False
            try:
                with impatient(self.timeout, retries=0), quiet():
                    self._sender.send(opened=self._first_try.set)
                self._failures, pause = 0, _INTERVAL
                if self._warned:
                    self._warned = False
                    _log.info("MLflow answers again; everything was sent")
            except Exception as error:
                self._warn(root_cause(error))
                pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
                self._failures += 1
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
                masked(reason),
                self.folder / FILE,
            )
