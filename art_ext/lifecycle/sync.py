"""Sends what runs could not send to MLflow: once, and only what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from art_ext.border.mlflow_manners import impatient, quiet, root_cause
from art_ext.border.mlflow_outbox import OUTBOX, POSITION, Opening, Position, is_running
from art_ext.border.mlflow_runs import end_run, find_run
from art_ext.border.mlflow_send import Sender, pending
from art_ext.border.mlflow_where import resolve_tracking
from art_ext.errors import ArtExtError, ConfigError
from art_ext.secrets import HIDDEN, masked

__all__ = ["Synced", "address_of", "end", "outboxes", "sync", "unsent"]

_TIMEOUT, _RETRIES = 30, 1


class SyncError(ArtExtError):
    """Something is still not sent."""


@dataclass(frozen=True)
class Synced:
    """What came of one run's folder.

    Attributes:
        sent: what was missing before, in words.
        refused: what MLflow will not take, and why.
    """

    folder: Path
    name: str
    run_id: str | None
    status: str | None
    sent: tuple[str, ...]
    refused: tuple[str, ...]


def outboxes(folder: Path) -> list[Path]:
    """The folders below one, itself included, that runs were sent from; a run before those that refer to it."""
    found = [path.parent for path in sorted(folder.rglob(OUTBOX)) if (path.parent / POSITION).is_file()]
    return sorted(found, key=lambda place: _rank(place))


def _rank(place: Path) -> int:
    opening = Opening.load(place)
    return 0 if opening is None else (opening.parent is not None) + 2 * (opening.model_of is not None)


def unsent(folder: Path) -> list[str]:
    """What a run's folder holds that MLflow lacks; [] while the run goes on, since it sends that itself."""
    position = Position.load(folder)
    if position is None or (position.status is None and is_running(position.process)):
        return []
    missing = pending(folder, position)
    return missing if position.status is not None or position.joined else [*missing, "the status KILLED"]


def sync(folder: Path, uri: str | None = None) -> Iterator[Synced]:
    """Sends what the runs of a folder have not sent; a run that was killed without a word ends as KILLED.

    Args:
        uri: of the server, where the folder's own record hides a part of it.

    Raises:
        ConfigError: for a folder without runs, and for one whose run goes on.
        SyncError: when MLflow cannot be reached; what had arrived until then is not sent again.
    """
    places = outboxes(folder)
    if not places:
        raise ConfigError(f"{folder} holds no run that was tracked; name the folder that art-ext harden wrote")
    for place in places:
        position = Position.load(place)
        if position is None:
            raise ConfigError(f"{place / POSITION} is damaged; nothing says what was sent, so nothing was sent again")
        # the process that asks may be the one that ran it
        if is_running(position.process) and position.status is None:
            raise ConfigError(f"the run in {place} is still going on and sends for itself; wait for its end")
        yield _send(place, position, address_of(position, uri))


def end(run_id: str, uri: str | None = None) -> str:
    """Ends a run that was left RUNNING by a process of this machine; says in one line what was done.

    Raises:
        ConfigError: for a run whose process goes on, or may go on elsewhere.
        ModelError: where the server cannot be asked.
    """
    tracking = resolve_tracking(uri, Path.cwd())
    found = find_run(tracking.uri, run_id)
    if found.status != "RUNNING":
        return f"{found.name}: it ended as {found.status}; nothing was done"
    if not found.left_open:
        raise ConfigError(f"the run {run_id} may still go on: its process is not one of this machine that has ended")
    end_run(tracking.uri, run_id)
    return f"{found.name}: the status KILLED (run {run_id})"


def _send(place: Path, position: Position, address: str) -> Synced:
    if position.status is None and not position.joined:
        position.status = "KILLED"
    missing = pending(place, position)
    position.refused.clear()
    if missing:
        try:
            with impatient(_TIMEOUT, _RETRIES), quiet():
                Sender(address, place, position).send()
        except Exception as error:
            raise SyncError(
                f"{', '.join(missing)} of {place} could not be sent to {position.tracking_uri} "
                f"({masked(root_cause(error))}); run art-ext sync again when it answers"
            ) from None
    opening = Opening.load(place)
    refused = tuple(f"{what}: {why}" for what, why in position.refused.items())
    name = place.name if opening is None else opening.name
    return Synced(place, name, position.run_id, position.status, tuple(missing), refused)


def address_of(position: Position, given: str | None = None) -> str:
    """Where to send to: the record lacks user names and passwords, which the environment may have."""
    shown = position.tracking_uri
    for uri in (given, os.environ.get("MLFLOW_TRACKING_URI")):
        if uri and resolve_tracking(uri, Path()).shown == shown:
            return uri
    if given:
        raise ConfigError(f"this run is tracked at {shown}, not at {masked(given)}; leave out --tracking-uri")
    if HIDDEN in shown:
        raise ConfigError(f"this run is tracked at {shown}; set MLFLOW_TRACKING_URI or --tracking-uri to it in full")
    return shown
