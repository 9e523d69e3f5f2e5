"""The report of an `Evaluation`: its network attacked once more for the figures, then written beside its record."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from art_ext.engine.net import Net
from art_ext.errors import ConfigError
from art_ext.evaluation.evaluation import Evaluation
from art_ext.evaluation.probes import RandomSearch
from art_ext.evaluation.record import EvaluationRecord
from art_ext.evaluation.rejecting import prepare_detector
from art_ext.evaluation.report.collect import STEPS, collect
from art_ext.evaluation.report.material import Material
from art_ext.evaluation.report.page import write_report
from art_ext.evaluation.suite import TPR, Evaluator, informed
from art_ext.parts.attacks import Attack, for_evaluation
from art_ext.parts.detectors import Confidence, Detector

SECONDS = 60.0
"""For the figures, at most; less where the evaluation's budget ends before."""


def report_on(
    evaluation: Evaluation,
    record: EvaluationRecord,
    *,
    last: Net | None = None,
    journals: Mapping[str, Path] | None = None,
    compare: Mapping[str, EvaluationRecord] | None = None,
) -> Path:
    """Writes the report of an evaluation that has run into its folder; some seconds on small networks.

    Args:
        record: what `evaluation.run()` gave.
        last: the network after the last epoch of its training.
        journals: a training's name to its metrics.jsonl.
        compare: other evaluations by name.

    Raises:
        ConfigError: for an evaluation without a folder.
        StorageError: where the report cannot be written.
    """
    folder = evaluation.options.folder
    if folder is None:
        raise ConfigError("a report is written into the evaluation's folder, and this one has none; give it a folder")
    return write_report(folder, record, material_of(evaluation, last=last, journals=journals), compare=compare)


def material_of(
    evaluation: Evaluation, *, last: Net | None = None, journals: Mapping[str, Path] | None = None
) -> Material:
    """What the figures of an evaluation show: its network under the first adversary of its criterion.

    The passes are not counted among those of the evaluation.
    """
    subject, options, threat = evaluation.subject, evaluation.options, evaluation.threat
    parts = subject.plan.compose()
    evaluator = Evaluator(
        subject.net, evaluation.data.x, evaluation.data.y, seed=options.seed, device=options.device
    )
    seen = evaluation.seen.get("training")
    training = None if seen is None else Evaluator(subject.net, seen.x, seen.y, device=options.device)
    _, strongest = informed(subject.plan, threat, STEPS)[0]
    attack: Attack = for_evaluation(strongest, stop_when_wrong=False)
    if not subject.gradients:
        attack = RandomSearch(threat.ball(), options.suite.tries, threat.clip)
    return collect(
        evaluator,
        threat,
        attack=attack,
        detectors=[detector for detector in parts.detectors if prepare_detector(detector, training) is None]
        or [_confidence(evaluation)],
        training_attack=parts.attack,
        train=None if seen is None else (seen.x, seen.y),
        last=last,
        baseline=evaluation.baseline,
        journals=journals,
        seconds=min(SECONDS, evaluation.clock.remaining),
    )


def _confidence(evaluation: Evaluation) -> Detector:
    """The confidence, which needs nothing of a training, with a threshold where there are held-out images for one."""
    detector, held_out = Confidence(), evaluation.calibration
    if held_out is not None:
        options = evaluation.options
        other = Evaluator(evaluation.subject.net, held_out.x, held_out.y, seed=options.seed, device=options.device)
        with suppress(ConfigError):  # it has none of them right
            detector.calibrate(other.outputs(), other.y, TPR)
    return detector
