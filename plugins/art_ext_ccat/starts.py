"""Where CCAT's attack starts: at the image, near it, or anywhere on the way to the radius."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from art_ext.api import Eps, Keys, Norm, Start, ZeroStart
from art_ext_ccat.formulas import relative_normal


@dataclass(frozen=True)
class UniformNormStart:
    """A normal vector, scaled to the norm u eps with u from U(0, 1): all distances are alike."""

    clamped = True

    def __call__(self, norm: Norm, keys: Keys, x: Tensor, eps: Eps) -> Tensor:
        normal = keys.normal(tuple(x.shape[1:])).to(x.dtype)
        share = keys.uniform((), lane=3).reshape(len(x)).to(x.dtype)
        return relative_normal(normal, norm.of(normal), share) * eps

    def __str__(self) -> str:
        return "uniform norm"


@dataclass(frozen=True)
class NarrowNormalStart:
    """N(0, (eps / (2 ln D))^2) a pixel, with D pixels in an image."""

    clamped = True

    def __call__(self, norm: Norm, keys: Keys, x: Tensor, eps: Eps) -> Tensor:
        spread = 2 * math.log(max(2, x[0].numel()))
        return keys.normal(tuple(x.shape[1:])).to(x.dtype) * eps / spread

    def __str__(self) -> str:
        return "normal"


@dataclass(frozen=True)
class DrawnStart:
    """One of several starts, each with equal chance, drawn per batch or per example."""

    starts: tuple[Start, ...]
    per: Literal["batch", "example"] = "batch"
    clamped = True

    def __call__(self, norm: Norm, keys: Keys, x: Tensor, eps: Eps) -> Tensor:
        draw = keys.stream("kind")
        if self.per == "batch":
            return self.starts[int(draw.shared_uniform() * len(self.starts))](norm, keys, x, eps)
        kind = (draw.uniform(()).reshape(-1, 1, 1, 1) * len(self.starts)).long()
        delta = torch.zeros_like(x)
        for number, start in enumerate(self.starts):
            delta = torch.where(kind == number, start(norm, keys, x, eps), delta)
        return delta

    def __str__(self) -> str:
        return f"{' or '.join(str(start) for start in self.starts)}, drawn per {self.per}"


StartName = Literal["three_per_batch", "half_per_batch", "half_per_example"]
STARTS: dict[StartName, Start] = {
    "three_per_batch": DrawnStart((NarrowNormalStart(), UniformNormStart(), ZeroStart())),
    "half_per_batch": DrawnStart((UniformNormStart(), ZeroStart())),
    "half_per_example": DrawnStart((UniformNormStart(), ZeroStart()), per="example"),
}
