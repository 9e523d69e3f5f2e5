"""The baselines as ART knows trainers and attacks."""

from art_ext.border.art import MethodAttack, MethodTrainer
from art_ext_baselines.pgd_at import PGDAT
from art_ext_baselines.trades import TRADES


class PGDATTrainer(MethodTrainer):
    """PGD adversarial training: `PGDATTrainer(classifier, eps=0.15, steps=10).fit(x, y, nb_epochs=15)`."""

    ingredient = PGDAT


class PGDATAttack(MethodAttack):
    """PGD: `PGDATAttack(classifier, eps=0.15, steps=20, objective="margin").generate(x, y)`."""

    ingredient = PGDAT


class TRADESTrainer(MethodTrainer):
    """TRADES; takes ART's arguments too: `TRADESTrainer(classifier, attack, beta)`."""

    ingredient = TRADES
    art_arguments = ("attack", "beta")


class TRADESAttack(MethodAttack):
    """PGD on KL(p(x) || p(x')), the inner attack of TRADES."""

    ingredient = TRADES
