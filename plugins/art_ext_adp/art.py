"""ADP as ART knows trainers and attacks."""

from art_ext.border.art import MethodAttack, MethodTrainer
from art_ext_adp.ingredient import ADP


class ADPTrainer(MethodTrainer):
    """Trains the members of an ensemble jointly: `ADPTrainer(classifier, alpha=2, beta=0.5).fit(x, y, nb_epochs=20)`.

    The classifier's model is an ensemble: `PyTorchClassifier(model=art_ext.ensemble([a, b, c]), ...)`.
    """

    ingredient = ADP


class ADPAttack(MethodAttack):
    """PGD on the margin of the members' mean logits, or on another of the adversaries that ADP declares.

    `ADPAttack(classifier, eps=0.15, steps=200, restarts=5, adversary="margin").generate(x, y)` attacks the
    mixture; `targeted=True` leads to the classes y.
    """

    ingredient = ADP
