"""Checkpoints that are whole or not there, and the ones of a run that are kept.

A checkpoint is a torch file with one line behind its end: the SHA-256 of all before it. Both come
into place by one rename, so that no crash can part them; `torch.load` reads the file as any other.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from art_ext.errors import CheckpointError, ModelError
from art_ext.files import PART, write_atomically

__all__ = ["KEPT", "SEAL", "Shelf", "load", "save"]

KEPT = 2
"""Training states of a run that are kept: the last, and the one before it."""

SEAL = b"\nart_ext sha256 "
"""What stands before a checkpoint's checksum, at the end of its file."""

_LINE = len(SEAL) + 64 + 1
_NAME = re.compile(r"step-(\d+)\.pt")

_log = logging.getLogger(__name__)


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes state so that a crash or a full disk leaves the old file valid.

    Raises:
        StorageError: when the folder cannot be written, or the disk is full.
    """
    buffer = io.BytesIO()  # in memory first: torch hides why a write failed
    torch.save(state, buffer)
    buffer.write(SEAL + hashlib.sha256(buffer.getbuffer()).hexdigest().encode() + b"\n")
    write_atomically(path, buffer.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint without running any code from it.

    Raises:
        ModelError: when the file is missing, damaged, or no checkpoint.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise ModelError(f"the checkpoint {path} cannot be read: {error.strerror or error}") from None
    body, line = content[:-_LINE], content[-_LINE:]
    if line != SEAL + hashlib.sha256(body).hexdigest().encode() + b"\n":
        raise ModelError(f"the checkpoint {path} is damaged: its content is not what its checksum says; use another")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise ModelError(f"the checkpoint {path} cannot be read: {reason}") from None
    return state


class Shelf:
    """The training states of one run, in a folder: step-00000123.pt, the last two of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, step: int, state: dict[str, Any]) -> None:
        """Writes a state; then the oldest go.

        Raises:
            StorageError: as `save`; all states stay.
        """
        save(self.folder / f"step-{step:08d}.pt", state)
        for old in self.paths()[:-KEPT]:
            with suppress(OSError):
                old.unlink()

    def newest(self) -> dict[str, Any] | None:
        """The last state that is whole, or None where there is none at all.

        A damaged one is set aside under another name, in one line of the log.

        Raises:
            CheckpointError: where all are damaged.
        """
        for part in self.folder.glob(f"step-*.pt{PART}"):  # a crash inside a write
            part.unlink(missing_ok=True)
        paths = self.paths()
        for path in reversed(paths):
            try:
                return load(path)
            except ModelError as error:
                path.rename(path.with_suffix(".damaged"))
                _log.warning("%s; the one before it is used", str(error).rpartition(";")[0] or error)
        if paths or any(self.folder.glob("step-*.damaged")):
            raise CheckpointError(
                f"every checkpoint in {self.folder} is damaged, so the training cannot go on; "
                "remove that folder and resume again: it starts over"
            )
        return None

    def paths(self) -> list[Path]:
        """The states, the last one last."""
        found = [path for path in self.folder.glob("step-*.pt") if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: path.name)
