"""Probabilistically compact loss with logit constraints (Li, Li, Pan, Zhu, AAAI 2021).

Notation: a logits (N, K), p = softmax(a), y the true class, j != y a false one, xi the margin.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from art_ext.api import at_least_float32


def probabilities(logits: Tensor) -> Tensor:
    """softmax in float32 at least: near xi = 0.995, half precision has a spacing of 0.004."""
    return F.softmax(at_least_float32(logits), 1)


def pc_loss(logits: Tensor, y: Tensor, xi: float) -> Tensor:
    """sum_{j != y} max(0, p_j + xi - p_y) per example, eq. (6); divide by K - 1 for the authors' scaling."""
    p = probabilities(logits)
    hinges = (p + xi - p.gather(1, y[:, None])).relu()
    return hinges.scatter(1, y[:, None], 0.0).sum(1)


def logit_constraint(logits: Tensor, y: Tensor, *, hard: bool = False) -> Tensor:
    """sum_{j != y} w_j max(0, a_y - a_j) per example, w the softmax over the false logits alone.

    With `hard`, w picks the most probable false class, as eq. (16) prints it.
    """
    logits, own = at_least_float32(logits), y[:, None]
    false = logits.scatter(1, own, float("-inf"))
    gap = (logits.gather(1, own) - logits).relu()
    if hard:
        return gap.gather(1, false.argmax(1, keepdim=True)).squeeze(1)
    return (F.softmax(false, 1) * gap).sum(1)
