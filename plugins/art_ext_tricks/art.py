"""The paper's setting as ART knows trainers and attacks."""

from art_ext.border.art import MethodAttack, MethodTrainer
from art_ext_tricks.bag import Bag


class BagTrainer(MethodTrainer):
    """PGD-AT in the recommended setting: `BagTrainer(classifier, eps=0.15, smoothing=0.1).fit(x, y, nb_epochs=30)`.

    While it trains, the classifier's optimizer has this weight decay; the epochs and the batch size are the
    caller's, and so is the learning rate, which is meant for batches of 128 images and multiplied by
    batch / 128: `scale_lr=False` takes it as it is.
    """

    ingredient = Bag


class BagAttack(MethodAttack):
    """PGD under the same settings: `BagAttack(classifier, eps=0.15, steps=20).generate(x, y)`."""

    ingredient = Bag
