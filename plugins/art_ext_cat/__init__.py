"""CAT: calibrated adversarial training (Huang et al., ACML 2021), as an art_ext plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.api import Ingredient, hookimpl, lazily
from art_ext_cat.ingredient import CAT
from art_ext_cat.losses import calibrated, cw_surrogate, divergence, weighted
from art_ext_cat.mask import MaskNetwork
from art_ext_cat.parts import Calibrate, CatRisk, TrainMask, clean_and_robust, cw_with
from art_ext_cat.picture import picture

if TYPE_CHECKING:
    from art_ext_cat.art import CATAttack, CATTrainer

__all__ = [
    "CAT",
    "CATAttack",
    "CATTrainer",
    "Calibrate",
    "CatRisk",
    "MaskNetwork",
    "TrainMask",
    "calibrated",
    "clean_and_robust",
    "cw_surrogate",
    "cw_with",
    "divergence",
    "picture",
    "weighted",
]

__getattr__ = lazily(__name__, art=("CATAttack", "CATTrainer"))


@hookimpl
def art_ext_ingredients() -> list[type[Ingredient]]:
    return [CAT]
