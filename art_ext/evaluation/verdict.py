"""The verdict: what is left after everything, and why not to trust it."""

from __future__ import annotations

from collections.abc import Sequence

from art_ext.evaluation.record import AttackResult, Baseline, Check, Estimate, EvaluationRecord, Peer, Verdict
from art_ext.evaluation.threat import Threat


def conclude(
    worst: Estimate,
    threat: Threat,
    attacks: Sequence[AttackResult],
    checks: Sequence[Check],
    baseline: Baseline | None,
    beside: Sequence[Peer] = (),
    *,
    unanswered: int = 0,
    complete: bool,
) -> Verdict:
    """The worst case as a sentence; trusted unless a check fails, or the evaluation was cut short.

    Args:
        unanswered: images that the network has no finite logits for once an attack changed them.
    """
    reasons = [check.sentence for check in checks if check.status == "fail"]
    if unanswered:
        reasons.append(
            f"the network answers NaN or infinity for {unanswered} images that an attack changed, which count as "
            "wrong: its arithmetic breaks there, and with it the gradients of every attack"
        )
    failed = [result.name for result in attacks if result.error is not None]
    if failed:
        reasons.append(f"{', '.join(failed)} failed")
    if not complete:
        reasons.append("the evaluation was cut short")
    ran = sum(result.bounded and result.error is None for result in attacks)
    others = [] if baseline is None else [f"the undefended model keeps {baseline.worst_case.accuracy:.1%}"]
    others += [f"{peer.name} with as many updates keeps {peer.worst_case.accuracy:.1%}" for peer in beside]
    sentence = "; ".join([f"robust accuracy {worst} at {threat}, the worst case over {ran} attacks", *others])
    if reasons:
        sentence += f". Do not trust this number, because {'; '.join(reasons)}"
    return Verdict(worst.accuracy, worst.low, worst.high, not reasons, sentence, tuple(reasons))


def two_lines(record: EvaluationRecord) -> tuple[str, str]:
    """The verdict for a terminal: the figure, and whether to trust it."""
    first = (
        f"clean {record.clean.accuracy:.1%}, robust {record.worst_case} at {record.threat}"
        + ("" if record.baseline is None else f"; undefended {record.baseline.worst_case.accuracy:.1%}")
        + "".join(f"; {peer.name} {peer.worst_case.accuracy:.1%}" for peer in record.beside)
        + f"; {record.suite} suite, {len(record.attacks)} attacks, {record.seconds:.0f} s"
    )
    if record.verdict.reasons:
        return first, f"do not trust this number, because {'; '.join(record.verdict.reasons)}"
    passed = sum(check.status == "pass" for check in record.checks)
    open_ = [
        check.sentence
        for check in record.checks
        if check.status == "warn" or (check.name == "adaptive" and check.status == "not_run")
    ]
    return first, "; ".join([f"{passed} of {len(record.checks)} trust checks pass, none fails", *open_])
