"""ILCM: small steps towards the class that the network thinks least likely (Kurakin et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from art_ext.api import (
    PGD,
    Adversarial,
    Attack,
    ConfigError,
    Count,
    Facts,
    Forward,
    Keys,
    Norm,
    Objective,
    Paper,
    Positive,
    Score,
    ZeroStart,
)
from art_ext_attacks.passes import look
from art_ext_attacks.settings import OfThreat, OnBall, Raising, entry


@dataclass(frozen=True)
class LeastLikely(PGD):
    """PGD that lowers the score at argmin_k z_k(x); a score that is targeted already keeps its targets."""

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        if not score.targeted:
            with torch.no_grad():
                target = look(net, x).logits.argmin(1)
            score = replace(score, y=target, targeted=True)
        return super().craft(net, x, score, keys, mask)

    def __str__(self) -> str:
        return f"{super().__str__()} towards the least likely class"


class LeastLikelySettings(Raising):
    """ILCM's options; the authors take steps of one grey level and more of them for a larger eps."""

    steps: Count = 20
    step_size: Annotated[Positive | None, Field(description="2.5 eps / steps when left out")] = None

    def on(self, objective: Objective, ball: Norm, facts: Facts) -> Attack:
        if not objective.targetable:
            raise ConfigError(f"ilcm aims at a class, and {objective} has no targeted form; use ce, margin or dlr")
        return LeastLikely(
            ball, self.steps, self.step_size, objective=objective, start=ZeroStart(), clip=facts.clip
        )


class LeastLikelyOptions(OfThreat, LeastLikelySettings):
    """ILCM in a recipe's `evaluate:`."""


class ILCM(OnBall, LeastLikelySettings):
    """The iterative least-likely class method as an attack of its own."""

    name = "ilcm"
    paper = Paper(
        "Adversarial examples in the physical world",
        "Kurakin, Goodfellow, Bengio",
        "ICLR workshop",
        2017,
        "https://arxiv.org/abs/1607.02533",
    )
    trial = MappingProxyType({"steps": 4})


ENTRY = entry(
    "ilcm",
    "small steps towards the least likely class (Kurakin et al., 2017)",
    LeastLikelyOptions,
    lambda options: f"ilcm{options.steps}",
)
