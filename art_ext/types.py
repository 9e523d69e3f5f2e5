"""The values that parts hand to one another: tensors with names, and nothing that acts.

Shapes: N examples, K classes, D pixels; images are (N, C, H, W) in the clip range of `Facts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class Outputs(NamedTuple):
    """What one forward pass gives."""

    logits: Tensor
    """(N, K), before any softmax; all that attacks and ART see."""
    extras: Mapping[str, Tensor] = NOTHING
    """"features", "members", ... as the network offers them; see `offer`."""


Forward = Callable[[Tensor], Outputs]
"""A network as attacks see it: (N, C, H, W) in pixels to `Outputs`."""


class Adversarial(NamedTuple):
    """What an attack gives."""

    x: Tensor
    """(N, C, H, W), within the clip range."""
    delta: Tensor
    """x minus the clean input."""
    extras: Mapping[str, Tensor] = NOTHING


class View(NamedTuple):
    """One part of a batch after its forward pass."""

    out: Outputs
    y: Tensor
    """(N,) class indices."""
    target: Tensor
    """(N,) indices or (N, K) distributions."""


class Views(NamedTuple):
    clean: View | None
    adv: View | None


class Rows(NamedTuple):
    """Which rows of a batch are used clean and which are attacked; the two may overlap."""

    clean: slice | None
    adv: slice | None


@dataclass(frozen=True)
class Facts:
    """What is known of the task before the first step."""

    n_classes: int
    input_shape: tuple[int, ...]
    """(C, H, W)."""
    clip: tuple[float, float] = (0.0, 1.0)
    """Smallest and largest pixel value; eps is in the same units."""


@dataclass(frozen=True)
class Progress:
    """Where a fit stands; the only view of time that parts get (through `at`)."""

    epoch: float
    """Epochs done, as a real number: epoch + batch / batches."""
    epochs: float
    """Epochs in all."""
    step: int = 0
    """Batches done."""


_collector: ContextVar[dict[str, Tensor] | None] = ContextVar("art_ext_extras", default=None)


def offer(name: str, value: Tensor) -> None:
    """Hands an extra output to whoever runs the current forward pass; a no-op when nobody asked.

    A module returns plain logits, since ART and attackers need that; whatever else it knows
    (an ensemble its members, a head its features) goes through this side channel.
    """
    extras = _collector.get()
    if extras is not None:
        extras[name] = value


@contextmanager
def collecting() -> Iterator[dict[str, Tensor]]:
    """Collects what modules `offer` during a forward pass."""
    extras: dict[str, Tensor] = {}
    token = _collector.set(extras)
    try:
        yield extras
    finally:
        _collector.reset(token)
