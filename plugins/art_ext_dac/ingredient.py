"""The ingredient: a half step to less adversarial certainty before each robust step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from art_ext.api import (
    ConfigError,
    Criterion,
    Ingredient,
    NonNegative,
    Paper,
    Plan,
    Progress,
    Risk,
    Rows,
    Step,
    Terms,
    Update,
    Views,
)
from art_ext_dac.certainty import certainty_std, certainty_variance


def log_certainty(step: Step, logits: Tensor) -> None:
    """Logs both forms of the mean adversarial certainty: "loss/certainty_variance" and "loss/certainty_std"."""
    for name, form in (("variance", certainty_variance), ("std", certainty_std)):
        step.log(f"loss/certainty_{name}", form(logits.detach()).mean(), len(step.x))


class HalfStep:
    """Two steps a batch: the weights move to less certainty, and the update inside starts from there.

    1. x'_1 = A(x; theta).
    2. theta_half: one step on the mean certainty of x'_1. Form "code": s times the standard deviation
       through the shared optimizer, so that rate, momentum and weight decay act on it. Form "paper":
       plain gradient descent on the variance with lambda = s lr.
    3. The update inside, which attacks anew, with other noise, at theta_half.
    """

    recrafts = True
    updates = 1

    def __init__(self, then: Update, stepsize: float, form: Literal["code", "paper"]) -> None:
        self.then, self.stepsize, self.form = then, stepsize, form

    def __call__(self, step: Step) -> None:
        logits = step.forward(step.craft().x).logits
        log_certainty(step, logits)
        if self.form == "code":
            certainty = self.stepsize * certainty_std(logits).mean()
            step.run.watch_finite({"certainty": certainty})
            step.descend(certainty)
        else:
            certainty = certainty_variance(logits).mean()
            step.run.watch_finite({"certainty": certainty})
            step.descend_plainly(certainty, self.stepsize)
        self.then(step)

    def __str__(self) -> str:
        return f"DAC half step({self.form}, stepsize {self.stepsize:g})"


class Watch:
    """Measures adversarial certainty before each step, in eval mode, and leaves the update as it is.

    It needs the batch's adversarial rows; without, what is measured each epoch on held-out images remains.
    """

    reads_weights = True

    def __init__(self, then: Update) -> None:
        self.then = then

    def __call__(self, step: Step) -> None:
        adv = step.craft()
        with step.run.crafting(step.net, "eval", adv.x) as net, torch.no_grad():
            log_certainty(step, net(adv.x).logits)
        self.then(step)

    def __str__(self) -> str:
        return "watch adversarial certainty"


@dataclass(frozen=True)
class Regularized(Risk):
    """Another risk plus weight times the mean standard deviation of the adversarial logits: one step a batch."""

    risk: Risk
    weight: float

    @property
    def joint(self) -> bool:  # type: ignore[override]
        return self.risk.joint

    @property
    def compares_outputs(self) -> bool:  # type: ignore[override]
        return self.risk.compares_outputs

    @property
    def uses_criterion(self) -> bool:  # type: ignore[override]
        return self.risk.uses_criterion

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.risk.needs

    def rows(self, n: int) -> Rows:
        return self.risk.rows(n)

    def at(self, progress: Progress) -> Regularized:
        inner = self.risk.at(progress) if hasattr(self.risk, "at") else self.risk
        return replace(self, risk=inner)

    def __call__(self, views: Views, criterion: Criterion) -> Terms:
        terms = dict(self.risk(views, criterion))
        if views.adv is not None:
            terms["certainty"] = self.weight * certainty_std(views.adv.out.logits).mean()
        return terms

    def __str__(self) -> str:
        return f"{self.risk} + {self.weight:g} certainty"


class DAC(Ingredient):
    """Decrease adversarial certainty: a half step to less spread logits, then the robust step (Zhang et al., 2023).

    Goes around the update of pgd_at, trades, mart and others that train on adversarial rows. Two
    attacks and two steps a batch: twice the cost of the method inside. A fair control gives that
    method two robust steps a batch.
    """

    name = "dac"
    adaptive = (("pgd", {"objective": "margin", "steps": 100, "restarts": 5}),)
    paper = Paper(
        "Generating Less Certain Adversarial Examples Improves Robust Generalization",
        "Zhang, Backes, Zhang",
        "arXiv",
        2023,
        "https://arxiv.org/abs/2310.04539",
    )

    stepsize: Annotated[
        NonNegative, Field(description="s: 0.3 around pgd_at and mart, 0.1 around trades; half step of lr s")
    ] = 0.3
    form: Annotated[
        Literal["code", "paper", "regularizer", "watch"],
        Field(
            description="code: std through the optimizer; paper: variance in a plain step beside it; "
            "regularizer (experimental): one step on loss + s std; watch: only measured, in any run"
        ),
    ] = "code"

    @model_validator(mode="after")
    def _no_idle_stepsize(self) -> Self:
        if self.form == "watch" and self.changed("stepsize"):
            raise ValueError("stepsize has no effect in form watch; leave it out, or set form to code")
        return self

    def apply(self, plan: Plan) -> Plan:
        plan = plan.measure(
            self,
            certainty_variance=lambda out: certainty_variance(out.logits),
            certainty_std=lambda out: certainty_std(out.logits),
        )
        if self.form == "regularizer":
            return plan.alter(self, "risk", self._regularize)
        if self.form == "watch":
            return plan.wrap(self, Watch, needs=("adversarial rows",), optional=True)
        form = self.form
        return plan.wrap(self, lambda then: HalfStep(then, self.stepsize, form), needs=("adversarial rows",))

    def _regularize(self, risk: Any) -> Risk:
        if not risk.needs_adversarial:
            raise ConfigError(
                f"dac needs adversarial examples, but it trains on {risk}; add an ingredient that trains on an attack"
            )
        return Regularized(risk, self.stepsize)
