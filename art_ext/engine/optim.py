"""Optimizers by name, and learning-rate schedules as pure functions of progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from art_ext.errors import ConfigError, unknown

Schedule = Callable[[float, float], float]
"""(epochs done, epochs in all) of the present phase, both real numbers, to a factor of the base rate."""

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
FUSED = ("sgd", "adam", "adamw", "adagrad")


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """An optimizer that recipes call `name`, fused where torch can.

    Raises:
        ConfigError: on an unknown name or an option that the optimizer does not take.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(unknown("optimizer", name, OPTIMIZERS))
    settings = {"fused": True, **options} if name in FUSED else dict(options)
    try:
        return OPTIMIZERS[name](parameters, **settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer {name}: {error}") from None


def constant() -> Schedule:
    """The base rate throughout."""
    return lambda epoch, epochs: 1.0


def steps(milestones: Iterable[float], factor: float = 0.1, factors: Sequence[float] = ()) -> Schedule:
    """The rate is multiplied by `factor` at each milestone, given in epochs; or by that one of `factors`.

    Raises:
        ConfigError: for another number of factors than of milestones.
    """
    borders = list(milestones)
    if not factors:
        return lambda epoch, epochs: factor ** sum(epoch >= border for border in borders)
    if len(factors) != len(borders):
        raise ConfigError(f"steps: {len(borders)} milestones take as many factors, got {len(factors)}")
    drops = list(zip(borders, factors, strict=True))
    return lambda epoch, epochs: math.prod(drop for border, drop in drops if epoch >= border)


def exponential(factor: float = 0.95, every: float = 1.0) -> Schedule:
    """The rate is multiplied by `factor` each time that `every` epochs are over.

    Raises:
        ConfigError: unless `every` is above 0.
    """
    if every <= 0:
        raise ConfigError(f"exponential: every is a number of epochs above 0, got {every:g}")
    return lambda epoch, epochs: factor ** math.floor(epoch / every + 1e-9)  # 0.3 / 0.1 is less than 3


def cosine(warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """A linear rise over `warmup` epochs, then half a cosine down to `final`."""

    def at(epoch: float, epochs: float) -> float:
        if epoch < warmup:
            return (epoch + 1e-3) / warmup
        share = (epoch - warmup) / max(epochs - warmup, 1e-9)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    return at


def one_cycle(peak_at: float = 0.3, start: float = 0.04, final: float = 4e-6) -> Schedule:
    """Cosine from `start` up to 1 at `peak_at` of the epochs, then cosine down to `final` (Smith, 2018)."""

    def at(epoch: float, epochs: float) -> float:
        share = min(epoch / epochs, 1.0)
        low, high, part = (start, 1.0, share / peak_at) if share < peak_at else (
            final, 1.0, 1 - (share - peak_at) / (1 - peak_at))
        return low + (high - low) * 0.5 * (1 - math.cos(math.pi * part))

    return at


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "steps": steps,
    "exponential": exponential,
    "cosine": cosine,
    "one_cycle": one_cycle,
}


def make_schedule(name: str, options: Mapping[str, Any]) -> Schedule:
    """The schedule that recipes call `name`.

    Raises:
        ConfigError: on an unknown name or option.
    """
    if name not in SCHEDULES:
        raise ConfigError(unknown("schedule", name, SCHEDULES))
    try:
        return SCHEDULES[name](**options)
    except TypeError as error:
        raise ConfigError(f"schedule {name}: {error}") from None


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's rate becomes its base rate times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def remember_rates(optimizer: torch.optim.Optimizer) -> None:
    """Each group's present rate becomes its base rate."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])


def begin_late(optimizer: torch.optim.Optimizer, *, may_skip: bool = False) -> None:
    """Gives parameters whose first gradient comes after those of others a momentum of zero, so that they join in.

    torch's fused SGD takes the momentum of all parameters or of none. Where a step may be skipped, for gradients that
    overflow in half precision, all begin so: of a skipped first step it would keep a momentum that nobody wrote.
    """
    for group in optimizer.param_groups:
        if not (group.get("fused") and group.get("momentum")):
            continue
        going = [parameter for parameter in group["params"] if parameter.grad is not None]
        new = [parameter for parameter in going if optimizer.state.get(parameter, {}).get("momentum_buffer") is None]
        if may_skip or len(new) < len(going):
            for parameter in new:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


@contextmanager
def paced(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """While it holds, every group's rate is `factor` times what it was."""
    if factor == 1:
        yield
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


@contextmanager
def tuned(optimizer: torch.optim.Optimizer, settings: Mapping[str, tuple[str, Any]]) -> Iterator[None]:
    """While it holds, every group has the options that a plan's settings name; its learning rate stays.

    Settings that the groups do not have, such as the number of epochs, are those of whoever trains.
    """
    wanted = {key: value for key, (_, value) in settings.items()}
    for options in wanted.pop("optimizer", {}).values():
        wanted = {**options, **wanted}
    wanted.pop("lr", None)
    kept = [{key: group[key] for key in wanted if key in group} for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group.update({key: value for key, value in wanted.items() if key in group})
    try:
        yield
    finally:
        for group, options in zip(optimizer.param_groups, kept, strict=True):
            group.update(options)


def follow_surgery(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Edits an optimizer's groups after a network was reshaped.

    Parameters that are gone leave, with their state; new ones join the group of what they replaced.
    """
    present = {id(parameter): parameter for parameter in model.parameters()}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    new = [parameter for key, parameter in present.items() if key not in held]
    if not new:
        return
    home = optimizer.param_groups[-1]
    for group in optimizer.param_groups:
        gone = [parameter for parameter in group["params"] if id(parameter) not in present]
        if gone:
            home = group
        for parameter in gone:
            optimizer.state.pop(parameter, None)
        group["params"] = [parameter for parameter in group["params"] if id(parameter) in present]
    home["params"].extend(new)
