"""`art-ext harden RECIPE`."""

from __future__ import annotations

from pathlib import Path

import click

from art_ext.host.commands.options import debug_option, set_option, trust_option
from art_ext.host.commands.table import show_table


@click.command(short_help="Train, attack and compare models.")
@click.argument("recipe")
@set_option
@click.option("--dry-run", "dry", is_flag=True, help="Show what would be done and how long it would take.")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), default=None, help="Folder for the run's files."
)
@click.option(
    "--sweep", "sweeps", multiple=True, metavar="KEY=A,B", help="Run once for each value; several: each with each."
)
@trust_option
@debug_option
def harden(
    recipe: str, overrides: tuple[str, ...], dry: bool, output: Path | None, sweeps: tuple[str, ...], trust: bool
) -> None:
    """Train an undefended and a hardened model after RECIPE, attack both, and show the difference.

    RECIPE is a YAML file, or the name of an installed recipe such as digits/pc_lc_pgd_at.
    """
    from art_ext.host.recipe import load_recipe

    if sweeps and not dry:
        from art_ext.host.sweeping import sweep
        from art_ext.lifecycle import compare

        folder = sweep(recipe, overrides, sweeps, output=output, echo=click.echo, trust=trust)
        show_table(compare.HEAD, [model.cells() for model in compare.from_folder(folder)])
        return
    loaded = load_recipe(recipe, overrides)
    # only now: these bring in MLflow and timm, which a mistake in the recipe should not wait for
    if dry:
        from art_ext.host.dry_run import dry_run

        dry_run(loaded, click.echo, trust=trust)
    else:
        from art_ext.host.harden import harden as run

        run(loaded, output=output, echo=click.echo, trust=trust)
