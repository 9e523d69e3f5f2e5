"""The classifier as the engine sees it: pixels in, `Outputs` out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from art_ext.engine.memory import in_pieces
from art_ext.types import Outputs, collecting, offer


def in_channels_last(x: Tensor) -> Tensor:
    """x (N, C, H, W) with strides in channels-last order; x itself where it has them.

    With one channel both orders describe the same bytes, and torch leaves the strides as they
    are, which convolutions read as channels-first: they are set by hand.
    """
    n, c, h, w = x.shape
    if c != 1:
        return x.contiguous(memory_format=torch.channels_last)
    if x.stride() == (h * w, 1, w, 1):
        return x
    return x.contiguous().view(n, h, w, 1).permute(0, 3, 1, 2)


class Net(nn.Module):
    """A module that maps pixels (N, C, H, W) to logits (N, K), with what surrounds it.

    Standardisation is folded in, so that attacks and eps stay in clip-value units; extras that
    parts asked for ("features": what enters the head; "members"; ...) are collected on the way.

    Args:
        module: returns a plain logits tensor.
        mean, std: subtracted from and divided into the pixels, broadcastable to (C, H, W).
        head: the module whose input is the features; needed only when they are wanted.
        wanted: names of the extras to collect.

    Attributes:
        channels_last: whether images go in in channels-last order, whoever made them.
    """

    channels_last = False
    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        module: nn.Module,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        head: nn.Module | None = None,
        wanted: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.wanted = wanted
        self._head = [head]  # in a list, so that it is not registered a second time

    def forward(self, x: Tensor) -> Outputs:
        if self.channels_last and x.ndim == 4:
            x = in_channels_last(x)
        if self.mean is not None and self.std is not None:
            x = (x - self.mean) / self.std
        if not self.wanted:
            return Outputs(self.module(x))
        with collecting() as extras:
            logits = self.module(x)
        return Outputs(logits, {name: extras[name] for name in self.wanted if name in extras})

    @contextmanager
    def offering_features(self) -> Iterator[None]:
        """While it holds, the head's input is offered as "features"."""
        head = self._head[0]
        if head is None or "features" not in self.wanted:
            yield
            return
        handle = head.register_forward_pre_hook(_offer_features)
        try:
            yield
        finally:
            handle.remove()


def _offer_features(head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    offer("features", inputs[0])


def number_types(module: nn.Module) -> dict[str, torch.dtype]:
    """The number type of each parameter and buffer, by name."""
    return {name: tensor.dtype for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def set_number_types(module: nn.Module, types: dict[str, torch.dtype]) -> bool:
    """Gives parameters and buffers the types named for them, in place; returns whether any had another."""
    named = [(name, tensor) for name, tensor in (*module.named_parameters(), *module.named_buffers())]
    others = [(tensor, types[name]) for name, tensor in named if tensor.dtype != types.get(name, tensor.dtype)]
    for tensor, dtype in others:
        tensor.grad = None
        tensor.data = tensor.data.to(dtype)
    return bool(others)


class Passes(nn.Module):
    """The one outer call of a step: it takes all parts of a batch, in one pass or in several.

    Two wrapped calls before one backward are fragile under data parallelism; inside the one call,
    a joint pass shares the batch statistics of normalisation layers, separate passes do not.
    """

    rows: int | None = None
    """That go through the network at once; None: all."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, parts: Sequence[Tensor], joint: bool) -> list[Outputs]:
        if len(parts) == 1 or not joint:
            return [in_pieces(self.net, part, self.rows) for part in parts]
        sizes = [len(part) for part in parts]
        out = in_pieces(self.net, torch.cat(list(parts)), self.rows)
        logits = torch.split(out.logits, sizes)
        extras = {name: torch.split(value, sizes) for name, value in out.extras.items()}
        return [Outputs(logits[i], {name: value[i] for name, value in extras.items()}) for i in range(len(sizes))]
