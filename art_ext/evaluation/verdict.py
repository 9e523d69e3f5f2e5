"""The verdict: what is left after everything, and why not to trust it."""

from __future__ import annotations

from collections.abc import Sequence

from art_ext.evaluation.record import (
    AttackResult,
    Baseline,
    Check,
    Estimate,
    EvaluationRecord,
    Peer,
    RejectionResult,
    Verdict,
)
from art_ext.evaluation.threat import Threat

FALLEN = 0.8
"""A detector falls where what it keeps is wrong at least this often, as a share of how often all is."""


def conclude(
    worst: Estimate,
    threat: Threat,
    attacks: Sequence[AttackResult],
    checks: Sequence[Check],
    baseline: Baseline | None,
    beside: Sequence[Peer] = (),
    rejection: Sequence[RejectionResult] = (),
    *,
    unanswered: int = 0,
    unfinished: Sequence[str] = (),
) -> Verdict:
    """The worst case as a sentence; trusted unless a check fails, or the evaluation was cut short.

    Args:
        unanswered: images that the network has no finite logits for once an attack changed them.
        unfinished: attacks that had no turn on all their images, or what else was left out.
    """
    reasons = [check.sentence for check in checks if check.status == "fail"]
    weak = [check.title.lower() for check in checks if check.too_few]
    if weak:
        images = f"{worst.n} images are" if worst.n > 1 else "one image is"
        reasons.append(f"{images} too few for {len(weak)} of the {len(checks)} trust checks ({', '.join(weak)})")
    if unanswered:
        reasons.append(
            f"the network answers NaN or infinity for {unanswered} images that an attack changed, which count as "
            "wrong: its arithmetic breaks there, and with it the gradients of every attack"
        )
    failed = [result.name for result in attacks if result.error is not None]
    if failed:
        reasons.append(f"{', '.join(failed)} failed")
    if unfinished:
        reasons.append(f"the evaluation ended before {_listed(unfinished)}, so this is an upper bound")
    ran = sum(result.bounded and result.error is None for result in attacks)
    others = [] if baseline is None else [f"the {baseline.name} model keeps {baseline.worst_case.accuracy:.1%}"]
    others += [f"{peer.name} with as many updates keeps {peer.worst_case.accuracy:.1%}" for peer in beside]
    others += rejections(rejection)
    sentence = "; ".join([f"robust accuracy {worst} at {threat}, the worst case over {ran} attacks", *others])
    if reasons:
        sentence += f". Do not trust this number, because {'; '.join(reasons)}"
    return Verdict(worst.accuracy, worst.low, worst.high, not reasons, sentence, tuple(reasons))


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} of its attacks had run" if len(names) > 3 else f"{', '.join(names)} had run"


def rejections(found: Sequence[RejectionResult]) -> list[str]:
    """A clause for each detector: what is wrong of what it keeps, against the worst of all attacks."""
    clauses = []
    for one in found:
        asked = one.own and one.aim == "evade" and one.asked_tpr == max(other.asked_tpr for other in found)
        if not asked or one.robust_error is None or one.unthresholded is None:
            continue
        falls = one.unthresholded > 0 and one.robust_error >= FALLEN * one.unthresholded
        clauses.append(
            f"of what {one.detector} keeps at {one.asked_tpr:.0%} TPR {one.robust_error:.1%} is wrong, and "
            f"{one.unthresholded:.1%} with nothing rejected" + (": it falls" if falls else "")
        )
    return clauses


def two_lines(record: EvaluationRecord) -> tuple[str, str]:
    """The verdict for a terminal: the figure, and whether to trust it."""
    first = (
        f"clean {record.clean.accuracy:.1%}, robust {record.worst_case} at {record.threat}"
        + ("" if record.baseline is None else f"; {record.baseline.name} {record.baseline.worst_case.accuracy:.1%}")
        + "".join(f"; {peer.name} {peer.worst_case.accuracy:.1%}" for peer in record.beside)
        + "".join(f"; {clause}" for clause in rejections(record.rejection))
        + f"; {record.suite} suite, {len(record.attacks)} attacks, {record.seconds:.0f} s"
    )
    open_ = [
        check.sentence
        for check in record.checks
        if check.status == "warn" or (check.name == "adaptive" and check.status == "not_run")
    ]
    if record.verdict.reasons:
        return first, f"do not trust this number, because {'; '.join([*record.verdict.reasons, *open_])}"
    passed = sum(check.status == "pass" for check in record.checks)
    return first, "; ".join([f"{passed} of {len(record.checks)} trust checks pass, none fails", *open_])
