"""Interleaved timing: A B C A B C ..., so that a noisy machine is noisy for all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Clock = Literal["cpu", "wall"]
CLOCKS: tuple[Clock, ...] = ("cpu", "wall")


@dataclass
class Contender:
    """Something to time.

    Attributes:
        run: does `units` units of work (training steps, passes, calls) at each call.
        times: seconds a unit, one entry a round, for each clock.
    """

    name: str
    run: Callable[[], object]
    units: int = 1
    times: dict[Clock, list[float]] = field(default_factory=lambda: {"cpu": [], "wall": []})

    def measure(self) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        self.run()
        self.times["cpu"].append((time.process_time() - cpu) / self.units)
        self.times["wall"].append((time.perf_counter() - wall) / self.units)

    def median(self, clock: Clock) -> float:
        """Seconds a unit."""
        return statistics.median(self.times[clock])


def interleave(contenders: Sequence[Contender], rounds: int, warm_up: int) -> None:
    """Times every contender once a round; each round starts with another one."""
    for _ in range(warm_up):
        for contender in contenders:
            contender.run()
    for number in range(rounds):
        first = number % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            contender.measure()


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios, one a round, with the quartiles as its spread."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> Ratio:
        ratios = sorted(a / b for a, b in zip(above, below, strict=True))
        if len(ratios) < 2:
            return cls(ratios[0], ratios[0], ratios[0])
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.4g}"
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"
