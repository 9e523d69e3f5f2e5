"""DAC: decrease adversarial certainty (Zhang, Backes, Zhang, 2023), as an art_ext plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.api import Ingredient, hookimpl, lazily
from art_ext_dac.certainty import certainty_std, certainty_variance
from art_ext_dac.ingredient import DAC, HalfStep

if TYPE_CHECKING:
    from art_ext_dac.art import DACTrainer

__all__ = ["DAC", "DACTrainer", "HalfStep", "certainty_std", "certainty_variance"]

__getattr__ = lazily(__name__, art=("DACTrainer",))


@hookimpl
def art_ext_ingredients() -> list[type[Ingredient]]:
    return [DAC]
