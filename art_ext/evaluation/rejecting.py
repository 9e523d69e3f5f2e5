"""A network that may say "not sure", against attackers who know its detectors."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from art_ext.evaluation.counting import Spent
from art_ext.evaluation.record import RejectionResult
from art_ext.evaluation.rejection import Rejection, keep_rate, roc_auc, strongest
from art_ext.evaluation.suite import Evaluator
from art_ext.evaluation.threat import Threat
from art_ext.evaluation.trials import Trial
from art_ext.parts.attacks import PGD, Attack, for_evaluation
from art_ext.parts.detectors import Detector, threshold_at
from art_ext.parts.distal import Distal
from art_ext.parts.objectives import Objective
from art_ext.types import Outputs

TPRS = (0.99, 0.95)


def denying(detector: Detector) -> Objective:
    """What forces rejection: the detector's score is lowered, whatever the class."""

    def measure(out: Outputs, y: Tensor) -> Tensor:
        return -detector.score(out)

    return Objective(f"deny_{detector.name}", measure, needs=detector.needs, targetable=False)


def pleasing(detector: Detector) -> Objective:
    """What makes anything look normal: the detector's score is raised, whatever the class."""

    def measure(out: Outputs, y: Tensor) -> Tensor:
        return detector.score(out)

    return Objective(f"please_{detector.name}", measure, needs=detector.needs, targetable=False)


def prepare_detector(detector: Detector, training: Evaluator | None) -> str | None:
    """Fits the bank of a detector that has one and is not fitted; returns why it cannot be judged, or None."""
    if not detector.has_bank or detector.bank:
        return None
    if training is None:
        return f"{detector.name} compares with training images, which are not known here"
    detector.fit(training.outputs(), training.y)
    return None


def judge_detector(
    detector: Detector,
    trials: Sequence[Trial],
    threat: Threat,
    calibration: Evaluator,
    test: Evaluator,
    rows: Tensor,
    *,
    steps: int,
    tprs: Sequence[float] = TPRS,
    listed: Container[str] = (),
) -> list[RejectionResult]:
    """One fitted detector on test images: each TPR against those who evade it, deny it, or show it noise.

    The evading attacker has run every attack of the evaluation; each image keeps, of the misclassified
    twins inside the ball, the one with the highest score. The denying one lowers the score of what it is
    given. The distal one raises the score of noise in the threat's ball, one image of noise for each test
    image; without a finite clip range there is none.

    Args:
        trials: the attacks, with the detector's scores.
        calibration: held-out images, whose correct ones set the thresholds; at least one is.
        rows: (n,) which test images.
        listed: names of attacks that are judged one by one as well, each as it was run.
    """
    clean, right = calibration.outputs(), calibration.clean().right
    scores = detector.score(clean)[right]
    thresholds = [(tpr, threshold_at(scores, tpr)) for tpr in tprs]
    base = for_evaluation(PGD(threat.ball(), steps, clip=threat.clip), stop_when_wrong=False)
    out = test.outputs(rows=rows)
    shown = Shown(detector, test, rows, detector.score(out), out.logits.argmax(1) != test.y[rows])
    results = _evaded(shown, WORST, [trial for trial in trials if trial.bounded], thresholds)
    for trial in trials:
        if trial.planned.name in listed:
            results += _evaded(shown, trial.planned.name, [trial], thresholds, "listed")
    results += _denied(shown, base.raising(denying(detector)), thresholds)
    if threat.clip[1] - threat.clip[0] < float("inf"):
        results += _distal(shown, Distal(replace(base, stop_when_wrong=True), pleasing(detector)), thresholds)
    return results


WORST = "the worst of all attacks"
Thresholds = Sequence[tuple[float, float]]
"""Each TPR that was asked for, and the score that gives it."""


@dataclass(frozen=True)
class Shown:
    """What a detector was shown: the clean images at `rows` (n,), their scores (n,), and which are misclassified."""

    detector: Detector
    test: Evaluator
    rows: Tensor
    score: Tensor
    wrong: Tensor


