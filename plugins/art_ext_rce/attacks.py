"""Carlini and Wagner's attack on a network and its K-density detector at once (Pang et al., NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from art_ext.api import (
    Attack,
    AttackEntry,
    CarliniWagner,
    ConfigError,
    Count,
    EvaluationContext,
    Ingredient,
    NonNegative,
    Plan,
    cw,
    score_of,
)
from art_ext_rce.detectors import KDensity
from art_ext_rce.ingredient import RCE

PAPER_RATE, MOST = 0.01, 0.05
"""Adam's rate in the paper, and with few steps."""


def cw_white_box(
    detector: KDensity,
    n_classes: int,
    clip: tuple[float, float],
    *,
    confidence: float = 5.0,
    steps: int = 10_000,
    search_steps: int = 9,
) -> CarliniWagner:
    """C&W-wb: fools the classifier and K-density at once (Pang et al., NeurIPS 2018).

    1. plain C&W towards the target, half the steps, 3 searches, first constant 10;
    2. from there, with max(0, log median KD_t - log KD_t) added to f, first constant 100. The
       distance is measured from the original image, where the authors' code takes phase 1's.
    """
    first = CarliniWagner(n_classes, confidence, max(1, steps // 2), min(3, search_steps), 10.0, clip=clip)
    objective = replace(cw, needs=detector.needs)
    return CarliniWagner(
        n_classes, confidence, steps, search_steps, 100.0, clip=clip, penalty=detector.penalty, begin=first,
        objective=objective,
    )  # fmt: skip


def fitted(detector: KDensity) -> KDensity:
    if not detector.bank:
        raise ValueError(f"{detector.name} is not fitted yet; fit it on clean training images")
    return detector


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


class CWWhiteBoxOptions(BaseModel):
    """Options of an evaluation's `cw_wb`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: NonNegative = 5.0
    steps: Annotated[
        Count, Field(description="of the second phase, 10,000 in the paper; with fewer than 1,000 the rate rises")
    ] = 1000
    search_steps: Annotated[Count, Field(description="9 in the paper, which finds smaller distances")] = 3


def build_cw_wb(options: CWWhiteBoxOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    rate = min(MOST, PAPER_RATE * max(1.0, 1000 / options.steps))

    def against(detector: KDensity) -> Attack:
        made = cw_white_box(detector, context.facts.n_classes, context.clip, **dict(options))
        begin = None if made.begin is None else replace(made.begin, rate=rate)
        return replace(made, rate=rate, begin=begin)

    attacks = [
        (f"cw_wb{options.confidence:g}", against(detector))
        for detector in context.detectors
        if isinstance(detector, KDensity)
    ]
    if not attacks:
        raise ConfigError("cw_wb attacks a fitted K-density detector, and the evaluation has none; leave it out")
    return attacks


ATTACKS = [
    AttackEntry(
        "cw_wb",
        "C&W L2 that K-density keeps too, not bounded by eps (Pang et al., NeurIPS 2018)",
        CWWhiteBoxOptions,
        build_cw_wb,
        family="informed",
        informs=(RCE.name,),
    )
]
