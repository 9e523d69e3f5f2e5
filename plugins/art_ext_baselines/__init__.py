"""The baselines that other methods are combined with, and the attacks every evaluation has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.api import AttackEntry, Ingredient, hookimpl, lazily
from art_ext_baselines.attacks import ATTACKS
from art_ext_baselines.awp import AWP, Perturb, perturbed_weights, weight_perturbation
from art_ext_baselines.fast_at import FastAT
from art_ext_baselines.fat import FAT, Tau
from art_ext_baselines.free_at import FreeAT, Replay
from art_ext_baselines.gce import GuidedComplementEntropy, GuidedComplementEntropyLoss, guided_complement_entropy
from art_ext_baselines.mart import MART, Mart, boosted_cross_entropy, weighted_kl
from art_ext_baselines.pgd_at import PGDAT
from art_ext_baselines.trades import TRADES, Trades, trades_boundary

if TYPE_CHECKING:
    from art_ext_baselines.art import (
        AWPTrainer,
        BIMAttack,
        CWMarginAttack,
        FastATTrainer,
        FATAttack,
        FATTrainer,
        FGSMAttack,
        FreeATTrainer,
        GuidedComplementEntropyAttack,
        GuidedComplementEntropyTrainer,
        MARTAttack,
        MARTTrainer,
        MIMAttack,
        PGDATAttack,
        PGDAttack,
        PGDATTrainer,
        TRADESAttack,
        TRADESTrainer,
    )

__all__ = [
    "AWP",
    "FAT",
    "MART",
    "PGDAT",
    "TRADES",
    "AWPTrainer",
    "BIMAttack",
    "CWMarginAttack",
    "FATAttack",
    "FATTrainer",
    "FGSMAttack",
    "FastAT",
    "FastATTrainer",
    "FreeAT",
    "FreeATTrainer",
    "GuidedComplementEntropy",
    "GuidedComplementEntropyAttack",
    "GuidedComplementEntropyLoss",
    "GuidedComplementEntropyTrainer",
    "MARTAttack",
    "MARTTrainer",
    "MIMAttack",
    "Mart",
    "PGDATAttack",
    "PGDATTrainer",
    "PGDAttack",
    "Perturb",
    "Replay",
    "TRADESAttack",
    "TRADESTrainer",
    "Tau",
    "Trades",
    "boosted_cross_entropy",
    "guided_complement_entropy",
    "perturbed_weights",
    "trades_boundary",
    "weight_perturbation",
    "weighted_kl",
]

__getattr__ = lazily(
    __name__,
    art=(
        "AWPTrainer",
        "BIMAttack",
        "CWMarginAttack",
        "FATAttack",
        "FATTrainer",
        "FGSMAttack",
        "FastATTrainer",
        "FreeATTrainer",
        "GuidedComplementEntropyAttack",
        "GuidedComplementEntropyTrainer",
        "MARTAttack",
        "MARTTrainer",
        "MIMAttack",
        "PGDATAttack",
        "PGDATTrainer",
        "PGDAttack",
        "TRADESAttack",
        "TRADESTrainer",
    ),
)


@hookimpl
def art_ext_ingredients() -> list[type[Ingredient]]:
    return [PGDAT, TRADES, MART, FAT, AWP, FastAT, FreeAT, GuidedComplementEntropy]


@hookimpl
def art_ext_attacks() -> list[AttackEntry]:
    return ATTACKS
