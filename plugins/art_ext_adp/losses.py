"""The formulas of ADP (Pang et al., ICML 2019).

Notation: members (N, K, L) holds the logits of K networks over L classes, F^k their softmax, Fbar the
mean of the F^k; y (N,) the true classes. All values are per example.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.api import at_least_float32, log_mean_softmax


def member_ce(members: Tensor, y: Tensor, label_smooth: float = 1.0) -> Tensor:
    """sum_k -log F^k_y: a sum over members, not a mean; in float32 at least.

    With label_smooth = c, class y weighs c and each other one (1 - c) / (L - 1), as in the authors' code.
    """
    log_p = F.log_softmax(at_least_float32(members), -1)
    true = log_p.gather(2, y[:, None, None].expand(-1, members.shape[1], 1)).squeeze(2)
    if label_smooth == 1:
        return -true.sum(1)
    others = (log_p.sum(2) - true) / (members.shape[2] - 1)
    return -(label_smooth * true + (1 - label_smooth) * others).sum(1)


def member_margin(members: Tensor, y: Tensor) -> Tensor:
    """sum_k (max_{j != y} z^k_j - z^k_y)."""
    index = y[:, None, None].expand(-1, members.shape[1], 1)
    others = members.scatter(2, index, -math.inf).amax(2)
    return (others - members.gather(2, index).squeeze(2)).sum(1)


def ensemble_entropy(members: Tensor, log_offset: float = 1e-20) -> Tensor:
    """H(Fbar) = -sum_l Fbar_l log(Fbar_l + log_offset), in nats."""
    mean = log_mean_softmax(members).exp()
    return -(mean * (mean + log_offset).log()).sum(1)


def false_directions(members: Tensor, y: Tensor) -> Tensor:
    """(N, K, L-1) the probabilities of the false classes, each member's scaled to length 1, in float64.

    From the false logits alone, so that nothing is 0/0 where the true class has all the probability.
    """
    n, k, classes = members.shape
    false = torch.ones(n, classes, dtype=torch.bool, device=members.device).scatter(1, y[:, None], False)
    z = members.double()[false[:, None].expand_as(members)].reshape(n, k, classes - 1)
    return F.normalize(torch.exp(z - z.amax(2, keepdim=True)), dim=2)


def log_diversity(members: Tensor, y: Tensor, det_offset: float = 1e-6) -> Tensor:
    """log det(M^T M + det_offset I_K), M the members' false directions as columns; in float64.

    det(M^T M), ensemble diversity, is the squared volume they span. Near the start all entries of the
    Gram matrix are near 1, and float32 would leave nothing but rounding.
    """
    with torch.autocast(members.device.type, enabled=False):
        directions = false_directions(members, y)
        gram = directions @ directions.transpose(1, 2)
        offset = det_offset * torch.eye(members.shape[1], dtype=gram.dtype, device=gram.device)
        logdet: Tensor = torch.linalg.slogdet(gram + offset).logabsdet
    return logdet


def adp_loss(
    members: Tensor, y: Tensor, alpha: float = 2.0, beta: float = 0.5, label_smooth: float = 1.0
) -> Tensor:
    """sum_k CE_k - alpha H(Fbar) - beta log ED; it may be negative."""
    loss = member_ce(members, y, label_smooth)
    if alpha:
        loss = loss - alpha * ensemble_entropy(members)
    if beta:
        loss = loss - beta * log_diversity(members, y).to(loss.dtype)
    return loss
