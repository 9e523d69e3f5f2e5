"""Formulas over distances to class centres (Pang et al., ICML 2018 and ICLR 2020), per example.

Notation: z features (N, d), mu centres (L, d), y the true class, h logits (N, L).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_distances(z: Tensor, mu: Tensor) -> Tensor:
    """|z - mu_l|^2 from differences, (N, L): the expanded square cancels in float32."""
    return (z[:, None] - mu).square().sum(-1)


def of_class(values: Tensor, y: Tensor) -> Tensor:
    """values_y; (N, L), (N,) to (N,)."""
    return values.gather(1, y[:, None]).squeeze(1)


def mmc_loss(logits: Tensor, y: Tensor, factor: float = 0.5) -> Tensor:
    """factor |z - mu_y|^2 from the logits h_l = -|z - mu_l|^2 (Pang et al., ICLR 2020); the code's is 1."""
    return -factor * of_class(logits, y)


def quadratic_forms(z: Tensor, mu: Tensor, root: Tensor) -> Tensor:
    """(z - mu_l)^T S_l (z - mu_l) with S_l = A_l^T A_l; roots A (L, d, d), to (N, L).

    B_l less these are the logits of g-SCE (Pang et al., ICLR 2020); a linear layer under a softmax is S = I,
    mu_l = W_l / 2, B_l = b_l + |W_l|^2 / 4.
    """
    return torch.einsum("lij,nlj->nli", root, z[:, None] - mu).square().sum(-1)


def diagonal_forms(z: Tensor, mu: Tensor, log_variance: Tensor) -> Tensor:
    """1/2 sum_i (z - mu_l)_i^2 / Lambda_li from log Lambda (L, d), to (N, L): d_l of Wan et al. (CVPR 2018)."""
    return 0.5 * ((z[:, None] - mu).square() * torch.exp(-log_variance)).sum(-1)


def lgm_logits(logits: Tensor, distances: Tensor, y: Tensor, alpha: float) -> Tensor:
    """The logits of L-GM with margin: the true class's distance d_y counts 1 + alpha times (Wan et al., CVPR 2018).

    distances d_l = 1/2 (z - mu_l)^T Lambda_l^-1 (z - mu_l), logits = -d_l - 1/2 log |Lambda_l|.
    """
    own = F.one_hot(y, logits.shape[1]).to(logits.dtype)
    return logits - alpha * own * distances


def center_drift(distances: Tensor, y: Tensor) -> Tensor:
    """1/2 |c_y - z|^2 / (1 + n_y), n_y the rows of the batch in class y.

    Its sum over the batch has, at centre c_j, the gradient delta c_j of Wen et al. (ECCV 2016, eq. (4)).
    """
    count = F.one_hot(y, distances.shape[1]).sum(0).to(distances.dtype)
    return 0.5 * of_class(distances, y) / (1 + count[y])
