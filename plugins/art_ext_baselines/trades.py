"""TRADES (Zhang et al., ICML 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

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
    kl_divergence,
    kl_to_clean,
    norm_named,
)
from art_ext_baselines.step_size import paper_step


def trades_boundary(clean_logits: Tensor, adv_logits: Tensor) -> Tensor:
    """KL(p(x) || p(x')) per example, gradient through both, in float32 at least; (N, K) twice to (N,)."""
    log_p, log_q = (F.log_softmax(at_least_float32(z), 1) for z in (clean_logits, adv_logits))
    return kl_divergence(log_p, log_q)


@dataclass(frozen=True)
class Trades(Risk):
    """mean criterion(x) + beta mean KL(p(x) || p(x')), eq. (5) with beta = 1/lambda.

    Clean and adversarial rows go in two passes, as in the authors' code.
    """

    beta: float = 6.0
    joint = False
    compares_outputs = True

    def rows(self, n: int) -> Rows:
        return Rows(slice(0, n), slice(0, n))

    def __call__(self, views: Views, criterion: Criterion) -> Terms:
        clean, adv = both(views)
        boundary = trades_boundary(clean.out.logits, adv.out.logits).mean()
        return {"clean": criterion(clean.out, clean.target).mean(), "boundary": self.beta * boundary}

    def __str__(self) -> str:
        return f"TRADES(beta {self.beta:g})"


class TRADES(Ingredient):
    """TRADES: clean accuracy against a boundary term (Zhang et al., ICML 2019).

    The inner attack raises KL(p(x) || p(x')) from x + 0.001 N(0, 1); p(x) is computed once a craft.
    """

    name = "trades"
    paper = Paper(
        "Theoretically Principled Trade-off between Robustness and Accuracy",
        "Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan",
        "ICML",
        2019,
        "https://arxiv.org/abs/1901.08573",
    )

    beta: NonNegative = 6.0
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Annotated[Radius, Field(description="radius in clip-value units; 0.031 in the paper, not 8/255")] = 0.031
    steps: Count = 10
    step_size: Annotated[StepSize | None, Field(description="2.26 eps / steps when left out: the paper's 0.007")] = None
    bn: Literal["eval", "train"] = "eval"

    def apply(self, plan: Plan) -> Plan:
        attack = PGD(
            norm_named(self.norm, self.eps),
            self.steps,
            paper_step(self.step_size, self.steps),
            objective=kl_to_clean,
            start=GaussianStart(0.001),
            bn=self.bn,
            clip=plan.facts.clip,
        )
        return plan.fill(self, attack=attack, risk=Trades(self.beta))
