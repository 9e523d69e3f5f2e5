"""The six hooks of a plugin. All return values; none runs inside a training step.

A plugin is a module with functions of these names, marked with `hookimpl`, and an entry point in
the group `art_ext`. It implements the hooks it needs and leaves out the others, and any argument
that it does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

if TYPE_CHECKING:
    from art_ext.data.entry import DatasetEntry
    from art_ext.engine.observe import Observer, RunInfo
    from art_ext.entries import AttackEntry, ModelEntry
    from art_ext.errors import Problem
    from art_ext.ingredient import Ingredient
    from art_ext.plan import Plan

__all__ = [
    "PROJECT",
    "art_ext_attacks",
    "art_ext_check_plan",
    "art_ext_datasets",
    "art_ext_ingredients",
    "art_ext_models",
    "art_ext_observers",
    "hookimpl",
]

PROJECT = "art_ext"
"""The name of the pluggy project and of the entry-point group."""

_Hook = TypeVar("_Hook", bound=Callable[..., Any])
_spec = pluggy.HookspecMarker(PROJECT)
_impl = pluggy.HookimplMarker(PROJECT)


def hookimpl(function: _Hook) -> _Hook:
    """Marks a function as a plugin's implementation of the hook of the same name."""
    return _impl(function)


@_spec
def art_ext_ingredients() -> Iterable[type[Ingredient]]:
    """The ingredients that recipes can use: methods and tricks.

    Called once, when the plugins are loaded. Return classes, not instances; each has a `name` in
    snake_case that no other plugin uses, and its own `apply`.

    Example::

        @hookimpl
        def art_ext_ingredients():
            return [LabelSmoothing]
    """
    return ()


@_spec
def art_ext_attacks() -> Iterable[AttackEntry]:
    """The attacks that a recipe's `evaluate:` can name.

    Called once, when the plugins are loaded. An entry's `build` is called after training, with the
    options from the recipe and the threat; each attack it gives gets a row in the report.

    Example::

        @hookimpl
        def art_ext_attacks():
            return [AttackEntry("square", "black-box random search", SquareOptions, build_square)]
    """
    return ()


@_spec
def art_ext_models() -> Iterable[ModelEntry]:
    """Networks that timm does not have, for a recipe's `model: {name: ...}`.

    Called once, when the plugins are loaded. An entry's `build` is called before training; the
    network maps (N, C, H, W) pixels to (N, K) logits.

    Example::

        @hookimpl
        def art_ext_models():
            return [ModelEntry("ensemble", "K backbones that vote", build_ensemble)]
    """
    return ()


@_spec
def art_ext_datasets() -> Iterable[DatasetEntry]:
    """The data sets that a recipe's `data:` can name.

    Called once, when the plugins are loaded; an entry's `load` only when the data is needed.

    Example::

        @hookimpl
        def art_ext_datasets():
            return [DatasetEntry("scans", "our scanner's images, 1x64x64", load_scans, ("root",))]
    """
    return ()


@_spec
def art_ext_check_plan(plan: Plan) -> Iterable[Problem]:
    """Objections to a combination of ingredients that the plan's own checks do not know of.

    Called whenever a recipe's plan has been put together, before any data is read. Return one
    `Problem` for each objection, naming the ingredients; the plan itself cannot be changed here.

    Example::

        @hookimpl
        def art_ext_check_plan(plan):
            if "mine" in plan.used and plan.facts.n_classes < 3:
                yield Problem("mine needs three classes or more; remove it", ("mine",))
    """
    return ()


@_spec
def art_ext_observers(run: RunInfo) -> Iterable[Observer]:
    """Observers of a run: trackers, checkpoints, displays.

    Called once a run, before its first step, on every rank. Observers see events; they never touch
    the tensors of a step.

    Example::

        @hookimpl
        def art_ext_observers(run):
            return [Bell()] if run.rank == 0 else []
    """
    return ()
