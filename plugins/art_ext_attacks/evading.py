"""Attacks on a network and any detectors with thresholds at once, inside a ball (Pang et al., NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from art_ext.api import (
    PGD,
    Attack,
    AttackEntry,
    ConfigError,
    Count,
    Detector,
    EvaluationContext,
    Ingredient,
    Objective,
    Paper,
    Plan,
    Positive,
    Radius,
    Strongest,
    evading,
    fooling,
    for_evaluation,
    norm_named,
    score_of,
)
from art_ext_attacks.settings import NormName, OfThreat


def calibrated(detector: Detector) -> Detector:
    if detector.threshold is None:
        raise ValueError(f"{detector.name} has no threshold yet; fit it on clean images, or calibrate it")
    return detector


class EvadeDetectors(Ingredient):
    """PGD on CE + lam sum min(0, score - T): fools the network and calibrated detectors inside a ball."""

    name = "evade_detectors"
    paper = Paper(
        "Towards Robust Detection of Adversarial Examples",
        "Pang, Du, Dong, Zhu",
        "NeurIPS",
        2018,
        "https://arxiv.org/abs/1706.00633",
    )

    detectors: Annotated[
        tuple[Annotated[Detector, BeforeValidator(score_of), AfterValidator(calibrated)], ...],
        Field(min_length=1, description="fitted and calibrated, ART's or their scores; all must keep"),
    ]
    lam: Annotated[Positive, Field(description="sweep it over 0.1, 1 and 10")] = 1.0
    order: Annotated[
        Literal["sum", "label_first"], Field(description="sum, or the wrong label first and the scores then")
    ] = "sum"
    norm: NormName = "linf"
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


class EvadingOptions(OfThreat):
    """Options of an evaluation's `evade_detectors`; norm and eps default to the recipe's threat."""

    lams: Annotated[
        tuple[Positive, ...], Field(min_length=1, description="weights of the scores in CE + lam sum min(0, score - T)")
    ] = (0.1, 1.0, 10.0)
    steps: Count = 100
    restarts: Count = 1
    step_size: Positive | None = None


def build(options: EvadingOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    """A sweep over lam against each detector on its own, and one against all of them, which must all keep the input."""
    if not context.detectors:
        raise ConfigError(
            "evade_detectors attacks detectors with thresholds, and the evaluation has none; evaluate a defence that "
            "has them, with held-out images"
        )

    def sweep(objective: Objective, *detectors: Detector) -> Strongest:
        return Strongest(
            tuple(
                for_evaluation(
                    PGD(
                        options.ball(context),
                        options.steps,
                        options.step_size,
                        restarts=options.restarts,
                        clip=context.clip,
                    ),
                    objective=evading(*detectors, lam=lam),
                    stop_when_wrong=False,
                )
                for lam in options.lams
            ),
            objective,
        )

    found: list[tuple[str, Attack]] = [
        (f"evading{options.steps}_{detector.name}", sweep(fooling(detector), detector))
        for detector in context.detectors
    ]
    if len(context.detectors) > 1:
        together = evading(*context.detectors, order="label_first")
        found.append((f"evading{options.steps}_all", sweep(together, *context.detectors)))
    return found


ENTRY = AttackEntry(
    "evade_detectors",
    "PGD on CE and the detectors' scores, lam swept, each detector and all at once (Pang et al., NeurIPS 2018)",
    EvadingOptions,
    build,
    family="informed",
)
