"""`art-ext doctor`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from art_ext.host.commands.options import debug_option


@click.command(short_help="Check the installation.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), help="Folder with the runs' folders.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@debug_option
@click.pass_context
def doctor(ctx: click.Context, runs: Path, as_json: bool) -> None:
    """Check Python, torch, devices, the tracking server, folders, plugins, and runs that were left open."""
    from art_ext.border.mlflow_where import resolve_tracking
    from art_ext.host.manager import default_manager
    from art_ext.lifecycle.doctor import examine

    catalogue = default_manager().catalogue
    plugins = [(info.name, info.state, info.cause) for info in catalogue.plugins]
    found = []
    for finding in examine(resolve_tracking(None, Path.cwd()), plugins, runs):
        found.append(finding)
        if not as_json:
            mark = click.style("ok ", fg="green") if finding.status == "ok" else click.style("red", fg="red", bold=True)
            click.echo(f"{mark}  {finding.what}: {finding.sentence}")
            if finding.mend:
                click.echo(f"     {finding.mend}")
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in found], indent=1))
    if any(finding.status == "red" for finding in found):
        ctx.exit(1)
