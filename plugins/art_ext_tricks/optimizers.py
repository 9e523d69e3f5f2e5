"""The optimizer: which one, weight decay with or without vectors, and centralised gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.optim import Optimizer

from art_ext.api import Ingredient, NonNegative, Plan, Positive, Problem
from art_ext_tricks.formulas import PAPER, centralised

Decayed = Literal["all", "kernels", "conv"]
"""What decays: every parameter; those of two axes and more, kernels of convolutions and dense layers; convolutions'."""
FROM_AXES: dict[Decayed, int] = {"all": 0, "kernels": 2, "conv": 3}


def has_decay(parameter: nn.Parameter, on: Decayed) -> bool:
    """Whether a parameter decays, by its axes: biases and the vectors of normalisation layers have one.

    Names do not tell: the authors' rule, which looks for "bn" and "bias", decays the norms of shortcuts.
    """
    return parameter.ndim >= FROM_AXES[on]


@dataclass(frozen=True)
class Spare:
    """Takes weight decay off all parameters but those that it is on; they go into groups of their own.

    These follow the groups they came from in all else, whatever sets a learning rate. Afterwards the
    groups are as they were.
    """

    on: Decayed

    def __call__(self, optimizer: Optimizer, net: nn.Module) -> Callable[[], None]:
        if self.on == "all":
            return lambda: None
        groups = optimizer.param_groups
        whole = [list(group["params"]) for group in groups]
        for group, parameters in zip(list(groups), whole, strict=True):
            group["params"] = [p for p in parameters if has_decay(p, self.on)]
            spared = [p for p in parameters if not has_decay(p, self.on)]
            groups.append({**group, "params": spared, "weight_decay": 0.0})

        def follow(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            now = optimizer.param_groups  # new dictionaries after load_state_dict
            for group, twin in zip(now[: len(whole)], now[len(whole) :], strict=True):
                twin.update({key: group[key] for key in group if key not in ("params", "weight_decay")})

        handle = optimizer.register_step_pre_hook(follow)

        def undo() -> None:
            handle.remove()
            del optimizer.param_groups[len(whole) :]
            for group, parameters in zip(optimizer.param_groups, whole, strict=True):
                group["params"] = parameters

        return undo

    def __str__(self) -> str:
        return f"weight decay on {self.on}"


def decay_on(plan: Plan, by: Ingredient, on: Decayed) -> Plan:
    """Adds `Spare`, once; another ingredient that decays something else is a problem that names both."""
    for owner, change in plan.arrangements:
        if isinstance(change, Spare):
            said = f"{owner} has weight decay on {change.on} and {by.name} on {on}; remove one of them"
            return plan if change.on == on else plan.object_to(Problem(said, (owner, by.name)))
    return plan.arrange(by, Spare(on))


@dataclass(frozen=True)
class Centralise:
    """Before each step: weight decay into the gradient, then the mean out of it; then the optimizer's own rule.

    AdamW's decay is no part of the gradient, and stays apart.
    """

    min_axes: int

    def __call__(self, optimizer: Optimizer, net: nn.Module) -> Callable[[], None]:
        kept: list[float] = []

        @torch.no_grad()
        def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            scale = getattr(optimizer, "grad_scale", None)  # of half precision, where a fused step takes it out
            kept.clear()
            for group in optimizer.param_groups:
                kept.append(group.get("weight_decay", 0.0))
                decay = 0.0 if group.get("decoupled_weight_decay") else kept[-1]
                for parameter in group["params"]:
                    if parameter.grad is None:
                        continue
                    if decay:
                        parameter.grad.add_(parameter * (decay if scale is None else decay * scale))
                    parameter.grad.copy_(centralised(parameter.grad, self.min_axes))
                if decay:
                    group["weight_decay"] = 0.0

        def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            for group, decay in zip(optimizer.param_groups, kept, strict=True):
                if "weight_decay" in group:
                    group["weight_decay"] = decay

        handles = (optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after))

        def undo() -> None:
            for handle in handles:
                handle.remove()

        return undo

    def __str__(self) -> str:
        return f"gradients centralised from {self.min_axes} axes on"


class WeightDecay(Ingredient):
    """Weight decay: the detail that changes robust accuracy most, more than many published methods do.

    On all parameters, as the published numbers have it; or on kernels, as other papers' code has it.
    """

    name = "weight_decay"
    trial: ClassVar[Mapping[str, object]] = {"value": 0.01}
    paper = PAPER

    value: Annotated[NonNegative, Field(description="5e-5 with elu, celu, selu and tanh")] = 5e-4
    on: Annotated[
        Decayed, Field(description="all; kernels: of convolutions and dense layers; conv: of convolutions alone")
    ] = "all"

    def apply(self, plan: Plan) -> Plan:
        return decay_on(plan.tune(self, weight_decay=self.value), self, self.on)


Kind = Literal["sgd", "nesterov", "adam", "adamw", "gc", "gcc"]
AXES: dict[Kind, int] = {"gc": 2, "gcc": 4}


class OptimizerChoice(Ingredient):
    """The optimizer, as the paper compares them: SGD beats Adam by points; GC and GCC equal SGD.

    gc and gcc are SGD whose gradients are centralised, on all weights or on convolutions alone. A
    recipe's own `train.optimizer` wins; an ART classifier's optimizer must be of the kind, and keeps
    its learning rate.
    """

    name = "optimizer"
    trial: ClassVar[Mapping[str, object]] = {"momentum": 0.5}
    paper = PAPER

    kind: Kind = "sgd"
    lr: Annotated[Positive | None, Field(description="0.1 when left out; 1e-4 for adam and adamw")] = None
    momentum: Annotated[NonNegative, Field(lt=1, description="of all but adam and adamw")] = 0.9

    @model_validator(mode="after")
    def _no_idle_momentum(self) -> Self:
        if self.kind in ("adam", "adamw") and self.changed("momentum"):
            raise ValueError(f"momentum has no effect on {self.kind}; leave it out, or set kind to sgd or nesterov")
        if self.kind == "nesterov" and not self.momentum:
            raise ValueError("nesterov without momentum is plain sgd; set momentum above 0, or kind to sgd")
        return self

    def apply(self, plan: Plan) -> Plan:
        if self.kind in ("adam", "adamw"):
            return plan.tune(self, optimizer={self.kind: {"lr": self.lr or 1e-4, "weight_decay": 5e-4}})
        options = {"lr": self.lr or 0.1, "momentum": self.momentum, "weight_decay": 5e-4}
        plan = plan.tune(self, optimizer={"sgd": {**options, "nesterov": self.kind == "nesterov"}})
        return plan.arrange(self, Centralise(AXES[self.kind])) if self.kind in AXES else plan
