"""Attacks that the trust checks compare with: random points, logits made small again, averaged answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from art_ext.parts.attacks import Attack, Best
from art_ext.parts.noise import Keys
from art_ext.parts.norms import TINY, Linf, Norm, per_example
from art_ext.parts.objectives import Objective, Score, cross_entropy, cw
from art_ext.types import Adversarial, Forward, Outputs

GAP = 10.0
"""Logits further apart than this are rescaled: beyond it float32 loses the softmax's gradient little by little."""
SCALES = (1, 2, 4)
"""Sides in pixels of the squares that random noise is constant on, in turn."""


def rescaling(logits: Tensor, largest: float = GAP) -> Tensor:
    """(N,) the factor in (0, 1] that brings the gap of the two largest logits down to `largest`; (N, K)."""
    top = logits.topk(2, dim=1).values
    return (largest / (top[:, 0] - top[:, 1]).clamp(min=largest)).detach()


def _scale(out: Outputs) -> tuple[Tensor, ...]:
    return (rescaling(out.logits),)


def _rescaled_ce(out: Outputs, y: Tensor, scale: Tensor) -> Tensor:
    return cross_entropy(out.logits * scale[:, None], y)


rescaled_ce = Objective("rescaled_ce", _rescaled_ce, reference=_scale, targetable=False)
"""Cross-entropy of logits divided so that the clean image's gap is at most `GAP`: it cannot saturate."""


@dataclass(frozen=True)
class RandomSearch:
    """The best of `tries` random points of the ball's surface: noise of single pixels and of small squares.

    Each image stops at its first success. It needs no gradient and knows nothing, so a gradient attack
    that it beats is broken.
    """

    norm: Norm
    tries: int
    clip: tuple[float, float] = (0.0, 1.0)
    objective: Objective = cw
    bn: Literal["eval"] = "eval"

    @property
    def cost(self) -> int:
        return self.tries

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        best, (low, high) = Best(x, settles=True), self.clip
        for number in range(self.tries):
            rows = best.open_rows()
            if len(rows) == 0:
                break
            delta = self._noise(x[rows], keys[rows].stream("try", number), SCALES[number % len(SCALES)])
            point = (x[rows] + (delta if mask is None else delta * mask)).clamp(low, high)
            part = best.part(rows)
            with torch.no_grad():
                out = net(point)
            own = score[rows]
            part.consider(point, own.value(out), own.wrong(out))
            best.merge(rows, part)
        return Adversarial(best.x, best.x - x)

    def _noise(self, x: Tensor, keys: Keys, side: int) -> Tensor:
        _, c, h, w = x.shape
        coarse = (c, -(-h // side), -(-w // side))
        noise = keys.normal(coarse).to(x).repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :h, :w]
        if isinstance(self.norm, Linf):
            return noise.sign() * self.norm.largest
        size = self.norm.of(noise).clamp(min=TINY)
        return self.norm.project(noise * per_example(self.norm.largest / size), self.norm.largest)

    def __str__(self) -> str:
        return f"{self.tries} random points of {self.norm}"


@dataclass(frozen=True)
class Averaged:
    """An attack on the mean logits of `passes` passes: what random answers are to be attacked by.

    (Athalye, Carlini, Wagner, ICML 2018: expectation over transformation.)
    """

    attack: Attack
    passes: int = 10

    @property
    def objective(self) -> Objective | None:
        return self.attack.objective

    @property
    def bn(self) -> Literal["eval", "train"]:
        return self.attack.bn

    @property
    def norm(self) -> Any:
        return getattr(self.attack, "norm", None)

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        def mean(at: Tensor) -> Outputs:
            return Outputs(torch.stack([net(at).logits for _ in range(self.passes)]).mean(0))

        return self.attack.craft(mean, x, score, keys, mask)

    def __str__(self) -> str:
        return f"{self.attack}, on the mean of {self.passes} passes"
