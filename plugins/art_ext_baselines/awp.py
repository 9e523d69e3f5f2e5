"""AWP: adversarial weight perturbation (Wu, Xia, Wang, NeurIPS 2020)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from art_ext.api import Ingredient, ModelError, NonNegative, Paper, Plan, Positive, Step, Update


def weight_perturbation(weight: Tensor, gradient: Tensor, gamma: float, proxy_lr: float = 0.01) -> Tensor:
    """gamma ||w|| / (||w_p - w|| + 1e-20) (w_p - w) of one weight tensor, with w_p - w = proxy_lr gradient.

    The authors' `AdvWeightPerturb` after one ascent step of a proxy, whose rate cancels. A weight or gradient of zeros
    gives zeros.
    """
    ascent = proxy_lr * gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    scale: Tensor = weight.to(ascent.dtype).norm() / (ascent.norm() + 1e-20)
    return (gamma * scale * ascent).to(weight.dtype)


def perturbed_weights(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that AWP moves: trained, with "weight" in their own name, and more than one dimension.

    Biases and the vectors of normalisation layers stay. Names of the modules around a parameter do
    not count, so a wrapper's prefix changes nothing; a weight that torch parametrises (spectral or
    weight normalisation) counts by the name that it has there.
    """
    return [
        parameter
        for name, parameter in net.named_parameters()
        if "weight" in _own_name(name) and parameter.ndim > 1 and parameter.requires_grad
    ]


def _own_name(name: str) -> str:
    """Of "conv.weight" and of "conv.parametrizations.weight.original0": weight."""
    *modules, last = name.split(".")
    return modules[-1] if "parametrizations" in modules[-2:-1] else last


class Perturb:
    """Takes the step inside at adversarially perturbed weights.

    1. x' from the attack, at w.
    2. One ascent on the risk of that x', in train mode on statistics that are put back: the proxy.
    3. Every weight tensor moves by `weight_perturbation`; the update inside runs there, on the same x'.
    4. The same is subtracted, also when the update failed.
    """

    holds_craft = True
    moves_weights = True

    def __init__(self, then: Update, gamma: float, warmup_epochs: int, proxy_lr: float) -> None:
        self.then, self.gamma, self.warmup_epochs, self.proxy_lr = then, gamma, warmup_epochs, proxy_lr

    def __call__(self, step: Step) -> None:
        if step.run.epoch < self.warmup_epochs:
            self.then(step)
            return
        weights = perturbed_weights(step.net)
        if not weights:
            raise ModelError("awp finds no weight of two or more dimensions to perturb; remove it, or unfreeze a layer")
        adv = step.craft()
        with step.aside():
            gradients = dict(step.gradients(step.risk(adv)))
        with torch.no_grad():
            moves = [
                (w, weight_perturbation(w, gradients[w], self.gamma, self.proxy_lr)) for w in weights if w in gradients
            ]
        with step.moved(moves):
            self.then(step)

    def __str__(self) -> str:
        after = f" after epoch {self.warmup_epochs}" if self.warmup_epochs else ""
        return f"AWP(gamma {self.gamma:g}{after})"


class AWP(Ingredient):
    """Adversarial weight perturbation: descends at weights that were moved to raise the robust loss.

    Goes around the update of pgd_at, trades, mart and others that train on adversarial rows.
    Weight decay and momentum act on the perturbed weights, as in the authors' code.
    """

    name = "awp"
    paper = Paper(
        "Adversarial Weight Perturbation Helps Robust Generalization",
        "Wu, Xia, Wang",
        "NeurIPS",
        2020,
        "https://arxiv.org/abs/2004.05884",
    )

    gamma: Annotated[NonNegative, Field(description="size beside each weight's norm; 0.005 around trades")] = 0.01
    warmup_epochs: Annotated[
        int, Field(ge=0, strict=True, description="epochs without it: 0; 9 around trades, whose code counts 10 from 1")
    ] = 0
    proxy_lr: Annotated[Positive, Field(description="rate of the proxy's one step; cancels in the perturbation")] = 0.01

    def apply(self, plan: Plan) -> Plan:
        return plan.wrap(
            self,
            lambda then: Perturb(then, self.gamma, self.warmup_epochs, self.proxy_lr),
            needs=("adversarial rows",),
        )
