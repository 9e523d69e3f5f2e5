"""The command line. Commands import what they need when they run, so that `--help` is quick."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from art_ext.errors import ArtExtError, ComposeError, Stopped
from art_ext.host.commands.audit import audit
from art_ext.host.commands.compare import compare
from art_ext.host.commands.doctor import doctor
from art_ext.host.commands.evaluate import evaluate
from art_ext.host.commands.explain import explain
from art_ext.host.commands.gate import gate
from art_ext.host.commands.harden import harden
from art_ext.host.commands.options import DEBUG, debug_option
from art_ext.host.commands.plugins import plugins
from art_ext.host.commands.report import report
from art_ext.host.commands.resume import resume
from art_ext.host.commands.sync import sync
from art_ext.secrets import masked

__all__ = ["cli", "main"]


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
        except Stopped as stop:
            _fail(ctx, [str(stop)], stop.exit_code)
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
    return bool(ctx.find_root().meta.get(DEBUG))


def _fail(ctx: click.Context, lines: Sequence[str], code: int) -> NoReturn:
    if _debug(ctx):
        click.echo(masked(traceback.format_exc()), err=True, nl=False)
    for line in lines:
        click.echo(f"error: {masked(line)}", err=True)
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


@click.group(cls=_Cli, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="art_ext", prog_name="art-ext")
@debug_option
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Hardens image classifiers by adversarial training. Methods are plugins, experiments are recipes."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in (
    audit,
    compare,
    doctor,
    evaluate,
    explain,
    gate,
    harden,
    plugins,
    report,
    resume,
    sync,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of `art-ext`."""
    args = None if arguments is None else list(arguments)
    try:
        code = cli.main(args=args, prog_name="art-ext", standalone_mode=False)
    except click.ClickException as error:  # in the arguments of the group itself
        click.echo(f"error: {masked(_usage(error))}", err=True)
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
