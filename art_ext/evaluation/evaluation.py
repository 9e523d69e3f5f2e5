"""An evaluation from end to end: attacks, trust checks, detectors, the curve, the undefended network, the record."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from art_ext.data.checks import check_labels
from art_ext.data.images import Picked
from art_ext.engine.net import Net
from art_ext.entries import AttackEntry, EvaluationContext
from art_ext.errors import ConfigError, DataError
from art_ext.evaluation import lineup as names
from art_ext.evaluation.asked import Asked, asked_attacks
from art_ext.evaluation.campaign import Campaign
from art_ext.evaluation.checking import Checking
from art_ext.evaluation.counting import Spending, Spent
from art_ext.evaluation.curve import budget_of, curve_of, smallest_eps
from art_ext.evaluation.digests import data_digest, image_digests, overlap
from art_ext.evaluation.identity import installed, network_digest
from art_ext.evaluation.lineup import Lineup, Planned, build_lineup, effort
from art_ext.evaluation.measure import repeats
from art_ext.evaluation.record import (
    UNDEFENDED,
    AttackResult,
    Baseline,
    CurvePoint,
    DataInfo,
    EvaluationRecord,
    Peer,
    RejectionResult,
)
from art_ext.evaluation.rejecting import TPRS, judge_detector, prepare_detector
from art_ext.evaluation.settling import Question, groups
from art_ext.evaluation.subject import Rows, Subject
from art_ext.evaluation.suite import TPR, Evaluator
from art_ext.evaluation.suites import Suite
from art_ext.evaluation.threat import Threat
from art_ext.evaluation.trials import Clock, Tick
from art_ext.evaluation.trust import judge
from art_ext.evaluation.verdict import conclude
from art_ext.parts.detectors import Confidence, Detector

COMPARED = 1 << 30
"""Pixels of training images, at most, that the evaluated images are looked for among."""
FALLS_EARLY = 0.3
"""Share of the work of its attacks that an undefended network takes, for estimates of time."""
FITTED_ON = 10_000
"""Training images, at most, that detectors with a bank are fitted on."""


def _some(rows: Rows) -> Rows:
    """At most `FITTED_ON` of the rows, evenly spaced."""
    index = torch.arange(0, len(rows.y), -(-len(rows.y) // FITTED_ON))
    return Rows(Picked(rows.x, index), rows.y[index])


def total(results: Sequence[AttackResult]) -> dict[str, int]:
    """The passes of several attacks."""
    return {
        "forwards": sum(result.forwards for result in results),
        "backwards": sum(result.backwards for result in results),
    }


@dataclass(frozen=True)
class Options:
    """How an evaluation runs.

    Attributes:
        extra: attacks besides the suite's.
        folder: of evaluation.json, examples.parquet and the partial results; None keeps all in memory.
        tprs: shares of correct held-out images that rejection must keep, one threshold each.
        minutes: the budget; what it does not suffice for is left out, and the record says so.
        until: a question that it stops at as soon as it is settled.
        shard: (rank, world): this process attacks indices[rank::world] and writes partial results alone.

    Raises:
        ConfigError: for a value that cannot be used, or two that contradict each other.
    """

    suite: Suite
    extra: Sequence[Planned] = ()
    seed: int = 0
    device: torch.device | None = None
    folder: Path | None = None
    batch_size: int = 256
    tprs: Sequence[float] = TPRS
    minutes: float | None = None
    until: Question | None = None
    shard: tuple[int, int] | None = None
    progress: Callable[[Tick], None] | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is a whole number from 1, got {self.batch_size}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ConfigError(f"the budget in minutes must be above 0 and finite, got {self.minutes:g}")
        if not self.tprs or not all(0 < tpr <= 1 for tpr in self.tprs):
            raise ConfigError(f"a TPR lies above 0 and up to 1, such as 0.99; got {', '.join(map(str, self.tprs))}")
        if self.shard is None:
            return
        rank, world = self.shard
        if not 0 <= rank < world:
            raise ConfigError(f"a shard is RANK/WORLD with RANK from 0 to WORLD - 1, got {rank}/{world}")
        if self.folder is None:
            raise ConfigError("shards meet in a folder; name one")
        if self.until is not None:
            raise ConfigError("a shard does not see the others' results, so it cannot stop early; drop one of the two")


class Evaluation:
    """Evaluates one network on one set of images; `run` does it and gives the record.

    Args:
        data: what it is evaluated on; never rows that it was trained on.
        threat: what the attacker may do.
        attacks: the attacks that plugins offer, by name.
        asked: those of them that a recipe names itself, with their options.
        baseline: the undefended network, attacked the same way, and a surrogate for transfer.
        baseline_name: what it is, where it is another one.
        surrogates: other networks by name, such as an adversarially trained one; each is transferred from as well.
        beside: evaluations of other methods by name; those under the same attacks are shown beside this one.
        calibration: held-out rows that set the thresholds of detectors.
        seen: "training" and "selection" rows, to find images that it has seen; the first also fit detectors' banks.
        notes: sentences for the record.

    Raises:
        DataError: for images or labels that cannot be used.
        ModelError: for a network that does not give finite logits for the classes of the plan.
    """

    def __init__(
        self,
        subject: Subject,
        data: Rows,
        threat: Threat,
        options: Options,
        *,
        info: DataInfo | None = None,
        attacks: Mapping[str, AttackEntry] | None = None,
        asked: Asked = (),
        baseline: Net | None = None,
        baseline_name: str = UNDEFENDED,
        surrogates: Mapping[str, Net] | None = None,
        beside: Mapping[str, EvaluationRecord] | None = None,
        calibration: Rows | None = None,
        seen: Mapping[str, Rows] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.subject, self.threat, self.options = subject, threat, options
        self.calibration, self.seen = calibration, dict(seen or {})
        self.n_classes, n = subject.plan.facts.n_classes, len(data.x)
        if n == 0:
            raise DataError("there are no images to evaluate on; give at least one")
        self.data = Rows(data.x, check_labels(data.y, self.n_classes, n, "y"))
        self.notes, self.clock = list(notes), Clock(None if options.minutes is None else 60 * options.minutes)
        self.digests = image_digests(data.x)
        self.digest = data_digest(self.digests, self.data.y)
        self.info = replace(info, digest=self.digest) if info else DataInfo("images", "given", self.digest, n)
        self.spent = Spent()
        self.evaluator = self._evaluator(subject.net, self.data)
        self.repeats = repeats(self.evaluator, n)
        self.detectors, unjudged = self._detectors()
        self.confidence = self._confidence()
        others = {} if baseline is None else {"undefended": baseline}
        self.lineup = self._lineup(attacks or {}, asked, others | dict(surrogates or {}))
        if unjudged:
            self.lineup.missing[subject.plan.owner("detectors")] = unjudged
        last = effort(threat, *options.suite.effort) if subject.gradients else ()
        self.campaign = self._campaign(self.evaluator, self.lineup, last, self._judged())
        self.baseline, self.baseline_name = baseline, baseline_name
        self.beside = tuple(Peer.of(name, one) for name, one in (beside or {}).items() if self._like(one))
        self.answer: bool | None = None

    def attack(self) -> None:
        """Runs the attacks alone: of a shard, on its own images."""
        campaign, question = self.campaign, self.options.until
        every = torch.arange(len(self.data.y))
        if question is None:
            rank, world = self.options.shard or (0, 1)
            campaign.attack(every[rank::world])
            return
        parts = groups(len(every), self.options.seed)
        looks = 0
        for part in parts:
            looks += 1
            campaign.attack(part, lambda: question.surely_below(*self._stands(), len(parts)))
            self.answer = question.answer(*self._stands(), len(parts))
            if self.answer is not None or self.clock.over:
                break
        said = "is not settled" if self.answer is None else f"is settled: {'yes' if self.answer else 'no'}"
        self.notes.append(
            f"{question} {said}, after {int(campaign.active.sum())} of {len(every)} images and {looks} of {len(parts)} "
            "looks, each with its share of the 5% that the interval may err (Bonferroni)"
        )

    def run(self) -> EvaluationRecord:
        """Attacks, checks, and the record, which is written into the folder where there is one.

        Raises:
            ConfigError: of a shard, which has no whole to speak of.
        """
        if self.options.shard is not None:
            raise ConfigError("a shard runs attack() alone; then run the evaluation without it in the same folder")
        with torch.random.fork_rng(devices=[]):  # for networks that draw from torch's generator
            torch.manual_seed(self.options.seed)
            return self._run()

    def _run(self) -> EvaluationRecord:
        campaign, spent = self.campaign, self.spent
        self.clock.work_after = self._work_of_curve() + self._work_of_baseline()
        self.attack()
        passes: dict[str, dict[str, int]] = {}

        def counted(part: str, before: Spent) -> None:
            forwards, backwards = spent.forwards - before.forwards, spent.backwards - before.backwards
            passes[part] = {"forwards": forwards, "backwards": backwards}

        before = replace(spent)
        rejection = self._rejection()
        counted("rejection", before)
        before = replace(spent)
        asked = Checking(
            campaign,
            self.options.suite,
            self.lineup,
            self.repeats,
            self.n_classes,
            self._seen(),
            self.subject.known,
            self.subject.gradients,
        )
        checks = judge(asked.suspicions())
        counted("checks", before)
        before = replace(spent)
        smallest, curve = self._curve()
        counted("curve", before)
        self.clock.work_after = 0.0
        baseline = self._baseline()
        unfinished = campaign.unfinished
        if self.clock.over:
            rest = f"; not finished: {', '.join(unfinished)}" if unfinished else ""
            self.notes.append(f"the budget of {self.options.minutes:g} minutes ended before the suite{rest}")
        elif unfinished:
            self.notes.append(f"attacks that had no turn any more: {', '.join(unfinished)}")
        complete, results = not self.clock.over and not unfinished, campaign.results()
        worst = campaign.estimate(campaign.standing)
        record = EvaluationRecord(
            model=self.subject.info,
            data=replace(self.info, n=int(campaign.active.sum())),
            threat=self.threat,
            suite=self.options.suite.name,
            seed=self.options.seed,
            clean=campaign.estimate(campaign.right),
            attacks=results,
            worst_case=worst,
            verdict=conclude(
                worst,
                self.threat,
                results,
                checks,
                baseline,
                self.beside,
                rejection,
                unanswered=int(campaign.unanswered.sum()),
                unfinished=() if complete else unfinished or ["the rest"],
            ),
            checks=checks,
            rejection=tuple(rejection),
            curve=curve,
            passes={"attacks": total(results), **passes, "undefended": total(baseline.attacks if baseline else ())},
            baseline=baseline,
            beside=self.beside,
            versions={"torch": torch.__version__, "python": platform.python_version()},
            notes=tuple(dict.fromkeys([*self.notes, *self.lineup.notes])),
            complete=complete,
            seconds=round(self.clock.elapsed, 2),
        )
        if self.options.folder is not None:
            campaign.examples(smallest).write(self.options.folder)
            record.write(self.options.folder)
        return record

    def _stands(self) -> tuple[int, int]:
        campaign = self.campaign
        return int((campaign.standing & campaign.active).sum()), int(campaign.active.sum())

    def _like(self, other: EvaluationRecord) -> bool:
        """Whether another evaluation was of the same images, threat and attacks."""
        own = (self.digest, self.threat, self.options.suite.name, self.options.seed)
        return own == (other.data.digest, other.threat, other.suite, other.seed) and other.complete

    def _evaluator(self, net: Net, rows: Rows) -> Evaluator:
        spent = self.spent if net is self.subject.net else None
        return Evaluator(net, rows.x, rows.y, seed=self.options.seed, device=self.options.device, spent=spent)

    def _lineup(self, entries: Mapping[str, AttackEntry], asked: Asked, others: Mapping[str, Net]) -> Lineup:
        threat, subject = self.threat, self.subject
        surrogates = {name: Spending(other, self.spent) for name, other in others.items()}
        context = EvaluationContext(subject.plan, threat.norm, threat.eps, threat.clip, surrogates, self.detectors)
        return build_lineup(
            subject.plan,
            threat,
            self.options.suite,
            entries,
            context,
            extra=[*self.options.extra, *asked_attacks(asked, context, self.notes)],
            adaptive=subject.adaptive,
            random=bool(self.repeats.varied.any()),
            gradients=subject.gradients,
            confidence=self.confidence,
        )

    def _campaign(
        self,
        evaluator: Evaluator,
        lineup: Lineup,
        last: Sequence[Planned],
        detectors: Sequence[Detector] = (),
        progress: Callable[[Tick], None] | None = None,
    ) -> Campaign:
        options, threat = self.options, self.threat
        identity = {
            "art_ext": installed(),
            "network": network_digest(evaluator, threat),
            "data": self.digest,
            "threat": [threat.norm, threat.eps, *threat.clip],
            "seed": options.seed,
        }
        return Campaign(
            evaluator,
            threat,
            self.n_classes,
            lineup.planned,
            last,
            identity,
            detectors=detectors,
            folder=options.folder,
            writer="0" if options.shard is None else str(options.shard[0]),
            batch_size=options.batch_size,
            clock=self.clock,
            progress=progress or options.progress,
        )

    def _seen(self) -> dict[str, int]:
        active = self.campaign.active.tolist()
        digests = [digest for digest, used in zip(self.digests, active, strict=True) if used]
        found = {}
        for part, rows in self.seen.items():
            if math.prod(rows.x.shape) > COMPARED:
                self.notes.append(f"the {part} images are too many to look for the evaluated ones among them")
            else:
                found[part] = overlap(digests, set(image_digests(rows.x)))
        return found

    def _curve(self) -> tuple[Tensor | None, tuple[CurvePoint, ...]]:
        campaign = self.campaign
        if self.threat.norm == "l0" or self.clock.over or not self.subject.gradients:
            return None, ()
        rounds, steps = self.options.suite.curve
        smallest = smallest_eps(
            self.evaluator,
            self.threat,
            campaign.right & campaign.active,
            campaign.smallest_known(),
            campaign.standing,
            rounds=rounds,
            steps=steps,
            batch_size=self.options.batch_size,
            over=lambda: self.clock.over,
        )
        budget = budget_of(rounds, steps)
        return smallest, curve_of(smallest[campaign.active], self.threat.eps, self.options.seed, budget)

    def _work_of_curve(self) -> float:
        rounds, steps = self.options.suite.curve
        return 3.0 * rounds * steps * int(self.campaign.right.sum()) if self.subject.gradients else 0.0

    def _work_of_baseline(self) -> float:
        """An undefended network falls early under most attacks."""
        return sum(attack.work for attack in self._for_baseline()) * len(self.data.y) * FALLS_EARLY

    def _detectors(self) -> tuple[list[Detector], str]:
        """The plan's detectors, fitted and with thresholds, as copies; and why some are not among them."""
        detectors = self.subject.plan.compose().detectors
        if not detectors:
            return [], ""
        if not self.subject.gradients:
            return [], "its detectors were not attacked, since that needs gradients"
        why = "their thresholds need held-out images"
        if self.calibration is None:
            self.notes.append(f"detectors were not judged: {why} (calibration)")
            return [], f"its detectors were not attacked, since {why}"
        held_out = self._evaluator(self.subject.net, self.calibration)
        if not bool(held_out.clean().right.any()):
            self.notes.append(f"detectors were not judged: {why} that are classified correctly, and there are none")
            return [], f"its detectors were not attacked, since {why} that are classified correctly"
        seen, out = self.seen.get("training"), held_out.outputs()
        training = None if seen is None else self._evaluator(self.subject.net, _some(seen))
        ready, why = [], ""
        for detector in map(copy, detectors):
            wanting = prepare_detector(detector, training)
            if wanting is None:
                detector.calibrate(out, held_out.y, TPR)
                ready.append(detector)
            else:
                self.notes.append(f"a detector was not judged: {wanting}")
                why = wanting
        return ready, why

    def _confidence(self) -> Detector | None:
        """The confidence as a detector of any network, where held-out images set its threshold and none is its own."""
        if self.calibration is None or not self.subject.gradients or self.subject.plan.compose().detectors:
            return None
        held_out, detector = self._evaluator(self.subject.net, self.calibration), Confidence()
        if not bool(held_out.clean().right.any()):
            return None
        detector.calibrate(held_out.outputs(), held_out.y, TPR)
        return detector

    def _judged(self) -> list[Detector]:
        return [*self.detectors, *([] if self.confidence is None else [self.confidence])]

    def _rejection(self) -> list[RejectionResult]:
        """Each of the plan's detectors, or the confidence where it has none, on thresholds from held-out rows."""
        if not self._judged() or self.calibration is None or self.clock.over:
            return []
        calibration = self._evaluator(self.subject.net, self.calibration)
        test, rows = self._evaluator(self.subject.net, self.data), self.campaign.active.nonzero().squeeze(1)
        steps, trials = min(self.options.suite.caps["steps"], 100), list(self.campaign.found.values())
        found: list[RejectionResult] = []
        for detector in self._judged():
            own = detector is not self.confidence
            results = judge_detector(
                detector,
                trials,
                self.threat,
                calibration,
                test,
                rows,
                steps=steps if own else names.STEPS,
                tprs=self.options.tprs,
                listed=self.lineup.listed,
            )
            found += [replace(result, own=own) for result in results]
        return found

    def _for_baseline(self) -> list[Planned]:
        if self.baseline is None:
            return []
        return [
            attack
            for attack in self.lineup.planned
            if attack.family not in ("informed", "transfer") and attack.bounded(self.threat)
        ]

    def _baseline(self) -> Baseline | None:
        """The undefended network under the same attacks, each on all images where it is run on all of the other's."""
        if self.baseline is None or self.clock.over:
            return None
        show = self.options.progress
        named = None if show is None else lambda tick: show(replace(tick, name=f"{self.baseline_name}, {tick.name}"))
        evaluator = self._evaluator(self.baseline, self.data)
        campaign = self._campaign(evaluator, Lineup(self._for_baseline()), (), progress=named)
        campaign.attack(self.campaign.active.nonzero().squeeze(1))
        return Baseline(
            campaign.estimate(campaign.right),
            campaign.results(),
            campaign.estimate(campaign.standing),
            self.baseline_name,
        )
