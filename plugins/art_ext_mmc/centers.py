"""Fixed class centres of one norm, spread as far as they can be: (L, d) float64, a row per class.

Notation of the papers: L classes, d numbers per feature vector, mu_l the centre of class l.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.api import ConfigError

STEPS, RATE = 10_000, 1e-4
"""Adam on the largest inner product, as in the authors' code."""


def mm_centers(n_classes: int, dim: int, norm: float) -> Tensor:
    """Max-Mahalanobis centres (Pang et al., ICML 2018), in closed form; (L, d).

    The vertices of a regular simplex: |mu_i| = norm, <mu_i, mu_j> = -norm^2 / (L - 1). With j
    counted from 1, mu_j(j) = norm sqrt(L (L - j) / ((L - 1)(L - j + 1))), mu_k(j) = -mu_j(j) / (L - j)
    for k > j, else 0. The last diagonal entry is exactly 0, which the recursion only nears.

    Raises:
        ConfigError: unless L >= 2 and d >= L - 1.
    """
    L = n_classes
    if L < 2:
        raise ConfigError(f"centres need two classes or more, got {L}")
    if dim < L - 1:
        raise ConfigError(
            f"dim {dim} is below {L - 1}, so {L} centres cannot all be equally far apart; set dim to {L - 1} or more"
        )
    j = torch.arange(1, L, dtype=torch.float64)
    diagonal = norm * torch.sqrt(L * (L - j) / ((L - 1) * (L - j + 1)))
    centers = torch.zeros(L, dim, dtype=torch.float64)
    centers[:, : L - 1] = (-diagonal / (L - j)).expand(L, L - 1).tril(-1)
    centers[range(L - 1), range(L - 1)] = diagonal
    return centers


def random_centers(n_classes: int, dim: int, norm: float, seed: int) -> Tensor:
    """Directions drawn once, all of one norm: MMC (rand) (Pang et al., ICLR 2020); (L, d).

    Raises:
        ConfigError: for d = 1, which has two directions: centres would coincide.
    """
    if dim == 1:
        raise ConfigError("dim 1 has two directions only, in which random centres coincide; set dim to 2 or more")
    generator = torch.Generator().manual_seed(seed)
    return norm * F.normalize(torch.randn(n_classes, dim, generator=generator, dtype=torch.float64), dim=1)


def optimised_centers(n_classes: int, dim: int, norm: float) -> Tensor:
    """Centres whose largest pairwise inner product is made small; (L, d).

    The minimum in closed form: a simplex where d >= L - 1; +-e_i where L <= 2 d; a regular polygon where d = 2.
    Otherwise the authors' 10,000 steps of Adam at 1e-4 on unit vectors, from a fixed seed, which end above it:
    at 0.67 for L = 12, d = 3, whose best is 0.447.

    Raises:
        ConfigError: for d = 1 and more than two classes, whose centres would coincide.
    """
    if dim >= n_classes - 1:
        return mm_centers(n_classes, dim, norm)
    if dim == 1:
        raise ConfigError(f"dim 1 has two centres only, but there are {n_classes} classes; set dim to 2 or more")
    return norm * _spread(n_classes, dim)


@lru_cache(maxsize=16)
def _spread(n_classes: int, dim: int) -> Tensor:
    if n_classes <= 2 * dim:
        axes = torch.eye(dim, dtype=torch.float64)
        return torch.stack([axes, -axes], 1).reshape(2 * dim, dim)[:n_classes]
    if dim == 2:
        angle = 2 * math.pi * torch.arange(n_classes, dtype=torch.float64) / n_classes
        return torch.stack([angle.cos(), angle.sin()], 1)
    with torch.enable_grad():
        free = random_centers(n_classes, dim, 1.0, seed=0).requires_grad_()
        optimizer = torch.optim.Adam([free], lr=RATE)
        own = torch.eye(n_classes, dtype=torch.bool)
        for _ in range(STEPS):
            unit = F.normalize(free, dim=1)
            worst = (unit @ unit.T).masked_fill(own, -1.0).amax()
            optimizer.zero_grad()
            worst.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return F.normalize(free.detach(), dim=1)
