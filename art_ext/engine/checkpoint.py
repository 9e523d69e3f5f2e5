"""Checkpoints that are whole or not there: written beside, synced, renamed, with a checksum."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from art_ext.errors import ArtExtError, ModelError


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes state so that a crash or a full disk leaves the old file valid.

    Raises:
        ArtExtError: when the folder cannot be written, or the disk is full.
    """
    beside = path.with_suffix(path.suffix + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        digest = hashlib.sha256(beside.read_bytes()).hexdigest()
        checksum = path.with_suffix(path.suffix + ".sha256")
        checksum_beside = checksum.with_suffix(checksum.suffix + ".part")
        checksum_beside.write_text(f"{digest}  {path.name}\n")
        os.replace(beside, path)
        os.replace(checksum_beside, checksum)
    except (OSError, RuntimeError) as error:
        beside.unlink(missing_ok=True)
        raise ArtExtError(
            f"the checkpoint {path} could not be written ({error}); the one before it stays; "
            "free some space or choose another --output"
        ) from error


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint without running any code from it.

    Raises:
        ModelError: when the file is missing, damaged, or not the one its checksum describes.
    """
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path}")
    checksum = path.with_suffix(path.suffix + ".sha256")
    if checksum.is_file() and checksum.read_text().split()[0] != hashlib.sha256(path.read_bytes()).hexdigest():
        raise ModelError(f"the checkpoint {path} is damaged: its content differs from {checksum.name}; use another one")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"the checkpoint {path} cannot be read: {error}") from error
    return state
