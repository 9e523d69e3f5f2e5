"""The formulas of the tricks, and where they were studied: Pang et al., ICLR 2021."""

from __future__ import annotations

import torch
from torch import Tensor

from art_ext.api import Paper

PAPER = Paper(
    "Bag of Tricks for Adversarial Training",
    "Pang, Yang, Dong, Su, Zhu",
    "ICLR",
    2021,
    "https://arxiv.org/abs/2010.00467",
)


def smooth_labels(y: Tensor, n_classes: int, amount: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, K) with 1 - amount at the true class and amount / (K - 1) at each other one.

    torch spreads its label_smoothing over all K classes: its value is amount K / (K - 1) for the same targets.
    """
    others = torch.full((len(y), n_classes), amount / (n_classes - 1), dtype=dtype, device=y.device)
    return others.scatter(1, y[:, None], 1 - amount)


def centralised(gradient: Tensor, min_axes: int = 2) -> Tensor:
    """The gradient minus its mean over all axes but the first, from `min_axes` axes on (Yong et al., ECCV 2020).

    GC takes tensors of 2 axes and more, GCC convolutions alone: 4 and more.
    """
    if gradient.ndim < min_axes:
        return gradient
    return gradient - gradient.mean(tuple(range(1, gradient.ndim)), keepdim=True)


def scaled_rate(rows: int, base: int = 128) -> float:
    """rows / base: linear scaling of the learning rate with the batch (Goyal et al., 2017)."""
    return rows / base


def ema_decay(decay: float, steps: int) -> float:
    """min(decay, (1 + steps) / (10 + steps)): the first steps, far from any end, are soon forgotten."""
    return min(decay, (1 + steps) / (10 + steps))
