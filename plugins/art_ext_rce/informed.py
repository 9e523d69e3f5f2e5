"""The attacks of someone who knows RCE's detectors, as an evaluation runs them on detectors that it has fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from art_ext.api import (
    PGD,
    Adversarial,
    Attack,
    AttackEntry,
    Best,
    ConfigError,
    Count,
    Detector,
    EvaluationContext,
    Forward,
    Keys,
    NonNegative,
    Norm,
    Objective,
    Positive,
    Score,
    for_evaluation,
    norm_named,
)
from art_ext_rce.carlini_wagner import cw_white_box
from art_ext_rce.detectors import KDensity
from art_ext_rce.evading import evading, fooling


@dataclass(frozen=True)
class Sweep:
    """Several attacks, such as `evading` with other lam; each example keeps the result that `objective` puts first."""

    attacks: tuple[PGD, ...]
    objective: Objective
    bn: Literal["eval"] = "eval"

    @property
    def norm(self) -> Norm:
        return self.attacks[0].norm

    @property
    def cost(self) -> int:
        return sum(attack.cost for attack in self.attacks)

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        best = Best(x)
        for number, attack in enumerate(self.attacks):
            aim = attack.objective.bind(net, x, score.y)
            made = attack.craft(net, x, aim, keys.stream("attack", number), mask)
            with torch.no_grad():
                out = net(made.x)
            best.consider(made.x, score.value(out), score.wrong(out))
        return Adversarial(best.x, best.x - x)

    def __str__(self) -> str:
        return f"the best of {' and '.join(str(attack) for attack in self.attacks)}"


class EvadingOptions(BaseModel):
    """Options of an evaluation's `evade_detectors`; norm and eps default to the recipe's threat."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lams: Annotated[
        tuple[Positive, ...], Field(min_length=1, description="weights of the scores in CE + lam sum min(0, score - T)")
    ] = (0.1, 1.0, 10.0)
    steps: Count = 100
    restarts: Count = 1
    step_size: Positive | None = None
    norm: Literal["linf", "l2", "l1"] | None = None
    eps: Positive | None = None


def build_evading(options: EvadingOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    """A sweep against each detector on its own, and one against all of them, which must all keep the input."""
    if not context.detectors:
        raise ConfigError(
            "evade_detectors attacks detectors with thresholds, and the evaluation has none; evaluate a defence that "
            "has them, with held-out images"
        )
    ball = norm_named(options.norm or context.norm, options.eps or context.eps)

    def sweep(objective: Objective, *detectors: Detector) -> Sweep:
        return Sweep(
            tuple(
                for_evaluation(
                    PGD(ball, options.steps, options.step_size, restarts=options.restarts, clip=context.clip),
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


class CWWhiteBoxOptions(BaseModel):
    """Options of an evaluation's `cw_wb`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: NonNegative = 5.0
    steps: Annotated[
        Count, Field(description="of the second phase, 10,000 in the paper; with fewer than 1,000 the rate rises")
    ] = 1000
    search_steps: Annotated[Count, Field(description="9 in the paper, which finds smaller distances")] = 3


PAPER_RATE, MOST = 0.01, 0.05
"""Adam's rate in the paper, and with few steps."""


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


INFORMED = [
    AttackEntry(
        "evade_detectors",
        "PGD on CE and the detectors' scores, lam swept, each detector and all at once (Pang et al., NeurIPS 2018)",
        EvadingOptions,
        build_evading,
        family="informed",
        informs=("rce",),
    ),
    AttackEntry(
        "cw_wb",
        "C&W L2 that K-density keeps too, not bounded by eps (Pang et al., NeurIPS 2018)",
        CWWhiteBoxOptions,
        build_cw_wb,
        family="informed",
        informs=("rce",),
    ),
]
