"""Attacks for evaluations, each under a name for recipes and as an ART attack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.api import AttackEntry, hookimpl, lazily
from art_ext_attacks import apgd, corrupted, fab, frames, least_likely, minimal_l2, rays, saliency, spsa, transfer
from art_ext_attacks.apgd import APGD, AutoPGD, likely_classes, targeted_dlr
from art_ext_attacks.fab import FAB, FastAdaptiveBoundary

if TYPE_CHECKING:
    from art_ext_attacks.art import CWL2Attack, FramesAttack, ILCMAttack, JSMAAttack, RaySAttack, SPSAAttack

__all__ = [
    "APGD",
    "FAB",
    "AutoPGD",
    "CWL2Attack",
    "FastAdaptiveBoundary",
    "FramesAttack",
    "ILCMAttack",
    "JSMAAttack",
    "RaySAttack",
    "SPSAAttack",
    "likely_classes",
    "targeted_dlr",
]

__getattr__ = lazily(
    __name__,
    art=("CWL2Attack", "FramesAttack", "ILCMAttack", "JSMAAttack", "RaySAttack", "SPSAAttack"),
)

ATTACKS: list[AttackEntry] = [
    apgd.ENTRY,
    fab.ENTRY,
    least_likely.ENTRY,
    minimal_l2.ENTRY,
    saliency.ENTRY,
    spsa.ENTRY,
    rays.ENTRY,
    frames.ENTRY,
    transfer.ENTRY,
    corrupted.ENTRY,
]
"""What recipes may name in `evaluate:`; each file of an attack has an `ENTRY`."""


@hookimpl
def art_ext_attacks() -> list[AttackEntry]:
    return ATTACKS
