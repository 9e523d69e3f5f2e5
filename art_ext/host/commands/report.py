"""`art-ext report FOLDER`."""

from __future__ import annotations

from pathlib import Path

import click

from art_ext.host.commands.options import debug_option


@click.command(short_help="Write the report of an evaluation again, beside others.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--compare",
    "others",
    multiple=True,
    metavar="NAME=FOLDER",
    help="Another evaluation, shown beside this one with its cost; may be repeated.",
)
@debug_option
def report(folder: Path, others: tuple[str, ...]) -> None:
    """Write report.html in FOLDER again, from its evaluation.json and material.npz; no network is run.

    With --compare it sets other evaluations beside this one: those of PGD-AT with as many updates, for one.
    """
    from art_ext.errors import ConfigError
    from art_ext.evaluation.record import EvaluationRecord, read_evaluation
    from art_ext.evaluation.report import rebuild_report

    compare: dict[str, EvaluationRecord] = {}
    for text in others:
        name, found, place = text.rpartition("=")
        if not found or not name:
            raise ConfigError(f"{text!r} names no evaluation; write --compare NAME=FOLDER")
        if name in compare:
            raise ConfigError(f"two evaluations are called {name!r}; give each a name of its own")
        compare[name] = read_evaluation(Path(place).expanduser())
    click.echo(f"report: {rebuild_report(folder, compare=compare)}")
