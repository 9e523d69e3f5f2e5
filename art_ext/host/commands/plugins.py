"""`art-ext plugins`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from art_ext.host.commands.options import debug_option
from art_ext.host.commands.table import show_table

if TYPE_CHECKING:
    from art_ext.host.manager import PluginInfo


@click.command(short_help="List plugins and what they offer.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@debug_option
def plugins(as_json: bool) -> None:
    """List the plugins, what they offer, and what is wrong with those that are broken."""
    from art_ext.host.manager import default_manager

    found = default_manager().catalogue.plugins
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(info) for info in found], indent=2))
        return
    show_table(
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
    parts += [f"for ART: {', '.join(info.art)}"] if info.art else []
    parts += [hook for hook in ("art_ext_check_plan", "art_ext_observers") if hook in info.hooks]
    return "; ".join(parts)
