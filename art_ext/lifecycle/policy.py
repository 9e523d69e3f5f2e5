"""What a model must reach to be released: a policy, and its requirements held against an evaluation.

    threat: {norm: linf, eps: 0.15}
    bound: low
    clean_accuracy: {at_least: 0.95, below_champion: 0.02}
    robust_accuracy: {at_least: 0.40, below_champion: 0.0}
    suite: standard
    images: 300
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from art_ext.errors import ConfigError, unknown
from art_ext.evaluation.record import Estimate, EvaluationRecord
from art_ext.evaluation.statistics import mcnemar
from art_ext.evaluation.suites import SUITES

__all__ = ["Champion", "Pairs", "Policy", "Requirement", "is_evidence", "judge", "policy_from"]

Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PolicyThreat(_Section):
    """The attacker that the policy is about; an evaluation against another one says nothing."""

    norm: Literal["linf", "l2", "l1", "l0"] = "linf"
    eps: Annotated[float, Field(gt=0)]


class Accuracy(_Section):
    """A limit, a distance to the champion, or both."""

    at_least: Share | None = None
    below_champion: Share | None = None


class Rejecting(_Section):
    """False positives of the detectors where they keep `tpr` of what is right."""

    at_most: Share
    tpr: Share = 0.99


class Policy(_Section):
    """What is asked of a model.

    Attributes:
        bound: whether limits hold for the lower end of the 95% interval, or for the value alone.
        no_failed_check: no trust check may fail.
        suite: the smallest suite that counts.
        images: how many images must have been evaluated.
    """

    threat: PolicyThreat
    bound: Literal["low", "value"] = "low"
    clean_accuracy: Accuracy = Accuracy()
    robust_accuracy: Accuracy = Accuracy()
    fpr: Rejecting | None = None
    no_failed_check: StrictBool = True
    suite: Literal["quick", "standard", "full"] = "standard"
    images: Annotated[StrictInt, Field(ge=1)] = 1


def policy_from(data: Any, shown: str, lines: Mapping[tuple[str | int, ...], int] | None = None) -> Policy:
    """A policy from plain data.

    Args:
        shown: the file, for messages.
        lines: of each value in it.

    Raises:
        ConfigError: naming the file, the line and the key.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{shown}: a policy is a mapping such as threat: {{norm: linf, eps: 0.15}}")
    try:
        return Policy.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        place = tuple(first["loc"])
        line = (lines or {}).get(place) or (lines or {}).get(place[:-1])
        where = shown if line is None else f"{shown}:{line}"
        raise ConfigError(f"{where}: {_complaint(place, first['type'], first['msg'])}") from None


