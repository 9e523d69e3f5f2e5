"""Units that are worked on in processes of their own: in a module that those can import, as `__main__` they cannot."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import signal
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.claims.units import Unit, work


def attempt(unit: Unit, quick: bool) -> tuple[Unit, dict[str, Any] | str]:
    """A unit's record, or why there is none."""
    try:
        return unit, work(unit, quick)
    except Exception as error:
        return unit, f"{error.__class__.__name__}: {error}\n{traceback.format_exc()}"


def prepare_worker() -> None:
    """Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quieten()


def quieten() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


@contextmanager
def attempts(units: Sequence[Unit], jobs: int, quick: bool) -> Iterator[Iterator[tuple[Unit, dict[str, Any] | str]]]:
    """The units' results as they come, here for one job, in processes of their own for more."""
    one = functools.partial(attempt, quick=quick)
    if jobs == 1:
        quieten()
        yield map(one, units)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, prepare_worker) as pool:
        yield pool.imap_unordered(one, units)
