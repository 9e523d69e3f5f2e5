"""Networks whose answers are no plain logits: understood where that is safe, refused in one line where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from art_ext.engine.freeze import frozen
from art_ext.errors import ModelError

NAMES = ("logits", "out", "output", "prediction_logits", "predictions")
"""Keys under which networks keep their logits, looked at in this order."""


class Answers(nn.Module):
    """A network whose logits are taken from a tuple or mapping, or are the logarithm of its probabilities."""

    def __init__(self, module: nn.Module, *, place: int | str | None = None, probabilities: bool = False) -> None:
        super().__init__()
        self.module, self.place, self.probabilities = module, place, probabilities

    def forward(self, x: Tensor) -> Tensor:
        given = self.module(x)
        values: Tensor = given if self.place is None else given[self.place]
        if not self.probabilities:
            return values
        return values.clamp(min=torch.finfo(values.dtype).tiny).log()


def understood(module: nn.Module, example: Tensor, n_classes: int) -> tuple[nn.Module, list[str]]:
    """A module that gives (N, K) logits, and a sentence for each thing that was made of its answers.

    Args:
        example: (n, C, H, W) real images, as the module takes them.

    Raises:
        ModelError: for answers that are no (n, K) numbers, another number of classes, or NaN.
    """
    with frozen(module), torch.no_grad():
        try:
            given = module(example)
        except (RuntimeError, ValueError, TypeError) as error:
            said = " ".join(str(error).split())[:200]
            shape = "x".join(str(side) for side in example.shape[1:])
            raise ModelError(
                f"the network fails on images of shape {shape} ({said}); give the data it is for"
            ) from None
    place, values = _logits_in(given, len(example))
    notes = []
    if place is not None:
        kind = type(given).__name__
        notes.append(f"the network answers with a {kind}; its part {place!r} is taken for the logits")
    if values.shape[1] != n_classes:
        raise ModelError(
            f"the network answers for {values.shape[1]} classes, but the data has {n_classes}; give the data it is for"
        )
    bad = ~values.isfinite().all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ModelError(
            f"the network answers NaN or infinity for {int(bad.sum())} of {len(example)} images (first in row {row}); "
            "its weights or their loading are broken, or the pixels are in another range than it was trained on"
        )
    probabilities = looks_like_probabilities(values)
    if probabilities:
        notes.append(
            "the network answers with probabilities; it is attacked through their logarithm: what the softmax has "
            "rounded away is lost to the attacker, so give the network without its softmax for a sounder figure"
        )
    if place is None and not probabilities:
        return module, notes
    return Answers(module, place=place, probabilities=probabilities), notes


def looks_like_probabilities(values: Tensor) -> bool:
    """Whether all rows of (N, K) lie in [0, 1] and sum to 1."""
    sums = values.double().sum(1)
    return bool(((values >= 0) & (values <= 1)).all()) and bool(((sums - 1).abs() < 1e-3).all())


def _logits_in(given: Any, n: int) -> tuple[int | str | None, Tensor]:
    if isinstance(given, Tensor):
        if given.ndim == 2 and len(given) == n and given.is_floating_point():
            return None, given
        raise ModelError(
            f"the network answers with {given.dtype} of shape {tuple(given.shape)} for {n} images, but logits are "
            f"real numbers of shape ({n}, K); give the network up to its last layer"
        )
    places: list[int | str] = []
    if isinstance(given, Mapping):
        places = [name for name in NAMES if name in given] or [str(key) for key in given]
    elif isinstance(given, tuple | list):
        places = list(range(len(given)))
    for place in places:
        values = given[place]
        if isinstance(values, Tensor) and values.ndim == 2 and len(values) == n and values.is_floating_point():
            return place, values
    raise ModelError(
        f"the network answers with a {type(given).__name__} without logits of shape ({n}, K); wrap it in a module "
        "whose forward returns them"
    )
