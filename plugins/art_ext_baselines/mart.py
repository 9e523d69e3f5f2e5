"""MART: misclassification-aware adversarial training (Wang et al., ICLR 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from art_ext.api import (
    PGD,
    Count,
    Criterion,
    GaussianStart,
    Ingredient,
    NonNegative,
    Paper,
    Plan,
    Radius,
    Risk,
    Rows,
    StepSize,
    Terms,
    Views,
    at_least_float32,
    both,
    largest_other,
    norm_named,
)
from art_ext_baselines.step_size import paper_step


def boosted_cross_entropy(adv_logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y(x') - log(1.0001 - max_{k != y} p_k(x')) per example: the paper's BCE; (N, K), (N,) to (N,).

    The authors' 1.0001 and 1e-12 keep the second logarithm finite; the paper writes 1.
    """
    other = largest_other(F.softmax(adv_logits, 1), y)
    return F.cross_entropy(adv_logits, y, reduction="none") - torch.log(1.0001 - other + 1e-12)


def weighted_kl(clean_logits: Tensor, adv_logits: Tensor, y: Tensor) -> Tensor:
    """KL(p(x) || p(x')) (1.0000001 - p_y(x)) per example; gradients flow through all of it.

    The KL uses log(p(x') + 1e-12), as the authors' code does: it is bounded where p(x') underflows.
    """
    log_p = F.log_softmax(clean_logits, 1)
    p = log_p.exp()
    kl = (p * (log_p - torch.log(F.softmax(adv_logits, 1) + 1e-12))).sum(1)
    return kl * (1.0000001 - p.gather(1, y[:, None]).squeeze(1))


@dataclass(frozen=True)
class Mart(Risk):
    """mean boosted CE(x') + beta mean KL(p(x) || p(x')) (1 - p_y(x)).

    Its loss is its own and asks for one true class per example. Clean and adversarial rows go in
    two passes, as in the authors' code; probabilities are taken in float32 at least.
    """

    beta: float = 5.0
    joint = False
    compares_outputs = True
    uses_criterion = False

    def rows(self, n: int) -> Rows:
        return Rows(slice(0, n), slice(0, n))

    def __call__(self, views: Views, criterion: Criterion) -> Terms:
        clean, adv = both(views)
        z, z_adv = (at_least_float32(view.out.logits) for view in (clean, adv))
        return {
            "boosted_ce": boosted_cross_entropy(z_adv, adv.y).mean(),
            "weighted_kl": self.beta * weighted_kl(z, z_adv, clean.y).mean(),
        }

    def __str__(self) -> str:
        return f"MART(beta {self.beta:g})"


class MART(Ingredient):
    """MART: examples that are misclassified when clean weigh more (Wang et al., ICLR 2020).

    The inner attack raises CE from x + 0.001 N(0, 1).
    """

    name = "mart"
    paper = Paper(
        "Improving Adversarial Robustness Requires Revisiting Misclassified Examples",
        "Wang, Zou, Yi, Bailey, Ma, Gu",
        "ICLR",
        2020,
        "https://openreview.net/forum?id=rklOg6EFwS",
    )

    beta: Annotated[NonNegative, Field(description="weight of the KL: 5 for ResNet-18, 6 for WRN-34-10")] = 5.0
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Annotated[Radius, Field(description="radius in clip-value units; 0.031 in the paper, not 8/255")] = 0.031
    steps: Count = 10
    step_size: Annotated[StepSize | None, Field(description="2.26 eps / steps when left out: the paper's 0.007")] = None
    bn: Annotated[Literal["eval", "train"], Field(description="mode of normalisation layers while crafting")] = "eval"

    def apply(self, plan: Plan) -> Plan:
        attack = PGD(
            norm_named(self.norm, self.eps),
            self.steps,
            paper_step(self.step_size, self.steps),
            start=GaussianStart(0.001),
            bn=self.bn,
            clip=plan.facts.clip,
        )
        return plan.fill(self, attack=attack, risk=Mart(self.beta))
