"""The ingredient: training towards the reverse label, and a network that answers in reversed logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from art_ext.api import (
    ConfigError,
    Criterion,
    Detector,
    Facts,
    Ingredient,
    MethodHead,
    Outputs,
    Paper,
    Plan,
    Positive,
    at_least_float32,
    find_head,
    method_head,
    put,
    thresholded_worst_case,
)
from art_ext_rce.detectors import MAKERS, RCE_SIGMA2, DetectorNames, KDensity, PerClass, Sigma2
from art_ext_rce.formulas import rce_loss


class Negate(MethodHead):
    """A head with its sign turned, so that whoever uses the network sees the reversed logits -Z."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features)
        return -logits


def is_negated(model: nn.Module) -> bool:
    """Whether the network answers in reversed logits already."""
    return any(isinstance(module, Negate) for module in model.modules())


def negate_head(model: nn.Module, facts: Facts) -> nn.Module:
    """Puts the network's head into `Negate`, once.

    Raises:
        ModelError: for a network with another method's head.
    """
    if method_head(model, Negate) is None:
        path, head = find_head(model, facts)
        put(model, path, Negate(head))
    return model


@dataclass(frozen=True)
class RCELoss(Criterion):
    """Reverse cross-entropy, on the reversed logits that the network gives; they are turned back here.

    `train_temperature` multiplies Z in training alone. It needs one true class: a smoothed or
    mixed target would turn the sign convention over.
    """

    train_temperature: float = 1.0
    name = "rce"

    def __call__(self, out: Outputs, target: Tensor) -> Tensor:
        return rce_loss(-self.train_temperature * at_least_float32(out.logits), target)

    def __str__(self) -> str:
        return "RCE" if self.train_temperature == 1 else f"RCE(temperature {self.train_temperature:g})"


class RCE(Ingredient):
    """Reverse cross-entropy training with threshold detection (Pang, Du, Dong, Zhu, NeurIPS 2018).

    All wrong classes are made equally unlikely, which spreads the features into thin sets that a
    detector can fence in. It does not make the classification robust.
    """

    name = "rce"
    adaptive = ("evade_detectors",)
    paper = Paper(
        "Towards Robust Detection of Adversarial Examples",
        "Pang, Du, Dong, Zhu",
        "NeurIPS",
        2018,
        "https://arxiv.org/abs/1706.00633",
    )

    train_temperature: Annotated[
        Positive, Field(description="of the logits in training; the author suggests 100 for 200 classes, untried")
    ] = 1.0
    detectors: DetectorNames = ("confidence", "non_me", "k_density")
    sigma2: Sigma2 = RCE_SIGMA2
    per_class: PerClass = 1000

    def apply(self, plan: Plan) -> Plan:
        if plan.facts.n_classes < 2:
            raise ConfigError(f"rce needs two classes or more, got {plan.facts.n_classes}")
        detectors = tuple(self._detector(name) for name in self.detectors)
        plan = plan.reshape(self, negate_head)
        plan = plan.default(self, selection=thresholded_worst_case)
        return plan.fill(self, criterion=RCELoss(self.train_temperature), detectors=detectors)

    def cannot_continue(self, model: nn.Module) -> str:
        if is_negated(model):
            return ""
        return "its highest logit names the true class, which RCE trains to have the lowest"

    def _detector(self, name: str) -> Detector:
        return KDensity(self.sigma2, self.per_class) if name == "k_density" else MAKERS[name]()
