"""The local record of a run: `metrics.jsonl`, one JSON line an epoch, written before anything is sent anywhere.

A line, here broken for reading::

    {"event": "epoch", "run": "pc_lc_pgd_at", "role": "hardened", "epoch": 3, "step": 36,
     "time": 1767225600.123, "best": true, "metrics": {"train/loss": 0.41}}

The last line of a run has the event "end" with its final metrics, or "failed" with the kind of error.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from art_ext.engine.observe import EpochReport, Observer, RunInfo
from art_ext.errors import ConfigError, DataError
from art_ext.files import cannot_write

__all__ = ["FILE", "Entry", "Journal", "read_from", "read_journal"]

FILE = "metrics.jsonl"

Event = Literal["epoch", "end", "failed"]


@dataclass(frozen=True)
class Entry:
    """One line of a journal.

    Attributes:
        time: seconds since 1970, with milliseconds; what a tracker uses too, so that a point sent
            twice is one point.
    """

    run: str
    role: str
    epoch: int
    step: int
    time: float
    event: Event = "epoch"
    best: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""

    def line(self) -> bytes:
        """The entry as one line of strict JSON; numbers that JSON lacks become strings."""
        known = {
            "event": self.event,
            "run": self.run,
            "role": self.role,
            "epoch": self.epoch,
            "step": self.step,
            "time": self.time,
            "best": self.best,
            "metrics": {name: _spelt(float(value)) for name, value in self.metrics.items()},
        }
        if self.error:
            known["error"] = self.error
        return json.dumps(known, allow_nan=False).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Entry:
        """The opposite of `line`; raises ValueError, KeyError or TypeError for anything else."""
        known: dict[str, Any] = json.loads(line)
        return cls(
            run=str(known["run"]),
            role=str(known["role"]),
            epoch=int(known["epoch"]),
            step=int(known["step"]),
            time=float(known["time"]),
            event=known.get("event", "epoch"),
            best=bool(known.get("best", False)),
            metrics={str(name): float(value) for name, value in known["metrics"].items()},
            error=str(known.get("error", "")),
        )


def _spelt(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


class Journal(Observer):
    """Writes `metrics.jsonl` in a folder: appended to, and on the disk before an epoch counts as over.

    Rank 0 writes; on other ranks every event is a no-op. On a full disk a line is there whole or
    not at all, and StorageError ends the run, which can go on later. Where a run goes on in its
    folder, an epoch that the file holds already is not written again: its line has been sent under
    its time.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / FILE
        self._file: BinaryIO | None = None
        self._info = RunInfo("")
        self._epoch = 0
        self._step = 0
        self._written = 0

    def run_start(self, info: RunInfo) -> None:
        """Opens the file.

        Raises:
            ConfigError: when it cannot be written.
        """
        if info.rank != 0:
            return
        self._info, self._epoch, self._step = info, 0, 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _mend(self.path)
            self._written = self._last_epoch()
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise ConfigError(
                f"cannot write {self.path} ({error.strerror or error}); name another output folder"
            ) from None

    def epoch_end(self, report: EpochReport) -> None:
        self._epoch, self._step = report.epoch, report.step
        if report.epoch > self._written:
            self._write("epoch", report.metrics, best=report.best)

    def run_end(self, metrics: Mapping[str, float]) -> None:
        self._write("end", metrics)
        self._close()

    def run_failed(self, error: BaseException) -> None:
        self._write("failed", {}, error=type(error).__name__)
        self._close()

    def run_killed(self) -> None:
        self._close()

    def _last_epoch(self) -> int:
        """Of this run, where the file holds a part of it that did not come to its end."""
        if not self.path.exists():
            return 0
        last = 0
        for entry in read_journal(self.path):
            same = (entry.run, entry.role) == (self._info.name, self._info.role)
            last = 0 if entry.event == "end" or not same else max(last, entry.epoch)
        return last

    def _write(self, event: Event, metrics: Mapping[str, float], best: bool = False, error: str = "") -> None:
        if self._file is None:
            return
        entry = Entry(
            run=self._info.name,
            role=self._info.role,
            epoch=self._epoch,
            step=self._step,
            time=round(time.time(), 3),
            event=event,
            best=best,
            metrics=metrics,
            error=error,
        )
        line, end = entry.line(), self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) < len(line):  # a disk that is full takes a part of it
                self._file.write(line)
            os.fsync(self._file.fileno())
        except OSError as problem:
            self._file.truncate(end)
            raise cannot_write(self.path, problem, len(line)) from None

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _mend(path: Path) -> None:
    """Ends the last line properly after a crash: what is no entry was never one, and goes."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        start = content.rfind(b"\n") + 1
        torn = content[start:]
        if not torn:
            return
        try:
            Entry.parse(torn)
        except (ValueError, KeyError, TypeError, AttributeError):
            file.truncate(start)
        else:
            file.write(b"\n")


def read_journal(path: Path) -> list[Entry]:
    """All entries of a journal; a last line that a crash cut short is left out.

    Raises:
        DataError: when the file cannot be read, or a line before the last is no entry.
    """
    entries, _ = read_from(path, 0)
    return entries


def read_from(path: Path, offset: int) -> tuple[list[Entry], int]:
    """The complete entries from a byte position on, and the position after them.

    Raises:
        DataError: as `read_journal`.
    """
    try:
        with Path(path).open("rb") as file:
            file.seek(offset)
            content = file.read()
    except OSError as error:
        raise DataError(f"cannot read the journal {path} ({error.strerror or error})") from None
    entries = []
    whole = content[: content.rfind(b"\n") + 1]
    for line in whole.splitlines(keepends=True):
        if line.strip():
            try:
                entries.append(Entry.parse(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise DataError(
                    f"{path} holds a line that is no entry, at byte {offset}: {line[:60]!r}; remove that line"
                ) from None
        offset += len(line)
    return entries, offset
