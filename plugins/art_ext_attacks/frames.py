"""Adversarial frames: only the border of the image changes, but it may become anything (Zajac et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from art_ext.api import (
    PGD,
    Adversarial,
    Attack,
    AttackEntry,
    ConfigError,
    Count,
    EvaluationContext,
    Forward,
    Ingredient,
    Keys,
    Linf,
    Objective,
    ObjectiveName,
    Paper,
    Plan,
    Positive,
    Score,
    ce,
    for_evaluation,
    objectives_for,
)
from art_ext_attacks.settings import AttackSettings


def border(x: Tensor, width: int) -> Tensor:
    """(1, 1, H, W): 1 on a frame of `width` pixels, 0 inside it."""
    mask = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    mask[..., width:-width, width:-width] = 0
    return mask


@dataclass(frozen=True)
class Frame:
    """An attack whose perturbation is a frame of the image; `attack` has the whole clip range as its ball."""

    attack: PGD
    width: int

    @property
    def objective(self) -> Objective:
        return self.attack.objective

    @property
    def bn(self) -> Literal["eval", "train"]:
        return self.attack.bn

    @property
    def cost(self) -> int:
        return self.attack.cost

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        """Raises ConfigError where the frame would leave nothing of the image."""
        if 2 * self.width >= min(x.shape[2:]):
            raise ConfigError(f"a frame of {self.width} pixels covers all of an image of {tuple(x.shape[2:])}")
        frame = border(x, self.width)
        return self.attack.craft(net, x, score, keys, frame if mask is None else frame * mask)

    def __str__(self) -> str:
        return f"a frame of {self.width} pixels by {self.attack}"


class FrameSettings(AttackSettings):
    """Options of adversarial frames."""

    width: Annotated[Count, Field(description="of the frame, in pixels")] = 1
    steps: Count = 100
    step_size: Annotated[Positive | None, Field(description="2.5 ranges / steps when left out")] = None
    restarts: Count = 1
    objective: ObjectiveName = "ce"

    def frame(self, clip: tuple[float, float], objective: Objective) -> Frame:
        """The attack on images in a clip range.

        Raises:
            ConfigError: for a range without ends, which has no step size.
        """
        span = clip[1] - clip[0]
        if span == float("inf"):
            raise ConfigError("a frame may become anything in the clip range; give the classifier finite clip_values")
        pgd = PGD(Linf(span), self.steps, self.step_size, objective=objective, restarts=self.restarts, clip=clip)
        return Frame(for_evaluation(pgd), self.width)


class Frames(Ingredient, FrameSettings):
    """Adversarial frames as an attack of its own."""

    name = "frames"
    paper = Paper(
        "Adversarial Framing for Image and Video Classification",
        "Zajac, Zolna, Rostamzadeh, Pinheiro",
        "AAAI",
        2019,
        "https://arxiv.org/abs/1812.04599",
    )
    trial = MappingProxyType({"steps": 4})

    def apply(self, plan: Plan) -> Plan:
        return plan.fill(self, attack=self.frame(plan.facts.clip, objectives_for(self.objective, plan)[0]))


def build(options: FrameSettings, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    return [
        (f"frame{options.width}" + ("" if objective is ce else f"_{objective}"), options.frame(context.clip, objective))
        for objective in objectives_for(options.objective, context.plan, context.detectors)
    ]


ENTRY = AttackEntry(
    "frames", "only a frame of the image changes, but to anything (Zajac et al., AAAI 2019)", FrameSettings, build
)
