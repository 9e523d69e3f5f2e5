"""`art-ext audit MODEL`."""

from __future__ import annotations

from typing import Any

import click

from art_ext.host.commands.options import debug_option, evaluation_options, recipe_option, set_option, trust_option


@click.command(short_help="The quick suite on any model: the verdict in two lines.")
@click.argument("model")
@evaluation_options
@recipe_option
@set_option
@trust_option
@debug_option
def audit(model: str, **options: Any) -> None:
    """Say in two lines what MODEL's robustness is and whether to trust the figure; the report says why.

    It needs no recipe: where the model does not say what it was trained for, name the data and the attacker, such as
    --data digits --eps 0.15.
    """
    from art_ext.host.evaluating import Request, evaluate

    evaluate(Request(model, suite="quick", **options), click.echo, brief=True)
