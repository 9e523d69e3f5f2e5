"""Other activations in the place of ReLU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from art_ext.api import ConfigError, Facts, Ingredient, ModelError, Plan, Positive, Problem, frozen, probe, put
from art_ext_tricks.formulas import PAPER

Name = Literal["leaky_relu", "elu", "celu", "selu", "gelu", "silu", "softplus", "tanh"]

KINDS: dict[Name, type[nn.Module]] = {
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
PARAMETERS: dict[Name, tuple[str, float]] = {
    "leaky_relu": ("negative_slope", 0.1),
    "elu": ("alpha", 1.0),
    "celu": ("alpha", 1.2),
    "softplus": ("beta", 1.0),
}
"""What an activation's one parameter is called, and its value in the authors' code."""

SWAPPED = {
    *("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "ELU", "CELU", "SELU", "Softplus"),
    *("GELU", "GELUTanh", "GeluTanh", "QuickGELU", "SiLU", "Swish", "Mish", "Hardswish", "HardSwish"),
}
"""Names of the classes that are replaced, torch's and timm's; tanh and sigmoid may be gates, and stay."""

FUNCTIONS: dict[Callable[..., Any], str] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), "ReLU"),
    F.relu6: "ReLU6",
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_), "LeakyReLU"),
    **dict.fromkeys((F.prelu, torch.prelu, Tensor.prelu), "PReLU"),
    **dict.fromkeys((F.rrelu, F.rrelu_, torch.rrelu, torch.rrelu_), "RReLU"),
    **dict.fromkeys((F.elu, F.elu_), "ELU"),
    **dict.fromkeys((F.celu, F.celu_, torch.celu, torch.celu_), "CELU"),
    **dict.fromkeys((F.selu, F.selu_, torch.selu, torch.selu_), "SELU"),
    F.gelu: "GELU",
    F.silu: "SiLU",
    F.mish: "Mish",
    F.hardswish: "Hardswish",
    F.softplus: "Softplus",
}
"""Activations as functions, which cannot be swapped, and the class of the module that each stands for."""


class _Calls(TorchFunctionMode):
    """Counts calls of activations as functions, but of one that is wanted, by the class of their module."""

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self.wanted, self.met = wanted, Counter[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = FUNCTIONS.get(func, self.wanted)
        self.met[name] += name != self.wanted
        return func(*args, **(kwargs or {}))


def _options(module: nn.Module) -> dict[str, Any]:
    """What tells two activations of one class apart."""
    return {n: v for n, v in vars(module).items() if not n.startswith("_") and n not in ("training", "inplace")}


@dataclass(frozen=True)
class SwapActivation:
    """Replaces every ReLU and its kin by another activation, in place; the very one that is there already stays."""

    to: Name
    parameter: float | None = None

    def __call__(self, model: nn.Module, facts: Facts) -> nn.Module:
        """Swaps.

        Raises:
            ModelError: for a network that has no activation to swap, or calls one as a function; it stays as it was.
        """
        kind, wanted, found = KINDS[self.to], _options(self.make()), False
        taken_out: list[tuple[str, nn.Module]] = []
        for path, module in list(model.named_modules(remove_duplicate=False)):
            if type(module) is kind and _options(module) == wanted:
                found = True
            elif type(module) is kind or type(module).__name__ in SWAPPED or isinstance(module, nn.ReLU):
                put(model, path, self.make())
                taken_out.append((path, module))
                found = True
        with frozen(model), torch.no_grad(), _Calls(kind.__name__) as calls:
            model(probe(model, facts))
        for name, times in (+calls.met).items():
            for path, module in taken_out:
                put(model, path, module)
            raise ModelError(
                f"{type(model).__name__} calls {name} as a function ({times} times a pass), which cannot be swapped; "
                f"write it with nn.{name} modules, or choose the activation where the network is built"
            )
        if not found:
            raise ModelError(f"{type(model).__name__} has no activation to become {self.to}; remove the ingredient")
        return model

    def make(self) -> nn.Module:
        """One activation."""
        if self.to not in PARAMETERS:
            return KINDS[self.to]()
        name, value = PARAMETERS[self.to]
        return KINDS[self.to](**{name: value if self.parameter is None else self.parameter})

    def __str__(self) -> str:
        return f"activations become {self.to}" + ("" if self.parameter is None else f"({self.parameter:g})")


def swapped(plan: Plan, by: Ingredient, to: Name, parameter: float | None) -> Plan:
    """Adds the surgery; a second one, of another ingredient, is a problem that names both."""
    for other, cut in plan.surgery:
        if isinstance(cut, SwapActivation):
            plan = plan.object_to(
                Problem(f"{other} and {by.name} both replace the activations; remove one of them", (other, by.name))
            )
    return plan.reshape(by, SwapActivation(to, parameter))


class Activation(Ingredient):
    """Another activation instead of ReLU. Smooth ones help small networks; with elu, celu, selu and tanh the
    paper takes weight decay down to 5e-5.

    Each is an ingredient of its own as well: `softplus: {}` is `activation: {to: softplus}`.
    """

    name = "activation"
    paper = PAPER
    adaptive = ("cw_margin",)

    to: Name = "softplus"
    parameter: Annotated[
        Positive | None,
        Field(description="slope of leaky_relu (0.1), alpha of elu (1) and celu (1.2), beta of softplus (1)"),
    ] = None

    def apply(self, plan: Plan) -> Plan:
        if self.parameter is not None and self.to not in PARAMETERS:
            raise ConfigError(f"activation.parameter has no meaning for {self.to}; leave it out")
        return swapped(plan, self, self.to, self.parameter)


class _Shortcut(Ingredient):
    paper = PAPER
    adaptive = ("cw_margin",)
    to: ClassVar[Name]

    def apply(self, plan: Plan) -> Plan:
        parameters = [getattr(self, name) for name in type(self).model_fields]
        return swapped(plan, self, self.to, parameters[0] if parameters else None)


class LeakyReLU(_Shortcut):
    """Leaky ReLU instead of ReLU (82.11 clean, 53.25 PGD-10; ReLU 82.52, 53.58)."""

    name = to = "leaky_relu"
    slope: Positive = 0.1


class ELU(_Shortcut):
    """ELU instead of ReLU; the paper takes weight decay down to 5e-5."""

    name = to = "elu"
    alpha: Positive = 1.0


class CELU(_Shortcut):
    """CELU instead of ReLU; the paper takes weight decay down to 5e-5."""

    name = to = "celu"
    alpha: Positive = 1.2


class SELU(_Shortcut):
    """SELU instead of ReLU; the paper takes weight decay down to 5e-5."""

    name = to = "selu"


class GELU(_Shortcut):
    """GELU instead of ReLU."""

    name = to = "gelu"


class SiLU(_Shortcut):
    """SiLU, also called Swish, instead of ReLU."""

    name = to = "silu"


class Softplus(_Shortcut):
    """Softplus instead of ReLU: log(1 + exp(beta x)) / beta, and x where beta x > 20."""

    name = to = "softplus"
    beta: Positive = 1.0


class Tanh(_Shortcut):
    """Tanh instead of ReLU; the paper takes weight decay down to 5e-5."""

    name = to = "tanh"


ACTIVATIONS: tuple[type[Ingredient], ...] = (Activation, LeakyReLU, ELU, CELU, SELU, GELU, SiLU, Softplus, Tanh)
