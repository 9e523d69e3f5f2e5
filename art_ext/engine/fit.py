"""The loop: epochs, phases, held-out scores, and the best epoch."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from art_ext.engine.contracts import held_to_contracts
from art_ext.engine.helpers import Aide, follow_rates
from art_ext.engine.keeper import Keeper
from art_ext.engine.logs import Logs
from art_ext.engine.memory import batch_norms, is_out_of_memory, release, shortage
from art_ext.engine.net import Net, number_types, set_number_types
from art_ext.engine.observe import EpochReport, Observer, Tick
from art_ext.engine.optim import Schedule, paced, remember_rates, set_rates
from art_ext.engine.run import Run
from art_ext.engine.state import Place, generators, set_generators
from art_ext.engine.step import COST, Step
from art_ext.errors import Stopped
from art_ext.plan import Parts, Plan, Scores
from art_ext.types import Progress

if TYPE_CHECKING:
    from art_ext.data.batches import Batch, Batches

Validate = Callable[[Net, Parts, int], Scores]
"""(net, the present parts, epoch) to scores on held-out data."""

_log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""How often a run looks at the device for a live loss and for NaN."""


@dataclass
class History:
    """What a fit came to.

    Attributes:
        epochs: one report an epoch.
        best_epoch: from 1; the last epoch where nothing was held out.
        best, last: their scores, where something was held out.
    """

    epochs: list[EpochReport] = field(default_factory=list)
    best_epoch: int = 0
    best: Scores | None = None
    last: Scores | None = None
    seconds: float = 0.0


