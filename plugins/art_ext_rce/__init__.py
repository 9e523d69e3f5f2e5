"""RCE: reverse cross-entropy training with threshold detection (Pang et al., NeurIPS 2018), as an art_ext plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.api import AttackEntry, Ingredient, hookimpl, lazily
from art_ext_rce.attacks import ATTACKS, CWWhiteBox, cw_white_box
from art_ext_rce.detectors import LID, KDensity, LogOdds, NonMaxEntropy
from art_ext_rce.formulas import (
    density_penalty,
    local_intrinsic_dimension,
    log_k_density,
    log_odds,
    median_gap,
    median_log_density,
    non_max_entropy,
    rce_loss,
)
from art_ext_rce.ingredient import RCE, Negate, RCELoss

if TYPE_CHECKING:
    from art_ext_rce.art import (
        ConfidenceDetector,
        CWWhiteBoxAttack,
        KDensityDetector,
        LIDDetector,
        NonMaxEntropyDetector,
        RCEAttack,
        RCETrainer,
    )

__all__ = [
    "LID",
    "RCE",
    "CWWhiteBox",
    "CWWhiteBoxAttack",
    "ConfidenceDetector",
    "KDensity",
    "KDensityDetector",
    "LIDDetector",
    "LogOdds",
    "Negate",
    "NonMaxEntropy",
    "NonMaxEntropyDetector",
    "RCEAttack",
    "RCELoss",
    "RCETrainer",
    "cw_white_box",
    "density_penalty",
    "local_intrinsic_dimension",
    "log_k_density",
    "log_odds",
    "median_gap",
    "median_log_density",
    "non_max_entropy",
    "rce_loss",
]

__getattr__ = lazily(
    __name__,
    art=(
        "CWWhiteBoxAttack",
        "ConfidenceDetector",
        "KDensityDetector",
        "LIDDetector",
        "NonMaxEntropyDetector",
        "RCEAttack",
        "RCETrainer",
    ),
)


@hookimpl
def art_ext_ingredients() -> list[type[Ingredient]]:
    return [RCE]


@hookimpl
def art_ext_attacks() -> list[AttackEntry]:
    return ATTACKS
