"""Common corruptions as entries of an evaluation: accuracy without an adversary, beside the attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from art_ext.api import (
    CORRUPTIONS,
    Adversarial,
    Attack,
    AttackEntry,
    ConfigError,
    EvaluationContext,
    Forward,
    Ingredient,
    Keys,
    Objective,
    Paper,
    Plan,
    Score,
    cw,
    unknown,
)
from art_ext_attacks.settings import AttackSettings


@dataclass(frozen=True)
class Corrupt:
    """One corruption at one severity; the network is asked nothing.

    Raises:
        ConfigError: for a clip range without ends.
    """

    name: str
    severity: int
    clip: tuple[float, float] = (0.0, 1.0)
    objective: Objective = cw  # for the aim alone
    bn: Literal["eval"] = "eval"

    def __post_init__(self) -> None:
        if self.clip[1] - self.clip[0] == float("inf"):
            raise ConfigError("corruptions are made for images in a clip range; give the classifier finite clip_values")

    @torch.no_grad()
    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        low, high = self.clip
        made = CORRUPTIONS[self.name]((x - low) / (high - low), self.severity, keys.stream(self.name))
        adv = low + (high - low) * made
        if mask is not None:
            adv = x + mask * (adv - x)
        return Adversarial(adv, adv - x)

    def __str__(self) -> str:
        return f"{self.name} of severity {self.severity}"


def known(name: str) -> str:
    """The name of a corruption; raises ValueError for another."""
    if name not in CORRUPTIONS:
        raise ValueError(unknown("corruption", name, CORRUPTIONS))
    return name


class CommonCorruption(Ingredient):
    """One common corruption as an attack of its own, though nobody attacks."""

    name = "corruption"
    paper = Paper(
        "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
        "Hendrycks, Dietterich",
        "ICLR",
        2019,
        "https://arxiv.org/abs/1903.12261",
    )

    kind: Annotated[str, Field(description="its name, such as gaussian_noise, fog or jpeg")] = "gaussian_noise"
    severity: Annotated[int, Field(ge=1, le=5, strict=True)] = 3

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return known(kind)

    def apply(self, plan: Plan) -> Plan:
        return plan.fill(self, attack=Corrupt(self.kind, self.severity, plan.facts.clip))


class CorruptionOptions(AttackSettings):
    """Common corruptions in a recipe's `evaluate:`."""

    severity: Annotated[int, Field(ge=1, le=5, strict=True)] = 3
    names: Annotated[tuple[str, ...], Field(description="all of them when left out")] = tuple(CORRUPTIONS)

    @field_validator("names")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(known(name) for name in names)


def build(options: CorruptionOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    return [
        (f"{name}_{options.severity}", Corrupt(name, options.severity, context.clip)) for name in options.names
    ]


ENTRY = AttackEntry(
    "corruptions",
    "noise, blur, weather and codecs (Hendrycks and Dietterich, ICLR 2019)",
    CorruptionOptions,
    build,
    family="corruption",
)
