"""Strangers' code, kept from stopping the tool: a time limit for imports and hooks, observers that may fail."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar, cast

from art_ext.engine.observe import EpochReport, Observer, RunInfo, Tick
from art_ext.entries import AttackEntry, ModelEntry
from art_ext.errors import ArtExtError, ConfigError, PartError

__all__ = ["SECONDS", "Guarded", "TooLong", "guarded", "limited", "time_limit"]

_T = TypeVar("_T")

SECONDS = "ART_EXT_PLUGIN_SECONDS"
_DEFAULT = 60.0


class TooLong(BaseException):
    """A plugin took longer than it may; no `Exception`, so that the plugin's own handlers let it through."""


def time_limit() -> float:
    """Seconds that a plugin's import, and each of its hooks, may take.

    Raises:
        ConfigError: for a setting that is no positive number.
    """
    text = os.environ.get(SECONDS, "")
    try:
        seconds = float(text) if text else _DEFAULT
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ConfigError(f"{SECONDS} is {text!r}; it is a number of seconds, such as 60")
    return seconds


@contextmanager
def limited(what: str) -> Iterator[None]:
    """Ends what runs inside after `time_limit` seconds.

    By an alarm of the process, so only in the main thread and where there are alarms; elsewhere nothing is limited.

    Raises:
        TooLong: naming `what`.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    seconds = time_limit()

    def stop(*_: object) -> None:
        raise TooLong(f"{what} took longer than {seconds:g} s ({SECONDS} sets the limit)")

    before = signal.signal(signal.SIGALRM, stop)
    left, again = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, again)
        signal.signal(signal.SIGALRM, before)


def guarded(entry: _T, plugin: str) -> _T:
    """The same entry, whose function names its plugin where it fails, or gives something else than it should.

    The function raises:
        PartError: in one line; errors of ours pass as they are.
    """
    from torch import nn

    from art_ext.data.entry import Data, DatasetEntry

    found: Any = entry
    if isinstance(entry, DatasetEntry):
        found = replace(entry, load=_named(entry.load, f"the data set {entry.name} of plugin {plugin}", Data))
    elif isinstance(entry, ModelEntry):
        found = replace(entry, build=_named(entry.build, f"the model {entry.name} of plugin {plugin}", nn.Module))
    elif isinstance(entry, AttackEntry):
        found = replace(entry, build=_named(entry.build, f"the attack {entry.name} of plugin {plugin}", Sequence))
    return cast(_T, found)


def _named(function: Callable[..., Any], what: str, kind: type) -> Callable[..., Any]:
    def asked(*arguments: Any) -> Any:
        try:
            found = function(*arguments)
        except ArtExtError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise PartError(f"{what} failed ({type(error).__name__}: {said}); repair or update its plugin") from error
        if not isinstance(found, kind):
            raise PartError(
                f"{what} gave a {type(found).__name__}, and a {kind.__name__} is needed; repair or update its plugin"
            )
        return found

    return asked


class Guarded(Observer):
    """A plugin's observer that is left out, with one warning, once it fails; the run goes on."""

    def __init__(self, observer: Observer, plugin: str) -> None:
        self.observer: Observer | None = observer
        self.plugin = plugin

    def run_start(self, info: RunInfo) -> None:
        self._tell("run_start", info)

    def tick(self, tick: Tick) -> None:
        self._tell("tick", tick)

    def epoch_end(self, report: EpochReport) -> None:
        self._tell("epoch_end", report)

    def run_end(self, metrics: Mapping[str, float]) -> None:
        self._tell("run_end", metrics)

    def run_failed(self, error: BaseException) -> None:
        self._tell("run_failed", error)

    def run_killed(self) -> None:
        self._tell("run_killed")

    def _tell(self, event: str, *arguments: Any) -> None:
        if self.observer is None:
            return
        method: Callable[..., None] = getattr(self.observer, event)
        try:
            method(*arguments)
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            name, self.observer = type(self.observer).__name__, None
            warnings.warn(
                f"the observer {name} of plugin {self.plugin} failed in {event} ({type(error).__name__}: {said}) "
                "and is left out; the run goes on",
                stacklevel=2,
            )
