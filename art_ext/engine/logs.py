"""What steps log, kept on the device as it comes: nothing is added up, and nothing waits, until it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

PENDING = 4096
"""Scalars that may be kept unread."""


class Logs:
    """Named sums over a batch's rows, each a scalar and how often it counts."""

    def __init__(self) -> None:
        self._parts: dict[str, list[tuple[Tensor | float, float]]] = {}

    def add(self, name: str, value: Tensor | float, times: float = 1) -> None:
        self._parts.setdefault(name, []).append((_kept(value), times))

    def put(self, name: str, value: Tensor | float, times: float = 1) -> None:
        """Instead of what it was so far."""
        self._parts[name] = [(_kept(value), times)]

    def clear(self) -> None:
        self._parts.clear()

    def __getitem__(self, name: str) -> float:
        return sum(float(value) * times for value, times in self._parts[name])

    def parts(self) -> Iterator[tuple[str, Tensor | float, float]]:
        """(name, a scalar, how often it counts), in the order they came in."""
        for name, parts in self._parts.items():
            for value, times in parts:
                yield name, value, times


class Sums:
    """Sums of many steps' logs. They are added up in the order of the steps, in double precision, so that it does
    not matter when they are read.

    Args:
        known: sums to go on from.
    """

    def __init__(self, known: Mapping[str, float] | None = None) -> None:
        self._sums = dict(known or {})
        self._pending: list[tuple[str, Tensor | float, float]] = []

    def take(self, logs: Logs) -> None:
        self._pending.extend(logs.parts())
        if len(self._pending) > PENDING:
            self.read()

    def read(self) -> dict[str, float]:
        """The sums so far, by name; waits for the device."""
        values = iter(read([value for _, value, _ in self._pending if isinstance(value, Tensor)]))
        for name, value, times in self._pending:
            found = next(values) if isinstance(value, Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + found * times
        self._pending.clear()
        return dict(self._sums)


def read(scalars: Sequence[Tensor]) -> list[float]:
    """The values of scalars; one transfer for each kind of them."""
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, scalar in enumerate(scalars):
        kinds.setdefault((scalar.device, scalar.dtype), []).append(place)
    found = [0.0] * len(scalars)
    for places in kinds.values():
        for place, value in zip(places, torch.stack([scalars[place] for place in places]).tolist(), strict=True):
            found[place] = value
    return found


def _kept(value: Tensor | float) -> Tensor | float:
    return value.detach() if isinstance(value, Tensor) else value
