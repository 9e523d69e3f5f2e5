"""PC-LC as ART knows trainers and attacks."""

from art_ext.border.art import MethodAttack, MethodTrainer
from art_ext_pc_lc.ingredient import PCLC


class PCLCTrainer(MethodTrainer):
    """Trains a classifier with PC-LC: `PCLCTrainer(classifier, warmup_epochs=10).fit(x, y, nb_epochs=20)`."""

    ingredient = PCLC


class PCLCAttack(MethodAttack):
    """PGD on the logit margin, the strongest adversary that PC-LC declares."""

    ingredient = PCLC
