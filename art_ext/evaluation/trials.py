"""Attacks on some of the images, batch by batch, with everything kept in the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.evaluation.identity import fingerprint
from art_ext.evaluation.ledger import Batch, Ledger, digest_of_config
from art_ext.evaluation.lineup import Planned
from art_ext.evaluation.suite import NO_ANSWER, Evaluator, classes_of
from art_ext.evaluation.threat import Threat
from art_ext.parts.detectors import Detector
from art_ext.parts.noise import mix_int
from art_ext.parts.norms import per_example

SLICE, FEWEST = 0.2, 8
"""Share of what is left of a budget that one batch may take, and the smallest batch."""
SLACK = 1e-4
"""By how much, relatively, a perturbation may be larger than eps: float32 rounding of x + delta."""


@dataclass
class Trial:
    """What an attack did to each of N images; entries of images that it was not run on mean nothing.

    Attributes:
        done: (N,) bool: it was run on this image.
        predicted, confidence, norm, inside, scores: as in `ledger.Batch`, (N,).
        bounded: whether it promises to stay in the threat's ball.
        error: why it could not go on.
    """

    planned: Planned
    bounded: bool
    done: Tensor
    predicted: Tensor
    confidence: Tensor
    norm: Tensor
    inside: Tensor
    scores: dict[str, Tensor] = field(default_factory=dict)
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    error: str | None = None

    @classmethod
    def empty(cls, planned: Planned, threat: Threat, n: int) -> Trial:
        no = torch.zeros(n, dtype=torch.bool)
        zeros = torch.zeros(n)
        return cls(
            planned, planned.bounded(threat), no, torch.full((n,), -1), zeros.clone(), zeros.clone(), no.clone()
        )

    def add(self, batch: Batch) -> None:
        at = batch.index
        self.done[at] = True
        for name in ("predicted", "confidence", "norm", "inside"):
            getattr(self, name)[at] = getattr(batch, name)
        for name, score in batch.scores.items():
            self.scores.setdefault(name, torch.full((len(self.done),), -torch.inf, dtype=torch.float64))[at] = score
        self.forwards += batch.forwards
        self.backwards += batch.backwards
        self.seconds += batch.seconds

    def changed(self, y: Tensor) -> Tensor:
        """(N,) bool: misclassified at whatever distance."""
        return self.done & (self.predicted != y)

    def fell(self, y: Tensor) -> Tensor:
        """(N,) bool: misclassified inside the threat's ball."""
        return self.changed(y) & self.inside

    @property
    def unanswered(self) -> Tensor:
        """(N,) bool: the network answered NaN or infinity, which counts as misclassified."""
        return self.done & (self.predicted == NO_ANSWER)


@dataclass(frozen=True)
class Tick:
    """Where an evaluation stands: one of its attacks, by number, and the seconds left; None while not known."""

    name: str
    number: int
    of: int
    done: int
    total: int
    seconds_left: float | None = None


