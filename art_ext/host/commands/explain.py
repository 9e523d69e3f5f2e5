"""`art-ext explain RECIPE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from art_ext.host.commands.options import debug_option, set_option
from art_ext.host.commands.table import show_table

if TYPE_CHECKING:
    from art_ext.types import Facts


@click.command(short_help="Show what a recipe makes of a training.")
@click.argument("recipe")
@set_option
@debug_option
def explain(recipe: str, overrides: tuple[str, ...]) -> None:
    """Show what RECIPE makes of a training: each slot, its part, and the ingredient that set it."""
    from art_ext.host.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    facts = loaded.assumed_facts()
    plan = loaded.plan(facts)
    click.echo(f"{loaded.name}: {' + '.join(named.name for named in loaded.use) or 'standard training'}")
    for ingredient in loaded.ingredients():
        paper = getattr(type(ingredient), "paper", None)
        if paper is not None:
            click.echo(f"  {ingredient.name}: {paper}")
    click.echo(f"  as for {_facts(facts)}; nothing was opened")
    click.echo("")
    show_table(("slot", "part", "set by"), [tuple(line) for line in loaded.train.tuned(plan.settings).lines(plan)])


def _facts(facts: Facts) -> str:
    return f"{facts.n_classes} classes of {'x'.join(map(str, facts.input_shape))} images"
