"""The progress of a run for people: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from art_ext.engine.observe import EpochReport, Observer, RunInfo, Tick

PLAIN_LINES = 10
"""Lines that a run prints without a terminal, at most about."""


class ProgressDisplay(Observer):
    """Shows epoch, ETA, loss, and live clean and robust accuracy on held-out data."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._name = ""
        self._began = 0.0
        self._live = ""

    def run_start(self, info: RunInfo) -> None:
        self._name = info.role if info.role != "fit" else info.name
        self._began = time.perf_counter()
        self._live = ""
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[epoch]}"),
                TextColumn("{task.fields[live]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task(self._name, total=None, epoch="", live="")
            self._bar.start()

    def tick(self, tick: Tick) -> None:
        if self._bar is not None:
            done = tick.epoch + tick.batch / tick.batches
            loss = "" if tick.loss is None else f"loss {tick.loss:.3f} "
            self._update(done, tick.epochs, f"epoch {tick.epoch + 1}/{tick.epochs}", loss)

    def epoch_end(self, report: EpochReport) -> None:
        self._live = self._held_out(report.metrics)
        loss = f"loss {report.metrics['train/loss']:.3f} " if "train/loss" in report.metrics else ""
        if self._bar is not None:
            self._update(report.epoch, report.epochs, f"epoch {report.epoch}/{report.epochs}", loss)
            return
        every = max(1, report.epochs // PLAIN_LINES)
        if report.epoch % every == 0 or report.epoch in (1, report.epochs):
            left = (time.perf_counter() - self._began) / report.epoch * (report.epochs - report.epoch)
            self.console.print(
                f"{self._name}: epoch {report.epoch}/{report.epochs}, {loss}{self._live}ETA {left:.0f} s",
                highlight=False,
                soft_wrap=True,
            )

    def run_end(self, metrics: Mapping[str, float]) -> None:
        self._close()

    def run_failed(self, error: BaseException) -> None:
        self._close()

    def _update(self, done: float, total: int, epoch: str, loss: str) -> None:
        assert self._bar is not None
        self._bar.update(self._task, completed=done, total=total, epoch=epoch, live=loss + self._live)

    @staticmethod
    def _held_out(metrics: Mapping[str, float]) -> str:
        words = {"clean": "held_out/clean_accuracy", "robust": "held_out/robust_accuracy"}
        return "".join(f"{word} {metrics[name]:.1%} " for word, name in words.items() if name in metrics)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
