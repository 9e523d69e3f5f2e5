"""The criteria over centre distances, and the objectives of whoever attacks them."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from art_ext.api import Criterion, CrossEntropy, Detector, Objective, Outputs, ce, cw, dlr_ratio, largest_other
from art_ext_mmc.losses import center_drift, lgm_logits, mmc_loss, of_class


def _center_distance(out: Outputs, y: Tensor) -> Tensor:
    return -of_class(out.logits, y)


center_distance = Objective("center_distance", _center_distance)
"""|z - mu_y|^2: raised at the true class, or lowered at a target (Pang et al., ICLR 2020)."""


def scaled_ce(scale: float) -> Objective:
    """Cross-entropy of logits / scale^2, which do not saturate the softmax."""

    def measure(out: Outputs, y: Tensor) -> Tensor:
        return F.cross_entropy(out.logits / scale**2, y, reduction="none")

    return Objective("scaled_ce", measure)


@dataclass(frozen=True)
class MMCLoss(Criterion):
    """factor |z - mu_y|^2 on logits h_l = -|z - mu_l|^2.

    Cross-entropy on these logits has no gradient where z is near its centre: the gap is
    2 s^2 L / (L - 1), 222 for ten classes and s = 10. None of its adversaries takes a softmax of them.
    """

    factor: float = 0.5
    center_norm: float = 10.0
    name = "mmc"
    saturates_softmax = True

    @property
    def adversaries(self) -> tuple[Objective, ...]:  # type: ignore[override]
        return (cw, center_distance, dlr_ratio, scaled_ce(self.center_norm))

    def __call__(self, out: Outputs, target: Tensor) -> Tensor:
        return mmc_loss(out.logits, target, self.factor)

    def __str__(self) -> str:
        return f"{self.factor:g} |z - mu_y|^2"


class MMLDALoss(CrossEntropy):
    """Cross-entropy on logits -1/2 |z - mu_l|^2: MM-LDA (Pang et al., ICML 2018)."""

    name = "mm_lda"
    adversaries = (cw, ce, center_distance, dlr_ratio)


class GSCELoss(CrossEntropy):
    """Cross-entropy on quadratic logits (Pang et al., ICLR 2020)."""

    name = "g_sce"
    adversaries = (cw, ce, dlr_ratio)


@dataclass(frozen=True)
class LGMLoss(Criterion):
    """Cross-entropy with margin alpha, plus lam (d_y + 1/2 log |Lambda_y|) (Wan et al., CVPR 2018)."""

    alpha: float = 1.0
    lam: float = 0.1
    name = "l_gm"
    needs = frozenset({"distances"})
    adversaries = (cw, ce, center_distance, dlr_ratio)

    def __call__(self, out: Outputs, target: Tensor) -> Tensor:
        classification = F.cross_entropy(
            lgm_logits(out.logits, out.extras["distances"], target, self.alpha), target, reduction="none"
        )
        return classification - self.lam * of_class(out.logits, target)

    def __str__(self) -> str:
        return f"L-GM(alpha {self.alpha:g}, lam {self.lam:g})"


@dataclass(frozen=True)
class CenterPull(Criterion):
    """Cross-entropy + lam/2 |x - c_y|^2; its gradient at the centres is alpha delta c (Wen et al., ECCV 2016)."""

    lam: float = 0.003
    alpha: float = 0.5
    name = "center_loss"
    needs = frozenset({"center_distances", "center_drift"})

    def __call__(self, out: Outputs, target: Tensor) -> Tensor:
        pull = 0.5 * self.lam * of_class(out.extras["center_distances"], target)
        drift = self.alpha * len(target) * center_drift(out.extras["center_drift"], target)
        return F.cross_entropy(out.logits, target, reduction="none") + pull + (drift - drift.detach())

    def __str__(self) -> str:
        return f"center loss(lam {self.lam:g}, alpha {self.alpha:g})"


def _wrong_center(out: Outputs, y: Tensor) -> Tensor:
    return largest_other(out.logits, y)


wrong_center = Objective("wrong_center", _wrong_center, targetable=False)
"""max over l != y of -|z - mu_l|^2: as near as can be to a wrong centre, which no distance gives away."""


class NearestCenter(Detector):
    """max_l -|z - mu_l|^2: how near the features come to any centre, on raw logits (Pang et al., ICLR 2020)."""

    name = "nearest_center"
    adversaries = (wrong_center,)

    def score(self, out: Outputs) -> Tensor:
        return out.logits.amax(1)
