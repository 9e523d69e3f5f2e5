"""The core's own plugin: it offers the built-in data sets through the same hook as a stranger's would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.host.hookspecs import hookimpl

if TYPE_CHECKING:
    from art_ext.data.entry import DatasetEntry


@hookimpl
def art_ext_datasets() -> tuple[DatasetEntry, ...]:
    from art_ext.data.datasets import BUILTIN

    return BUILTIN
