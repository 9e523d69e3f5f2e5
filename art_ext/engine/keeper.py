"""When the state of a fit goes to its folder, and how a fit goes on from there."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from art_ext.engine import checkpoint
from art_ext.engine.checkpoint import Shelf
from art_ext.engine.state import capture, restore
from art_ext.errors import CheckpointError, ModelError

if TYPE_CHECKING:
    from art_ext.engine.fit import Fit

__all__ = ["INTERVAL", "SHARE", "Keeper"]

INTERVAL = 300.0
"""Seconds between two checkpoints inside an epoch, where no number of steps is asked for."""
SHARE = 0.02
"""Of the time, what checkpoints may take where no number of steps is asked for."""

_log = logging.getLogger(__name__)


class Keeper:
    """Keeps a fit's training states and its best weights in a folder.

    Without a number of steps, a state is written at the end of an epoch and every five minutes, yet
    never so often that it takes more than `SHARE` of the time.

    Args:
        every: steps from one checkpoint to the next; one more is written at each epoch's end.
    """

    def __init__(self, fit: Fit, folder: Path, every: int | None = None) -> None:
        self.fit, self.folder, self.every = fit, folder, every
        self.shelf = Shelf(folder)
        self.best_is_new = False
        self._last_step = 0
        self._last_time = time.perf_counter()
        self._cost = 0.0

    def begin(self, *, resume: bool) -> bool:
        """Puts the fit where its last whole checkpoint was written, if asked to; False where it begins anew.

        Raises:
            CheckpointError: where all are damaged, or are those of another training; and without `resume`
                where there are any, whose place this fit would take.
        """
        fit = self.fit
        if not resume:
            if fit.run.from_first(self.shelf.paths):
                raise CheckpointError(
                    f"{self.folder} holds the checkpoints of a training already; go on with it by resume=True, "
                    "or name another folder"
                )
            return False
        state = fit.run.from_first(self.shelf.newest)
        if state is None:
            return False
        for difference in restore(fit, state):
            _log.warning("%s; the result may differ in its last bits", difference)
        self._last_step, self._last_time = fit.run.step, time.perf_counter()
        self.best_is_new = fit.best_state is not None and not fit.run.from_first(self._best_is_whole)
        return True

    def due(self) -> bool:
        """Between two steps of an epoch."""
        if self.every is not None:
            return self.fit.run.step - self._last_step >= self.every
        passed = time.perf_counter() - self._last_time
        return passed >= max(INTERVAL, self._cost / SHARE)

    def epoch_end(self) -> None:
        """Writes, unless the last checkpoint was just written."""
        cheap = self.every is not None or time.perf_counter() - self._last_time >= self._cost / SHARE
        if self.fit.run.from_first(lambda: cheap):
            self.keep()

    def keep(self) -> None:
        """Writes the best weights, where they are new, and the state; all processes take part.

        Raises:
            StorageError: where the disk is full; all that was there stays.
            NonFiniteError: instead of keeping weights that a NaN has reached.
        """
        fit, began = self.fit, time.perf_counter()
        fit.run.raise_if_not_finite()
        state = capture(fit)
        last = fit.last_weights() if fit.place.finished else None
        fit.run.from_first(lambda: self._write(state, last))
        fit.run.settle()
        self.best_is_new = False
        self._last_step, self._last_time = fit.run.step, time.perf_counter()
        self._cost = self._last_time - began

    def _write(self, state: dict[str, Any] | None, last: dict[str, Any] | None) -> None:
        assert state is not None
        fit = self.fit
        if self.best_is_new and fit.best_state is not None:
            checkpoint.save(self.folder / "best.pt", fit.best_state)
        self.shelf.put(fit.run.step, state)
        if last is not None:
            checkpoint.save(self.folder / "last.pt", last)

    def _best_is_whole(self) -> bool:
        try:
            return bool(checkpoint.load(self.folder / "best.pt")["epoch"] == self.fit.history.best_epoch)
        except (ModelError, KeyError):
            return False
