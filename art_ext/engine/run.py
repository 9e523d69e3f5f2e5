"""Devices, processes, precision and randomness of one fit, on lightning-fabric."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from art_ext.engine.freeze import Crafter
from art_ext.engine.net import Net, Passes
from art_ext.errors import ConfigError, NonFiniteError
from art_ext.parts.attacks import BNMode
from art_ext.types import Forward, Progress


@dataclass(frozen=True)
class RunSettings:
    """How a fit runs; nothing here changes what it computes, beyond rounding.

    Attributes:
        precision: lightning-fabric's names: "32-true", "bf16-mixed", "64-true", ...
        fold: craft on a twin with batch norms folded, where that is proven exact.
        channels_last: hand images over in channels-last order.
        compile: run the network through torch.compile.
        clip_gradient: largest gradient norm, or None.
        threads: CPU threads of this process from now on, or None to leave them; on small images they
            wait for each other, most of all beside other work.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: Any = "32-true"
    compile: bool = False
    fold: bool = True
    channels_last: bool = True
    clip_gradient: float | None = None
    threads: int | None = None


class Run:
    """One fit's hardware, and the little state that steps share.

    Raises:
        ConfigError: when the processes asked for did not start, or the precision cannot hold a perturbation.
    """

    def __init__(self, settings: RunSettings, seed: int, device: torch.device | None = None) -> None:
        if settings.precision in ("16-true", "bf16-true"):
            raise ConfigError(
                f"the precision {settings.precision} rounds pixels by more than an attack moves them; "
                f"use {settings.precision.removesuffix('-true')}-mixed"
            )
        self.settings, self.seed = settings, seed
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        accelerator = settings.accelerator if device is None else {"cuda": "gpu"}.get(device.type, device.type)
        devices: Any = settings.devices
        if device is not None and device.index is not None and device.type != "cpu":
            devices = [device.index]
        asked = settings.devices * settings.nodes
        self.fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=settings.nodes,
            precision=settings.precision,
            strategy="ddp" if asked > 1 or "TORCHELASTIC_RUN_ID" in os.environ else "auto",
        )
        self.fabric.launch()
        if self.fabric.world_size != asked and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise ConfigError(
                f"train.devices x train.nodes asks for {asked} processes, but {self.fabric.world_size} started; "
                "start them with torchrun, or set train.devices to 1"
            )
        self._dtype = torch.float64 if settings.precision == "64-true" else torch.float32
        self.weights_version = 0
        self.progress = Progress(0.0, 0.0)
        self.step = 0
        self.epoch = 0
        self.stop = False
        self._bad: Tensor | None = None
        self._parts: list[str] = []
        self.crafter = Crafter(settings.fold)

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    @property
    def rank(self) -> int:
        return self.fabric.global_rank

    @property
    def world(self) -> int:
        return self.fabric.world_size

    def place(self, net: Net, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """The wrapped outer call and optimizer; the net itself is moved, and stays the bare module."""
        passes: Any = Passes(net)
        if self.settings.compile:
            passes = torch.compile(passes)
        wrapped, optimizer = self.fabric.setup(passes, optimizer)
        self._bad = torch.full((), -1, dtype=torch.int64, device=self.device)
        return wrapped, optimizer

    def layout(self, x: Tensor) -> Tensor:
        """Images in the network's number type, and the memory order that convolutions run fastest in."""
        x = x.to(self._dtype)
        return in_channels_last(x) if self.settings.channels_last and x.ndim == 4 else x

    @contextmanager
    def crafting(self, net: Net, bn: BNMode, example: Tensor) -> Iterator[Forward]:
        """The network for an attack: the bare module (no hooks of data parallelism), under autocast."""
        self.share_statistics(net)
        with self.fabric.autocast(), self.crafter(net, bn, example) as forward:
            yield forward

    def share_statistics(self, net: Net) -> None:
        """The same normalisation statistics on all ranks: each would attack another network otherwise."""
        if self.world > 1:
            for buffer in net.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.world

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def step_optimizer(self, net: nn.Module, optimizer: Any) -> None:
        if self.settings.clip_gradient is not None:
            self.fabric.clip_gradients(net, optimizer, max_norm=self.settings.clip_gradient, error_if_nonfinite=False)
        optimizer.step()
        self.weights_version += 1

    def watch_finite(self, terms: dict[str, Tensor]) -> None:
        """Keeps the first step and term that was not finite, on the device: no synchronisation here."""
        assert self._bad is not None
        for name, value in terms.items():
            if name not in self._parts:
                self._parts.append(name)
            code = self.step * 256 + self._parts.index(name)
            now = (self._bad < 0) & ~torch.isfinite(value.detach())
            self._bad = torch.where(now, code, self._bad)

    def raise_if_not_finite(self) -> None:
        """Reads what `watch_finite` kept.

        Raises:
            NonFiniteError: naming the step and the part of the loss.
        """
        code = -1 if self._bad is None else int(self._bad)
        if code >= 0:
            raise NonFiniteError(
                f"the loss became NaN or infinite at step {code // 256}, in the part {self._parts[code % 256]!r}; "
                "the last good checkpoint stays; try a lower learning rate or train.clip_gradient"
            )

    def reduce(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Sums over all processes, read from the device in one go."""
        if not sums:
            return {}
        values = torch.stack([value.to(torch.float64) for value in sums.values()])
        if self.world > 1:
            dist.all_reduce(values)
        return dict(zip(sums, values.tolist(), strict=True))


def in_channels_last(x: Tensor) -> Tensor:
    """x (N, C, H, W) with strides in channels-last order.

    With one channel both orders describe the same bytes, and torch leaves the strides as they
    are, which convolutions read as channels-first: they are set by hand.
    """
    _, c, h, w = x.shape
    if c == 1:
        return x.contiguous().as_strided(x.shape, (h * w, 1, w, 1))
    return x.contiguous(memory_format=torch.channels_last)