def _complaint(place: tuple[str | int, ...], kind: str, message: str) -> str:
    name = ".".join(map(str, place))
    if kind == "extra_forbidden":
        section: Any = Policy
        for part in place[:-1]:
            annotation = section.model_fields[part].annotation
            section = next(a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields"))
        return unknown("key", name, [".".join(map(str, (*place[:-1], key))) for key in section.model_fields])
    if kind == "missing":
        return f"{name} is missing"
    return f"{name}: {message[:1].lower()}{message[1:]}"


# ---------------------------------------------------------------------------------- requirements


@dataclass(frozen=True)
class Requirement:
    """One thing that was asked, and what was found."""

    name: str
    status: Literal["pass", "fail", "skip"]
    sentence: str


@dataclass(frozen=True)
class Pairs:
    """Images on which exactly one of two models is right.

    Attributes:
        won: where only the new one is right; lost: where only the champion is.
    """

    won: int
    lost: int

    @classmethod
    def of(cls, mine: Sequence[bool], theirs: Sequence[bool]) -> Pairs:
        """Counted from who is right on each image."""
        both = list(zip(mine, theirs, strict=True))
        return cls(won=sum(a and not b for a, b in both), lost=sum(b and not a for a, b in both))

    @property
    def p_worse(self) -> float:
        """One-sided exact p-value of the losses (McNemar, 1947): small means that the new one is worse."""
        return mcnemar(self.lost, self.won)

    def __str__(self) -> str:
        return f"paired: {self.won} images won, {self.lost} lost, exact p = {self.p_worse:.3g} for a loss"


@dataclass(frozen=True)
class Champion:
    """The model to compare with.

    Attributes:
        clean, robust: its pairs with the new model, where both keep their results image by image.
    """

    name: str
    record: EvaluationRecord
    clean: Pairs | None = None
    robust: Pairs | None = None


def judge(
    policy: Policy, record: EvaluationRecord, *, digest: str | None = None, champion: Champion | None = None
) -> list[Requirement]:
    """Every requirement of a policy, held against an evaluation.

    Args:
        digest: of the model's weights now; None where there are no weights to hold against.
        champion: without one, the distances to it do not apply.
    """
    found = _evidence(policy, record, digest)
    if policy.no_failed_check:
        found.append(_trust(record))
    for name, limits, mine in (
        ("clean_accuracy", policy.clean_accuracy, record.clean),
        ("robust_accuracy", policy.robust_accuracy, record.worst_case),
    ):
        if limits.at_least is not None:
            found.append(_at_least(name, limits.at_least, mine, policy.bound))
        if limits.below_champion is not None:
            found.append(_near(name, limits.below_champion, mine, record, champion))
    if policy.fpr is not None:
        found.append(_fpr(policy.fpr, record))
    return found


def is_evidence(policy: Policy, record: EvaluationRecord, digest: str | None) -> bool:
    """Whether an evaluation is what a policy asks for: of this model, its threat, suite and images, to the end."""
    return all(requirement.status != "fail" for requirement in _evidence(policy, record, digest))


def _evidence(policy: Policy, record: EvaluationRecord, digest: str | None) -> list[Requirement]:
    found = [_same_model(record, digest), _same_threat(policy, record), _complete(record), _suite(policy, record)]
    return [*found, _images(policy, record)]


def _asked(name: str, holds: bool, sentence: str, way_out: str = "") -> Requirement:
    said = f"{sentence}; {way_out}" if way_out and not holds else sentence
    return Requirement(name, "pass" if holds else "fail", said)


def _same_model(record: EvaluationRecord, digest: str | None) -> Requirement:
    if digest is None:
        return Requirement("same_model", "skip", "the model's weights were not looked at")
    if record.model.digest == digest:
        return Requirement("same_model", "pass", f"the evaluation is of these weights ({_short(digest)})")
    said = f"the evaluation is of other weights ({_short(record.model.digest)}) than the model's ({_short(digest)})"
    return Requirement("same_model", "fail", f"{said}; evaluate this model")


def _same_threat(policy: Policy, record: EvaluationRecord) -> Requirement:
    asked, had = policy.threat, record.threat
    same = asked.norm == had.norm and abs(asked.eps - had.eps) <= 1e-9 * max(1.0, asked.eps)
    sentence = f"evaluated against {had.norm} {had.eps:g}, the policy asks for {asked.norm} {asked.eps:g}"
    return _asked("threat", same, sentence, f"art-ext evaluate MODEL --norm {asked.norm} --eps {asked.eps:g}")


def _complete(record: EvaluationRecord) -> Requirement:
    if record.complete:
        return Requirement("complete", "pass", "the evaluation came to its end")
    return Requirement("complete", "fail", "the evaluation did not come to its end; run it again")


def _suite(policy: Policy, record: EvaluationRecord) -> Requirement:
    order = list(SUITES)
    enough = record.suite in order and order.index(record.suite) >= order.index(policy.suite)
    sentence = f"evaluated with the suite {record.suite}, the policy asks for {policy.suite}"
    return _asked("suite", enough, sentence, f"art-ext evaluate MODEL --suite {policy.suite}")


def _images(policy: Policy, record: EvaluationRecord) -> Requirement:
    n = record.worst_case.n
    sentence = f"{n} images evaluated, the policy asks for {policy.images}"
    return _asked("images", n >= policy.images, sentence, f"art-ext evaluate MODEL --limit {policy.images}")


def _trust(record: EvaluationRecord) -> Requirement:
    failed = [check for check in record.checks if check.status == "fail"]
    if not failed:
        ran = sum(check.status != "not_run" for check in record.checks)
        return _asked("trust", ran > 0, f"{ran or 'no'} trust checks were run, and none failed")
    said = "; ".join(f"{check.name}: {check.sentence}" for check in failed)
    return Requirement("trust", "fail", f"{len(failed)} of {len(record.checks)} trust checks failed: {said}")


def _at_least(name: str, limit: float, mine: Estimate, bound: str) -> Requirement:
    figure = mine.low if bound == "low" else mine.accuracy
    what = "the lower end of" if bound == "low" else "the value of"
    return _asked(f"{name}.at_least", figure >= limit, f"{what} {mine} is {figure:.4f}, the policy asks for {limit:g}")


def _near(
    name: str, distance: float, mine: Estimate, record: EvaluationRecord, champion: Champion | None
) -> Requirement:
    title = f"{name}.below_champion"
    if champion is None:
        return Requirement(title, "skip", "there is no champion to compare with")
    other = champion.record
    for what, ours, theirs in (
        ("data", record.data.digest, other.data.digest),
        ("threat", (record.threat.norm, record.threat.eps), (other.threat.norm, other.threat.eps)),
        ("suite", record.suite, other.suite),
        ("number of images", mine.n, other.worst_case.n),
    ):
        if ours != theirs:
            return Requirement(
                title, "fail", f"{champion.name} was evaluated with another {what}; evaluate both in the same way"
            )
    robust = name == "robust_accuracy"
    its, pairs = (other.worst_case, champion.robust) if robust else (other.clean, champion.clean)
    change = mine.accuracy - its.accuracy
    said = f"{mine.accuracy:.4f} against {its.accuracy:.4f} of {champion.name}, {change:+.4f}"
    said = f"{said}, the policy allows {-distance or 0.0:+g}"
    return _asked(title, change >= -distance - 1e-12, f"{said}; {pairs}" if pairs is not None else said)


def _fpr(limit: Rejecting, record: EvaluationRecord) -> Requirement:
    at = [item for item in record.rejection if item.aim == "evade" and abs(item.asked_tpr - limit.tpr) < 1e-9]
    found = [item for item in at if item.own] or at
    if not found:
        return Requirement("fpr", "fail", f"no detector was evaluated at {limit.tpr:.0%} TPR: this model cannot reject")
    worst = max(found, key=lambda item: item.fpr)
    said = f"{worst.detector} under {worst.attack}: FPR {worst.fpr:.4f} at {limit.tpr:.0%} TPR"
    return _asked("fpr", worst.fpr <= limit.at_most, f"{said}, the policy allows {limit.at_most:g}")


def _short(digest: str) -> str:
    return digest[:19]
