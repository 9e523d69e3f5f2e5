"""What a criterion is asked to reach: class indices, or distributions that may look at delta."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor


class Target:
    """The given labels; base of other targets."""

    gives_distributions: ClassVar[bool] = False

    def __call__(self, y: Tensor, n_classes: int, delta: Tensor | None) -> Tensor:
        """(N,) indices or (N, K) distributions, from labels (N,) and the perturbation, None for clean rows."""
        return y

    def __str__(self) -> str:
        return "labels"
