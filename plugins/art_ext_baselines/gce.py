"""Guided complement entropy (Chen et al., ICCV 2019); not generalised cross-entropy, which is also called GCE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from art_ext.api import (
    ConfigError,
    Criterion,
    Ingredient,
    Number,
    Outputs,
    Paper,
    Plan,
    at_least_float32,
    ce,
    cw,
    dlr_ratio,
)


def guided_complement_entropy(logits: Tensor, y: Tensor, alpha: float) -> Tensor:
    """p_y^alpha sum_{j != y} q_j log q_j / log K per example, q_j = p_j / (1 - p_y); (N, K), (N,) to (N,).

    To be lowered: 0 at most, -log(K - 1) / log K at p_y = 1 with q uniform. q is a softmax over the false
    logits, exact also where p_y is 1 in floating point; the authors' guards make the gradient 0 there.
    """
    logits, own = at_least_float32(logits), y[:, None]
    guide = (alpha * F.log_softmax(logits, 1).gather(1, own).squeeze(1)).exp()
    log_q = F.log_softmax(logits.scatter(1, own, float("-inf")), 1)
    entropy = (log_q.exp() * log_q.scatter(1, own, 0.0)).sum(1)
    return guide * entropy / math.log(logits.shape[1])


@dataclass(frozen=True)
class GuidedComplementEntropyLoss(Criterion):
    """Guided complement entropy per example.

    Flat false probabilities weaken an attack on CE by saturation, so the informed adversary raises the
    logit margin, then DLR, then CE.
    """

    alpha: float = 1 / 3
    name = "guided_complement_entropy"
    adversaries = (cw, dlr_ratio, ce)

    def __call__(self, out: Outputs, target: Tensor) -> Tensor:
        return guided_complement_entropy(out.logits, target, self.alpha)

    def __str__(self) -> str:
        return f"guided complement entropy(alpha {self.alpha:.3g})"


class GuidedComplementEntropy(Ingredient):
    """Guided complement entropy: raises p_y while flattening the false probabilities (Chen et al., ICCV 2019).

    A criterion in place of cross-entropy; no adversarial examples of its own.
    """

    name = "guided_complement_entropy"
    paper = Paper(
        "Improving Adversarial Robustness via Guided Complement Entropy",
        "Chen, Liang, Chang, Pan, Chen, Wei, Juan",
        "ICCV",
        2019,
        "https://arxiv.org/abs/1903.09799",
    )

    alpha: Annotated[Number, Field(gt=0, lt=1, description="exponent of p_y; 0.333 in the code")] = 1 / 3

    def apply(self, plan: Plan) -> Plan:
        if plan.facts.n_classes < 3:
            raise ConfigError(
                f"guided_complement_entropy needs 3 classes or more, and this task has {plan.facts.n_classes}: "
                "with one false class its entropy is always 0; use the criterion ce"
            )
        return plan.fill(self, criterion=GuidedComplementEntropyLoss(self.alpha))
