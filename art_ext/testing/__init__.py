"""Contract checks for what plugins offer, a stranger's as well as ours; each says in one line what is wrong.

In a plugin's own tests: `check_ingredient(MyIngredient)`, and for its classes on ART's interfaces
`check_trainer(MyTrainer)`, `check_attack(MyAttack)`, `check_detector(MyDetector)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.lazy import lazily
from art_ext.testing.combinations import Pair, Trials, as_markdown, try_all, try_pair
from art_ext.testing.ingredients import FACTS, check_ingredient, same_weights, tiny_network, train_tiny, trial_of

if TYPE_CHECKING:
    from art_ext.testing.art import check_attack, check_detector, check_trainer, tiny_classifier

__all__ = [
    "FACTS",
    "Pair",
    "Trials",
    "as_markdown",
    "check_attack",
    "check_detector",
    "check_ingredient",
    "check_trainer",
    "same_weights",
    "tiny_classifier",
    "tiny_network",
    "train_tiny",
    "trial_of",
    "try_all",
    "try_pair",
]

__getattr__ = lazily(__name__, art=("check_attack", "check_detector", "check_trainer", "tiny_classifier"))
