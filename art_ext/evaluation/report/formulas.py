"""What the report's figures show, as numbers: pure functions of tensors.

N examples, K classes; images are (N, C, H, W) in the clip range, `probabilities` (N, K).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Probabilities = Callable[[Tensor], Tensor]
"""(n, C, H, W) images to (n, K)."""


def confusion(y: Tensor, predicted: Tensor, n_classes: int) -> Tensor:
    """(K, K) counts: row the label, column the prediction; both (N,)."""
    return torch.bincount(y * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def mean_probabilities(y: Tensor, probabilities: Tensor) -> Tensor:
    """(K, K): row k is the mean of the predicted probabilities over the examples of label k; NaN without any.

    The certainty heatmap of Zhang, Backes and Zhang (arXiv 2310.04539): a bright diagonal on
    adversarial examples of the training set that the test set lacks is robust overfitting.
    """
    n_classes = probabilities.shape[1]
    sums = probabilities.new_zeros(n_classes, n_classes).index_add_(0, y, probabilities)
    return sums / torch.bincount(y, minlength=n_classes).to(sums)[:, None]


def logit_variance(logits: Tensor) -> Tensor:
    """(N,): 1/K sum_k (z_k - mean z)^2, adversarial certainty (Zhang, Backes, Zhang, definition 1)."""
    return logits.var(1, unbiased=False)


def landing_ranks(clean: Tensor, y: Tensor, predicted: Tensor) -> Tensor:
    """In which of the clean runner-up classes new adversarial examples land (Li et al., AAAI 2021, fig. 2).

    Only examples count that are right when clean and misclassified when attacked.

    Args:
        clean: (N, K) probabilities of the clean images.
        predicted: (N,) classes of their adversarial twins.

    Returns:
        (K - 1,) counts: entry 0 for the most probable false class of the clean image, and so on.
    """
    fell = (clean.argmax(1) == y) & (predicted != y)
    false = clean.scatter(1, y[:, None], -1.0)
    order = false.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1).gather(1, predicted[:, None]).squeeze(1)
    return torch.bincount(rank[fell], minlength=clean.shape[1] - 1)


def best_other(probabilities: Tensor, y: Tensor) -> Tensor:
    """(..., K) probabilities and (N,) labels, N the first dimension, to (...): the largest of a false class."""
    index = y.reshape(-1, *(1,) * (probabilities.ndim - 1)).expand(*probabilities.shape[:-1], 1)
    return probabilities.scatter(-1, index, -1.0).amax(-1)


def histogram(values: Tensor, bins: int, low: float, high: float) -> Tensor:
    """(bins,) counts of values (N,) in equal bins of [low, high]; those outside count in the bin at that end, NaN
    nowhere."""
    return torch.histc(values[~values.isnan()].double().clamp(low, high), bins, low, high).long()


def roc_curve(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """(T,) false and true positive rates of keeping what scores at least t, for every t from none kept to all.

    The area under it, by trapezes, is the AUC with average ranks: `rejection.roc_auc`.

    Args:
        positive: (P,) scores of what should be kept, P > 0.
        negative: (M,) scores of what should be rejected, M > 0.
    """
    levels: Tensor = torch.unique(torch.cat([positive, negative]).double()).flip(0)
    kept = [
        torch.searchsorted((-scores.double()).sort().values, -levels, right=True).double() / len(scores)
        for scores in (negative, positive)
    ]
    start = levels.new_zeros(1)
    return torch.cat([start, kept[0]]), torch.cat([start, kept[1]])


def along(net: Probabilities, x: Tensor, delta: Tensor, at: Tensor, clip: tuple[float, float]) -> Tensor:
    """(N, T, K) probabilities at x + t delta, cut to the clip range, for t in `at` (T,).

    On the adversarial perturbation, t = 1 is the adversarial example and t = 0 the image
    (Stutz, Hein, Schiele, ICML 2020, fig. 1).
    """
    return torch.stack([net((x + t * delta).clamp(*clip)) for t in at.to(x)], 1)


def orthogonal(direction: Tensor, other: Tensor) -> Tensor:
    """`other` without its component along `direction`, at the direction's length; both (C, H, W)."""
    unit = direction / direction.norm().clamp(min=1e-12)
    rest: Tensor = other - (other * unit).sum() * unit
    scaled: Tensor = rest * (direction.norm() / rest.norm().clamp(min=1e-12))
    return scaled


def plane(x: Tensor, across: Tensor, up: Tensor, at: Tensor, clip: tuple[float, float]) -> Tensor:
    """(S * S, C, H, W): x + at_j across + at_i up, cut to the clip range; row by row, i the row; at (S,)."""
    t = at.to(x).reshape(-1, 1, 1, 1)
    points: Tensor = x + t.repeat_interleave(len(at), 0) * up + t.repeat(len(at), 1, 1, 1) * across
    return points.clamp(clip[0], clip[1])


def principal_components(points: Tensor, n: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (D,), axes (n, D) and the share of the variance (n,) of points (N, D), by singular values.

    Each axis points to where its largest entry is positive, so that the picture does not depend on
    the library. With fewer dimensions than asked for, the rest is zero.
    """
    centre = points.mean(0)
    _, sizes, axes = torch.linalg.svd(points.double() - centre.double(), full_matrices=False)
    variance = sizes.square()
    share = variance / variance.sum().clamp(min=1e-300)
    axes, share = axes[:n], share[:n]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = torch.where(largest < 0, -axes, axes)
    missing = n - len(axes)
    axes, share = (torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) for part in (axes, share))
    return centre, axes.to(points), share.to(points)


def amplified(delta: Tensor) -> tuple[Tensor, Tensor]:
    """Perturbations (N, C, H, W) drawn around grey, each at full contrast: in [0, 1], and the factor (N,)."""
    largest = delta.abs().flatten(1).amax(1).clamp(min=1e-12)
    return 0.5 + delta / (2 * largest.reshape(-1, 1, 1, 1)), 0.5 / largest
