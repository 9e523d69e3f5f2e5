"""Confidence-calibrated adversarial training (Stutz, Hein, Schiele, ICML 2020): its formulas.

Notation: |delta| the norm of a perturbation (N,), eps the training radius, rho the sharpness, lam the
weight of the ONE-HOT part of the target, so that 1 - lam is the uniform part's (which is what the
authors' code returns). z logits, p = softmax(z) and t a target (N, K). Equation numbers are those
of the author's article on the method.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.api import at_least_float32


def power_transition(size: Tensor, eps: float, rho: float) -> Tensor:
    """lam = (1 - min(1, |delta| / eps))^rho, eq. (4); (N,) to (N,): 1 at delta = 0, 0 from eps on."""
    return (1 - (size / eps).clamp(max=1)) ** rho


def exponential_transition(size: Tensor, rho: float) -> Tensor:
    """lam = exp(-rho |delta|); (N,) to (N,). There is no eps in it, and it never reaches 0."""
    return (-rho * size).exp()


def linear_transition(size: Tensor, eps: float, rho: float) -> Tensor:
    """lam = 1 - min(1, rho |delta| / eps), of the authors' code alone; (N,) to (N,)."""
    return 1 - (rho * size / eps).clamp(max=1)


def calibrated_target(y: Tensor, lam: Tensor, n_classes: int) -> Tensor:
    """t = lam one_hot(y) + (1 - lam) / K, eq. (3); (N,) indices and (N,) weights to (N, K), rows sum to 1."""
    lam = lam[:, None]
    return lam * F.one_hot(y, n_classes).to(lam.dtype) + (1 - lam) / n_classes


def bhattacharyya(logits: Tensor, target: Tensor) -> Tensor:
    """-2 log min(1, sum_k sqrt(p_k t_k + 1e-8)), as in the authors' code; (N, K) twice to (N,)."""
    overlap = (F.softmax(at_least_float32(logits), 1) * target + 1e-8).sqrt().sum(1)
    return -2 * overlap.clamp(max=1).log()


def class_probability(logits: Tensor, label: Tensor) -> Tensor:
    """p_label; (N, K), (N,) to (N,)."""
    return F.softmax(logits, 1).gather(1, label[:, None]).squeeze(1)


def relative_normal(normal: Tensor, length: Tensor, share: Tensor) -> Tensor:
    """A normal vector (N, C, H, W) of norm `length` (N,), scaled to norm `share` (N,); 0 stays 0."""
    scale = share / length.clamp(min=torch.finfo(normal.dtype).tiny)
    return normal * scale.reshape(-1, 1, 1, 1)
