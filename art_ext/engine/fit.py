"""The loop: epochs, phases, held-out scores, and the best epoch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from art_ext.engine import checkpoint
from art_ext.engine.helpers import Aide, follow_rates
from art_ext.engine.net import Net
from art_ext.engine.observe import EpochReport, Observer, Tick
from art_ext.engine.optim import Schedule, paced, remember_rates, set_rates
from art_ext.engine.run import Run
from art_ext.engine.step import Step
from art_ext.plan import Parts, Plan, Scores
from art_ext.types import Progress

if TYPE_CHECKING:
    from art_ext.data.batches import Batch, Batches

Validate = Callable[[Net, Parts, int], Scores]
"""(net, the present parts, epoch) to scores on held-out data."""

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
        folder: where best.pt and last.pt go, or None.
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
    ) -> None:
        self.plan, self.net, self.run, self.epochs = plan, net, run, epochs
        self.schedule, self.scheduler, self.validate = schedule, scheduler, validate
        self.observers, self.folder = observers, folder
        self.parts = plan.compose(0)
        self.update = self.parts.update
        self.raw_optimizer = optimizer
        self._undo = [change(optimizer, net) for _, change in plan.arrangements]
        self.wrapped, self.optimizer = run.place(net, optimizer)
        remember_rates(optimizer)
        self.helpers = {helper.name: Aide(helper, run, optimizer) for helper in plan.helpers}
        self._fresh = (copy.deepcopy(optimizer.state_dict()), copy.deepcopy(_state(scheduler)))
        self._phase_start = 0
        self._rows = 0
        self._best_state: list[dict[str, Tensor]] | None = None

    def __call__(self, batches: Batches) -> History:
        """Runs all epochs; the net ends with the last epoch's weights (their average, where an update keeps
        one), see `restore_best`.

        Raises:
            NonFiniteError: naming the step and the part of the loss that was not finite.
        """
        history, start = History(), time.perf_counter()
        with self.net.offering_features(), ExitStack() as arranged:
            for undo in self._undo:
                arranged.callback(undo)
            for epoch in range(self.epochs):
                self._enter(epoch)
                report = self._epoch(epoch, batches, history)
                history.epochs.append(report)
                for observer in self.observers:
                    observer.epoch_end(report)
                if self.run.stop:
                    break
        if hasattr(self.update, "averaged"):
            with self.deployed():
                last = _weights(self.net)
            self.net.load_state_dict(last)
        history.seconds = time.perf_counter() - start
        return history

    @contextmanager
    def deployed(self) -> Iterator[None]:
        """While it holds, the net has the weights that would be deployed: the average, where an update keeps one."""
        averaged = getattr(self.update, "averaged", None)
        if averaged is None:
            yield
            return
        with averaged(self.net):
            yield

    def restore_best(self) -> None:
        """Puts the best epoch's weights back, where one was chosen; those of helpers too."""
        if self._best_state is not None:
            for module, state in zip(self._networks(), self._best_state, strict=True):
                module.load_state_dict(state)

    def _networks(self) -> list[nn.Module]:
        return [self.net, *(helper.module for helper in self.helpers.values())]

    def take(self, batch: Batch) -> dict[str, Tensor]:
        """One update on one batch, with the present parts; returns the step's logs."""
        self.net.train()
        step = Step(self, batch.x, batch.y, batch.index)
        self.update(step)
        self.run.step += 1
        return step.logs

    def _enter(self, epoch: int) -> None:
        """The parts of this epoch; a fresh optimizer and schedule where a phase that asked for them ended."""
        self.run.epoch = epoch
        self.parts = replace(self.plan.compose(epoch), update=self.update)
        if any(phase.until_epoch == epoch and phase.reset_optimizer for phase in self.plan.phases):
            optimizer, scheduler = self._fresh
            self.raw_optimizer.load_state_dict(copy.deepcopy(optimizer))
            if self.scheduler is not None:
                self.scheduler.load_state_dict(copy.deepcopy(scheduler))
            self._phase_start = epoch

    def _phase_end(self, epoch: int) -> int:
        later = [phase.until_epoch for phase in self.plan.phases if phase.until_epoch > epoch and phase.reset_optimizer]
        return min([*later, self.epochs])

    def _epoch(self, epoch: int, batches: Batches, history: History) -> EpochReport:
        run, seen = self.run, 0
        sums: dict[str, Tensor] = {}
        whole, phase_epochs = self.parts, self._phase_end(epoch) - self._phase_start
        began = looked = time.perf_counter()
        factor = 1.0
        for number, batch in enumerate(batches.epoch(epoch, run.rank, run.world)):
            done = epoch + number / batches.per_epoch
            run.progress = Progress(done, self.epochs, run.step)
            if self.schedule is not None:
                set_rates(self.raw_optimizer, self.schedule(done - self._phase_start, phase_epochs))
            self.parts = whole.at(run.progress)
            factor = self.plan.paced(run.progress, self._full_batch(batches, batch))
            with paced(self.raw_optimizer, factor):
                follow_rates(self.raw_optimizer, [helper.raw_optimizer for helper in self.helpers.values()])
                logs = self.take(batch)
            for name, value in logs.items():
                sums[name] = sums[name] + value if name in sums else value
            seen += len(batch.x)
            if time.perf_counter() - looked > TICK_SECONDS:
                run.raise_if_not_finite()
                looked = time.perf_counter()
                loss = float(sums["loss"]) / seen if "loss" in sums else None
                for observer in self.observers:
                    observer.tick(Tick(epoch, self.epochs, number + 1, batches.per_epoch, loss))
        run.raise_if_not_finite()
        seconds = time.perf_counter() - began
        self.parts = whole
        metrics = self._metrics(run.reduce(sums | {"rows": torch.full((), float(seen), device=run.device)}), seconds)
        metrics["lr"] = float(self.raw_optimizer.param_groups[0]["lr"]) * factor
        with self.deployed():
            run.share_statistics(self.net)
            scores = self._score(epoch, metrics)
            best = self._choose(epoch, scores, history)
        self._step_scheduler(metrics)
        return EpochReport(epoch + 1, self.epochs, run.step, metrics, scores, best)

    def _metrics(self, sums: Mapping[str, float], seconds: float) -> dict[str, float]:
        rows = sums["rows"]
        counts = ("rows", "correct/")
        metrics = {f"train/{name}": value / rows for name, value in sums.items() if not name.startswith(counts)}
        for view, word in (("clean", "clean"), ("adv", "robust")):
            if sums.get(f"rows/{view}"):
                metrics[f"train/{word}_accuracy"] = sums[f"correct/{view}"] / sums[f"rows/{view}"]
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
        return scores

    def _choose(self, epoch: int, scores: Scores | None, history: History) -> bool:
        """Whether this epoch is the best so far; warm-up epochs never are."""
        history.last = scores
        best = epoch >= min(self.plan.warmup_epochs(), self.epochs - 1)
        if scores is not None and history.best is not None:
            best = best and self.parts.selection(scores) > self.parts.selection(history.best)
        if best:
            history.best_epoch, history.best = epoch + 1, scores
            if scores is not None:
                self._best_state = [_weights(module) for module in self._networks()]
        if self.folder is not None and self.run.rank == 0:
            state = {"net": self.net.module.state_dict(), "epoch": epoch + 1, "step": self.run.step}
            if self.helpers:
                state["helpers"] = {name: helper.state_dict() for name, helper in self.helpers.items()}
            checkpoint.save(self.folder / "last.pt", state)
            if best:
                checkpoint.save(self.folder / "best.pt", state)
        return best

    def _full_batch(self, batches: Batches, batch: Batch) -> int:
        """Rows in a full batch, over all ranks: what was asked for, else those of the first batch."""
        if self._rows == 0:
            self._rows = int(getattr(batches, "batch_size", 0) or len(batch.x) * self.run.world)
        return self._rows

    def _step_scheduler(self, metrics: Mapping[str, float]) -> None:
        if self.scheduler is None:
            return
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(metrics.get("train/loss", 0.0))
        else:
            self.scheduler.step()


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _state(scheduler: Any) -> Any:
    return None if scheduler is None else scheduler.state_dict()
