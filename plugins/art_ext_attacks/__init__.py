"""Attacks for evaluations, each under a name for recipes and as an ART attack."""

from __future__ import annotations

from art_ext.api import AttackEntry, hookimpl
from art_ext_attacks import apgd
from art_ext_attacks.apgd import APGD, AutoPGD, likely_classes, targeted_dlr

__all__ = [
    "APGD",
    "AutoPGD",
    "likely_classes",
    "targeted_dlr",
]

ATTACKS: list[AttackEntry] = [
    apgd.ENTRY,
]
"""What recipes may name in `evaluate:`; each file of an attack has an `ENTRY`."""


@hookimpl
def art_ext_attacks() -> list[AttackEntry]:
    return ATTACKS
