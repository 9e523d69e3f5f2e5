"""CCAT: confidence-calibrated adversarial training (Stutz, Hein, Schiele, ICML 2020), as an art_ext plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.api import AttackEntry, Distal, Ingredient, distal_confidence, hookimpl, lazily
from art_ext_ccat.attacks import ATTACKS, PGDConfSettings, rejection
from art_ext_ccat.formulas import (
    bhattacharyya,
    calibrated_target,
    exponential_transition,
    linear_transition,
    power_transition,
)
from art_ext_ccat.ingredient import CCAT, Bhattacharyya, Transition

if TYPE_CHECKING:
    from art_ext_ccat.art import CCATAttack, CCATDetector, CCATTrainer, DistalAttack

__all__ = [
    "CCAT",
    "Bhattacharyya",
    "CCATAttack",
    "CCATDetector",
    "CCATTrainer",
    "Distal",
    "DistalAttack",
    "PGDConfSettings",
    "Transition",
    "bhattacharyya",
    "calibrated_target",
    "distal_confidence",
    "exponential_transition",
    "linear_transition",
    "power_transition",
    "rejection",
]

__getattr__ = lazily(__name__, art=("CCATAttack", "CCATDetector", "CCATTrainer", "DistalAttack"))


@hookimpl
def art_ext_ingredients() -> list[type[Ingredient]]:
    return [CCAT]


@hookimpl
def art_ext_attacks() -> list[AttackEntry]:
    return ATTACKS