@dataclass
class Clock:
    """Time spent, time left, and the end of the budget.

    Work is counted in passes of single images, a backward one as two.

    Attributes:
        seconds: of the budget; None for no end.
        spent: seconds of the work done.
        work_left: of the campaign that runs. work_after: of what comes after it.
    """

    seconds: float | None = None
    began: float = field(default_factory=time.monotonic)
    spent: float = 0.0
    work_done: float = 0.0
    work_left: float = 0.0
    work_after: float = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    @property
    def over(self) -> bool:
        return self.seconds is not None and self.elapsed > self.seconds

    @property
    def remaining(self) -> float:
        """Seconds of the budget; infinite without one."""
        return float("inf") if self.seconds is None else max(0.0, self.seconds - self.elapsed)

    def worked(self, work: float, seconds: float) -> None:
        self.work_done += work
        self.spent += seconds

    @property
    def pace(self) -> float | None:
        """Seconds for each unit of work, from the work so far."""
        return self.spent / self.work_done if self.work_done > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds that the rest takes; None until a thirtieth of it says at which pace."""
        rest = self.work_left + self.work_after
        return None if self.pace is None or self.work_done < rest / 30 else self.pace * rest

    def rows(self, most: int, work: float) -> int:
        """How many images to attack before the clock is looked at again, of `work` each; `most` without a budget."""
        if self.seconds is None or self.pace is None:
            return most
        return max(FEWEST, min(most, int(SLICE * self.remaining / (self.pace * max(work, 1.0)))))


class Trials:
    """Runs attacks on chosen images; what the ledger holds already is not done again.

    Args:
        identity: what all numbers depend on besides the attack: digests, threat, seed, version.
        detectors: fitted; what they make of every adversarial image is kept.
        folder: of the ledger; None keeps nothing on disk.
        writer: names this process among those that share the folder.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        threat: Threat,
        identity: Mapping[str, Any],
        *,
        detectors: Sequence[Detector] = (),
        folder: Path | None = None,
        writer: str = "0",
        batch_size: int = 256,
        clock: Clock | None = None,
        progress: Callable[[Tick], None] | None = None,
    ) -> None:
        self.evaluator, self.threat, self.detectors = evaluator, threat, tuple(detectors)
        self.identity = {**identity, "detectors": fingerprint(self.detectors)}
        self.folder, self.writer, self.batch_size = folder, writer, batch_size
        self.clock, self.progress = clock or Clock(), progress
        self.found: dict[str, Trial] = {}

    @property
    def n(self) -> int:
        return len(self.evaluator.y)

    def run(
        self, planned: Planned, index: Tensor, number: int = 1, of: int = 1, expected: float = 0.0
    ) -> Trial:
        """Attacks the images at `index` (n,) that this attack has not been run on; ends early with the budget.

        An attack that raises is left at what it did; the trial says why.

        Args:
            expected: the work of it, as a part of what the clock has left.
        """
        digest = digest_of_config({**self.identity, "name": planned.name, "attack": planned.identity})
        ledger = Ledger(self.folder, planned.name, digest, self.writer)
        trial = self.found.get(planned.name)
        if trial is None:
            trial = self.found[planned.name] = Trial.empty(planned, self.threat, self.n)
            for batch in ledger:
                if not bool(trial.done[batch.index].any()):  # twice, where two processes did the same
                    trial.add(batch)
        todo, clock = index[~trial.done[index]], self.clock
        after = clock.work_left - expected
        while len(todo) and not clock.over and trial.error is None:
            rows = clock.rows(self.batch_size, planned.work)
            at, todo = todo[:rows], todo[rows:]
            try:
                batch = self.attempt(planned, at)
            except Exception as error:  # a plugin's attack may do anything; the others go on
                said = " ".join(str(error).split())[:300]
                trial.error = f"{type(error).__name__}: {said}" if said else type(error).__name__
                break
            ledger.append(batch)
            trial.add(batch)
            clock.worked(batch.forwards + 2 * batch.backwards, batch.seconds)
            done = int(trial.done[index].sum())
            clock.work_left = after + expected * (1 - done / len(index))
            if self.progress is not None:
                self.progress(Tick(planned.name, number, of, done, len(index), clock.left))
        return trial

    def attempt(self, planned: Planned, index: Tensor) -> Batch:
        """One attack on a batch, judged by the network itself."""
        spent, began = self.evaluator.spent, time.perf_counter()
        before = (spent.forwards, spent.backwards)
        with torch.random.fork_rng(devices=[]):  # for networks that draw from torch's generator
            torch.manual_seed(mix_int(self.evaluator.seed, int(index[0])) & (1 << 62) - 1)
            made, _ = self.evaluator.craft(planned.attack, index)
            clean, _ = self.evaluator.batch(index)
            finite = made.isfinite().flatten(1).all(1)
            made = torch.where(per_example(finite), made, clean)
            out = self.evaluator.answer(made)
        predicted = classes_of(out.logits)
        confidence = torch.where(predicted == NO_ANSWER, 0.0, F.softmax(out.logits.double(), 1).amax(1))
        scores = {detector.name: detector.score(out).double() for detector in self.detectors}
        return Batch(
            index,
            predicted.cpu(),
            confidence.float().cpu(),
            self.threat.ball().of(made - clean).float().cpu(),
            inside(self.threat, clean, made).cpu(),
            spent.forwards - before[0],
            spent.backwards - before[1],
            time.perf_counter() - began,
            {name: torch.where(score.isnan(), -torch.inf, score).cpu() for name, score in scores.items()},
        )


def inside(threat: Threat, clean: Tensor, made: Tensor) -> Tensor:
    """(N,) bool: the perturbed images lie in the threat's ball around the clean ones, and in the clip range."""
    low, high = threat.clip
    slack = 1e-6 * max(1.0, high - low) if high - low < float("inf") else 0.0
    small = threat.ball().of(made - clean) <= threat.eps * (1 + SLACK) + slack
    flat = made.flatten(1)
    return small & (flat.amin(1) >= low - slack) & (flat.amax(1) <= high + slack)
