"""DAC as ART knows trainers."""

from __future__ import annotations

from typing import Any

from art.estimators.classification import PyTorchClassifier

from art_ext.api import ConfigError, Ingredient
from art_ext.border.art import RecipeTrainer
from art_ext_dac.ingredient import DAC

RUN_OPTIONS = ("attack", "track", "seed", "settings", "callbacks")


class DACTrainer(RecipeTrainer):
    """DAC around a base method: `DACTrainer(classifier, PGDAT(eps=0.15), stepsize=0.3).fit(x, y, nb_epochs=15)`.

    The model has no defence of its own at test time: attack it with the base method's attack.

    Args:
        classifier: a `PyTorchClassifier` with an optimizer; trained in place.
        base: the ingredient whose robust step comes second, such as PGDAT, TRADES or MART.
        options: fields of DAC, and `attack, track, seed, settings, callbacks` as any trainer.

    Raises:
        ConfigError: without a base.
    """

    ingredient = DAC

    def __init__(self, classifier: PyTorchClassifier, base: Ingredient | None = None, **options: Any) -> None:
        if base is None:
            raise ConfigError(
                "dac moves the weights before the step of another method and cannot train alone; "
                "give it one: DACTrainer(classifier, PGDAT(eps=0.15))"
            )
        run = {name: options.pop(name) for name in RUN_OPTIONS if name in options}
        super().__init__(classifier, [base, DAC(**options)], **run)
