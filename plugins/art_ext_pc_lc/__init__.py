"""PC-LC: probabilistically compact loss with logit constraints (Li et al., AAAI 2021), as an art_ext plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.api import Ingredient, hookimpl, lazily
from art_ext_pc_lc.ingredient import PCLC, PCLCLoss, pc_term
from art_ext_pc_lc.losses import logit_constraint, pc_loss

if TYPE_CHECKING:
    from art_ext_pc_lc.art import PCLCAttack, PCLCTrainer

__all__ = ["PCLC", "PCLCAttack", "PCLCLoss", "PCLCTrainer", "logit_constraint", "pc_loss", "pc_term"]

__getattr__ = lazily(__name__, art=("PCLCAttack", "PCLCTrainer"))


@hookimpl
def art_ext_ingredients() -> list[type[Ingredient]]:
    return [PCLC]
