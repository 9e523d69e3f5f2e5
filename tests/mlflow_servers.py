"""MLflow servers for tests: a real one, and a way to it that can fail in every manner that networks know."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

_SERVER_WAIT = 120
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # a dozen processes a server, which nothing here needs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """An `mlflow server` on the loopback interface."""

    def __init__(self, folder: Path, database: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(database, folder / "server.db")
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
        command += ["--artifacts-destination", str(folder / "artifacts")]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=log,
                stderr=log,
                env={**clean, **NO_JOBS, "DO_NOT_TRACK": "true"},
                start_new_session=True,  # its workers are in its group, and end with it
            )

    def wait(self) -> None:
        deadline = time.monotonic() + _SERVER_WAIT
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.3)
        raise RuntimeError(f"mlflow server did not start: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)


class Way:
    """A loopback address that leads to a server, until it is told to fail.

    Attributes:
        mode: "open" passes everything on; "hang" accepts and never answers; "500" and "401" answer
            that; "refuse" has nobody listening; "kill" drops what is on its way, and refuses.
    """

    def __init__(self, port: int) -> None:
        self.target, self.port, self.mode = port, free_port(), "refuse"
        self.uri = f"http://127.0.0.1:{self.port}"
        self.requests = 0
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.set("open")

    def set(self, mode: str) -> None:
        self.mode = mode
        if mode in ("refuse", "kill"):
            self.close()
        elif self._listener is None:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", self.port))
            self._listener.listen(64)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """One request a connection: what comes next may meet another mode."""
        with contextlib.suppress(OSError), connection:
            head = b""
            while b"\r\n\r\n" not in head:
                part = connection.recv(65536)
                if not part:
                    return
                head += part
            self.requests += 1
            mode = self.mode
            if mode == "hang":
                time.sleep(600)
            elif mode in ("500", "401"):
                said = {"500": b"500 Internal Server Error", "401": b"401 Unauthorized"}[mode]
                connection.sendall(b"HTTP/1.1 " + said + b"\r\nContent-Length: 4\r\nConnection: close\r\n\r\nsorr")
            else:
                self._pass_on(connection, head)
        self._open.discard(connection)

    def _pass_on(self, connection: socket.socket, head: bytes) -> None:
        first, _, rest = head.partition(b"\r\n")
        lines, _, body = rest.partition(b"\r\n\r\n")
        kept = [line for line in lines.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        with socket.create_connection(("127.0.0.1", self.target), timeout=60) as server:
            server.sendall(b"\r\n".join([first, *kept, b"Connection: close", b"", b""]) + body)
            there = threading.Thread(target=_pour, args=(connection, server), daemon=True)
            there.start()
            _pour(server, connection)


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            sink.sendall(part)
