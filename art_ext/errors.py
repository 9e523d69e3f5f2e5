"""Every error a user can cause, with the exit code of the command line.

A message names the thing, the reason and the way out, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class ArtExtError(Exception):
    """Base of all errors that are shown as one line."""

    exit_code = 1


class ConfigError(ArtExtError, ValueError):
    """A recipe, option or argument that cannot be used; raised before any work starts."""

    exit_code = 2


class DataError(ArtExtError, ValueError):
    """Data that cannot be used: wrong shape, range, labels, or missing files."""

    exit_code = 3


class ModelError(ArtExtError, ValueError):
    """A network, classifier or optimizer that cannot be used."""

    exit_code = 3


class NonFiniteError(ArtExtError, ArithmeticError):
    """The loss became NaN or infinite; names the step and the part."""


class StorageError(ArtExtError):
    """A file that could not be written, mostly for want of space; what was there before stays."""


class CheckpointError(ModelError):
    """A training that cannot go on: its checkpoints are damaged, or are those of another one."""


class MemoryShortageError(ArtExtError):
    """A batch that does not fit in memory, where pieces of it would give another result."""


class LostProcessError(ArtExtError):
    """Another process of a training is gone."""


class Stopped(KeyboardInterrupt):
    """A run that was told to stop, and did so in good order.

    No `Exception`, so that nothing which puts up with errors on the way swallows it.

    Attributes:
        exit_code: 128 and the number of the signal, as shells have it.
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal, self.exit_code = signal, 128 + signal


class PartError(ArtExtError):
    """A plugin's part that failed, or did not do what its kind promises; names it and its ingredient."""


@dataclass(frozen=True)
class Problem:
    """One reason why ingredients cannot be combined.

    Attributes:
        message: the thing, the reason and the way out, in one sentence or two.
        names: the ingredients it is about, as a recipe spells them.
    """

    message: str
    names: tuple[str, ...] = ()


class ComposeError(ConfigError):
    """Ingredients that contradict each other; carries all problems, not the first alone."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(p.message for p in self.problems))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A clause that names the nearest known words, or all of them when they are few, or nothing."""
    choices = sorted(set(known))
    near = difflib.get_close_matches(word, choices, n=3, cutoff=0.55)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if 0 < len(choices) <= 12:
        return f"known are {', '.join(choices)}"
    return ""


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """The message for a misspelt name: `unknown KIND 'WORD'; did you mean ...?`"""
    word = word if len(word) <= 80 else f"{word[:77]}..."
    hint = did_you_mean(word, known)
    return f"unknown {kind} {word!r}" + (f"; {hint}" if hint else "")
