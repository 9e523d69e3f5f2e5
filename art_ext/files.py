"""Files that are whole or not there: written beside, brought to the disk, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from art_ext.errors import StorageError

__all__ = ["PART", "cannot_write", "replacing", "write_atomically"]

PART = ".part"
"""What the name of a file ends in while it is written; such a file never counts."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, content: bytes | memoryview | str) -> None:
    """Writes a file, with its folder; a crash or a full disk leaves the one before it as it was.

    Args:
        content: text is written as UTF-8.

    Raises:
        StorageError: in one line, what could not be written and what to free.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, size=memoryview(data).nbytes) as part:
        part.write_bytes(data)


@contextmanager
def replacing(path: Path, size: int | None = None) -> Iterator[Path]:
    """Gives a path to write to; when that went well, the file takes the place of `path`.

    `with replacing(folder / "result.png") as part: figure.savefig(part, format="png")`

    Args:
        size: bytes that are wanted, for the message.

    Raises:
        StorageError: as `write_atomically`, for any OSError inside as well.
    """
    part = path.with_name(path.name + PART)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error, size) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError, size: int | None = None) -> StorageError:
    """The one line for a file that could not be written: which, why, and what to do."""
    return StorageError(f"{path} could not be written ({error.strerror or error}); {_way_out(path, error, size)}")


def _way_out(path: Path, error: OSError, size: int | None) -> str:
    before = "what was written before stays valid; "
    if error.errno not in _NO_SPACE:
        return before + "make the folder writable, or choose another"
    wanted = "" if size is None else f"free {max(size, 1) / 2**20:.1f} MiB or more there"
    with suppress(OSError):
        left = shutil.disk_usage(path.parent).free / 2**20
        return before + f"{wanted or 'free some space there'} ({left:.1f} MiB are left), or choose another folder"
    return before + f"{wanted or 'free some space there'}, or choose another folder"


def _sync_folder(folder: Path) -> None:
    """Brings a rename to the disk; where folders cannot be opened for that, the system does it in its own time."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
