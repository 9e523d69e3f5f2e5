"""The ingredient: PGD-Conf on half of each batch, and targets that fade to uniform with the perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from art_ext.api import (
    BacktrackingPGD,
    Confidence,
    Count,
    Criterion,
    Ingredient,
    Mixed,
    Norm,
    Number,
    Outputs,
    Paper,
    Plan,
    Positive,
    Target,
    ce,
    norm_named,
    other_confidence,
    thresholded_worst_case,
)
from art_ext_ccat.attacks import NormName, first_step
from art_ext_ccat.formulas import (
    bhattacharyya,
    calibrated_target,
    exponential_transition,
    linear_transition,
    power_transition,
)
from art_ext_ccat.starts import STARTS, StartName

TransitionName = Literal["power", "exponential", "linear"]
BASE_LR = 0.005
"""The first step of the authors' training attack on CIFAR-10 and SVHN, on pixels in [0, 1]."""
RHO, EXPONENTIAL_RHO = 10.0, 12 * 0.3
"""The sharpness of the authors' code; the article's for the exponential transition, times eps: 120 at 0.03."""


@dataclass(frozen=True)
class Transition(Target):
    """Labels for clean rows; for the others lam(delta) one_hot(y) + (1 - lam(delta)) / K, eq. (3)."""

    norm: Norm
    rho: float = 10.0
    kind: TransitionName = "power"
    gives_distributions = True

    def one_hot_weight(self, delta: Tensor) -> Tensor:
        """lam(delta) per example; (N, C, H, W) to (N,)."""
        size, eps = self.norm.of(delta), self.norm.largest
        if self.kind == "exponential":
            return exponential_transition(size, self.rho)
        transition = power_transition if self.kind == "power" else linear_transition
        return transition(size, eps, self.rho)

    def __call__(self, y: Tensor, n_classes: int, delta: Tensor | None) -> Tensor:
        return y if delta is None else calibrated_target(y, self.one_hot_weight(delta), n_classes)

    def __str__(self) -> str:
        return f"{self.kind} transition to uniform (rho {self.rho:g}, {self.norm})"


class Bhattacharyya(Criterion):
    """The Bhattacharyya divergence between prediction and target, the alternative in the authors' code."""

    name = "bhattacharyya"
    takes_distributions = True
    adversaries = (other_confidence, ce)

    def __call__(self, out: Outputs, target: Tensor) -> Tensor:
        if target.ndim == 1:
            target = F.one_hot(target, out.logits.shape[1]).to(out.logits.dtype)
        return bhattacharyya(out.logits, target)


class CCAT(Ingredient):
    """Confidence-calibrated adversarial training (Stutz, Hein, Schiele, ICML 2020).

    The first clean_fraction of a batch stays clean; of the others, PGD-Conf makes examples with the
    highest confidence in a wrong class, whose targets fade from one-hot to uniform with the size of
    the perturbation. One pass over all rows. At test time, inputs of low confidence are rejected;
    without that rejection the network is NOT robust.
    """

    name = "ccat"
    adaptive = (
        ("pgd_conf", {"every_class": True}),
        ("apgd", {"objective": "detector"}),
        ("square", {"objective": "detector"}),
    )
    paper = Paper(
        "Confidence-Calibrated Adversarial Training: Generalizing to Unseen Attacks",
        "Stutz, Hein, Schiele",
        "ICML",
        2020,
        "https://arxiv.org/abs/1910.06259",
    )

    norm: Annotated[NormName, Field(description="the paper trains in linf alone")] = "linf"
    eps: Annotated[Positive, Field(description="0.03 on CIFAR-10 and SVHN, 0.3 on MNIST")] = 0.03
    rho: Annotated[
        Positive | None,
        Field(description="sharpness, 12 in the article; when left out 10, the code's, and 3.6 / eps with exponential"),
    ] = None
    transition: Annotated[TransitionName, Field(description="linear is in the authors' code alone")] = "power"
    clean_fraction: Annotated[
        Number, Field(gt=0, lt=1, description="share of each batch left clean; without any, answers end up uniform")
    ] = 0.5
    steps: Count = 40
    base_lr: Annotated[
        Positive | None,
        Field(
            description="first step size in clip-value units, 0.01 on MNIST; when left out 0.005 of the pixel range, "
            "as on CIFAR-10, or 2.5 eps / steps where steps of that do not cross the ball"
        ),
    ] = None
    lr_factor: Annotated[Number, Field(gt=1, description="what a step that does not pay is divided by")] = 1.5
    momentum: Annotated[Number, Field(ge=0, lt=1, description="dampened: g <- mu g + (1 - mu) G")] = 0.9
    start: Annotated[
        StartName, Field(description="normal, uniform norm or zero (code); uniform norm or zero (paper)")
    ] = "three_per_batch"
    loss: Annotated[Literal["cross_entropy", "bhattacharyya"], Field(description="between prediction and target")] = (
        "cross_entropy"
    )

    @property
    def sharpness(self) -> float:
        """rho, or what it is when left out."""
        return self.rho or (EXPONENTIAL_RHO / self.eps if self.transition == "exponential" else RHO)

    def apply(self, plan: Plan) -> Plan:
        ball = norm_named(self.norm, self.eps)
        size = self.base_lr or first_step(ball, plan.facts.clip, self.steps, BASE_LR)
        if self.steps * size < self.eps:
            plan = plan.remark(lambda epochs: self._short(size))
        attack = BacktrackingPGD(
            ball,
            self.steps,
            size,
            objective=other_confidence,
            start=STARTS[self.start],
            momentum=self.momentum,
            clip=plan.facts.clip,
            lr_factor=self.lr_factor,
        )
        if self.loss == "bhattacharyya":
            plan = plan.fill(self, criterion=Bhattacharyya())
        return plan.fill(
            self,
            attack=attack,
            risk=Mixed(self.clean_fraction),
            target=Transition(ball, self.sharpness, self.transition),
            detectors=(Confidence(),),
            selection=thresholded_worst_case,
        )

    def _short(self, size: float) -> str:
        return (
            f"ccat: {self.steps} steps of {size:g} do not cross the ball of eps {self.eps:g}, so many examples stay "
            f"nearly clean, and so do their targets; leave ccat.base_lr out, or set it to {self.eps / self.steps:g} or "
            "more"
        )
