"""`art-ext resume RUN_DIR`."""

from __future__ import annotations

from pathlib import Path

import click

from art_ext.host.commands.options import debug_option, trust_option


@click.command(short_help="Go on with an interrupted run.")
@click.argument("folder", metavar="RUN_DIR", type=click.Path(path_type=Path))
@click.option("--tracking-uri", default=None, help="The server in full, where the run's record hides a password.")
@trust_option
@debug_option
def resume(folder: Path, tracking_uri: str | None, trust: bool) -> None:
    """Go on with the run of harden in RUN_DIR from its last checkpoint, wherever it was interrupted.

    The result is that of a run without interruption: bit for bit on a CPU with as many threads.
    """
    from art_ext.host.resume import resume as run

    run(folder, echo=click.echo, tracking_uri=tracking_uri, trust=trust)
