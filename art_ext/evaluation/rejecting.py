"""A network that may say "not sure", against attackers who know its detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from art_ext.evaluation.counting import Spent
from art_ext.evaluation.record import RejectionResult
from art_ext.evaluation.rejection import Rejection, keep_rate, roc_auc, strongest
from art_ext.evaluation.suite import Evaluator
from art_ext.evaluation.threat import Threat
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
    own: Attack | None,
    threat: Threat,
    calibration: Evaluator,
    test: Evaluator,
    *,
    steps: int,
    tprs: Sequence[float] = TPRS,
) -> list[RejectionResult]:
    """One fitted detector on all test images: each TPR against those who evade it, deny it, or show it noise.

    The evading attacker raises each adversary that the detector names, by PGD that goes on after
    success; each image keeps the misclassified twin with the highest score. The denying one lowers the
    score of what it is given. The distal one raises the score of noise in the threat's ball, one image of
    noise for each test image; without a finite clip range there is none.

    Args:
        own: the plan's attack, used where it raises one of the same adversaries.
        calibration: held-out images, whose correct ones set the thresholds.
    """
    clean, right = calibration.outputs(), calibration.clean().right
    if not bool(right.any()):
        return []
    scores = detector.score(clean)[right]
    thresholds = [(tpr, threshold_at(scores, tpr)) for tpr in tprs]
    base = PGD(threat.ball(), steps, clip=threat.clip)
    attacks: list[Attack] = []
    for objective in detector.adversaries:
        chosen = base
        if isinstance(own, PGD) and own.objective is objective:
            chosen = replace(own, norm=threat.ball(), steps=max(own.steps, steps), tau=None)
        attacks.append(for_evaluation(chosen, objective=objective, stop_when_wrong=False, clip=threat.clip))
    out = test.outputs()
    clean_of_test = detector.score(out), out.logits.argmax(1) != test.y
    results = _evaded(detector, attacks, test, clean_of_test, thresholds) if attacks else []
    denial = for_evaluation(base, objective=denying(detector), stop_when_wrong=False)
    results += _denied(detector, denial, test, clean_of_test, thresholds)
    if threat.clip[1] - threat.clip[0] < float("inf"):
        results += _distal(detector, Distal(for_evaluation(base), pleasing(detector)), test, clean_of_test, thresholds)
    return results


Clean = tuple[Tensor, Tensor]
"""(N,) scores of the clean test images, and (N,) bool, which are misclassified."""
Thresholds = Sequence[tuple[float, float]]
"""Each TPR that was asked for, and the score that gives it."""


def _evaded(
    detector: Detector, attacks: Sequence[Attack], test: Evaluator, clean: Clean, thresholds: Thresholds
) -> list[RejectionResult]:
    before = replace(test.spent)
    twins = [test.outputs(attack) for attack in attacks]
    fooled = torch.stack([twin.logits.argmax(1) != test.y for twin in twins])
    raised = torch.stack([detector.score(twin) for twin in twins]).double()
    best = strongest(torch.where(fooled, raised, -torch.inf))[None]
    twin = raised.gather(0, best)[0].to(clean[0]), fooled.gather(0, best)[0]
    name = " and ".join(str(attack) for attack in attacks)
    return [
        _result(detector, name, "evade", tpr, Rejection.of(*clean, *twin, tau), test.spent, before)
        for tpr, tau in thresholds
    ]


def _denied(
    detector: Detector, attack: Attack, test: Evaluator, clean: Clean, thresholds: Thresholds
) -> list[RejectionResult]:
    before = replace(test.spent)
    twin = test.outputs(attack)
    (score, wrong), lowered, lost = clean, detector.score(twin), twin.logits.argmax(1) != test.y
    results = []
    for tpr, tau in thresholds:
        good = ~wrong & (score >= tau)
        denied = float((good & (lost | (lowered < tau))).sum()) / max(1, int(good.sum()))
        found = Rejection.of(score, wrong, lowered, lost, tau)
        made = _result(detector, str(attack), "deny", tpr, found, test.spent, before)
        results.append(replace(made, denied=denied))
    return results


def _distal(
    detector: Detector, attack: Attack, test: Evaluator, clean: Clean, thresholds: Thresholds
) -> list[RejectionResult]:
    before = replace(test.spent)
    (score, wrong), noise = clean, detector.score(test.outputs(attack))
    nobody = torch.zeros_like(wrong)
    results = []
    for tpr, tau in thresholds:
        made = _result(
            detector, str(attack), "distal", tpr, Rejection.of(score, wrong, noise, nobody, tau), test.spent, before
        )
        own = {"fpr": keep_rate(noise >= tau), "auc": roc_auc(score, noise), "n_eligible": len(noise)}
        results.append(replace(made, **NO_CLASS, **own))  # type: ignore[arg-type]
    return results


NO_CLASS = dict.fromkeys(("robust_error", "unthresholded", "fpr_of_successful", "auc_all_clean"))
"""What noise, which no class is true of, leaves undefined."""


def _result(
    detector: Detector, attack: str, aim: str, tpr: float, found: Rejection, spent: Spent, before: Spent
) -> RejectionResult:
    data = {"detector": detector.name, "attack": attack, "aim": aim, "asked_tpr": tpr, **found.as_record()}
    passes = {"forwards": spent.forwards - before.forwards, "backwards": spent.backwards - before.backwards}
    return RejectionResult.from_record(data | passes)
