"""PGD towards a class: one drawn wrong class per example, or every wrong class in turn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from art_ext.errors import ConfigError
from art_ext.parts.attacks import PGD, Best
from art_ext.parts.noise import Keys
from art_ext.parts.objectives import Score
from art_ext.types import Adversarial, Forward


def wrong_classes(keys: Keys, y: Tensor, n_classes: int) -> Tensor:
    """(N,) classes drawn uniformly from the n_classes - 1 that are not y; keyed by example.

    Raises:
        ConfigError: for fewer than two classes.
    """
    if n_classes < 2:
        raise ConfigError(f"a wrong class needs two classes or more, got {n_classes}")
    drawn = (keys.stream("target").uniform(()).reshape(len(keys)).double() * (n_classes - 1)).long()
    return (y + 1 + drawn.to(y.device)) % n_classes


@dataclass(frozen=True)
class _Aimed(PGD):
    n_classes: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_classes < 2:
            raise ConfigError(f"a targeted attack needs two classes or more, got {self.n_classes}")
        if not self.objective.targetable:
            raise ConfigError(
                f"the objective {self.objective.name} has no targeted form; use ce, margin or dlr, or drop the targets"
            )

    def _towards(
        self, net: Forward, x: Tensor, score: Score, target: Tensor, keys: Keys, mask: Tensor | None
    ) -> Adversarial:
        return super().craft(net, x, replace(score, y=target, targeted=True), keys, mask)


@dataclass(frozen=True)
class RandomTarget(_Aimed):
    """PGD towards one random wrong class per example; a score that is targeted already keeps its targets.

    With keep="best" the aim is that class: other misclassifications do not count.
    """

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        if score.targeted:
            return super().craft(net, x, score, keys, mask)
        return self._towards(net, x, score, wrong_classes(keys, score.y, self.n_classes), keys, mask)

    def __str__(self) -> str:
        return f"{super().__str__()} towards a random wrong class"


@dataclass(frozen=True)
class EveryTarget(_Aimed):
    """PGD towards each wrong class in turn, n_classes - 1 times the cost; each example keeps its best result.

    Misclassified as anything comes before still right, then the higher untargeted score. With
    `stop_when_wrong`, examples that fell are spared the other targets.
    """

    @property
    def cost(self) -> int:
        return super().cost * (self.n_classes - 1)

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        if score.targeted:
            return super().craft(net, x, score, keys, mask)
        if mask is not None:
            mask = torch.as_tensor(mask, dtype=x.dtype, device=x.device).expand_as(x)
        best = Best(x, settles=self.stop_when_wrong)
        for step in range(1, self.n_classes):
            rows = best.open_rows() if self.stop_when_wrong else torch.arange(len(x), device=x.device)
            if len(rows) == 0:
                break
            own, own_mask = score[rows], None if mask is None else mask[rows]
            target = (own.y + step) % self.n_classes
            made = self._towards(net, x[rows], own, target, keys[rows].stream("class", step), own_mask)
            with torch.no_grad():
                out = net(made.x)
            part = best.part(rows)
            part.consider(made.x, own.value(out), own.wrong(out))
            best.merge(rows, part)
        return Adversarial(best.x, best.x - x)

    def __str__(self) -> str:
        return f"{super().__str__()} towards every wrong class"
