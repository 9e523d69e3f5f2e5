"""The attacks of someone who knows CCAT: PGD-Conf as an evaluation runs it, and the adversary who wants rejections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from art_ext.api import (
    Adversarial,
    Attack,
    AttackEntry,
    BacktrackingPGD,
    Best,
    Count,
    EvaluationContext,
    Forward,
    Keys,
    Norm,
    Number,
    Objective,
    Outputs,
    Positive,
    Score,
    ZeroStart,
    log_confidence,
    norm_named,
    other_confidence,
)
from art_ext_ccat.formulas import class_probability
from art_ext_ccat.starts import UniformNormStart

NormName = Literal["linf", "l2", "l1"]
BASE_LR: dict[str, float] = {"linf": 0.001, "l2": 0.001, "l1": 0.5}
"""First step sizes of the authors' test attacks of 1000 steps, on pixels in [0, 1]."""


def first_step(ball: Norm, clip: tuple[float, float], steps: int) -> float:
    """The authors' for this range of pixels; PGD's usual one where so many of theirs would not cross the ball.

    Steps only shrink: one that is too short leaves most of the ball unseen, and looks like robustness.
    """
    span = clip[1] - clip[0]
    size = BASE_LR[ball.name] * (span if math.isfinite(span) else 1.0)
    return size if steps * size >= ball.largest else float(ball.usual_step(ball.largest, steps))

rejection = Objective("rejection", lambda out, y: -log_confidence(out.logits), targetable=False)
"""The low confidence of the prediction: the adversary who wants good inputs to be rejected."""


def towards(offset: int) -> Objective:
    """p_j of the one class j = y + offset (mod K): an attack that visits every wrong class needs K - 1 of them."""

    def measure(out: Outputs, y: Tensor) -> Tensor:
        return class_probability(out.logits, (y + offset) % out.logits.shape[1])

    return Objective(f"towards_{offset}", measure, targetable=False)


@dataclass(frozen=True)
class Strongest:
    """Several attacks; each example keeps the result with the highest score, the first of equals.

    The score is that of `objective`, success or not: a rejection is fooled by confidence.
    """

    attacks: tuple[BacktrackingPGD, ...]
    objective: Objective = other_confidence
    bn: Literal["eval"] = "eval"

    @property
    def norm(self) -> Norm:
        return self.attacks[0].norm

    @property
    def clip(self) -> tuple[float, float]:
        return self.attacks[0].clip

    @property
    def cost(self) -> int:
        return sum(attack.cost for attack in self.attacks)

    def raising(self, objective: Objective) -> Strongest:
        """All of them on one objective; of those that are alike then, one."""
        return Strongest(tuple(dict.fromkeys(attack.raising(objective) for attack in self.attacks)), objective)

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        best = Best(x)
        for number, attack in enumerate(self.attacks):
            own = score
            if attack.objective is not self.objective:
                own = attack.objective.bind(net, x, score.y, targeted=score.targeted)
            made = attack.craft(net, x, own, keys.stream("attack", number), mask)
            with torch.no_grad():
                out = net(made.x)
            best.consider(made.x, score.value(out), score.wrong(out), aim_first=False)
        return Adversarial(best.x, best.x - x)

    def __str__(self) -> str:
        return f"the strongest of {' and '.join(str(attack) for attack in self.attacks)}"


class BacktrackingSettings(BaseModel):
    """PGD with backtracking at test time: random restarts and one start at the image; the authors' defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Annotated[Count, Field(description="1000 in the authors' evaluation; fewer overstate robustness")] = 1000
    base_lr: Annotated[
        Positive | None,
        Field(
            description="first step size; when left out 0.001 of the pixel range, 0.5 in l1, or 2.5 eps / steps where "
            "steps of that do not cross the ball"
        ),
    ] = None
    lr_factor: Annotated[Number, Field(gt=1, description="what a step that does not pay is divided by")] = 1.1
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    restarts: Annotated[Count, Field(description="random ones, beside the start at the image itself")] = 10

    def strongest(self, ball: Norm, clip: tuple[float, float]) -> Strongest:
        """The runs on a ball of images in a clip range, each on the confidence of the wrong classes."""
        random = BacktrackingPGD(
            ball,
            self.steps,
            self.base_lr or first_step(ball, clip, self.steps),
            objective=other_confidence,
            start=UniformNormStart(),
            restarts=self.restarts,
            momentum=self.momentum,
            clip=clip,
            lr_factor=self.lr_factor,
        )
        return Strongest((random, replace(random, start=ZeroStart(), restarts=1)))


class PGDConfSettings(BacktrackingSettings):
    """PGD-Conf at test time."""

    every_class: Annotated[bool, Field(description="also from the image towards each wrong class in turn")] = False

    def attack(self, ball: Norm, clip: tuple[float, float], n_classes: int) -> Strongest:
        """The attack on a ball of images in a clip range."""
        made = self.strongest(ball, clip)
        if not self.every_class:
            return made
        aimed = (replace(made.attacks[-1], objective=towards(k)) for k in range(1, n_classes))
        return Strongest((*made.attacks, *aimed))


class PGDConfOptions(PGDConfSettings):
    """PGD-Conf in a recipe's `evaluate:`; norm and eps default to the recipe's threat."""

    norm: NormName | None = None
    eps: Positive | None = None


def build_pgd_conf(options: PGDConfOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    ball = norm_named(options.norm or context.norm, options.eps or context.eps)
    attack = options.attack(ball, context.clip, context.plan.facts.n_classes)
    every = "_every" if options.every_class else ""
    return [(f"pgd_conf{options.steps}x{options.restarts + 1}{every}", attack)]


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
