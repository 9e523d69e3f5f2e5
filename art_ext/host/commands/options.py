"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["DEBUG", "debug_option", "evaluation_options", "recipe_option", "set_option", "trust_option"]

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
recipe_option = click.option(
    "--recipe", default=None, help="The recipe that trained it, where the model does not say."
)
trust_option = click.option(
    "--trust-model",
    "trust",
    is_flag=True,
    help="Open models that run code of whoever made them: pickles, TorchScript, MLflow's other flavors.",
)


class _Number(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number, also as a fraction: 0.03 or 8/255."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from art_ext.ingredient import parse_number

        try:
            return float(parse_number(value))
        except (ValueError, TypeError) as error:
            self.fail(str(error), param, ctx)


def evaluation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `evaluate` and `audit` both take."""
    for option in reversed(
        (
            click.option("--data", default=None, help="A data set by name, or the recipe whose data is meant."),
            click.option("--eps", type=_Number(), default=None, help="Radius in pixel units, such as 8/255."),
            click.option("--norm", type=click.Choice(["linf", "l2", "l1", "l0"]), default=None, help="Of the radius."),
            click.option("--baseline", default=None, metavar="MODEL", help="The same network without the defence."),
            click.option("--limit", type=int, default=None, help="Images at most, the classes in turn."),
            click.option(
                "--until-settled",
                "until",
                metavar="QUESTION",
                default=None,
                help="Stop as soon as this is settled: robust>=0.40.",
            ),
            click.option(
                "--tpr",
                "tprs",
                type=_Number(),
                multiple=True,
                help="Share of correct held-out images that rejection must keep, such as 0.95; may be repeated.",
            ),
            click.option("--max-minutes", "minutes", type=float, default=None, help="Stop after this long."),
            click.option("--seed", type=int, default=0, show_default=True),
            click.option("--batch-size", type=int, default=256, show_default=True),
            click.option("--tracking-uri", default=None, help="Of models:/ and runs:/; MLflow's own when left out."),
            click.option(
                "--output", type=click.Path(file_okay=False, path_type=Path), default=None, help="Folder of the files."
            ),
        )
    ):
        command = option(command)
    return command
