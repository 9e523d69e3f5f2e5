"""Attacks for evaluations, each under a name for recipes and as an ART attack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.api import AttackEntry, hookimpl, lazily
from art_ext_attacks import (
    apgd,
    autoattack,
    corrupted,
    evading,
    fab,
    frames,
    least_likely,
    minimal_l2,
    rays,
    saliency,
    spsa,
    square,
    transfer,
)
from art_ext_attacks.apgd import APGD, APGDIngredient, likely_classes, targeted_dlr
from art_ext_attacks.autoattack import AutoAttackIngredient, components
from art_ext_attacks.evading import EvadeDetectors
from art_ext_attacks.fab import FAB, FABIngredient
from art_ext_attacks.minimal_l2 import CWHighConfidence
from art_ext_attacks.square import Square, SquareIngredient

if TYPE_CHECKING:
    from art_ext_attacks.art import (
        APGDAttack,
        AutoAttack,
        CorruptionAttack,
        CWHighConfidenceAttack,
        CWL2Attack,
        EvadeDetectorsAttack,
        FABAttack,
        FramesAttack,
        ILCMAttack,
        JSMAAttack,
        RaySAttack,
        SPSAAttack,
        SquareAttack,
        TransferAttack,
    )

__all__ = [
    "APGD",
    "FAB",
    "APGDAttack",
    "APGDIngredient",
    "AutoAttack",
    "AutoAttackIngredient",
    "CWHighConfidence",
    "CWHighConfidenceAttack",
    "CWL2Attack",
    "CorruptionAttack",
    "EvadeDetectors",
    "EvadeDetectorsAttack",
    "FABAttack",
    "FABIngredient",
    "FramesAttack",
    "ILCMAttack",
    "JSMAAttack",
    "RaySAttack",
    "SPSAAttack",
    "Square",
    "SquareAttack",
    "SquareIngredient",
    "TransferAttack",
    "components",
    "likely_classes",
    "targeted_dlr",
]

__getattr__ = lazily(
    __name__,
    art=(
        "APGDAttack",
        "AutoAttack",
        "CWHighConfidenceAttack",
        "CWL2Attack",
        "CorruptionAttack",
        "EvadeDetectorsAttack",
        "FABAttack",
        "FramesAttack",
        "ILCMAttack",
        "JSMAAttack",
        "RaySAttack",
        "SPSAAttack",
        "SquareAttack",
        "TransferAttack",
    ),
)

ATTACKS: list[AttackEntry] = [
    autoattack.ENTRY,
    apgd.ENTRY,
    fab.ENTRY,
    square.ENTRY,
    least_likely.ENTRY,
    minimal_l2.ENTRY,
    minimal_l2.HIGH_CONFIDENCE,
    saliency.ENTRY,
    spsa.ENTRY,
    rays.ENTRY,
    frames.ENTRY,
    transfer.ENTRY,
    corrupted.ENTRY,
    evading.ENTRY,
]
"""What recipes may name in `evaluate:`; each file of an attack has an `ENTRY`."""


@hookimpl
def art_ext_attacks() -> list[AttackEntry]:
    return ATTACKS
