"""Adversarial certainty: how far the logits of adversarial examples are spread (Zhang, Backes, Zhang, 2023).

z are logits (N, m) of adversarial examples, never softmax outputs; m is the number of classes.
"""

from __future__ import annotations

from torch import Tensor

from art_ext.api import at_least_float32


def certainty_variance(logits: Tensor) -> Tensor:
    """(1/m) sum_k (z_k - mean z)^2 per example, definition 1: population variance; (N, m) to (N,)."""
    return at_least_float32(logits).var(1, unbiased=False)


def certainty_std(logits: Tensor) -> Tensor:
    """sqrt((1/(m-1)) sum_k (z_k - mean z)^2) per example, the authors' code: sample deviation; (N, m) to (N,).

    Its gradient at equal logits is 0, as torch defines it.
    """
    return at_least_float32(logits).std(1, unbiased=True)
