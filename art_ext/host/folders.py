"""The folder of an `art-ext harden`, and what it says of how far the run got.

    RUN_DIR/recipe.json            the recipe with every default spelled out
    RUN_DIR/damaged.txt            files of the data set that could not be read and were left out, where there are any
    RUN_DIR/run.json               what a run that goes on has to know (`RunState`)
    RUN_DIR/result.json, .png      the comparison, at the end
    RUN_DIR/ROLE/                  of "undefended", "hardened", and each method of the recipe's `beside:`
        step-00000120.pt           the whole state of the training, the last two
        best.pt, last.pt           weights of the best epoch, and of the last
        rows.pt                    each attack's outcome, image by image
        metrics.jsonl              a line an epoch
        uploaded.json              how much of it MLflow has
        architecture.json, ...     what opens the weights again
    RUN_DIR/evaluation/ROLE/       evaluation.json, examples.parquet, report.html
    RUN_DIR/evaluation/ROLE-.../   the same for another threat, suite or set of images (`evaluations`)
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from art_ext.errors import ConfigError
from art_ext.files import write_atomically

__all__ = ["DAMAGED", "RECIPE", "STATE", "RunState", "default_folder", "held", "new_folder"]

RECIPE, STATE, LOCK, DAMAGED = "recipe.json", "run.json", ".lock", "damaged.txt"


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
            way = f"; art-ext resume {folder} goes on with the run in it" if (folder / STATE).exists() else ""
            raise ConfigError(
                f"the output folder {folder} exists already; name a new one with --output, or remove it{way}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"the output folder {folder} cannot be written ({error.strerror}); choose another with --output"
        ) from None
    return folder


@dataclass
class RunState:
    """What run.json holds.

    Attributes:
        folder: of the run.
        started_in: the working folder, which relative paths of the recipe start from.
        data: digest of the data set.
        done: roles that were trained, evaluated and tracked to the end.
        finished: everything was done.
        parent: folder of the sweep that the run is a part of.
    """

    folder: Path
    started_in: str
    data: str
    done: list[str] = field(default_factory=list)
    finished: bool = False
    parent: str | None = None

    def save(self) -> None:
        """Writes run.json.

        Raises:
            StorageError: on a full disk; the one before stays.
        """
        record = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_atomically(self.folder / STATE, json.dumps({"schema": 1, **record}, indent=1) + "\n")

    def mark(self, role: str) -> None:
        """A role is done."""
        if role not in self.done:
            self.done.append(role)
        self.save()

    @classmethod
    def load(cls, folder: Path) -> RunState:
        """The state of the run in a folder.

        Raises:
            ConfigError: where there is none, or it cannot be read.
        """
        path = folder / STATE
        try:
            known: dict[str, Any] = json.loads(path.read_text())
            if known.pop("schema") != 1:
                raise ValueError("another version of art_ext wrote it")
            return cls(folder=folder, **known)
        except FileNotFoundError:
            raise ConfigError(
                f"{folder} holds no run of art-ext harden that could go on (no {STATE}); "
                "name a folder that harden wrote, or start harden again"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}); start harden again in another folder") from None


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps a second process out of a run's folder; a process that is killed lets go of it.

    Raises:
        ConfigError: where another process is at work in it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    path = folder / LOCK
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            who = file.read().strip() or "unknown"
            raise ConfigError(
                f"process {who} is at work in {folder}; wait for it, or stop it with: kill {who}"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()
