"""PC-LC as ART knows trainers and attacks."""

from art_ext.border.art import MethodAttack, MethodTrainer
from art_ext_pc_lc.ingredient import PCLC


class PCLCTrainer(MethodTrainer):
    """Trains a classifier with PC-LC: `PCLCTrainer(classifier, warmup_epochs=10).fit(x, y, nb_epochs=20)`."""

    ingredient = PCLC


class PCLCAttack(MethodAttack):
    """PGD on the PC term, as an attacker who knows PC-LC would run it."""

    ingredient = PCLC
