"""The command line. Commands import what they need when they run, so that `--help` is quick."""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from art_ext.errors import ArtExtError, ComposeError

if TYPE_CHECKING:
    from art_ext.host.manager import PluginInfo
    from art_ext.types import Facts

__all__ = ["cli", "main"]

_DEBUG = "art_ext.debug"


class _Cli(click.Group):
    """A group that turns every error of its commands into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.exceptions.Abort):
            raise
        except click.ClickException as error:
            _fail(ctx, [_usage(error)], error.exit_code)
        except ArtExtError as error:
            _fail(ctx, _lines(error), error.exit_code)
        except KeyboardInterrupt:
            _fail(ctx, ["interrupted"], 130)
        except BrokenPipeError:  # the reader of our output has left, as `head` does; click knows how to end then
            raise
        except Exception as error:
            # the type leads: the text of a KeyError, say, means nothing alone
            said = " ".join(str(error).split())[:300]
            what = f"unexpected {type(error).__name__}" + (f": {said}" if said else "")
            _fail(ctx, [what if _debug(ctx) else f"{what}; run again with --debug for the traceback"], 1)


def _debug(ctx: click.Context) -> bool:
    return bool(ctx.find_root().meta.get(_DEBUG))


def _fail(ctx: click.Context, lines: Sequence[str], code: int) -> NoReturn:
    if _debug(ctx):
        traceback.print_exc()
    for line in lines:
        click.echo(f"error: {line}", err=True)
    ctx.exit(code)


def _lines(error: ArtExtError) -> list[str]:
    if isinstance(error, ComposeError):
        return [problem.message for problem in error.problems]
    return str(error).splitlines() or [type(error).__name__]


def _usage(error: click.ClickException) -> str:
    message = error.format_message()
    message = (message[:1].lower() + message[1:]).replace(". Did you mean", "; did you mean")
    ctx = getattr(error, "ctx", None)
    return f"{message.rstrip('.')}; see {ctx.command_path} --help" if ctx is not None else message


def _remember_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta[_DEBUG] = True


_debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)
_set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting, such as train.epochs=3 or pc_lc.xi=0.9; may be repeated.",
)


@click.group(cls=_Cli, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="art_ext", prog_name="art-ext")
@_debug_option
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Hardens image classifiers by adversarial training. Methods are plugins, experiments are recipes."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cli.command(short_help="List plugins and what they offer.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@_debug_option
def plugins(as_json: bool) -> None:
    """List the plugins, what they offer, and what is wrong with those that are broken."""
    from art_ext.host.manager import default_manager

    found = default_manager().catalogue.plugins
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(info) for info in found], indent=2))
        return
    _table(
        ("name", "version", "state", "offers"),
        [(info.name, f"{info.distribution} {info.version}".strip(), info.state, _offers(info)) for info in found],
        [info.cause for info in found],
    )


def _offers(info: PluginInfo) -> str:
    parts: list[str] = [
        f"{kind}: {', '.join(names)}"
        for kind in ("ingredients", "attacks", "datasets", "models")
        if (names := getattr(info, kind))
    ]
    parts += [hook for hook in ("art_ext_check_plan", "art_ext_observers") if hook in info.hooks]
    return "; ".join(parts)


@cli.command(short_help="Show what a recipe makes of a training.")
@click.argument("recipe")
@_set_option
@_debug_option
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
    _table(("slot", "part", "set by"), [tuple(line) for line in plan.describe()])


def _facts(facts: Facts) -> str:
    return f"{facts.n_classes} classes of {'x'.join(map(str, facts.input_shape))} images"


@cli.command(short_help="Train, attack and compare models.")
@click.argument("recipe")
@_set_option
@click.option("--dry-run", "dry", is_flag=True, help="Show what would be done and how long it would take.")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), default=None, help="Folder for the run's files."
)
@_debug_option
def harden(recipe: str, overrides: tuple[str, ...], dry: bool, output: Path | None) -> None:
    """Train an undefended and a hardened model after RECIPE, attack both, and show the difference.

    RECIPE is a YAML file, or the name of an installed recipe such as digits/pc_lc_pgd_at.
    """
    from art_ext.host.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    # only now: these bring in MLflow and timm, which a mistake in the recipe should not wait for
    if dry:
        from art_ext.host.dry_run import dry_run

        dry_run(loaded, click.echo)
    else:
        from art_ext.host.harden import harden as run

        run(loaded, output=output, echo=click.echo)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """Rows as a table on a terminal, else as aligned text; a row's note stands on the line below it."""
    notes = notes or [""] * len(rows)
    if sys.stdout.isatty():
        _rich_table(head, rows, notes)
        return
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head) - 1)]
    for row, note in zip([head, *rows], ["", *notes], strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]]).rstrip())
        if note:
            click.echo(f"  {note}")


def _rich_table(head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in head[:-1]:
        table.add_column(title, no_wrap=False)
    table.add_column(head[-1], overflow="fold")
    for row, note in zip(rows, notes, strict=True):
        last = Text(row[-1])
        if note:
            last = Text("\n" if row[-1] else "").join([last, Text(note, style="red")])
        table.add_row(*(Text(cell) for cell in row[:-1]), last)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of `art-ext`."""
    args = None if arguments is None else list(arguments)
    try:
        code = cli.main(args=args, prog_name="art-ext", standalone_mode=False)
    except click.ClickException as error:  # in the arguments of the group itself
        click.echo(f"error: {_usage(error)}", err=True)
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