def _evaded(
    shown: Shown, name: str, trials: Sequence[Trial], thresholds: Thresholds, aim: str = "evade"
) -> list[RejectionResult]:
    """Attacks that the evaluation ran: each image's misclassified twin with the highest score, or none.

    Of aim "listed" at whatever distance, else inside the ball. An image that nothing fooled stands for itself: the
    image is in its own ball. So RErr's denominator has no correct twins of rejected images, which would lower it.
    """
    detector, y = shown.detector.name, shown.test.y
    ran = [trial for trial in trials if detector in trial.scores]
    if not ran:
        return []
    fooled = torch.stack([(trial.changed(y) if aim == "listed" else trial.fell(y))[shown.rows] for trial in ran])
    raised = torch.stack([trial.scores[detector][shown.rows] for trial in ran])
    raised = torch.where(fooled, raised, -torch.inf)
    best, any_fooled = strongest(raised), fooled.any(0)
    counts = best[any_fooled].bincount(minlength=len(ran))
    spent = Spent(sum(trial.forwards for trial in ran), sum(trial.backwards for trial in ran))
    most = ran[int(counts.argmax())].planned.name if bool(any_fooled.any()) else None
    twin = raised.gather(0, best[None])[0], any_fooled
    budget = str(ran[0].planned.attack) if aim == "listed" else ", ".join(trial.planned.name for trial in ran)
    results = []
    for tpr, tau in thresholds:
        made = _result(
            shown, name, aim, tpr, Rejection.of(shown.score.double(), shown.wrong, *twin, tau), spent, Spent()
        )
        results.append(replace(made, strongest=most, budget=budget))
    return results


def _denied(shown: Shown, attack: Attack, thresholds: Thresholds) -> list[RejectionResult]:
    test, score, wrong = shown.test, shown.score, shown.wrong
    before = replace(test.spent)
    twin = test.outputs(attack, shown.rows)
    lowered, lost = shown.detector.score(twin), twin.logits.argmax(1) != test.y[shown.rows]
    results = []
    for tpr, tau in thresholds:
        good = ~wrong & (score >= tau)
        denied = float((good & (lost | (lowered < tau))).sum()) / max(1, int(good.sum()))
        found = Rejection.of(score, wrong, lowered, lost, tau)
        made = _result(shown, str(attack), "deny", tpr, found, test.spent, before)
        results.append(replace(made, denied=denied))
    return results


def _distal(shown: Shown, attack: Attack, thresholds: Thresholds) -> list[RejectionResult]:
    score, wrong, spent = shown.score, shown.wrong, shown.test.spent
    before = replace(spent)
    noise, nobody = shown.detector.score(shown.test.outputs(attack, shown.rows)), torch.zeros_like(wrong)
    results = []
    for tpr, tau in thresholds:
        made = _result(shown, str(attack), "distal", tpr, Rejection.of(score, wrong, noise, nobody, tau), spent, before)
        own = {"fpr": keep_rate(noise >= tau), "auc": roc_auc(score, noise), "n_eligible": len(noise)}
        results.append(replace(made, **NO_CLASS, **own))  # type: ignore[arg-type]
    return results


NO_CLASS = dict.fromkeys(("robust_error", "unthresholded", "fpr_of_successful", "auc_all_clean"))
"""What noise, which no class is true of, leaves undefined."""


def _result(
    shown: Shown, attack: str, aim: str, tpr: float, found: Rejection, spent: Spent, before: Spent
) -> RejectionResult:
    data = {"detector": shown.detector.name, "attack": attack, "aim": aim, "asked_tpr": tpr, **found.as_record()}
    passes = {"forwards": spent.forwards - before.forwards, "backwards": spent.backwards - before.backwards}
    return RejectionResult.from_record(data | passes | {"seed": shown.test.seed, "budget": attack})
