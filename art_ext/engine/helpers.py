"""Networks that train beside the classifier: where their weights and their optimizers come from."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from art_ext.engine.optim import remember_rates, set_rates
from art_ext.errors import ModelError

if TYPE_CHECKING:
    from art_ext.engine.run import Run
    from art_ext.plan import Helper


class Aide:
    """A helper of a plan at work: its module, placed and with weights, and its optimizer.

    Attributes:
        module: the plan's own module; attacks and pictures use it.
        wrapped, optimizer: what trains it, under any precision and number of processes.
        raw_optimizer: whose rates a schedule sets.
    """

    def __init__(self, helper: Helper, run: Run, main: torch.optim.Optimizer) -> None:
        self.module = helper.module
        draw_weights(self.module, run.seed)
        make = helper.optimizer
        parameters = self.module.parameters()
        self.raw_optimizer = alike(main, parameters) if make is None else make(parameters)
        remember_rates(self.raw_optimizer)
        self.wrapped: Any
        self.optimizer: Any
        self.wrapped, self.optimizer = run.fabric.setup(self.module, self.raw_optimizer)

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "optimizer": self.raw_optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.raw_optimizer.load_state_dict(state["optimizer"])


def draw_weights(module: nn.Module, seed: int) -> None:
    """Gives a module on the meta device memory and first weights, which depend on the seed alone.

    Each layer draws its own by `reset_parameters`, inner layers first. A module that has weights
    keeps them. torch's global generator stays as it was.
    """
    if not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        return
    module.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not those of other devices: weights are drawn here
        for part in reversed(list(module.modules())):
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()


def follow_rates(main: torch.optim.Optimizer, others: Iterable[torch.optim.Optimizer]) -> None:
    """Each of the others has the share of its base rates that the main one has now, whoever set that."""
    for other in others:
        base, now = main.param_groups[0]["initial_lr"], main.param_groups[0]["lr"]
        set_rates(other, now / base if base else 0.0)


def alike(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimizer of the same kind, with the options of the other's largest group, at its base rate.

    Raises:
        ModelError: where the kind of optimizer cannot be built from its options.
    """
    group = max(optimizer.param_groups, key=lambda group: sum(p.numel() for p in group["params"]))
    known = inspect.signature(type(optimizer)).parameters
    options = {name: value for name, value in group.items() if name in known and name != "params"}
    if "lr" in options:
        options["lr"] = group.get("initial_lr", group["lr"])
    try:
        return type(optimizer)(parameters, **options)
    except TypeError as error:
        raise ModelError(
            f"the helper network needs an optimizer like the classifier's, but a second {type(optimizer).__name__} "
            f"cannot be built from the options of the first ({error}); use one of torch's own, such as SGD"
        ) from error
