"""`art-ext sync RUN_DIR`."""

from __future__ import annotations

from pathlib import Path

import click

from art_ext.host.commands.options import debug_option


@click.command(short_help="Send what a run could not send to MLflow.")
@click.argument("run")
@click.option("--tracking-uri", default=None, help="The server in full, where the run's record hides a password.")
@debug_option
def sync(run: str, tracking_uri: str | None) -> None:
    """Send what RUN lacks in MLflow: points, parameters, files, the network, its registration, its status.

    RUN is a folder of `art-ext harden`, or runs:/ID for a run that was left RUNNING and has no folder any more.
    """
    from art_ext.errors import ConfigError
    from art_ext.lifecycle import sync as lifecycle

    if run.startswith("runs:/"):
        click.echo(lifecycle.end(run.removeprefix("runs:/").strip("/"), tracking_uri))
        return
    if not Path(run).is_dir():
        raise ConfigError(f"{run} is no folder; name the folder that art-ext harden wrote, or runs:/ID")
    for done in lifecycle.sync(Path(run), tracking_uri):
        click.echo(f"{done.name}: {', '.join(done.sent) or 'nothing was missing'} (run {done.run_id}, {done.status})")
        for line in done.refused:
            click.echo(f"  MLflow refused {line}")
