"""SIGTERM and the first SIGINT ask a run to stop in good order, instead of ending the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from art_ext.errors import Stopped

HEARD = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """What a run was asked to do by signals, while `heard()` holds.

    Where nothing is in the middle of a step, `Stopped` is raised at once. Inside `deferred()` the
    wish is only remembered, and whoever takes the steps looks at `asked` between two of them. A
    second SIGINT ends the process as usual.

    Attributes:
        asked: the number of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._deferring = False

    @contextmanager
    def heard(self) -> Iterator[Signals]:
        """Listens; outside of the main thread, where Python hears no signals, nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in HEARD}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self, wish: bool = True) -> Iterator[None]:
        """While it holds, signals wait; with False they do not, inside of another one that has them wait."""
        before, self._deferring = self._deferring, wish
        try:
            if not wish and self.asked is not None:
                raise self.stopped()
            yield
        finally:
            self._deferring = before

    def stopped(self, number: int | None = None, where: str = "") -> Stopped:
        """The error that ends a run.

        Args:
            number: of the signal, where another process heard it.
            where: a clause such as "after step 12".
        """
        number = number or self.asked or signal.SIGTERM
        return Stopped(number, f"stopped by {signal.Signals(number).name}{where and f' {where}'}")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if not self._deferring:
            raise self.stopped()
