"""DAC as ART knows trainers."""

from art_ext.border.art import AroundTrainer
from art_ext_dac.ingredient import DAC


class DACTrainer(AroundTrainer):
    """DAC around a base method: `DACTrainer(classifier, PGDAT(eps=0.15), stepsize=0.3).fit(x, y, nb_epochs=15)`.

    The base comes second in each batch: PGDAT, TRADES, MART or another that trains on adversarial rows.
    The model has no defence of its own at test time: attack it with the base method's attack.
    """

    ingredient = DAC
