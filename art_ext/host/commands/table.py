"""Rows as text for a terminal or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

__all__ = ["show_table"]


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
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
