"""What an attack may raise, by name: the general objectives, and those of a plan's criterion and detectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from art_ext.errors import ConfigError, unknown
from art_ext.parts.detectors import Detector
from art_ext.parts.objectives import OBJECTIVES, Objective, of_criterion, unending
from art_ext.plan import Plan

__all__ = ["DETECTOR", "ObjectiveName", "objectives_for"]

DETECTOR = "detector"
ObjectiveName = Annotated[
    str,
    Field(
        description="what is raised: ce, margin, dlr, kl_to_clean or other_confidence; criterion or detector for each "
        "adversary that the defence's declares, or one of these by its name"
    ),
]


def objectives_for(
    name: str, plan: Plan, detectors: Sequence[Detector] = (), *, also: Sequence[str] = ()
) -> tuple[Objective, ...]:
    """The objectives that `name` means for an attack on what a plan trains, strongest first.

    "criterion" means all adversaries of its criterion, "detector" those of its detectors, any other name the one
    that is called so. Those of detectors go on after success: a wrong answer may be rejected.

    Args:
        detectors: fitted ones, in the place of the plan's; of these, those that have nothing to fit are known.
        also: names that the attack itself knows, for the message.

    Raises:
        ConfigError: for a name that none of them has, or "detector" where nothing rejects.
    """
    parts = plan.compose()
    ready = detectors or [item for item in parts.detectors if item.bank or not item.has_bank]
    of_detectors = tuple(unending(objective) for item in ready for objective in item.adversaries)
    if name == of_criterion.name:
        return parts.criterion.adversaries
    if name == DETECTOR:
        if not of_detectors:
            raise ConfigError(
                "the objective detector needs a defence that rejects, with a detector that names its adversary; "
                "leave it out, or say what the defence is made of"
            )
        return of_detectors
    declared = {objective.name: objective for objective in (*of_detectors, *parts.criterion.adversaries)}
    known = declared | OBJECTIVES
    if name not in known:
        raise ConfigError(unknown("objective", name, [*known, DETECTOR, *also]))
    return (known[name],)
