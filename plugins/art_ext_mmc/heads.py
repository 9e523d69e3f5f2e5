"""Heads that answer in distances to class centres, and the surgery that puts the fixed ones in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from art_ext.api import Facts, MethodHead, ModelError, ReplaceHead, method_head, offer
from art_ext_mmc.losses import diagonal_forms, quadratic_forms, squared_distances

Shape = Literal["identity", "diagonal", "full"]


class MMHead(MethodHead):
    """z = W x + b without an activation, then h_l = -scale |z - mu_l|^2 with fixed centres.

    Args:
        in_features: width of the network's features.
        centers: (L, d); kept as a buffer: saved, moved, never trained.
        scale: 1 for MMC, 1/2 for MM-LDA.
    """

    centers: Tensor

    def __init__(self, in_features: int, centers: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.in_features, self.scale = in_features, scale
        self.embed = nn.Linear(in_features, centers.shape[1])
        self.register_buffer("centers", centers.to(self.embed.weight.dtype))

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_features) to (N, L)."""
        return -self.scale * squared_distances(self.embed(features), self.centers)


class QuadraticHead(MethodHead):
    """h_l = -(z - mu_l)^T S_l (z - mu_l) + B_l with trained mu, S and B: a g-SCE head.

    `shape` says what S_l is: I / 2, a positive diagonal, or A_l^T A_l. With `log_determinant` B_l is
    that of a Gaussian of precision 2 S_l, as L-GM has it, else a free number. The quadratic forms
    are offered as "distances".

    Args:
        in_features: width of the network's features.
        n_classes: L.
        dim: d of a Linear before the distances, or None for the features themselves.
    """

    def __init__(
        self, in_features: int, n_classes: int, dim: int | None, shape: Shape, *, log_determinant: bool = False
    ) -> None:
        super().__init__()
        self.in_features, self.dim, self.shape, self.log_determinant = in_features, dim, shape, log_determinant
        self.embed = nn.Identity() if dim is None else nn.Linear(in_features, dim)
        d = dim or in_features
        self.mu = nn.Parameter(torch.randn(n_classes, d))
        if shape == "diagonal":
            self.log_variance = nn.Parameter(torch.zeros(n_classes, d))
        elif shape == "full":
            self.root = nn.Parameter(0.5**0.5 * torch.eye(d).repeat(n_classes, 1, 1))
        if not log_determinant:
            self.bias = nn.Parameter(torch.zeros(n_classes))

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_features) to (N, L)."""
        z = self.embed(features)
        if self.shape == "full":
            distances = quadratic_forms(z, self.mu, self.root)
        elif self.shape == "diagonal":
            distances = diagonal_forms(z, self.mu, self.log_variance)
        else:
            distances = 0.5 * squared_distances(z, self.mu)
        offer("distances", distances)
        return self._offset(distances) - distances

    def _offset(self, like: Tensor) -> Tensor:
        if not self.log_determinant:
            return self.bias
        return -0.5 * self.log_variance.sum(1) if self.shape == "diagonal" else like.new_zeros(())


class CenterHead(MethodHead):
    """A linear head beside a trained centre per class (Wen et al., ECCV 2016).

    Offers "center_distances", |x - c_l|^2 with a gradient in the features x alone, and
    "center_drift", the same with a gradient in the centres alone.
    """

    def __init__(self, linear: nn.Module, in_features: int, n_classes: int) -> None:
        super().__init__()
        self.in_features, self.linear = in_features, linear
        self.centers = nn.Parameter(torch.zeros(n_classes, in_features))

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_features) to (N, L)."""
        offer("center_distances", squared_distances(features, self.centers.detach()))
        offer("center_drift", squared_distances(features.detach(), self.centers))
        logits: Tensor = self.linear(features)
        return logits


@dataclass(frozen=True)
class FixCenters:
    """Replaces the head by an `MMHead`; one with the same centres is left alone.

    Raises:
        ModelError: for a network that has other fixed centres already.
    """

    centers: Callable[[int], Tensor]
    scale: float

    def __call__(self, model: nn.Module, facts: Facts) -> nn.Module:
        centers = self.centers(facts.n_classes)
        known = method_head(model, MMHead)
        if not isinstance(known, MMHead):
            return ReplaceHead(lambda old, width, k: MMHead(width, centers, self.scale), MMHead)(model, facts)
        if known.scale != self.scale or known.centers.shape != centers.shape or not torch.allclose(
            known.centers.double().cpu(), centers, rtol=1e-5, atol=1e-5 * float(centers.norm())
        ):
            raise ModelError(
                "the network's head has other fixed centres (method, norm or dim) than those asked for; "
                "start from a network without them"
            )
        return model

    def __str__(self) -> str:
        return "head becomes fixed centres"
