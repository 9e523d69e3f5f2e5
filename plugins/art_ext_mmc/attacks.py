"""PGD on the centre distance, as a recipe's `evaluate:` names it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from art_ext.api import (
    PGD,
    Attack,
    AttackEntry,
    Count,
    EvaluationContext,
    EveryTarget,
    Positive,
    RandomTarget,
    for_evaluation,
    norm_named,
)
from art_ext_mmc.criteria import center_distance


class CenterPGDOptions(BaseModel):
    """Options of `center_pgd`; norm and eps default to the threat of the recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Count = 10
    restarts: Count = 1
    step_size: Positive | None = None
    norm: Literal["linf", "l2", "l1"] | None = None
    eps: Positive | None = None
    target: Annotated[
        Literal["none", "random", "every"],
        Field(description="none: away from the true centre; random: to a drawn wrong one; every: to each in turn"),
    ] = "none"


def build_center_pgd(options: CenterPGDOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    ball = norm_named(options.norm or context.norm, options.eps or context.eps)
    base = {"norm": ball, "steps": options.steps, "step_size": options.step_size, "restarts": options.restarts}
    n_classes = context.plan.facts.n_classes
    attack: PGD
    if options.target == "none":
        attack, suffix = PGD(**base, objective=center_distance, clip=context.clip), "un"  # type: ignore[arg-type]
    elif options.target == "random":
        attack = RandomTarget(**base, objective=center_distance, clip=context.clip, n_classes=n_classes)  # type: ignore[arg-type]
        suffix = "tar"
    else:
        attack = EveryTarget(**base, objective=center_distance, clip=context.clip, n_classes=n_classes)  # type: ignore[arg-type]
        suffix = "every"
    times = f"x{options.restarts}" if options.restarts > 1 else ""
    return [(f"center_pgd{options.steps}{times}_{suffix}", for_evaluation(attack))]


ATTACKS = [
    AttackEntry(
        "center_pgd",
        "PGD on the centre distance (Pang et al., ICLR 2020)",
        CenterPGDOptions,
        build_center_pgd,
        family="informed",
        informs=("mmc", "mmc_rand"),
    )
]
