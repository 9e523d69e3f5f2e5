"""One network under a line-up of attacks: what stands after each, and after all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.data.checks import check_images
from art_ext.entries import Family
from art_ext.errors import ModelError
from art_ext.evaluation import lineup as names
from art_ext.evaluation.examples import Examples
from art_ext.evaluation.lineup import Planned
from art_ext.evaluation.probes import rescaling
from art_ext.evaluation.record import AttackResult, Estimate
from art_ext.evaluation.suite import Evaluator
from art_ext.evaluation.threat import Threat
from art_ext.evaluation.trials import Clock, Tick, Trial, Trials
from art_ext.parts.detectors import Detector

EARLY = 0.1
"""Share of an attack's work on an image that fell before, and so falls soon."""
RANK: dict[Family, int] = {"gradient": 0, "informed": 1, "black-box": 2, "transfer": 3, "corruption": 4}
"""Families in the order in which they run: attacks with gradients before those they are compared with."""


class Campaign:
    """Attacks in order, each on all images that are right when clean, or on what still stands.

    Attributes:
        right: (N,) bool: right when clean.
        standing: (N,) bool: right when clean and under every attack so far, inside the threat's ball.
        active: (N,) bool: the images that were asked for so far; all figures are about these.

    Args:
        planned: the attacks; they run by family, and the last ones of `last` after all others.
        identity: what all numbers depend on besides the attacks.
        detectors: fitted; what they make of every adversarial image is kept.

    Raises:
        DataError: for images outside the clip range.
        ModelError: for a network that does not give finite logits for `n_classes`.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        threat: Threat,
        n_classes: int,
        planned: Sequence[Planned],
        last: Sequence[Planned],
        identity: Mapping[str, Any],
        *,
        detectors: Sequence[Detector] = (),
        folder: Path | None = None,
        writer: str = "0",
        batch_size: int = 256,
        clock: Clock | None = None,
        progress: Callable[[Tick], None] | None = None,
    ) -> None:
        self.evaluator, self.threat, self.y = evaluator, threat, evaluator.y
        self.planned = [*sorted(planned, key=lambda attack: RANK[attack.family]), *last]
        self.clock = clock or Clock()
        self.trials = Trials(
            evaluator,
            threat,
            identity,
            detectors=detectors,
            folder=folder,
            writer=writer,
            batch_size=batch_size,
            clock=self.clock,
            progress=progress,
        )
        with torch.random.fork_rng(devices=[]):  # for networks that draw from torch's generator
            torch.manual_seed(evaluator.seed)
            self.predicted, self.confidence, self._scales = self._look(n_classes, batch_size)
        self.right = self.predicted == self.y
        self.standing, self.active = self.right.clone(), torch.zeros_like(self.right)

    @property
    def found(self) -> dict[str, Trial]:
        """What each attack did, by name, in the order in which they ran."""
        return self.trials.found

    def attack(self, part: Tensor, enough: Callable[[], bool] = lambda: False) -> None:
        """Runs all attacks on the images `part` (n,); ends after one that makes it enough, or ends the budget."""
        asked = torch.zeros_like(self.right)
        asked[part] = True
        self.active |= asked
        for number, attack in enumerate(self.planned):
            todo = self._owed(attack) & asked
            ahead = [self.expected(attack, asked) for attack in self.planned[number:]]
            self.clock.work_left = sum(ahead)
            trial = self.trials.run(attack, todo.nonzero().squeeze(1), number + 1, len(self.planned), ahead[0])
            self.standing &= ~(trial.fell(self.y) & asked)
            if self.clock.over or enough():
                return

    def expected(self, attack: Planned, asked: Tensor) -> float:
        """The work that an attack still has to do on the images `asked` (N,) bool, from what stands now."""
        owed = self._owed(attack) & asked
        if attack.name in self.found:
            owed = owed & ~self.found[attack.name].done
        standing = int((owed & self.standing).sum())
        return attack.work * (standing + EARLY * (int(owed.sum()) - standing))

    def fell(self, *wanted: str) -> Tensor:
        """(N,) bool: right when clean, changed inside the ball by one of these attacks, as far as they ran."""
        lost = torch.zeros_like(self.right)
        for name in wanted:
            if name in self.found:
                lost |= self.found[name].fell(self.y)
        return lost & self.active & self.right

    def estimate(self, kept: Tensor) -> Estimate:
        """The share of the images asked for that are in `kept` (N,) bool."""
        return Estimate.of(int((kept & self.active).sum()), int(self.active.sum()))

    def owing(self, *wanted: str) -> Tensor:
        """(N,) bool: one of these attacks was planned for the image, and its turn there has not come."""
        owing = torch.zeros_like(self.right)
        for attack in self.planned:
            if attack.name in wanted:
                owing |= self._owing(attack)
        return owing & self.active

    def _owing(self, attack: Planned) -> Tensor:
        trial = self.found.get(attack.name)
        if trial is None:
            return self._owed(attack)
        return torch.zeros_like(self.right) if trial.error is not None else self._owed(attack) & ~trial.done

    @property
    def unanswered(self) -> Tensor:
        """(N,) bool: an attack led to an image for which the network answers NaN or infinity."""
        broken = torch.zeros_like(self.right)
        for trial in self.found.values():
            broken |= trial.unanswered
        return broken & self.active

    def results(self) -> tuple[AttackResult, ...]:
        return tuple(self._result(trial) for trial in self.found.values())

    @property
    def unfinished(self) -> list[str]:
        """Attacks that were not run on all images that they owe an answer for."""
        return [
            attack.name
            for attack in self.planned
            if attack.name not in self.found or bool((self._owing(attack) & self.active).any())
        ]

    def smallest_known(self) -> Tensor:
        """(N,) the smallest perturbation that changed each image; infinite where none did."""
        known = torch.full((len(self.y),), torch.inf)
        for trial in self.found.values():
            known = torch.where(trial.changed(self.y), torch.minimum(known, trial.norm), known)
        inside = known.clamp(max=self.threat.eps)  # rounding of x + delta
        return torch.where(self.standing, known.clamp(min=self.threat.eps), torch.where(self.right, inside, known))

    def examples(self, smallest: Tensor | None = None) -> Examples:
        """What happened to each image that was asked for."""
        rows = self.active.nonzero().squeeze(1)
        return Examples(
            rows,
            self.y[rows],
            self.predicted[rows],
            self.confidence[rows],
            self.standing[rows],
            {name: (t.done[rows], t.predicted[rows], t.confidence[rows]) for name, t in self.found.items()},
            None if smallest is None else smallest[rows],
        )

    def _owed(self, attack: Planned) -> Tensor:
        if attack.name == names.RESCALED:  # with nothing to rescale it would be the same attack again
            return self.right & (self._scales < 1)
        if attack.wrong_too:
            return torch.ones_like(self.right)
        return self.right if attack.everywhere or not attack.bounded(self.threat) else self.standing

    def _result(self, trial: Trial) -> AttackResult:
        whole = trial.planned.everywhere or not trial.bounded
        lost = trial.fell(self.y) if trial.bounded else trial.changed(self.y)
        # images that it was not run on had fallen, or its turn never came
        if trial.planned.name == names.RESCALED:
            lost = lost | (self.fell(names.MANY_STEPS) & ~trial.done)
        kept = self.right & ~lost & (trial.done | self.standing | torch.full_like(lost, whole))
        seen = self.active & ~self._owing(trial.planned)
        estimate = Estimate.of(int((kept & seen).sum()), int(seen.sum())) if bool(seen.any()) else self.estimate(kept)
        return AttackResult(
            name=trial.planned.name,
            family=trial.planned.family,
            budget=str(trial.planned.attack),
            accuracy=estimate.accuracy,
            low=estimate.low,
            high=estimate.high,
            n=estimate.n,
            attacked=int((trial.done & self.active).sum()),
            forwards=trial.forwards,
            backwards=trial.backwards,
            seconds=round(trial.seconds, 3),
            seed=self.evaluator.seed,
            of=trial.planned.of,
            bounded=trial.bounded,
            error=trial.error,
            everywhere=whole,
        )

    def _look(self, n_classes: int, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Clean predictions and their confidences, and each image's rescaling; (N,) each."""
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        for index in torch.split(torch.arange(len(self.y)), batch_size):
            x, _ = self.evaluator.batch(index)
            check_images(x, self.threat.clip, f"images[{int(index[0])}:{int(index[-1]) + 1}]")
            logits = self.evaluator.logits(x)
            if logits.ndim != 2 or logits.shape[1] != n_classes:
                raise ModelError(
                    f"the network answers with shape {tuple(logits.shape[1:])}, but the data has {n_classes} classes; "
                    "give the data it is for"
                )
            bad = ~logits.isfinite().all(1)
            if bool(bad.any()):
                raise ModelError(
                    f"the network answers NaN or infinity for image {int(index[int(bad.nonzero()[0])])}; its weights "
                    "are broken, or the pixels are in another range than it was trained on"
                )
            top = F.softmax(logits.double(), 1).max(1)
            columns.append((top.indices.cpu(), top.values.float().cpu(), rescaling(logits).cpu()))
        predicted, confidence, scale = (torch.cat(column) for column in zip(*columns, strict=True))
        return predicted, confidence, scale
