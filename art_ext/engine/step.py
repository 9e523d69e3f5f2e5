"""The engine's handle for one batch: craft, look, descend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from art_ext.engine.logs import Logs
from art_ext.engine.memory import is_out_of_memory, joined_adversarial, pieces, release
from art_ext.errors import ConfigError
from art_ext.parts.attacks import Attack, BNMode
from art_ext.parts.noise import Keys
from art_ext.parts.objectives import ce
from art_ext.types import Adversarial, Forward, Outputs, View, Views

if TYPE_CHECKING:
    from art_ext.data.batches import Batch
    from art_ext.engine.fit import Fit

Moves = Sequence[tuple[nn.Parameter, Tensor]]
"""Parameters, each with a tensor of its shape: gradients, or what is added to it."""


COST = "cost/"
"""What the names of a step's cost begin with, in its logs."""


@dataclass
class Cost:
    """What training took: passes of single images through the network, and updates of its weights."""

    forwards: int = 0
    backwards: int = 0
    updates: int = 0


class Step:
    """One batch of one fit. Updates are written in its verbs.

    Attributes:
        x, y: the batch, clean: (N, C, H, W) pixels and (N,) class indices.
        keys: the keys of its noise, one per example.
        weight: of this process's rows in the gradient; 1 where all processes have as many.
        logs: sums over the batch's rows: "loss", "loss/<term>", "correct/<view>", "rows/<view>", and whatever an
            update logs.
        spent: what it cost so far.
    """

    def __init__(self, fit: Fit, batch: Batch, weight: float = 1.0) -> None:
        self.fit, self.run, self.parts, self.net = fit, fit.run, fit.parts, fit.net
        self.x, self.y, self.weight = fit.run.layout(batch.x), batch.y, weight
        self.keys = Keys(fit.run.seed, fit.run.epoch, batch.index, step=fit.run.step)
        self.logs, self.spent = Logs(), Cost()
        self._unreturned = 0
        self._memo: Adversarial | None = None
        self._memo_version = -1
        self._crafts = 0

    def craft(self) -> Adversarial:
        """The adversarial twins of the rows that the risk attacks; kept while the weights stand still.

        Each further craft of a batch has noise of its own.
        """
        if self._memo is not None and self._memo_version == self.run.weights_version:
            return self._memo
        rows, attack = self.parts.risk.rows(len(self.x)).adv, self.parts.attack
        if rows is None or attack is None:
            raise ConfigError("this update needs adversarial rows, but the risk trains on clean rows alone")
        x, y = self.x[rows], self.y[rows]
        if len(x) == 0:
            return Adversarial(x, torch.zeros_like(x))
        keys = self.keys[rows] if self._crafts == 0 else self.keys[rows].stream("craft", self._crafts)
        self._memo = self._crafted(attack, x, y, keys)
        self._crafts += 1
        self._memo_version = self.run.weights_version
        return self._memo

    def _crafted(self, attack: Attack, x: Tensor, y: Tensor, keys: Keys) -> Adversarial:
        """In pieces that memory holds: noise is each example's own, and no example sees another one in eval mode."""
        while True:
            parts = pieces(len(x), self.run.craft_batch)
            try:
                with self.through(attack.bn) as net:
                    objective = attack.objective or ce
                    made = [
                        attack.craft(net, x[part], objective.bind(net, x[part], y[part]), keys[part]) for part in parts
                    ]
                return joined_adversarial(made)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or attack.bn == "train" or len(x) == len(parts):
                    raise
            self.run.craft_batch = (len(x) // len(parts) + 1) // 2
            release(self.run.device)

    @contextmanager
    def through(self, bn: BNMode) -> Iterator[Forward]:
        """The network as attacks see it: gradients go through it, none to its weights.

        In mode "train" its passes move the statistics of normalisation layers, as any training pass.
        """
        with self.run.crafting(self.net, bn, self.x) as net:

            def counted(x: Tensor) -> Outputs:
                rows = x.shape[0]
                self.spent.forwards += rows
                if x.requires_grad and torch.is_grad_enabled():
                    self.spent.backwards += rows
                return net(x)

            yield counted

    def forward(self, x: Tensor) -> Outputs:
        """One wrapped pass over images outside the risk's rows."""
        return self._wrapped([x], joint=True)[0]

    def _wrapped(self, parts: Sequence[Tensor], *, joint: bool) -> list[Outputs]:
        rows = sum(map(len, parts))
        self.spent.forwards += rows
        self._unreturned += rows if torch.is_grad_enabled() else 0
        outs: list[Outputs] = self.fit.wrapped(parts, joint=joint)
        return outs

    def views(self, adv: Adversarial | None) -> Views:
        """Clean and adversarial rows after ONE wrapped call, with their targets."""
        risk, k = self.parts.risk, self.fit.plan.facts.n_classes
        rows = risk.rows(len(self.x))
        parts: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
        if rows.clean is not None and len(self.y[rows.clean]):
            parts["clean"] = (self.x[rows.clean], self.y[rows.clean], None)
        if rows.adv is not None and adv is not None and len(adv.x):
            parts["adv"] = (adv.x, self.y[rows.adv], adv.delta)
        outs = self._wrapped([x for x, _, _ in parts.values()], joint=risk.joint)
        made = {
            name: View(out, y, self.parts.target(y, k, delta))
            for out, (name, (_, y, delta)) in zip(outs, parts.items(), strict=True)
        }
        self._count(made)
        return Views(made.get("clean"), made.get("adv"))

    def risk(self, adv: Adversarial | None = None) -> Tensor:
        """The loss of this batch: the sum of the risk's terms, each watched and logged."""
        if adv is None and self.parts.risk.needs_adversarial:
            adv = self.craft()
        terms = self.parts.risk(self.views(adv), self.parts.criterion)
        return self.total(terms)

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of named terms, which are watched for NaN and logged."""
        self.run.watch_finite(terms)
        loss = next(iter(terms.values())) if len(terms) == 1 else torch.stack(list(terms.values())).sum()
        for name, value in {**{f"loss/{name}": v for name, v in terms.items()}, "loss": loss}.items():
            self.log(name, value, len(self.x))
        return loss

    def log(self, name: str, value: Tensor | float, times: float = 1) -> None:
        """Adds `times` a value, a scalar, to a sum over the batch's rows; the epoch shows it per row."""
        self.logs.add(name, value, times)

    def backward(self, loss: Tensor) -> None:
        self.fit.optimizer.zero_grad(set_to_none=True)
        self.run.backward(self._weighted(loss))
        self.spent.backwards += self._unreturned
        self._unreturned = 0

    def _weighted(self, loss: Tensor) -> Tensor:
        """The loss, such that the mean of the processes' gradients is that of all rows."""
        return loss if self.weight == 1 else loss * self.weight

    def apply(self) -> None:
        """One optimizer step with the gradients that are there."""
        self.run.step_optimizer(self.fit.optimizer)
        self.spent.updates += 1

    def descend(self, loss: Tensor) -> None:
        self.backward(loss)
        self.apply()

    def gradients(self, loss: Tensor) -> Moves:
        """The gradient of a loss in each parameter, averaged over ranks; nothing moves, none stays behind.

        Where half precision scales the loss, it is taken out again; none is given where one overflowed.
        """
        self.backward(loss)
        found = [(p, p.grad) for p in self.net.parameters() if p.grad is not None]
        self.fit.optimizer.zero_grad(set_to_none=True)
        if self.run.scaler is None:
            return found
        scale = self.run.scaler.get_scale()
        found = [(p, grad / scale) for p, grad in found]
        return found if all(bool(grad.isfinite().all()) for _, grad in found) else []

    @torch.no_grad()
    def descend_plainly(self, loss: Tensor, share: float = 1.0) -> None:
        """One step of plain gradient descent at a share of the present learning rates.

        It has no part in the optimizer: no momentum, no weight decay. Its gradient is clipped as the optimizer's are.
        """
        with torch.enable_grad():
            moves = dict(self.gradients(loss))
        self.run.clip(list(moves.values()))
        for group in self.fit.raw_optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in moves:
                    parameter.add_(moves[parameter], alpha=-share * float(group["lr"]))
        self.run.weights_version += 1
        self.spent.updates += 1

    @contextmanager
    def moved(self, moves: Moves) -> Iterator[None]:
        """While it holds, the weights are moved; afterwards the same is subtracted, whatever happened.

        A craft made before stays in use: the weights it was made for come back.
        """
        with torch.no_grad():
            for parameter, move in moves:
                parameter.add_(move)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, move in moves:
                    parameter.sub_(move)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Passes inside it leave no trace: logs and the statistics of normalisation layers are put back."""
        logs, self.logs = self.logs, Logs()
        kept = [(buffer, buffer.clone()) for buffer in self.net.buffers()]
        try:
            yield
        finally:
            self.logs = logs
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)

    def helper(self, name: str) -> tuple[Any, Any]:
        """A helper network and its optimizer."""
        helper = self.fit.helpers[name]
        return helper.wrapped, helper.optimizer

    def descend_helper(self, name: str, loss: Tensor) -> None:
        """One step of a helper's optimizer; whatever gradients it had before are dropped."""
        _, optimizer = self.helper(name)
        optimizer.zero_grad(set_to_none=True)
        self.run.backward(self._weighted(loss))
        self.run.step_optimizer(optimizer)

    @torch.no_grad()
    def _count(self, views: Mapping[str, View]) -> None:
        """Logs who is right, and what the criterion measures: its mean over all parts, as a sum over the batch."""
        criterion, seen = self.parts.criterion, sum(len(view.y) for view in views.values())
        for name, view in views.items():
            self.log(f"correct/{name}", (view.out.logits.argmax(1) == view.y).sum())
            self.log(f"rows/{name}", len(view.y))
            for what, values in criterion.measures(view.out, view.target).items():
                self.log(f"{criterion.name}/{what}", values.sum(), len(self.x) / seen)
