"""What plugins offer besides ingredients: attacks for evaluation and networks, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

if TYPE_CHECKING:
    from torch import nn

    from art_ext.parts.attacks import Attack
    from art_ext.parts.detectors import Detector
    from art_ext.plan import Plan
    from art_ext.types import Facts, Forward

__all__ = ["AttackEntry", "EvaluationContext", "Family", "ModelEntry"]

Family = Literal["gradient", "black-box", "transfer", "informed", "corruption"]
"""What an attack knows: the gradients, the answers alone, another network, the defence, or nothing."""


@dataclass(frozen=True)
class EvaluationContext:
    """What an evaluation's attack may depend on besides its own options.

    Attributes:
        plan: of the method under attack, so that an informed attacker finds its criterion.
        norm: of the threat: "linf", "l2", "l1" or "l0".
        eps: of the threat, in clip-value units.
        clip: smallest and largest pixel value.
        surrogates: other networks for the same task, by name, which an attack may transfer from.
        detectors: the plan's, fitted, with thresholds from held-out images; empty where these cannot be had.
    """

    plan: Plan
    norm: str
    eps: float
    clip: tuple[float, float]
    surrogates: Mapping[str, Forward] = field(default_factory=dict)
    detectors: Sequence[Detector] = ()

    @property
    def facts(self) -> Facts:
        """Those of the plan, with the clip range of the evaluation."""
        return replace(self.plan.facts, clip=self.clip)


@dataclass(frozen=True)
class AttackEntry:
    """An attack that a recipe's `evaluate:` knows by name.

    Attributes:
        name: as a recipe spells it, in snake_case.
        summary: one line for `art-ext plugins`.
        options: a pydantic model of what a recipe may set, unknown keys refused.
        build: (options, context) to attacks with the names their results are reported under. One
            entry may give several: one for each adversary that the criterion declares.
        family: what the attacks know of the network.
        informs: ingredients whose adaptive attack this is; it runs by default on what they trained.
    """

    name: str
    summary: str
    options: type[BaseModel]
    build: Callable[[Any, EvaluationContext], Sequence[tuple[str, Attack]]]
    family: Family = "gradient"
    informs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelEntry:
    """A network that a recipe asks for as `model: {name: NAME, ...}`; all others are timm's.

    Attributes:
        name: as a recipe spells it, in snake_case.
        summary: one line for `art-ext plugins`.
        build: (all other keys of the recipe's `model:`, facts of the data) to the network.
    """

    name: str
    summary: str
    build: Callable[[Mapping[str, Any], Facts], nn.Module]
