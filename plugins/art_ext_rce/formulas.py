"""The formulas of reverse cross-entropy training and thresholding (Pang, Du, Dong, Zhu, NeurIPS 2018).

Notation: Z logits of training (N, L), F = softmax(-Z) the prediction, whose logits are -Z; y the true
class; z features (N, d). Higher scores are more normal. Everything is computed in float32 at least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.api import ConfigError, at_least_float32

CHUNK = 512
"""Examples compared with a bank at a time."""


def rce_loss(Z: Tensor, y: Tensor) -> Tensor:
    """-1/(L-1) sum_{l != y} log softmax(Z)_l per example: cross-entropy to the reverse label.

    Its least value is log(L - 1). The true class is left out, so that softmax(Z)_y = 0, the wanted
    end state, costs nothing.
    """
    log_p = F.log_softmax(at_least_float32(Z), 1)
    return -log_p.scatter(1, y[:, None], 0.0).sum(1) / (Z.shape[1] - 1)


def log_odds(logits: Tensor) -> Tensor:
    """log(p / (1 - p)) of the most probable class: the order of the confidence, without its ties at 1."""
    logits = at_least_float32(logits)
    top, predicted = logits.max(1)
    others = logits.scatter(1, predicted[:, None], float("-inf"))
    return top - others.logsumexp(1)


def non_max_entropy(logits: Tensor) -> Tensor:
    """Entropy, in nats, of the classes that are not predicted, normalised among themselves.

    As a softmax over their L - 1 logits: dividing by 1 - p would fail at a confidence of 1. It is 0
    for two classes and log(L - 1) at most.
    """
    n, L = logits.shape
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, logits.argmax(1, keepdim=True), False)
    log_p = F.log_softmax(at_least_float32(logits[others]).reshape(n, L - 1), 1)
    return -(log_p.exp() * log_p).sum(1)


def log_k_density(z: Tensor, predicted: Tensor, bank: Sequence[Tensor], sigma2: float) -> Tensor:
    """log of mean_i exp(-|z_i - z|^2 / sigma2) over the bank of the predicted class; (N,).

    bank holds (n_c, d) features a class; a class without any gives -inf.
    """
    out = torch.full((len(z),), float("-inf"), dtype=z.dtype, device=z.device)
    for label, members in enumerate(bank):
        rows = (predicted == label).nonzero().squeeze(1)
        if len(rows) and len(members):
            squared = torch.cdist(z[rows], members, compute_mode="donot_use_mm_for_euclid_dist").square()
            out = out.index_put((rows,), (-squared / sigma2).logsumexp(1) - math.log(len(members)))
    return out


UNREACHABLE = 1e6
"""The penalty at a density of 0, where the difference of two logarithms may be that of two infinities."""


def density_penalty(log_density: Tensor, log_median: Tensor) -> Tensor:
    """max(0, log median - log KD): what C&W-wb adds to its loss; large and finite where KD is 0."""
    penalty = (log_median - log_density).relu()
    return torch.where(log_density == float("-inf"), UNREACHABLE, penalty)


def median_log_density(z: Tensor, chosen: Tensor, sigma2: float) -> Tensor:
    """Median of log KD over all training points of a class, each against the bank z[chosen] without itself; ().

    z is (n, d), chosen (m,) indices; -inf for a bank of fewer than two.
    """
    if len(chosen) < 2:
        return z.new_full((), float("-inf"))
    bank, place = z[chosen], torch.full((len(z),), -1, device=z.device)
    place[chosen] = torch.arange(len(chosen), device=z.device)
    found = []
    for part, own in zip(torch.split(z, CHUNK), torch.split(place, CHUNK), strict=True):
        squared = torch.cdist(part, bank, compute_mode="donot_use_mm_for_euclid_dist").square()
        inside = own >= 0
        squared[inside, own[inside]] = float("inf")
        found.append((-squared / sigma2).logsumexp(1) - (len(chosen) - inside.to(z)).log())
    return torch.cat(found).median()


def median_gap(bank: Sequence[Tensor]) -> float:
    """The median of |z - nearest other member|^2 within the classes: a sigma2 that follows the features' scale.

    Raises:
        ConfigError: where no two members of a class differ.
    """
    gaps = []
    for members in bank:
        if len(members) > 1:
            distances = torch.cdist(members, members, compute_mode="donot_use_mm_for_euclid_dist")
            gaps.append(distances.fill_diagonal_(float("inf")).amin(1).square())
    median = float(torch.cat(gaps).median()) if gaps else 0.0
    if median <= 0:
        raise ConfigError("sigma2 'median' needs classes whose features differ; give sigma2 as a number")
    return median


def local_intrinsic_dimension(z: Tensor, bank: Tensor, k: int) -> Tensor:
    """-(1/k sum_i log(r_i / r_k))^-1 over the k nearest of bank (n, d) (Ma et al., ICLR 2018); (N,).

    Distances of 0 (z itself in the bank) do not count as neighbours. Where fewer than k members differ
    from z those that do take the place of k; where none does, z lies in a point, of dimension 0.
    """
    r = torch.cdist(z, bank, compute_mode="donot_use_mm_for_euclid_dist")
    near = r.masked_fill(r <= 0, float("inf")).topk(k, dim=1, largest=False).values
    count = near.isfinite().sum(1)
    last = near.gather(1, (count - 1).clamp(min=0)[:, None])
    mean = (near / last).where(near.isfinite(), 1.0).log().sum(1) / count.clamp(min=1)
    return torch.where(count > 0, -1 / mean.clamp(max=-torch.finfo(z.dtype).tiny), 0.0)

