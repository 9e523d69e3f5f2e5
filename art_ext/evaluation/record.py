"""What an evaluation found, as values that are written to evaluation.json and read back.

Accuracies are shares of all n images, wrong clean predictions included; low and high are exact 95%
binomial limits. A figure that is not defined is null, never NaN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from art_ext.entries import Family
from art_ext.errors import DataError
from art_ext.evaluation.statistics import binomial_interval
from art_ext.evaluation.threat import Threat
from art_ext.files import write_atomically

SCHEMA = 1
UNDEFENDED = "undefended"
FILE, EXAMPLES = "evaluation.json", "examples.parquet"
Status = Literal["pass", "fail", "warn", "not_run"]


class _Part:
    """A frozen dataclass that is a JSON object; keys of a later minor version are left out on reading."""

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Self:
        known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: value for key, value in data.items() if key in known})

    def as_record(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class Estimate(_Part):
    """A share of n images, with its exact 95% interval."""

    accuracy: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, right: int, n: int) -> Estimate:
        low, high = binomial_interval(right, n)
        return cls(right / n, low, high, n)

    def __str__(self) -> str:
        return f"{self.accuracy:.1%} ({self.low:.1%} to {self.high:.1%}, n = {self.n})"


@dataclass(frozen=True)
class TrainingCost(_Part):
    """What a training took, its best epoch or not: passes of single images, and updates of the weights."""

    epochs: int
    updates: int
    forwards: int
    backwards: int


@dataclass(frozen=True)
class ModelInfo(_Part):
    """The network: as the user named it, a digest of its weights, and the recipe that trained it, where known.

    Attributes:
        ingredients: names of the recipe's ingredients; empty for an undefended network, and where `recipe` is None
            and nothing is known.
        plugins: name to version of those that offer the ingredients.
        training: what it took, where that is known.
    """

    source: str
    digest: str
    ingredients: tuple[str, ...] = ()
    recipe: Mapping[str, Any] | None = None
    plugins: Mapping[str, str] = field(default_factory=dict)
    training: TrainingCost | None = None

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Self:
        known = data.get("training")
        return super().from_record({**data, "training": None if known is None else TrainingCost.from_record(known)})


@dataclass(frozen=True)
class DataInfo(_Part):
    name: str
    source: str
    digest: str
    n: int
    class_names: tuple[str, ...] = ()
    split: str = "test"


@dataclass(frozen=True)
class AttackResult(_Part):
    """One attack on all images, or on those that stood when its turn came.

    Attributes:
        accuracy: the share of all n images that are right when clean and under this attack; images that were
            not attacked because an earlier attack had changed them count as that attack left them: wrong.
        everywhere: whether it was run on all images that are right when clean, so that the accuracy is its own;
            else it is what this attack and those before it left together.
        attacked: how many images it was run on.
        forwards, backwards: passes of single images, counted.
        of: the ingredient whose adaptive attack this is.
        bounded: whether every perturbation lies in the threat's ball; others are left out of the worst case.
        error: why it has no figure, where it failed; accuracy, low and high are then those without it.
    """

    name: str
    family: Family
    budget: str
    accuracy: float
    low: float
    high: float
    n: int
    attacked: int
    forwards: int
    backwards: int
    seconds: float
    seed: int
    of: str | None = None
    bounded: bool = True
    error: str | None = None
    everywhere: bool = True

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.accuracy, self.low, self.high, self.n)


@dataclass(frozen=True)
class RejectionResult(_Part):
    """A detector at a threshold against one adversary; the figures are those of `rejection.Rejection`.

    Attributes:
        aim: "evade": wrong and kept, inside the ball; "deny": right but rejected, inside the ball; "distal":
            noise, with the score raised inside the ball around it, that is kept; "listed": wrong and kept under
            one attack that was asked for, at its own distance, whether or not it knows the detector.
        fpr: of aim "distal", the share of the noise images that are kept.
        robust_error, unthresholded, fpr_of_successful: None for "distal", whose images have no true class.
        auc: of "distal", of all clean images against the noise.
        asked_tpr: the share of correct held-out images that set the threshold.
        denied: of aim "deny", the share of correct, kept clean images that the adversary gets rejected or wrong.
        strongest: of aim "evade", the attack that the worst case of most images comes from.
        forwards, backwards: those of the evaluation's attacks, of aim "evade", whose passes count there.
        own: whether the defence itself rejects by it; else it is the confidence of a network that rejects nothing.
        seed: of the attacks' noise.
        budget: of the attack; of the worst of all, which attacks those are.
    """

    detector: str
    attack: str
    aim: Literal["evade", "deny", "distal", "listed"]
    asked_tpr: float
    threshold: float
    tpr: float
    error: float
    robust_error: float | None
    unthresholded: float | None
    fpr: float
    fpr_of_successful: float | None
    auc: float | None
    auc_all_clean: float | None
    n_eligible: int
    n: int
    forwards: int = 0
    backwards: int = 0
    denied: float | None = None
    strongest: str | None = None
    own: bool = True
    seed: int = 0
    budget: str = ""


@dataclass(frozen=True)
class CurvePoint(_Part):
    """Accuracy at a radius, from the smallest successful perturbation of each of n images."""

    eps: float
    accuracy: float
    low: float
    high: float
    n: int = 0
    seed: int = 0
    budget: str = ""


@dataclass(frozen=True)
class Check(_Part):
    """A trust check. `p` is Holm's adjusted p-value of its exact test, `share` of the images it concerns.

    `too_few`: it was not run, since so few images could not have failed it.
    """

    name: str
    title: str
    status: Status
    sentence: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    p: float | None = None
    share: float | None = None
    too_few: bool = False


@dataclass(frozen=True)
class Verdict(_Part):
    """The worst case over everything, and why not to trust it."""

    robust_accuracy: float
    low: float
    high: float
    trusted: bool
    sentence: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Baseline(_Part):
    """The same attacks on the model that this one is compared with.

    Attributes:
        name: what it is: "undefended", or "given" for a network that was trained further.
    """

    clean: Estimate
    attacks: tuple[AttackResult, ...]
    worst_case: Estimate
    name: str = UNDEFENDED

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Baseline:
        attacks = tuple(AttackResult.from_record(item) for item in data["attacks"])
        clean, worst = Estimate.from_record(data["clean"]), Estimate.from_record(data["worst_case"])
        return cls(clean, attacks, worst, data.get("name", UNDEFENDED))


@dataclass(frozen=True)
class Peer(_Part):
    """Another method, trained with as many updates and evaluated alike."""

    name: str
    clean: Estimate
    attacks: tuple[AttackResult, ...]
    worst_case: Estimate
    trusted: bool
    training: TrainingCost | None = None

    @classmethod
    def of(cls, name: str, record: EvaluationRecord) -> Peer:
        trusted, training = record.verdict.trusted, record.model.training
        return cls(name, record.clean, record.attacks, record.worst_case, trusted, training)

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Peer:
        known = data.get("training")
        return cls(
            data["name"],
            Estimate.from_record(data["clean"]),
            tuple(AttackResult.from_record(item) for item in data["attacks"]),
            Estimate.from_record(data["worst_case"]),
            data["trusted"],
            None if known is None else TrainingCost.from_record(known),
        )


@dataclass(frozen=True)
class EvaluationRecord(_Part):
    """All that an evaluation found; evaluation.json."""

    model: ModelInfo
    data: DataInfo
    threat: Threat
    suite: str
    seed: int
    clean: Estimate
    attacks: tuple[AttackResult, ...]
    worst_case: Estimate
    verdict: Verdict
    checks: tuple[Check, ...] = ()
    rejection: tuple[RejectionResult, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    passes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """"forwards" and "backwards" of single images for each part of the evaluation; the report's are not counted."""
    baseline: Baseline | None = None
    beside: tuple[Peer, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a reader must know: attacks that are not installed, labels taken from probabilities, a budget that ended."""
    complete: bool = True
    seconds: float = 0.0
    schema: int = SCHEMA

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> EvaluationRecord:
        """Reads `as_record`.

        Raises:
            DataError: for another schema, or an object that is no evaluation.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, Mapping) else None
            raise DataError(f"this is no evaluation of schema {SCHEMA} (schema: {found}); evaluate the model again")
        try:
            threat, model, what = data["threat"], data["model"], data["data"]
            return cls(
                model=ModelInfo.from_record({**model, "ingredients": tuple(model["ingredients"])}),
                data=DataInfo.from_record({**what, "class_names": tuple(what["class_names"])}),
                threat=Threat(threat["norm"], threat["eps"], (threat["clip"][0], threat["clip"][1])),
                suite=data["suite"],
                seed=data["seed"],
                clean=Estimate.from_record(data["clean"]),
                attacks=tuple(AttackResult.from_record(item) for item in data["attacks"]),
                worst_case=Estimate.from_record(data["worst_case"]),
                verdict=Verdict.from_record({**data["verdict"], "reasons": tuple(data["verdict"]["reasons"])}),
                checks=tuple(Check.from_record(item) for item in data["checks"]),
                rejection=tuple(RejectionResult.from_record(item) for item in data["rejection"]),
                curve=tuple(CurvePoint.from_record(item) for item in data["curve"]),
                passes=data.get("passes", {}),
                baseline=None if data["baseline"] is None else Baseline.from_record(data["baseline"]),
                beside=tuple(Peer.from_record(item) for item in data.get("beside", ())),
                versions=data.get("versions", {}),
                notes=tuple(data.get("notes", ())),
                complete=data["complete"],
                seconds=data["seconds"],
            )
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(f"this evaluation lacks something ({error}); evaluate the model again") from None

    def attack(self, name: str) -> AttackResult | None:
        """The result of the attack of that name; None where it did not run."""
        return next((item for item in self.attacks if item.name == name), None)

    def as_record(self) -> dict[str, Any]:
        written = super().as_record()
        return {"schema": written.pop("schema"), **written}

    def write(self, folder: Path) -> Path:
        """Writes evaluation.json into a folder, whole or not at all."""
        path = folder / FILE
        write_atomically(path, json.dumps(self.as_record(), indent=1, allow_nan=False) + "\n")
        return path


def read_evaluation(path: str | Path) -> EvaluationRecord:
    """The evaluation in a file, or in a folder that holds evaluation.json.

    Raises:
        DataError: where there is none, or it cannot be read.
    """
    place = Path(path)
    place = place / FILE if place.is_dir() else place
    try:
        data = json.loads(place.read_text())
    except OSError as error:
        raise DataError(f"cannot read the evaluation {place} ({error.strerror}); run art-ext evaluate first") from None
    except ValueError as error:
        raise DataError(f"{place} is no evaluation ({error}); run art-ext evaluate again") from None
    try:
        return EvaluationRecord.from_record(data)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
