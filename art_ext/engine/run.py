"""Devices, processes, precision and randomness of one fit, on lightning-fabric."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.precision import Precision
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from torch import Tensor

from art_ext.engine.freeze import Crafter
from art_ext.engine.logs import PENDING, read
from art_ext.engine.net import Net, Passes, in_channels_last
from art_ext.engine.optim import begin_late
from art_ext.engine.signals import Signals
from art_ext.errors import ArtExtError, ConfigError, LostProcessError, NonFiniteError
from art_ext.parts.attacks import BNMode
from art_ext.types import Forward, Progress

T = TypeVar("T")

_GONE = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out|store", re.IGNORECASE)
"""What torch says where another process does not answer."""


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
        micro_batch: rows that go through the network at once, or None for all of a batch and fewer
            where memory does not suffice. Gradients stay those of the whole batch.
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
    micro_batch: int | None = None


def launched(settings: RunSettings) -> tuple[int, int]:
    """(devices, nodes) of a fit: those asked for, or those that torchrun or SLURM started where one was asked for.

    Raises:
        ConfigError: where another number was asked for than was started.
    """
    asked = (settings.devices, settings.nodes)
    found = _started()
    if found is None or asked == found:
        return asked
    if asked == (1, 1) or (asked[0] * asked[1] == found[0] * found[1] and asked[1] == 1):
        return found
    raise ConfigError(
        f"train.devices x train.nodes asks for {asked[0]} x {asked[1]} processes, but {found[0]} x {found[1]} were "
        "started; start as many as that, or leave both settings out"
    )


def _started() -> tuple[int, int] | None:
    """(devices, nodes) as a launcher outside of this process says, or None where there is none."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        here, world = int(environment["LOCAL_WORLD_SIZE"]), int(environment["WORLD_SIZE"])
        return here, world // here
    if SLURMEnvironment.detect():
        nodes = int(environment.get("SLURM_NNODES", environment.get("SLURM_JOB_NUM_NODES", "1")))
        world = int(environment["SLURM_NTASKS"])
        return (world // nodes, nodes) if world > 1 else None
    return None


class Run:
    """One fit's hardware, and the little state that steps share.

    Args:
        signals: what the process was asked to do from outside; by default nothing.

    Raises:
        ConfigError: when the processes asked for did not start, or the precision cannot hold a perturbation.
    """

    def __init__(
        self, settings: RunSettings, seed: int, device: torch.device | None = None, signals: Signals | None = None
    ) -> None:
        if settings.precision in ("16-true", "bf16-true"):
            raise ConfigError(
                f"the precision {settings.precision} rounds pixels by more than an attack moves them; "
                f"use {settings.precision.removesuffix('-true')}-mixed"
            )
        self.settings, self.seed = settings, seed
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        accelerator = settings.accelerator if device is None else {"cuda": "gpu"}.get(device.type, device.type)
        here, nodes = launched(settings)
        devices: Any = here
        if device is not None and device.index is not None and device.type != "cpu":
            devices = [device.index]
        self.fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            precision=settings.precision,
            strategy="ddp" if here * nodes > 1 or _started() is not None else "auto",
        )
        self.fabric.launch()
        if self.fabric.world_size != here * nodes:
            raise ConfigError(
                f"train.devices x train.nodes asks for {here * nodes} processes, but {self.fabric.world_size} started; "
                "start them with torchrun, or set train.devices to 1"
            )
        self.signals = signals or Signals()
        self._passes: Passes | None = None
        self.craft_batch = self.micro_batch = settings.micro_batch
        self._control: Any = None
        self._wishes: tuple[Any, Tensor] | None = None
        self._dtype = torch.float64 if settings.precision == "64-true" else torch.float32
        self.weights_version = 0
        self.progress = Progress(0.0, 0.0)
        self.step = 0
        self.epoch = 0
        self.stop = False
        self._watched: list[tuple[int, str, Tensor]] = []
        self._bad: tuple[int, str] | None = None
        self.crafter = Crafter(settings.fold)

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    @property
    def micro_batch(self) -> int | None:
        """Rows that go through the network at once in training; None: all of a batch."""
        return self._micro_batch

    @micro_batch.setter
    def micro_batch(self, rows: int | None) -> None:
        self._micro_batch = rows
        if self._passes is not None:
            self._passes.rows = rows

    @property
    def rank(self) -> int:
        return self.fabric.global_rank

    @property
    def world(self) -> int:
        return self.fabric.world_size

    def place(self, net: Net, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """The wrapped outer call and optimizer; the net itself is moved, and stays the bare module."""
        net.channels_last = self.settings.channels_last
        passes: Any = Passes(net)
        self._passes, self.micro_batch = passes, self.micro_batch
        if self.settings.compile:
            passes = torch.compile(passes)
        wrapped, optimizer = self.fabric.setup(passes, optimizer)
        return (passes if self._plain else wrapped), optimizer

    @property
    def _plain(self) -> bool:
        """One process, full precision: Fabric's wrapper would look at every tensor of a pass and change none."""
        strategy = self.fabric.strategy
        return type(strategy) is SingleDeviceStrategy and type(strategy.precision) is Precision

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

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """What scales losses in half precision; None where nothing does."""
        return getattr(self.fabric.strategy.precision, "scaler", None)

    def step_optimizer(self, optimizer: Any) -> None:
        raw = getattr(optimizer, "optimizer", optimizer)
        if self.settings.clip_gradient is not None:
            if self.scaler is not None:
                self.scaler.unscale_(raw)
            self.clip([p.grad for group in raw.param_groups for p in group["params"] if p.grad is not None])
        begin_late(raw, may_skip=self.scaler is not None)
        optimizer.step()
        self.weights_version += 1

    def clip(self, gradients: Sequence[Tensor]) -> None:
        """Shortens gradients in place, together, to the largest norm that is allowed."""
        limit = self.settings.clip_gradient
        if limit is not None and gradients:
            share = (limit / (torch.nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(list(gradients), share)

    def watch_finite(self, terms: Mapping[str, Tensor]) -> None:
        """Keeps this step's terms, scalars, to be looked at later: no synchronisation here."""
        self._watched.extend((self.step, name, value.detach()) for name, value in terms.items())
        if len(self._watched) > PENDING:
            self._look()

    def _look(self) -> None:
        """Finds the first step and term that was not finite."""
        values = read([value for _, _, value in self._watched])
        if self._bad is None:
            known = zip(self._watched, values, strict=True)
            self._bad = next(((step, name) for (step, name, _), value in known if not math.isfinite(value)), None)
        self._watched.clear()

    def raise_if_not_finite(self) -> None:
        """Looks at what `watch_finite` kept; all processes take part, so that all of them stop.

        Raises:
            NonFiniteError: naming the step and the part of the loss.
        """
        self._look()
        found: list[tuple[int, str] | None] = [self._bad]
        if self.world > 1:
            found *= self.world
            dist.all_gather_object(found, self._bad, group=self.control)
        bad = [place for place in found if place is not None]
        if bad:
            step, part = min(bad)
            raise NonFiniteError(
                f"the loss became NaN or infinite at step {step}, in the part {part!r}; the last good checkpoint "
                "stays; try a lower learning rate or train.clip_gradient"
            )

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on needs, beyond networks and generators."""
        precision: Any = self.fabric.strategy.precision
        return {
            "step": self.step,
            "stop": self.stop,
            "micro_batch": self.micro_batch,
            "craft_batch": self.craft_batch,
            "crafter": self.crafter.state_dict(),
            "precision": precision.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        precision: Any = self.fabric.strategy.precision
        self.step, self.stop = state["step"], state["stop"]
        self.micro_batch, self.craft_batch = state["micro_batch"], state["craft_batch"]
        self.crafter.load_state_dict(state["crafter"])
        if state["precision"]:
            precision.load_state_dict(state["precision"])

    # several processes

    @property
    def control(self) -> Any:
        """A group of all processes for what is agreed on beside the training; on the CPU, so that no device waits."""
        if self._control is None:
            self._control = dist.new_group(backend="gloo")
        return self._control

    def gather(self, own: T) -> list[T] | None:
        """Each process's value, in order of ranks, on the first one; None on the others."""
        if self.world == 1:
            return [own]
        found: list[Any] | None = [None] * self.world if self.rank == 0 else None
        dist.gather_object(own, found, group=self.control)
        return found

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, on all of them; an error of ours is raised on all, too."""
        if self.world == 1:
            return make()
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = make()
            except ArtExtError as error:
                box[1] = error
        dist.broadcast_object_list(box, group=self.control)
        if box[1] is not None:
            raise box[1]
        made: T = box[0]
        return made

    def own(self, n: int) -> Tensor:
        """(n,) bool: which of n examples this process evaluates: every world-th, from its rank on."""
        return torch.arange(n) % self.world == self.rank

    def anywhere(self, found: Tensor) -> Tensor:
        """(n,) bool: what is true on any process."""
        if self.world == 1:
            return found
        known = found.to(torch.uint8)
        dist.all_reduce(known, op=dist.ReduceOp.MAX, group=self.control)
        return known.bool()

    def agreed(self, due: bool) -> tuple[int, bool]:
        """(a signal that any process heard or 0, whether a checkpoint is due), the same on all processes.

        With several processes the answer is that of the step before: nothing waits for it.
        """
        asked = self.signals.asked or 0
        if self.world == 1:
            return asked, due
        before, present = self._wishes, torch.tensor([asked, int(due)])
        self._wishes = (dist.all_reduce(present, op=dist.ReduceOp.MAX, group=self.control, async_op=True), present)
        if before is None:
            return 0, False
        work, known = before
        work.wait()
        signal, wanted = known.tolist()
        return signal, bool(wanted)

    def settle(self) -> None:
        """Forgets what the others wished for before this step; called by all processes after a checkpoint."""
        if self._wishes is not None:
            self._wishes[0].wait()
            self._wishes = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Says in one line that another process is gone, where torch says it in its own words.

        Raises:
            LostProcessError: after which this process had better end.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world == 1 or not (isinstance(error, dist.DistError) or _GONE.search(str(error))):
                raise
            raise LostProcessError(
                f"process {self.rank} of {self.world} lost another one at step {self.step} and cannot go on alone; "
                "start all of them again to resume from the last checkpoint"
            ) from None

    def reduce(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Sums over all processes."""
        if self.world == 1:
            return dict(sums)
        values = torch.tensor(list(sums.values()), dtype=torch.float64)
        dist.all_reduce(values, group=self.control)
        return dict(zip(sums, values.tolist(), strict=True))
