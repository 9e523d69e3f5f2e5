"""`art-ext evaluate MODEL`."""

from __future__ import annotations

from typing import Any

import click

from art_ext.host.commands.options import debug_option, evaluation_options, recipe_option, set_option, trust_option


@click.command(short_help="Attack a trained model and say what its robustness is worth.")
@click.argument("model")
@evaluation_options
@recipe_option
@click.option(
    "--suite",
    type=click.Choice(["quick", "standard", "full"]),
    default="standard",
    show_default=True,
    help="Which attacks run.",
)
@click.option("--shard", metavar="RANK/WORLD", default=None, help="Attack one share of the images, for many processes.")
@set_option
@trust_option
@debug_option
def evaluate(model: str, **options: Any) -> None:
    """Attack MODEL in every way the suite knows, check whether the figures can be trusted, and write a report.

    MODEL is a run folder, a .safetensors or .pt file, models:/NAME@ALIAS, runs:/RUN/model, timm:NAME or plugin:NAME.
    Its own recipe says which data and which attacker are meant, unless --data, --eps and --norm do. Started again
    with the same --output, it goes on where it stopped; shards write there too, and the same command without
    --shard puts them together.
    """
    from art_ext.host.evaluating import Request
    from art_ext.host.evaluating import evaluate as run

    run(Request(model, **options), click.echo)
