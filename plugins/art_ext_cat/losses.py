"""The formulas of calibrated adversarial training (Huang, Menkovski, Pei, Pechenizkiy, ACML 2021).

Notation: f(x) logits (N, K), p = softmax(f), y (N,) the true class, x' = x + delta the full adversarial
example, M in (0, 1) the mask, x_cal = clamp(x + M delta) the calibrated example. All values are per
example.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from art_ext.api import at_least_float32, kl_divergence, margin

OFFSET = 1.0000001
"""The authors' 1 in 1 - p_y: the weight never is exactly 0."""


def weighted(values: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """(1.0000001 - p_y) values, eq. (8) where the values (N,) are cross-entropy; the weight carries gradient."""
    p = F.softmax(at_least_float32(logits), 1)
    return (OFFSET - p.gather(1, y[:, None])[:, 0]) * values


def calibrated(x: Tensor, delta: Tensor, mask: Tensor, clip: tuple[float, float]) -> Tensor:
    """clamp(x + M delta), eq. (10); all (N, C, H, W), and the clip range."""
    return (x + mask * delta).clamp(*clip)


def divergence(logits: Tensor, calibrated_logits: Tensor) -> Tensor:
    """KL(p || p_cal), gradient through both; (N, K) twice to (N,).

    Of p(x) it is eq. (13)'s robust term, of p(x') the first term of eq. (14).
    """
    log_p, log_q = (F.log_softmax(at_least_float32(z), 1) for z in (logits, calibrated_logits))
    return kl_divergence(log_p, log_q)


def cw_surrogate(logits: Tensor, y: Tensor, kappa: float) -> Tensor:
    """-max(z_y - max_{k != y} z_k + kappa, 0), which the attack raises; flat once misclassified by kappa."""
    return -(kappa - margin(logits, y)).relu()
