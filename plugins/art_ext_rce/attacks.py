"""The attacks of the paper as values: high confidence, against K-density, and inside a ball against any detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from art_ext.api import (
    PGD,
    Attack,
    AttackEntry,
    CarliniWagner,
    Count,
    Detector,
    EvaluationContext,
    Ingredient,
    NonNegative,
    Paper,
    Plan,
    Positive,
    Radius,
    norm_named,
)
from art_ext_rce.carlini_wagner import cw_white_box
from art_ext_rce.detectors import KDensity
from art_ext_rce.evading import Order, evading
from art_ext_rce.ingredient import RCE

CW_PAPER = Paper(
    "Towards Evaluating the Robustness of Neural Networks",
    "Carlini, Wagner",
    "IEEE Symposium on Security and Privacy",
    2017,
    "https://arxiv.org/abs/1608.04644",
)


def score_of(detector: Any) -> Any:
    """The score behind an ART detector of this package; anything else as it is."""
    inside = getattr(detector, "detector", None)
    return inside if isinstance(inside, Detector) else detector


def fitted(detector: KDensity) -> KDensity:
    if not detector.bank:
        raise ValueError(f"{detector.name} is not fitted yet; fit it on clean training images")
    return detector


def calibrated(detector: Detector) -> Detector:
    if detector.threshold is None:
        raise ValueError(f"{detector.name} has no threshold yet; fit it on clean images, or calibrate it")
    return detector


class CWHighConfidence(Ingredient):
    """C&W-hc: the C&W L2 attack that wants a margin of `confidence`; its distances are not bounded."""

    name = "cw_hc"
    paper = CW_PAPER
    trial: ClassVar[Mapping[str, object]] = {"confidence": 0.1, "steps": 10, "search_steps": 2}

    confidence: NonNegative = 10.0
    steps: Annotated[Count, Field(description="of each search; they end early where the loss rests")] = 10_000
    search_steps: Count = 9
    initial_const: Positive = 1.0
    rate: Annotated[Positive, Field(description="Adam's")] = 0.01
    aim: Annotated[Literal["random", "any"], Field(description="a drawn wrong class, or any")] = "random"

    def apply(self, plan: Plan) -> Plan:
        return plan.fill(self, attack=CarliniWagner(plan.facts.n_classes, clip=plan.facts.clip, **dict(self)))


class CWWhiteBox(Ingredient):
    """C&W-wb: fools the network and a fitted K-density detector at once; its distances are not bounded."""

    name = "cw_wb"
    paper = RCE.paper

    detector: Annotated[
        KDensity, BeforeValidator(score_of), AfterValidator(fitted), Field(description="fitted; ART's, or its score")
    ]
    confidence: NonNegative = 5.0
    steps: Annotated[Count, Field(description="of the second phase; the first has half as many")] = 10_000
    search_steps: Count = 9

    def apply(self, plan: Plan) -> Plan:
        attack = cw_white_box(
            self.detector,
            plan.facts.n_classes,
            plan.facts.clip,
            confidence=self.confidence,
            steps=self.steps,
            search_steps=self.search_steps,
        )
        return plan.fill(self, attack=attack)


class EvadeDetectors(Ingredient):
    """PGD on CE + lam sum min(0, score - T): fools the network and calibrated detectors inside a ball."""

    name = "evade_detectors"
    paper = RCE.paper

    detectors: Annotated[
        tuple[Annotated[Detector, BeforeValidator(score_of), AfterValidator(calibrated)], ...],
        Field(min_length=1, description="fitted and calibrated, ART's or their scores; all must keep"),
    ]
    lam: Annotated[Positive, Field(description="sweep it over 0.1, 1 and 10")] = 1.0
    order: Annotated[Order, Field(description="sum, or the wrong label first and the scores then")] = "sum"
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Radius = 8 / 255
    steps: Count = 40
    step_size: Positive | None = None
    restarts: Count = 1

    def apply(self, plan: Plan) -> Plan:
        ball = norm_named(self.norm, self.eps)
        objective = evading(*self.detectors, lam=self.lam, order=self.order)
        attack = PGD(
            ball, self.steps, self.step_size, objective=objective, restarts=self.restarts, clip=plan.facts.clip
        )
        return plan.fill(self, attack=attack)


class CWOptions(BaseModel):
    """Options of an evaluation's `cw_hc`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: NonNegative = 10.0
    steps: Count = 1000
    search_steps: Count = 9
    aim: Literal["random", "any"] = "random"


def build_cw_hc(options: CWOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    attack = CarliniWagner(context.plan.facts.n_classes, clip=context.clip, **dict(options))
    return [(f"cw_hc{options.confidence:g}", attack)]


ATTACKS = [AttackEntry("cw_hc", "C&W L2 of high confidence, not bounded by eps (S&P 2017)", CWOptions, build_cw_hc)]
