"""Training that starts from weights of an earlier one: which ingredients cannot, and how trained weights are known."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from art_ext.errors import ModelError
from art_ext.ingredient import Ingredient

__all__ = ["knows_labels", "objections", "refuse"]

SHARE = 0.8
"""Of the loss of a guess; below it a network knows the labels. Untrained ones have 0.97 and more, even where their
largest logit happens to tell two classes apart."""


def objections(ingredients: Iterable[Ingredient], model: nn.Module) -> list[tuple[str, str]]:
    """The ingredients that cannot train this network further, each with the reason."""
    asked = ((ingredient.name, ingredient.cannot_continue(model)) for ingredient in ingredients)
    return [(name, why) for name, why in asked if why]


def refuse(against: Iterable[tuple[str, str]], weights: str, instead: str) -> None:
    """Refuses trained weights that an ingredient cannot go on from.

    Args:
        weights: how the message names them.
        instead: what to do, beside taking weights that the ingredient trained.

    Raises:
        ModelError: naming the weights and the first of the ingredients.
    """
    for name, why in against:
        raise ModelError(f"{name} cannot train {weights} further: {why}; {instead}, or take one that {name} trained")


def knows_labels(logits: Tensor, y: Tensor) -> bool:
    """Whether logits (N, K) fit the labels (N,) clearly better than a guess among the K classes.

    By the mean of each image's cross-entropy or log K, whichever is less: a network that is wrong now and
    then, but sure, knows the labels as well.
    """
    guess = math.log(logits.shape[1])
    return bool(F.cross_entropy(logits.float(), y, reduction="none").clamp(max=guess).mean() < SHARE * guess)
