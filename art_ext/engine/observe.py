"""One-way events of a run. Observers watch; they never touch the tensors of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from art_ext.plan import Scores


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run when it starts.

    Attributes:
        name: of the run, as trackers show it.
        role: "undefended", "hardened", "evaluation" or, for what holds these, "harden" in `harden`; "fit" for a
            trainer called directly.
        folder: where this run keeps its files, or None when it keeps none.
        params: the resolved recipe, flattened: "ingredient.field" to value.
        recipe: the resolved recipe as plain data.
        plan: (slot, part, owner) lines.
        data: name, source, digest, n_train, n_held_out, n_test of the data set, where known.
        parent: folder of the run that this one is a part of, which tells trackers where that one is.
        rank: only rank 0 writes.
    """

    name: str
    role: str = "fit"
    folder: Path | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    plan: Sequence[tuple[str, str, str]] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    parent: Path | None = None
    rank: int = 0


@dataclass(frozen=True)
class Tick:
    """Where a run stands inside an epoch; read from the device at most once an interval."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float | None = None


@dataclass(frozen=True)
class EpochReport:
    """What an epoch came to.

    Attributes:
        epoch: epochs done, from 1.
        metrics: "train/loss", "train/loss/<term>", "train/clean_accuracy", "train/robust_accuracy",
            "held_out/clean_accuracy", "held_out/robust_accuracy", "held_out/<measure>" of what ingredients measure,
            "lr", "images_per_second".
        scores: on held-out data, or None without any.
        best: whether it is the best epoch so far.
    """

    epoch: int
    epochs: int
    step: int
    metrics: Mapping[str, float]
    scores: Scores | None = None
    best: bool = False


class Observer:
    """Base of observers: every event is a no-op."""

    def run_start(self, info: RunInfo) -> None:
        """Before the first step."""

    def tick(self, tick: Tick) -> None:
        """Now and then inside an epoch, for progress displays."""

    def epoch_end(self, report: EpochReport) -> None:
        """After each epoch, on rank 0."""

    def run_end(self, metrics: Mapping[str, float]) -> None:
        """After a run that ended well, with its final metrics."""

    def run_failed(self, error: BaseException) -> None:
        """After a run that did not end well; the error is raised again afterwards."""

    def run_killed(self) -> None:
        """Instead of `run_failed`, where the run was told to stop and has left what it needs to go on; be quick."""