class Fit:
    """Trains a net after a plan.

    Args:
        optimizer: over the net's parameters.
        schedule: a factor of the base rates, set at every batch, restarted with a fresh optimizer.
        scheduler: a torch scheduler of the user's instead, stepped once an epoch.
        validate: scores an epoch on held-out data; the best epoch's weights are then kept beside the last.
        folder: where the states of the training (step-00000012.pt), best.pt and last.pt go, or None.
        checkpoint_every: steps from one state to the next; see `Keeper` for what None means.
        resume: goes on from the last state in the folder, where there is one.

    Attributes:
        place: where the fit stands; history: what it came to so far.
    """

    def __init__(
        self,
        plan: Plan,
        net: Net,
        optimizer: torch.optim.Optimizer,
        run: Run,
        *,
        epochs: int,
        schedule: Schedule | None = None,
        scheduler: Any = None,
        validate: Validate | None = None,
        observers: Sequence[Observer] = (),
        folder: Path | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
    ) -> None:
        self.plan, self.net, self.run, self.epochs = plan, net, run, epochs
        self.schedule, self.scheduler, self.validate = schedule, scheduler, validate
        self.observers, self.folder, self.resume = observers, folder, resume
        self.parts = plan.compose(0)
        self.update = self.parts.update
        self._layers = self.parts.layers
        self.raw_optimizer = optimizer
        self._own_groups = len(optimizer.param_groups)
        self._undo = [change(optimizer, net) for _, change in plan.arrangements]
        self._came_in = [number_types(module) for module in (net, *(helper.module for helper in plan.helpers))]
        self.wrapped, self.optimizer = run.place(net, optimizer)
        remember_rates(optimizer)
        self.helpers = {helper.name: Aide(helper, run, optimizer) for helper in plan.helpers}
        self.fresh = (copy.deepcopy(optimizer.state_dict()), copy.deepcopy(_state(scheduler)))
        self.keeper = None if folder is None else Keeper(self, folder, checkpoint_every)
        self.place, self.history = Place(), History()
        self.phase_start = 0
        self.full_batch = 0
        self.per_epoch = 0
        self._held: set[tuple[type, ...]] = set()
        self.best_state: dict[str, Any] | None = None

    def __call__(self, batches: Batches) -> History:
        """Runs all epochs, or what is left of them; the net ends with the last epoch's weights (their average,
        where an update keeps one), see `restore_best`.

        Raises:
            NonFiniteError: naming the step and the part of the loss that was not finite.
            StorageError: where a checkpoint cannot be written.
            CheckpointError: where it cannot go on from those in the folder.
            Stopped: after a signal; a checkpoint was written.
            LostProcessError: where another process of the training is gone.
        """
        self.place, self.history = Place(), History()
        self.per_epoch = batches.per_epoch
        with (
            self.net.offering_features(),
            ExitStack() as arranged,
            self.run.together(),
            self.run.signals.deferred(),
        ):
            for undo in self._undo:
                arranged.callback(undo)
            if self.keeper is not None:
                self.keeper.begin(resume=self.resume)
            self._train(batches)
        if hasattr(self.update, "averaged"):
            self.net.module.load_state_dict(self.last_weights()["net"])
        return self.history

    def _train(self, batches: Batches) -> None:
        start, before = time.perf_counter(), self.history.seconds
        for epoch in range(self.place.epoch, self.epochs):
            if self.run.stop:
                break
            self._enter(epoch)
            report = self._epoch(epoch, batches)
            self.history.epochs.append(report)
            self.history.seconds = before + time.perf_counter() - start
            for observer in self.observers:
                observer.epoch_end(report)
            self.place = Place(epoch + 1)
            self._leave_or_go_on()
        if self.keeper is not None and (self.keeper.best_is_new or not self.place.finished):
            self.place.finished = True
            self.keeper.keep()

    def _leave_or_go_on(self) -> None:
        """At the end of an epoch: keeps it, and stops where that was asked for."""
        signal = self.run.from_first(lambda: self.run.signals.asked)
        if signal:
            self._stop(signal)
        if self.keeper is not None and self.place.epoch < self.epochs and not self.run.stop:
            self.keeper.epoch_end()

    def _stop(self, signal: int) -> NoReturn:
        """Keeps the state and ends.

        Raises:
            Stopped: always.
        """
        where = f"after step {self.run.step}"
        if self.keeper is not None:
            self.keeper.keep()
            where += f", which is saved in {self.folder}"
        raise self.run.signals.stopped(signal, where)

    @contextmanager
    def deployed(self) -> Iterator[None]:
        """While it holds, the net has the weights that would be deployed: the average, where an update keeps one."""
        averaged = getattr(self.update, "averaged", None)
        if averaged is None:
            yield
            return
        with averaged(self.net):
            yield

    def last_weights(self) -> dict[str, Any]:
        """Those that would be deployed now, with the same statistics on all processes, which all take part."""
        with self.deployed():
            self.run.share_statistics(self.net)
            return self.weights()

    def weights(self) -> dict[str, Any]:
        """The present weights as best.pt and last.pt hold them: those of helpers too."""
        found: dict[str, Any] = {
            "net": _weights(self.net.module),
            "epoch": len(self.history.epochs),
            "step": self.run.step,
        }
        if self.helpers:
            found["helpers"] = {name: {"module": _weights(helper.module)} for name, helper in self.helpers.items()}
        return found

    def restore_best(self) -> None:
        """Puts the best epoch's weights back, where one was chosen; those of helpers too."""
        if self.best_state is None or self.history.best is None:
            return
        self.net.module.load_state_dict(self.best_state["net"])
        for name, helper in self.helpers.items():
            helper.module.load_state_dict(self.best_state["helpers"][name]["module"])

    def give_back(self) -> None:
        """Network, helpers and optimizers return to the number types they came in, which a run in 64-true changes."""
        modules = [self.net, *(helper.module for helper in self.helpers.values())]
        optimizers = [self.raw_optimizer, *(helper.raw_optimizer for helper in self.helpers.values())]
        for module, optimizer, types in zip(modules, optimizers, self._came_in, strict=True):
            if set_number_types(module, types):
                optimizer.load_state_dict(optimizer.state_dict())  # which follows the parameters

    def restarts_later(self) -> bool:
        """Whether a phase will still ask for a fresh optimizer."""
        return any(phase.reset_optimizer and phase.until_epoch >= self.place.epoch for phase in self.plan.phases)

    def take(self, batch: Batch, weight: float = 1.0) -> Logs:
        """One update on one batch, with the present parts; returns the step's logs."""
        if not self.net.training:
            self.net.train()
        while True:
            step, before = Step(self, batch, weight), self.run.weights_version
            try:
                with held_to_contracts(self.plan, self.parts, self._held):
                    self.update(step)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = self._why_not_in_pieces(len(batch.x), moved=self.run.weights_version != before)
                if reason:
                    raise shortage(self.run.step, len(batch.x), reason) from None
            else:
                self.run.step += 1
                for name, value in vars(step.spent).items():
                    step.log(f"{COST}{name}", value)
                return step.logs
            self._take_smaller_pieces(len(batch.x))

    def _why_not_in_pieces(self, rows: int, *, moved: bool) -> str:
        """Why a step that did not fit in memory cannot be taken in smaller pieces, or ""."""
        if self.run.world > 1:
            return "with several processes that has to be the same everywhere"
        if moved:
            return "its first half has moved the weights already"
        if self.run.micro_batch is None and batch_norms(self.net):
            return "batch norms would see fewer rows at once"
        return "" if (self.run.micro_batch or rows) > 1 else "not even one image fits"

    def _take_smaller_pieces(self, rows: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        release(self.run.device)
        self.run.micro_batch = (min(self.run.micro_batch or rows, rows) + 1) // 2
        _log.warning(
            "step %d did not fit in memory; %d images at once go through the network from now on, gradients stay those "
            "of the whole batch",
            self.run.step,
            self.run.micro_batch,
        )

    def _enter(self, epoch: int) -> None:
        """The parts of this epoch; a fresh optimizer and schedule where a phase that asked for them ended."""
        self.run.epoch = epoch
        self.parts = replace(self.plan.compose(epoch), update=self.update, layers=self._layers)
        if self.place.batch > 0:
            return  # it goes on inside the epoch
        if any(phase.until_epoch == epoch and phase.reset_optimizer for phase in self.plan.phases):
            optimizer, scheduler = self.fresh
            self.raw_optimizer.load_state_dict(copy.deepcopy(optimizer))
            if self.scheduler is not None:
                self.scheduler.load_state_dict(copy.deepcopy(scheduler))
            self.phase_start = epoch

    def _phase_end(self, epoch: int) -> int:
        later = [phase.until_epoch for phase in self.plan.phases if phase.until_epoch > epoch and phase.reset_optimizer]
        return min([*later, self.epochs])

    def _epoch(self, epoch: int, batches: Batches) -> EpochReport:
        run, place = self.run, self.place
        whole, phase_epochs = self.parts, self._phase_end(epoch) - self.phase_start
        self.net.train()
        looked = time.perf_counter()
        began = looked - place.seconds
        for batch in self._batches(epoch, batches):
            number = place.batch
            done = epoch + number / batches.per_epoch
            run.progress = Progress(done, self.epochs, run.step)
            if self.schedule is not None:
                set_rates(self.raw_optimizer, self.schedule(done - self.phase_start, phase_epochs))
            self.parts = whole.at(run.progress)
            factor = self.plan.paced(run.progress, self._full_batch(batches, batch))
            weight = 1.0 if run.world == 1 else batches.weight(number, run.rank, run.world)
            with paced(self.raw_optimizer, factor):
                follow_rates(self.raw_optimizer, [helper.raw_optimizer for helper in self.helpers.values()])
                logs = self.take(batch, weight)
            place.sums.take(logs)
            place.seen += len(batch.x)
            place.batch, place.seconds, place.factor = number + 1, time.perf_counter() - began, factor
            if time.perf_counter() - looked > TICK_SECONDS:
                if run.world == 1:
                    run.raise_if_not_finite()
                looked = time.perf_counter()
                sums = place.sums.read()
                loss = sums["loss"] / place.seen if "loss" in sums else None
                for observer in self.observers:
                    observer.tick(Tick(epoch, self.epochs, number + 1, batches.per_epoch, loss))
            self._look_up()
        run.raise_if_not_finite()
        self.parts = whole
        metrics = self._metrics(run.reduce(place.sums.read() | {"rows": float(place.seen)}), place.seconds)
        metrics["lr"] = float(self.raw_optimizer.param_groups[0]["lr"]) * place.factor
        scores, best = self._judge(epoch, metrics)
        self._step_scheduler(metrics)
        return EpochReport(epoch + 1, self.epochs, run.step, metrics, scores, best)

    def _batches(self, epoch: int, batches: Batches) -> Iterator[Batch]:
        """The epoch's batches, or those that are left: a source that draws its order draws the same once more."""
        place, run = self.place, self.run
        if place.batch == 0:
            place.drawn = generators()
            yield from batches.epoch(epoch, run.rank, run.world)
            return
        now = generators()
        set_generators(place.drawn)
        rest = batches.epoch(epoch, run.rank, run.world, place.batch)
        first = next(rest, None)
        set_generators(now)
        if first is not None:
            yield first
            yield from rest

    def _look_up(self) -> None:
        """Between two steps: a checkpoint where one is due, and the end where a signal asked for it."""
        signal, due = self.run.agreed(self.keeper is not None and self.keeper.due())
        if signal:
            self._stop(signal)
        if due and self.keeper is not None:
            self.keeper.keep()

    def _judge(self, epoch: int, metrics: dict[str, float]) -> tuple[Scores | None, bool]:
        """Scores, and whether they are the best; a signal may come between, where there is one process."""
        before = generators()
        try:
            with self.deployed():
                self.run.share_statistics(self.net)
                with self.run.signals.deferred(self.run.world > 1):
                    scores = self._score(epoch, metrics)
                return scores, self._choose(epoch, scores)
        except Stopped as stop:
            set_generators(before)
            self._stop(stop.signal)

    def _metrics(self, sums: Mapping[str, float], seconds: float) -> dict[str, float]:
        rows = sums["rows"]
        counts = ("rows", "correct/", COST)
        metrics = {f"train/{name}": value / rows for name, value in sums.items() if not name.startswith(counts)}
        for view, word in (("clean", "clean"), ("adv", "robust")):
            if sums.get(f"rows/{view}"):
                metrics[f"train/{word}_accuracy"] = sums[f"correct/{view}"] / sums[f"rows/{view}"]
        for name in ("forwards", "backwards", "updates"):
            metrics[f"train/{name}"] = sums.get(f"{COST}{name}", 0.0) / (self.run.world if name == "updates" else 1)
        metrics["images_per_second"] = rows / max(seconds, 1e-9)
        return metrics

    def _score(self, epoch: int, metrics: dict[str, float]) -> Scores | None:
        if self.validate is None:
            return None
        scores = self.validate(self.net, self.parts, epoch)
        metrics["held_out/clean_accuracy"] = scores.clean
        if scores.robust is not None:
            metrics["held_out/robust_accuracy"] = scores.robust
        if scores.thresholded is not None:
            metrics["held_out/thresholded_accuracy"] = scores.thresholded
        metrics |= {f"held_out/{name}": value for name, value in scores.measures.items()}
        return scores

    def _choose(self, epoch: int, scores: Scores | None) -> bool:
        """Whether this epoch is the best so far; warm-up epochs never are."""
        history = self.history
        history.last = scores
        best = epoch >= min(self.plan.warmup_epochs(), self.epochs - 1)
        if scores is not None and history.best is not None:
            best = best and self.parts.selection(scores) > self.parts.selection(history.best)
        if best:
            history.best_epoch, history.best = epoch + 1, scores
            if scores is not None or self.keeper is not None:
                self.best_state = {**self.weights(), "epoch": epoch + 1}
            if self.keeper is not None:
                self.keeper.best_is_new = True
        return best

    def _full_batch(self, batches: Batches, batch: Batch) -> int:
        """Rows in a full batch, over all ranks: what was asked for, else those of the first batch."""
        if self.full_batch == 0:
            self.full_batch = int(getattr(batches, "batch_size", 0) or len(batch.x) * self.run.world)
        return self.full_batch

    def _step_scheduler(self, metrics: Mapping[str, float]) -> None:
        if self.scheduler is None:
            return
        groups = self.raw_optimizer.param_groups
        added = groups[self._own_groups :]  # a scheduler counts the groups that it was made for; these follow them
        del groups[self._own_groups :]
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(metrics.get("train/loss", 0.0))
        else:
            self.scheduler.step()
        groups.extend(added)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _state(scheduler: Any) -> Any:
    return None if scheduler is None else scheduler.state_dict()
