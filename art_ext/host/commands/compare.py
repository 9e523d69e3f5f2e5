"""`art-ext compare RUN_DIR... | EXPERIMENT`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from art_ext.host.commands.options import debug_option
from art_ext.host.commands.table import show_table


@click.command(short_help="Show trained models side by side.")
@click.argument("sources", nargs=-1, required=True, metavar="RUN_DIR... | EXPERIMENT")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--tracking-uri", default=None, help="Of the MLflow server; default: MLFLOW_TRACKING_URI.")
@debug_option
def compare(sources: tuple[str, ...], as_json: bool, tracking_uri: str | None) -> None:
    """Show the models of run folders, of a sweep's folder, or of an experiment in MLflow, side by side.

    Models that were evaluated on the same images are compared image by image as well.
    """
    from art_ext.border.mlflow_where import resolve_tracking
    from art_ext.lifecycle import compare as lifecycle

    found = lifecycle.find(sources, resolve_tracking(tracking_uri, Path.cwd()).uri)
    pairs = lifecycle.differences(found)
    if as_json:
        models = [model.as_record() for model in found]
        click.echo(json.dumps({"models": models, "paired": [pair.as_record() for pair in pairs]}, indent=1))
        return
    show_table(lifecycle.HEAD, [model.cells() for model in found])
    for pair in pairs:
        click.echo(pair.line())
