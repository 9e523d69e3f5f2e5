"""MMC: Max-Mahalanobis centre loss (Pang et al., ICLR 2020), MM-LDA and their comparators, as an art_ext plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.api import AttackEntry, Ingredient, hookimpl, lazily
from art_ext_mmc.attacks import ATTACKS
from art_ext_mmc.centers import mm_centers, optimised_centers, random_centers
from art_ext_mmc.criteria import (
    CenterPull,
    GSCELoss,
    LGMLoss,
    MMCLoss,
    MMLDALoss,
    NearestCenter,
    center_distance,
    scaled_ce,
)
from art_ext_mmc.heads import CenterHead, FixCenters, MMHead, QuadraticHead
from art_ext_mmc.ingredient import GSCE, LGM, MMC, MMLDA, CenterLoss, MMCRand
from art_ext_mmc.losses import center_drift, diagonal_forms, lgm_logits, mmc_loss, quadratic_forms, squared_distances

if TYPE_CHECKING:
    from art_ext_mmc.art import (
        CenterLossTrainer,
        GSCETrainer,
        LGMTrainer,
        MMCAttack,
        MMCRandTrainer,
        MMCTrainer,
        MMLDAAttack,
        MMLDATrainer,
    )

_ART = (
    "CenterLossTrainer",
    "GSCETrainer",
    "LGMTrainer",
    "MMCAttack",
    "MMCRandTrainer",
    "MMCTrainer",
    "MMLDAAttack",
    "MMLDATrainer",
)

__all__ = [
    "GSCE",
    "LGM",
    "MMC",
    "MMLDA",
    "CenterHead",
    "CenterLoss",
    "CenterLossTrainer",
    "CenterPull",
    "FixCenters",
    "GSCELoss",
    "GSCETrainer",
    "LGMLoss",
    "LGMTrainer",
    "MMCAttack",
    "MMCLoss",
    "MMCRand",
    "MMCRandTrainer",
    "MMCTrainer",
    "MMHead",
    "MMLDAAttack",
    "MMLDALoss",
    "MMLDATrainer",
    "NearestCenter",
    "QuadraticHead",
    "center_distance",
    "center_drift",
    "diagonal_forms",
    "lgm_logits",
    "mm_centers",
    "mmc_loss",
    "optimised_centers",
    "quadratic_forms",
    "random_centers",
    "scaled_ce",
    "squared_distances",
]

__getattr__ = lazily(__name__, art=_ART)


@hookimpl
def art_ext_ingredients() -> list[type[Ingredient]]:
    return [MMC, MMCRand, MMLDA, CenterLoss, LGM, GSCE]


@hookimpl
def art_ext_attacks() -> list[AttackEntry]:
    return ATTACKS
