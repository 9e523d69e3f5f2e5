"""Evaluations in MLflow: a record as metrics, and as a run of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from art_ext.border.mlflow import MLflowTracker
from art_ext.border.mlflow_names import clean_name
from art_ext.border.mlflow_where import Tracking
from art_ext.engine.observe import RunInfo
from art_ext.evaluation.record import Baseline, EvaluationRecord

__all__ = ["EVALUATES", "FOLDER", "attach_evaluation", "points_of", "track_evaluation"]

EVALUATES = "art_ext.evaluates"
"""The tag with the digest of the network that a run's evaluation is about."""
FOLDER = "evaluation"
"""Where runs keep evaluation.json and what belongs to it."""


def points_of(record: EvaluationRecord) -> dict[str, float]:
    """The record's figures as metrics: `evaluate/<attack>/accuracy`, `evaluate/worst_case/low`, `baseline/...`.

    Of a detector `evaluate/rejection/<detector>/at_0.99/evade/fpr`: the share that its threshold keeps, and the
    adversary's aim, or the name of one attack.
    """
    points = _accuracies("evaluate", record)
    if record.baseline is not None:
        points |= _accuracies("baseline", record.baseline)
    for found in record.rejection:
        who = found.attack if found.aim == "listed" else found.aim
        prefix = f"evaluate/rejection/{clean_name(found.detector)}/at_{found.asked_tpr:g}/{clean_name(who)}"
        values = {name: getattr(found, name) for name in ("tpr", "fpr", "error", "robust_error", "auc", "denied")}
        points |= {f"{prefix}/{name}": value for name, value in values.items() if value is not None}
    counts = dict.fromkeys(("pass", "warn", "fail", "not_run"), 0)
    for check in record.checks:
        counts[check.status] += 1
    points |= {f"evaluate/checks/{status}": float(count) for status, count in counts.items()}
    points["evaluate/trusted"] = float(record.verdict.trusted)
    points["evaluate/seconds"] = record.seconds
    points["evaluate/n"] = float(record.worst_case.n)
    return points


def _accuracies(prefix: str, found: EvaluationRecord | Baseline) -> dict[str, float]:
    named = [("clean", found.clean), *((item.name, item.estimate) for item in found.attacks)]
    named.append(("worst_case", found.worst_case))
    points: dict[str, float] = {}
    for name, estimate in named:
        place = f"{prefix}/{clean_name(name)}"
        points |= {f"{place}/accuracy": estimate.accuracy, f"{place}/low": estimate.low, f"{place}/high": estimate.high}
    return points


def attach_evaluation(tracker: MLflowTracker, files: Mapping[str, Path]) -> None:
    """Attaches the files of an evaluation to a run, below `evaluation/`."""
    for name, path in files.items():
        tracker.attach_file(f"{FOLDER}/{name}", path)


def track_evaluation(
    record: EvaluationRecord,
    files: Mapping[str, Path],
    tracking: Tracking,
    folder: Path | None,
    *,
    name: str | None = None,
    experiment: str | None = None,
    parent: Path | None = None,
    model_of: Path | None = None,
) -> MLflowTracker:
    """Tracks an evaluation as a run of its own, which is over when this returns.

    Args:
        files: by the names they get below `evaluation/`.
        name: of the run.
        folder: where the run's outbox is kept; None for a run that is a child of the open one, where there is one.
        parent: folder of the run that it is a part of.
        model_of: folder of the run that logged the network, to whose logged model the metrics are tied.
    """
    data, method = record.data, " + ".join(record.model.ingredients) or "none"
    tracker = MLflowTracker(tracking, experiment, model_of=model_of, nested=folder is None)
    tracker.run_start(
        RunInfo(
            name=name or f"{Path(record.model.source).name} evaluation",
            role="evaluation",
            folder=folder,
            params={"suite": record.suite, "seed": record.seed, "norm": record.threat.norm, "eps": record.threat.eps},
            recipe=record.model.recipe or {},
            data={"name": data.name, "source": data.source, "digest": data.digest, "n_test": data.n},
            tags={EVALUATES: record.model.digest, "art_ext.method": method},
            parent=parent,
        )
    )
    attach_evaluation(tracker, files)
    tracker.run_end(points_of(record))
    return tracker
