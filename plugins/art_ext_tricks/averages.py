"""Averages of the weights, which are what is judged and deployed: EMA and SWA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from art_ext.api import Ingredient, Number, Paper, Plan, Share, Step, Update
from art_ext_tricks.formulas import ema_decay


def averaged_tensors(net: nn.Module) -> list[Tensor]:
    """Weights, and the floating buffers: statistics of normalisation layers are averaged as weights are."""
    return [tensor for tensor in (*net.parameters(), *net.buffers()) if tensor.is_floating_point()]


class Average:
    """An update whose weights are averaged over time; inside, training goes on with the weights themselves.

    Attributes:
        mean: the average of each of `averaged_tensors`, or None before there is one.
        count: how many were averaged.
    """

    def __init__(self, then: Update) -> None:
        self.then = then
        self.mean: list[Tensor] | None = None
        self.count = 0

    def __call__(self, step: Step) -> None:
        raise NotImplementedError

    @torch.no_grad()
    def take(self, net: nn.Module, share: float) -> None:
        """Moves the average towards the present weights by a share; the first are taken as they are."""
        tensors = averaged_tensors(net)
        if self.mean is None:
            self.mean = [tensor.detach().clone() for tensor in tensors]
        else:
            torch._foreach_lerp_(self.mean, [tensor.detach() for tensor in tensors], share)
        self.count += 1

    @contextmanager
    def averaged(self, net: nn.Module) -> Iterator[None]:
        """While it holds, the net has the averages; then its own weights again, to the bit."""
        if self.mean is None:
            yield
            return
        tensors = averaged_tensors(net)
        own = [tensor.detach().clone() for tensor in tensors]
        _copy(tensors, self.mean)
        try:
            yield
        finally:
            _copy(tensors, own)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count, self.mean = state["count"], state["mean"]


@torch.no_grad()
def _copy(to: list[Tensor], source: list[Tensor]) -> None:
    for tensor, value in zip(to, source, strict=True):
        tensor.copy_(value)


class MovingAverage(Average):
    """mean <- d mean + (1 - d) w after every step."""

    def __init__(self, then: Update, decay: float, warm_up: bool) -> None:
        super().__init__(then)
        self.decay, self.warm_up = decay, warm_up

    def __call__(self, step: Step) -> None:
        self.then(step)
        self.take(step.net, 1 - (ema_decay(self.decay, self.count) if self.warm_up else self.decay))

    def __str__(self) -> str:
        return f"EMA({self.decay:g})"


class EpochAverage(Average):
    """The mean of the weights that the last epochs ended with, the present ones among them."""

    def __init__(self, then: Update, start: float) -> None:
        super().__init__(then)
        self.start = start
        self.epoch, self.counts = 0, False

    def __call__(self, step: Step) -> None:
        if step.run.epoch != self.epoch and self.counts:
            self.take(step.net, 1 / (self.count + 1))
        self.epoch = step.run.epoch
        self.counts = self.epoch + 1 > self.start * step.run.progress.epochs
        self.then(step)

    @contextmanager
    def averaged(self, net: nn.Module) -> Iterator[None]:
        """The average with the present weights in it, where their epoch counts."""
        before, count = self.mean, self.count
        if self.counts:
            self.mean = None if before is None else [tensor.clone() for tensor in before]
            self.take(net, 1 / (count + 1))
        try:
            with super().averaged(net):
                yield
        finally:
            self.mean, self.count = before, count

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "epoch": self.epoch, "counts": self.counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.epoch, self.counts = state["epoch"], state["counts"]

    def __str__(self) -> str:
        return f"SWA(from {self.start:.0%} of the epochs)"


class EMA(Ingredient):
    """An exponential moving average of the weights, which is judged each epoch and deployed at the end.

    Not among the paper's tricks: Gowal et al. 2020 found it to help adversarial training, and to delay
    robust overfitting. Statistics of normalisation layers are averaged with the weights.
    """

    name = "ema"
    paper = Paper(
        "Uncovering the Limits of Adversarial Training against Norm-Bounded Adversarial Examples",
        "Gowal, Qin, Uesato, Mann, Kohli",
        "arXiv",
        2020,
        "https://arxiv.org/abs/2010.03593",
    )

    decay: Annotated[Number, Field(ge=0, lt=1, description="of the old average at each step")] = 0.995
    warm_up: Annotated[bool, Field(description="smaller at first: (1 + n) / (10 + n) at step n")] = True

    def apply(self, plan: Plan) -> Plan:
        return plan.wrap(self, lambda then: MovingAverage(then, self.decay, self.warm_up), stratum="average")


class SWA(Ingredient):
    """Stochastic weight averaging: the mean of the weights after each of the last epochs, judged and deployed.

    Statistics of normalisation layers are averaged with the weights, not measured anew. It wants a
    learning rate that is not 0 over these epochs.
    """

    name = "swa"
    trial: ClassVar[Mapping[str, object]] = {"start": 0.0}
    paper = Paper(
        "Averaging Weights Leads to Wider Optima and Better Generalization",
        "Izmailov, Podoprikhin, Garipov, Vetrov, Wilson",
        "UAI",
        2018,
        "https://arxiv.org/abs/1803.05407",
    )

    start: Annotated[Share, Field(lt=1, description="share of the epochs before the first that counts")] = 0.75

    def apply(self, plan: Plan) -> Plan:
        return plan.wrap(self, lambda then: EpochAverage(then, self.start), stratum="average").remark(self._alone)

    def _alone(self, epochs: int) -> str:
        """That there is nothing to average, where the last epoch is the only one that counts."""
        if epochs - 1 > self.start * epochs:
            return ""
        lower = f"set swa.start below {(epochs - 1) / epochs:.3g}, or train" if epochs > 1 else "train"
        return f"swa: only the last of {epochs} epochs counts, so nothing is averaged; {lower} for longer"
