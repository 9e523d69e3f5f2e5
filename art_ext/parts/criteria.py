"""Drop-in replacements for cross-entropy: per example, reduced by whoever uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from art_ext.parts.objectives import Objective, ce, cw
from art_ext.types import Outputs


class Criterion:
    """Base of criteria.

    Attributes:
        takes_distributions: whether targets may be (N, K) distributions and not only (N,) indices.
        needs: extra outputs that it reads, such as "members" or "features".
        adversaries: the objectives of an attacker who knows this criterion, strongest first.
        saturates_softmax: logits so far apart that a KL over them has no float32 gradient.
    """

    name: ClassVar[str]
    takes_distributions: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    adversaries: ClassVar[tuple[Objective, ...]] = (ce, cw)
    saturates_softmax: ClassVar[bool] = False

    def __call__(self, out: Outputs, target: Tensor) -> Tensor:
        """(N,) the loss of each example."""
        raise NotImplementedError

    def measures(self, out: Outputs, target: Tensor) -> Mapping[str, Tensor]:
        """What an epoch shows beside the loss, such as its parts: (N,) each, by name; asked without gradients."""
        return {}

    def __str__(self) -> str:
        return self.name


class CrossEntropy(Criterion):
    """-sum_k t_k log softmax(z)_k."""

    name = "ce"
    takes_distributions = True

    def __call__(self, out: Outputs, target: Tensor) -> Tensor:
        return F.cross_entropy(out.logits, target, reduction="none")
