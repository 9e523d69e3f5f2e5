"""Options that several commands have."""

from __future__ import annotations

import click

__all__ = ["DEBUG", "debug_option", "set_option", "trust_option"]

DEBUG = "art_ext.debug"
"""The key under which the context remembers `--debug`."""


def _remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta[DEBUG] = True


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_remember,
    help="Show the traceback of an error.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting, such as train.epochs=3 or pc_lc.xi=0.9; may be repeated.",
)
trust_option = click.option(
    "--trust-model",
    "trust",
    is_flag=True,
    help="Open models that run code of whoever made them: pickles, TorchScript, MLflow's other flavors.",
)
