"""The ingredient: a criterion that replaces cross-entropy after a warm-up with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from art_ext.api import (
    ConfigError,
    Criterion,
    CrossEntropy,
    Ingredient,
    NonNegative,
    Number,
    Objective,
    Outputs,
    Paper,
    Plan,
    cw,
    margin,
)
from art_ext_pc_lc.losses import logit_constraint, pc_loss, probabilities

Reduction = Literal["mean", "sum"]


def pc_term(xi: float) -> Objective:
    """The PC term as an attack's objective: it rises until every false class is a margin above the true one."""

    def measure(out: Outputs, y: Tensor) -> Tensor:
        return pc_loss(out.logits, y, xi)

    return Objective("pc_term", measure)


probability_margin = Objective("probability_margin", lambda out, y: margin(probabilities(out.logits), y))
"""max_{j != y} p_j - p_y, the margin that PC makes wide."""


@dataclass(frozen=True)
class PCLCLoss(Criterion):
    """PC / (K - 1) + lam LC per example, as the authors' code scales it; reduction "sum" is eq. (6)'s PC.

    Its informed adversaries raise the logit margin, the PC term, which saturates where p_y does, the
    margin of the probabilities, and, last, the training loss: the gradient of LC pushes the true logit
    up once the true class is safe.
    """

    xi: float = 0.995
    lam: float = 0.05
    reduction: Reduction = "mean"
    hard: bool = False
    name = "pc_lc"

    @property
    def adversaries(self) -> tuple[Objective, ...]:  # type: ignore[override]
        return (cw, pc_term(self.xi), probability_margin, Objective("pc_lc_loss", self.__call__))

    def __call__(self, out: Outputs, target: Tensor) -> Tensor:
        pc = pc_loss(out.logits, target, self.xi)
        if self.reduction == "mean":
            pc = pc / (out.logits.shape[1] - 1)
        return pc + self.lam * logit_constraint(out.logits, target, hard=self.hard)

    def __str__(self) -> str:
        return f"PC-LC(xi {self.xi:g}, lam {self.lam:g}, {'hard' if self.hard else 'soft'} logits, {self.reduction})"


class PCLC(Ingredient):
    """Probabilistically compact loss with logit constraints (Li, Li, Pan, Zhu, AAAI 2021).

    Trains `warmup_epochs` with cross-entropy, then with PC + lam LC under a fresh optimizer and
    schedule. Without the warm-up the PC gradient dies where p_y is near 0.
    """

    name = "pc_lc"
    adaptive = (
        ("pgd", {"objective": "margin", "steps": 100, "restarts": 5}),
        ("pgd", {"objective": "probability_margin", "steps": 100, "restarts": 5}),
        ("apgd", {"objective": "dlr", "restarts": 5}),
        ("apgd", {"objective": "targeted_dlr"}),
        ("spsa", {"objective": "margin", "steps": 50, "samples": 16}),
    )
    trial: ClassVar[Mapping[str, Any]] = {"warmup_epochs": 0}
    paper = Paper(
        "Improving Adversarial Robustness via Probabilistically Compact Loss with Logit Constraints",
        "Li, Li, Pan, Zhu",
        "AAAI",
        2021,
        "https://arxiv.org/abs/2012.07688",
    )

    xi: Annotated[Number, Field(gt=0, le=1, description="probability margin; 0.995 in the experiments")] = 0.995
    lam: NonNegative = 0.05
    warmup_epochs: Annotated[int, Field(ge=0, strict=True, description="of cross-entropy; 50 on grey images")] = 150
    reduction: Annotated[Reduction, Field(description="PC over false classes: the mean, or eq. (6)'s sum")] = "mean"
    hard: Annotated[bool, Field(description="LC on the most probable false class alone, eq. (16)")] = False

    def apply(self, plan: Plan) -> Plan:
        if plan.facts.n_classes < 2:
            raise ConfigError(f"pc_lc needs two classes or more, got {plan.facts.n_classes}")
        loss = PCLCLoss(self.xi, self.lam, self.reduction, self.hard)
        plan = plan.fill(self, criterion=loss)
        return plan.phase(self, self.warmup_epochs, reset_optimizer=True, criterion=CrossEntropy())
