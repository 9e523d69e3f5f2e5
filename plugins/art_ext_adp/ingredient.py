"""The ingredient: a criterion over the members of an ensemble."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from art_ext.api import (
    ConfigError,
    Criterion,
    Ingredient,
    NonNegative,
    Number,
    Objective,
    Outputs,
    Paper,
    Plan,
    ce,
    cw,
    margin,
)
from art_ext_adp.losses import adp_loss, ensemble_entropy, log_diversity, member_ce, member_margin

MEMBERS = frozenset({"members"})

sum_of_ce = Objective("member_ce", lambda out, y: member_ce(out.extras["members"], y), needs=MEMBERS)
"""sum_k -log F^k_y: keeps a gradient where one member is saturated."""
sum_of_margins = Objective("member_margin", lambda out, y: member_margin(out.extras["members"], y), needs=MEMBERS)
"""sum_k (largest false logit - true logit)."""
mean_logits_ce = Objective(
    "mean_logits_ce",
    lambda out, y: F.cross_entropy(out.extras["members"].mean(1), y, reduction="none"),
    needs=MEMBERS,
)
"""Cross-entropy of the mean of the members' logits."""
mean_logits_margin = Objective(
    "mean_logits_margin", lambda out, y: margin(out.extras["members"].mean(1), y), needs=MEMBERS
)
"""Margin of the mean of the members' logits."""


@dataclass(frozen=True)
class ADPLoss(Criterion):
    """sum_k CE_k - alpha H(Fbar) - beta log ED; at alpha = beta = 0, K networks trained on their own.

    It needs one true class, which is taken out of the diversity; `label_smooth` smooths the
    cross-entropies alone. The margin of the mean logits comes first among its adversaries: on digits
    it leaves a little less than the mixture's own.
    """

    alpha: float = 2.0
    beta: float = 0.5
    label_smooth: float = 1.0
    name = "adp"
    needs = MEMBERS
    adversaries = (mean_logits_margin, cw, ce, sum_of_margins, sum_of_ce, mean_logits_ce)

    def __call__(self, out: Outputs, target: Tensor) -> Tensor:
        members = out.extras["members"]
        _, k, classes = members.shape
        if k > classes - 1 and self.beta:
            warnings.warn(
                f"{k} members have no {k} directions among {classes - 1} false classes: the diversity of adp stays "
                f"near its minimum; use {classes - 1} members or fewer",
                stacklevel=2,
            )
        return adp_loss(members, target, self.alpha, self.beta, self.label_smooth)

    def measures(self, out: Outputs, target: Tensor) -> Mapping[str, Tensor]:
        """"cross_entropy" summed over the members, "ensemble_entropy" H(Fbar), and "log_diversity"."""
        members = out.extras["members"]
        return {
            "cross_entropy": member_ce(members, target, self.label_smooth),
            "ensemble_entropy": ensemble_entropy(members),
            "log_diversity": log_diversity(members, target),
        }

    def __str__(self) -> str:
        smooth = "" if self.label_smooth == 1 else f", true class {self.label_smooth:g}"
        return f"ADP(alpha {self.alpha:g}, beta {self.beta:g}{smooth})"


class ADP(Ingredient):
    """Adaptive diversity promoting training of an ensemble (Pang et al., ICML 2019).

    The members agree on the true class and give the rest of their probability to different false
    classes, so that an adversarial example of one carries over less to the others. The network is an
    ensemble: `art_ext.ensemble([a, b, c])`, or `model: {name: ensemble, ...}` in a recipe.
    """

    name = "adp"
    adaptive = (
        ("ensemble_pgd", {"objective": "ce", "steps": 200, "restarts": 5}),
        ("ensemble_pgd", {"objective": "margin", "steps": 200, "restarts": 5}),
        ("ensemble_pgd", {"objective": "mean_logits_margin", "steps": 200, "every_target": True}),
    )
    paper = Paper(
        "Improving Adversarial Robustness via Promoting Ensemble Diversity",
        "Pang, Xu, Du, Chen, Zhu",
        "ICML",
        2019,
        "https://arxiv.org/abs/1901.08846",
    )

    alpha: Annotated[NonNegative, Field(description="of the mixture's entropy: 2 in the paper, 1 in the code")] = 2.0
    beta: Annotated[NonNegative, Field(description="of the log diversity; without alpha it does nothing lasting")] = 0.5
    label_smooth: Annotated[
        Number, Field(gt=0, le=1, description="weight of the true class in the cross-entropies; 1 smooths nothing")
    ] = 1.0

    def apply(self, plan: Plan) -> Plan:
        """Fills the criterion.

        Raises:
            ConfigError: for two classes, where each member has a single false class and no direction to choose.
        """
        classes = plan.facts.n_classes
        if classes < 3:
            raise ConfigError(f"adp needs three classes or more, got {classes}: one false class has no directions")
        if self.label_smooth <= 1 / classes:
            raise ConfigError(
                f"adp.label_smooth must be above 1/{classes}, what each class has by chance, got {self.label_smooth:g}"
            )
        return plan.fill(self, criterion=ADPLoss(self.alpha, self.beta, self.label_smooth))
