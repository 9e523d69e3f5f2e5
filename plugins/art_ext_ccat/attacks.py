"""The attacks of someone who knows CCAT: PGD-Conf as an evaluation runs it, and the adversary who wants rejections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from art_ext.api import (
    Attack,
    AttackEntry,
    BacktrackingPGD,
    Count,
    EvaluationContext,
    Norm,
    Number,
    Objective,
    Outputs,
    Positive,
    Strongest,
    UniformStart,
    ZeroStart,
    ce,
    log_confidence,
    norm_named,
    other_confidence,
)
from art_ext_ccat.formulas import class_probability
from art_ext_ccat.starts import UniformNormStart

NormName = Literal["linf", "l2", "l1"]
TestNormName = Literal["linf", "l2", "l1", "l0"]
TEST_LR: dict[str, float] = {"linf": 0.001, "l2": 0.001, "l1": 0.5, "l0": 250.0}
"""First step sizes of the authors' test attacks of 1000 steps, on pixels in [0, 1]."""


def first_step(ball: Norm, clip: tuple[float, float], steps: int, authors: float) -> float:
    """The authors' for this range of pixels; PGD's usual one where so many of theirs would not cross the ball.

    Steps only shrink: one that is too short leaves most of the ball unseen, and looks like robustness.
    """
    span = clip[1] - clip[0]
    size = authors * (span if math.isfinite(span) else 1.0)
    return size if steps * size >= ball.largest else float(ball.usual_step(ball.largest, steps))

rejection = Objective("rejection", lambda out, y: -log_confidence(out.logits), targetable=False)
"""The low confidence of the prediction: the adversary who wants good inputs to be rejected."""


def towards(offset: int) -> Objective:
    """p_j of the one class j = y + offset (mod K): an attack that visits every wrong class needs K - 1 of them."""

    def measure(out: Outputs, y: Tensor) -> Tensor:
        return class_probability(out.logits, (y + offset) % out.logits.shape[1])

    return Objective(f"towards_{offset}", measure, targetable=False)


class BacktrackingSettings(BaseModel):
    """PGD with backtracking at test time: random restarts and one start at the image; the authors' defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Annotated[Count, Field(description="1000 in the authors' evaluation; fewer overstate robustness")] = 1000
    base_lr: Annotated[
        Positive | None,
        Field(
            description="first step size; when left out 0.001 of the pixel range, 0.5 in l1, 250 in l0, or "
            "2.5 eps / steps where steps of that do not cross the ball"
        ),
    ] = None
    lr_factor: Annotated[Number, Field(gt=1, description="what a step that does not pay is divided by")] = 1.1
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    restarts: Annotated[Count, Field(description="random ones, beside the start at the image itself")] = 10

    def strongest(self, ball: Norm, clip: tuple[float, float], objective: Objective = other_confidence) -> Strongest:
        """The runs on a ball of images in a clip range, compared by the confidence of the wrong classes."""
        random = BacktrackingPGD(
            ball,
            self.steps,
            self.base_lr or first_step(ball, clip, self.steps, TEST_LR[ball.name]),
            objective=objective,
            start=UniformStart() if ball.name == "l0" else UniformNormStart(),
            restarts=self.restarts,
            momentum=self.momentum,
            clip=clip,
            lr_factor=self.lr_factor,
        )
        runs = (random, replace(random, start=ZeroStart(), restarts=1))
        return Strongest(runs, other_confidence, aim_first=False)  # a rejection is fooled by confidence, success or not


class PGDConfSettings(BacktrackingSettings):
    """PGD-Conf at test time, and PGD-CE, which overstates robustness."""

    objective: Annotated[
        Literal["confidence", "ce"], Field(description="raised; ce with 200 steps, lr_factor 1.25, base_lr 0.05 (code)")
    ] = "confidence"
    every_class: Annotated[bool, Field(description="also from the image towards each wrong class in turn")] = False

    def attack(self, ball: Norm, clip: tuple[float, float], n_classes: int) -> Strongest:
        """The attack on a ball of images in a clip range."""
        made = self.strongest(ball, clip, other_confidence if self.objective == "confidence" else ce)
        if not self.every_class:
            return made
        aimed = (replace(made.attacks[-1], objective=towards(k)) for k in range(1, n_classes))
        return replace(made, attacks=(*made.attacks, *aimed))


class PGDConfOptions(PGDConfSettings):
    """PGD-Conf in a recipe's `evaluate:`; norm and eps default to the recipe's threat."""

    norm: TestNormName | None = None
    eps: Positive | None = None


def build_pgd_conf(options: PGDConfOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    ball = norm_named(options.norm or context.norm, options.eps or context.eps)
    attack = options.attack(ball, context.clip, context.plan.facts.n_classes)
    every = "_every" if options.every_class else ""
    word = "pgd_conf" if options.objective == "confidence" else "pgd_ce_backtracking"
    return [(f"{word}{options.steps}x{options.restarts + 1}{every}", attack)]


ATTACKS = [
    AttackEntry(
        "pgd_conf",
        "PGD on the confidence of wrong classes, with backtracking (Stutz et al., ICML 2020)",
        PGDConfOptions,
        build_pgd_conf,
        family="informed",
        informs=("ccat",),
    )
]
