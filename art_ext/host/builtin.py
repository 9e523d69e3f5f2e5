"""The core's own plugin: data sets, networks and ART's attacks through the same hooks as a stranger's would be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from art_ext.entries import AttackEntry, ModelEntry
from art_ext.host.hookspecs import hookimpl
from art_ext.ingredient import checked

if TYPE_CHECKING:
    from torch import nn

    from art_ext.data.entry import DatasetEntry
    from art_ext.entries import EvaluationContext
    from art_ext.parts.attacks import Attack
    from art_ext.types import Facts


@hookimpl
def art_ext_datasets() -> tuple[DatasetEntry, ...]:
    from art_ext.data.datasets import BUILTIN

    return BUILTIN


@hookimpl
def art_ext_attacks() -> tuple[AttackEntry, ...]:
    return (AttackEntry("art", "any evasion attack of ART, by its name there", _ArtOptions, _art),)


class _ArtOptions(BaseModel):
    """One of ART's attacks, with its own options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attack: Annotated[str, Field(description="its class in art.attacks.evasion, such as DeepFool")]
    options: Annotated[dict[str, Any], Field(description="as its class takes them; norm and eps are the threat's")] = {}


def _art(options: _ArtOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    from art_ext.border.art_wrapped import wrapped

    return [(f"art_{options.attack}", wrapped(options.attack, options.options, context))]


@hookimpl
def art_ext_models() -> tuple[ModelEntry, ...]:
    return (ModelEntry("ensemble", "networks of timm's that answer by the mean of their probabilities", _ensemble),)


class _EnsembleOptions(BaseModel):
    """All further options go to each member's builder."""

    model_config = ConfigDict(frozen=True, extra="allow")

    of: Annotated[str, Field(description="the members' name in timm's registry")]
    members: Annotated[int, Field(ge=2, strict=True)] = 3


def _ensemble(options: Mapping[str, Any], facts: Facts) -> nn.Module:
    """Members of one kind, whose weights are drawn one after another from torch's generator.

    Raises:
        ConfigError: for options that no ensemble has.
    """
    from art_ext.border.timm import build_model
    from art_ext.parts.ensemble import ensemble

    wanted = checked(_EnsembleOptions, "model", **options)
    make = {"num_classes": facts.n_classes, "input_shape": facts.input_shape, **(wanted.model_extra or {})}
    return ensemble(build_model(wanted.of, **make) for _ in range(wanted.members))
