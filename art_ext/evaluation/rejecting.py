"""A network that may say "not sure", against attackers who know its detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from art_ext.evaluation.record import RejectionResult
from art_ext.evaluation.rejection import Rejection, strongest
from art_ext.evaluation.suite import Evaluator
from art_ext.evaluation.threat import Threat
from art_ext.parts.attacks import PGD, Attack, for_evaluation
from art_ext.parts.detectors import Detector, threshold_at
from art_ext.parts.objectives import Objective
from art_ext.types import Outputs

TPRS = (0.99, 0.95)


@dataclass(frozen=True)
class Denied:
    """What forces rejection: the detector's score is lowered, whatever the class."""

    detector: Detector

    def objective(self) -> Objective:
        detector = self.detector

        def measure(out: Outputs, y: Tensor) -> Tensor:
            return -detector.score(out)

        return Objective(f"deny_{detector.name}", measure, needs=detector.needs, targetable=False)


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
    """One fitted detector on all test images: each TPR against those who evade it and those who deny it.

    The evading attacker raises each adversary that the detector names, by PGD that goes on after
    success; each image keeps the misclassified twin with the highest score. The denying one lowers the
    score of what it is given.

    Args:
        own: the plan's attack, used where it raises one of the same adversaries.
        calibration: held-out images, whose correct ones set the thresholds.
    """
    clean, right = calibration.outputs(), calibration.clean().right
    if not bool(right.any()):
        return []
    scores = detector.score(clean)[right]
    base = PGD(threat.ball(), steps, clip=threat.clip)
    attacks: list[Attack] = []
    for objective in detector.adversaries:
        chosen = base
        if isinstance(own, PGD) and own.objective is objective:
            chosen = replace(own, norm=threat.ball(), steps=max(own.steps, steps), tau=None)
        attacks.append(for_evaluation(chosen, objective=objective, stop_when_wrong=False, clip=threat.clip))
    denial = for_evaluation(base, objective=Denied(detector).objective(), stop_when_wrong=False)
    out = test.outputs()
    score, wrong = detector.score(out), out.logits.argmax(1) != test.y
    results = []
    if attacks:
        spent = (test.spent.forwards, test.spent.backwards)
        twins = [test.outputs(attack) for attack in attacks]
        fooled = torch.stack([twin.logits.argmax(1) != test.y for twin in twins])
        raised = torch.stack([detector.score(twin) for twin in twins]).double()
        best = strongest(torch.where(fooled, raised, -torch.inf))[None]
        cost = (test.spent.forwards - spent[0], test.spent.backwards - spent[1])
        for tpr in tprs:
            found = Rejection.of(
                score, wrong, raised.gather(0, best)[0].to(score), fooled.gather(0, best)[0], threshold_at(scores, tpr)
            )
            name = " and ".join(str(attack) for attack in attacks)
            results.append(_result(detector, name, "evade", tpr, found, cost, None))
    spent = (test.spent.forwards, test.spent.backwards)
    twin = test.outputs(denial)
    lowered, lost = detector.score(twin), twin.logits.argmax(1) != test.y
    cost = (test.spent.forwards - spent[0], test.spent.backwards - spent[1])
    for tpr in tprs:
        tau = threshold_at(scores, tpr)
        good = ~wrong & (score >= tau)
        denied = float((good & (lost | (lowered < tau))).sum()) / max(1, int(good.sum()))
        found = Rejection.of(score, wrong, lowered, lost, tau)
        results.append(_result(detector, str(denial), "deny", tpr, found, cost, denied))
    return results


def _result(
    detector: Detector,
    attack: str,
    aim: str,
    tpr: float,
    found: Rejection,
    cost: tuple[int, int],
    denied: float | None,
) -> RejectionResult:
    data = {"detector": detector.name, "attack": attack, "aim": aim, "asked_tpr": tpr, **found.as_record()}
    return RejectionResult.from_record({**data, "forwards": cost[0], "backwards": cost[1], "denied": denied})
