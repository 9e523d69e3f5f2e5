"""The baselines that other methods are combined with, and the attacks every evaluation has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.api import AttackEntry, Ingredient, hookimpl, lazily
from art_ext_baselines.attacks import ATTACKS
from art_ext_baselines.pgd_at import PGDAT
from art_ext_baselines.trades import TRADES, Trades, trades_boundary

if TYPE_CHECKING:
    from art_ext_baselines.art import PGDATAttack, PGDATTrainer, TRADESAttack, TRADESTrainer

__all__ = [
    "PGDAT",
    "TRADES",
    "PGDATAttack",
    "PGDATTrainer",
    "TRADESAttack",
    "TRADESTrainer",
    "Trades",
    "trades_boundary",
]

__getattr__ = lazily(__name__, art=("PGDATAttack", "PGDATTrainer", "TRADESAttack", "TRADESTrainer"))


@hookimpl
def art_ext_ingredients() -> list[type[Ingredient]]:
    return [PGDAT, TRADES]


@hookimpl
def art_ext_attacks() -> list[AttackEntry]:
    return ATTACKS
