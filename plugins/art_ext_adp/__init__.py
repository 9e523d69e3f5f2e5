"""ADP: adaptive diversity promoting training of an ensemble (Pang et al., ICML 2019), as an art_ext plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.api import AttackEntry, Ingredient, hookimpl, lazily
from art_ext_adp.attacks import ATTACKS
from art_ext_adp.ingredient import (
    ADP,
    ADPLoss,
    mean_logits_ce,
    mean_logits_margin,
    sum_of_ce,
    sum_of_margins,
)
from art_ext_adp.losses import (
    adp_loss,
    ensemble_entropy,
    log_diversity,
    member_ce,
    member_margin,
)

if TYPE_CHECKING:
    from art_ext_adp.art import ADPAttack, ADPTrainer

__all__ = [
    "ADP",
    "ADPAttack",
    "ADPLoss",
    "ADPTrainer",
    "adp_loss",
    "ensemble_entropy",
    "log_diversity",
    "mean_logits_ce",
    "mean_logits_margin",
    "member_ce",
    "member_margin",
    "sum_of_ce",
    "sum_of_margins",
]

__getattr__ = lazily(__name__, art=("ADPAttack", "ADPTrainer"))


@hookimpl
def art_ext_ingredients() -> list[type[Ingredient]]:
    return [ADP]


@hookimpl
def art_ext_attacks() -> list[AttackEntry]:
    return ATTACKS
