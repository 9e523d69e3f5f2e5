"""Folders that runs write to."""

from __future__ import annotations

import time
from pathlib import Path

from art_ext.errors import ConfigError


def default_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def new_folder(folder: Path) -> Path:
    """Makes the folder of a run.

    Raises:
        ConfigError: when it holds something already, or cannot be written.
    """
    folder = folder.expanduser().resolve()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"the output folder {folder} exists already; name a new one with --output, or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"the output folder {folder} cannot be written ({error.strerror}); choose another with --output"
        ) from None
    return folder
