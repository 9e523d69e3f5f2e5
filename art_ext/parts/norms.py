"""Balls around an image: radius, projection, steepest ascent, and uniform points.

All functions are batched: `delta` and `grad` are (N, C, H, W), `eps` a number or (N, 1, 1, 1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from art_ext.errors import ConfigError, unknown
from art_ext.parts.noise import Keys
from art_ext.parts.ranges import Growing, Listed, Uniform, largest
from art_ext.types import Progress

Eps = float | Tensor
TINY = 1e-12
"""Smallest norm that is divided by: a zero gradient gives a zero step, not NaN."""


def per_example(values: Tensor) -> Tensor:
    """(N,) to (N, 1, 1, 1), so that it broadcasts over images."""
    return values.reshape(-1, 1, 1, 1)


def lp(delta: Tensor, p: float) -> Tensor:
    """(N,) the p-norm of each example."""
    rows = delta.flatten(1)
    if p == float("inf"):  # on the CPU, vector_norm takes ten times as long, for 1 as well
        return rows.abs().amax(1)
    if p == 1:
        return rows.abs().sum(1)
    norms: Tensor = torch.linalg.vector_norm(rows, p, dim=1)
    return norms


def near_one(values: Tensor) -> Tensor:
    """Each example times a power of two, so that its largest value lies in [1/2, 1); 0 stays 0, (N, C, H, W).

    Nothing is rounded. The gradients of a saturated softmax are so small that they would count as zero, or
    that their squares underflow.
    """
    smallest = torch.finfo(values.dtype).tiny
    exponent = torch.frexp(lp(values, float("inf")).clamp(min=smallest)).exponent
    return torch.ldexp(values, -per_example(exponent).to(values.dtype))


def unit(values: Tensor, p: float) -> Tensor:
    """Each example divided by its p-norm, however small that is; 0 stays 0."""
    values = near_one(values)
    return values / per_example(lp(values, p)).clamp(min=TINY)


def project_l2(delta: Tensor, eps: Eps) -> Tensor:
    """The nearest point of the L2 ball."""
    return delta * (eps / per_example(lp(delta, 2)).clamp(min=TINY)).clamp(max=1)


def project_l1(delta: Tensor, eps: Eps) -> Tensor:
    """The nearest point of the L1 ball (Duchi et al., ICML 2008, fig. 1: soft thresholding)."""
    size = delta.abs().flatten(1)
    radius = torch.as_tensor(eps, dtype=delta.dtype, device=delta.device).reshape(-1, 1)
    ordered = size.sort(dim=1, descending=True).values
    rank = torch.arange(1, size.shape[1] + 1, device=delta.device, dtype=delta.dtype)
    threshold = (ordered.cumsum(1) - radius) / rank
    last = (ordered > threshold).sum(1, keepdim=True).clamp(min=1) - 1
    cut = threshold.gather(1, last).clamp(min=0)
    shrunk = delta.sign() * per_example_rows((size - cut).clamp(min=0), delta)
    inside = per_example(size.sum(1) <= radius.squeeze(1))
    return torch.where(inside, delta, shrunk)


def per_example_rows(flat: Tensor, like: Tensor) -> Tensor:
    """(N, D) back to the shape of `like`."""
    return flat.reshape(like.shape)


@dataclass(frozen=True)
class Norm:
    """A ball of radius `eps`, in clip-value units.

    Raises:
        ConfigError: unless eps > 0.
    """

    eps: float | Uniform | Growing | Listed
    name: ClassVar[str]
    order: ClassVar[float]
    skips_saturated: ClassVar[bool] = False
    """Whether ascent must not spend its budget on pixels that already touch the box."""

    def __post_init__(self) -> None:
        if largest(self.eps) <= 0:
            raise ConfigError(f"eps must be above 0, got {self.eps}; leave the attack out to train on clean images")

    @property
    def largest(self) -> float:
        return largest(self.eps)

    def at(self, progress: Progress) -> Self:
        """The ball at a moment: one that grows has its present radius."""
        return replace(self, eps=self.eps.at(progress)) if isinstance(self.eps, Growing) else self

    def radius(self, keys: Keys, like: Tensor) -> Eps:
        """The radius of each example: eps itself at its full size, or (N, 1, 1, 1) draws from its range."""
        eps = self.eps.full if isinstance(self.eps, Growing) else self.eps
        if isinstance(eps, Uniform | Listed):
            return per_example(eps.draw(keys)).to(like.dtype)
        return eps

    def of(self, delta: Tensor) -> Tensor:
        """(N,) the norm of each perturbation."""
        return lp(delta, self.order)

    def project(self, delta: Tensor, eps: Eps) -> Tensor:
        raise NotImplementedError

    def inside(self, x: Tensor, adv: Tensor, eps: Eps, low: Tensor, high: Tensor) -> Tensor:
        """A point of the ball around x and of the box: the ball first, then the box, which never leaves it."""
        return (x + self.project(adv - x, eps)).clamp_(low, high)

    def steepest(self, grad: Tensor) -> Tensor:
        """The unit step of steepest ascent in this norm; zero where the gradient is zero."""
        raise NotImplementedError

    def usual_step(self, eps: Eps, steps: int) -> Eps:
        """The step size where none is given: the run can cross the ball and come back a little."""
        return 2.5 * eps / steps

    def uniform(self, keys: Keys, like: Tensor, eps: Eps) -> Tensor:
        """One random point of the ball per example."""
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.name}({self.eps:g})" if isinstance(self.eps, float) else f"{self.name}({self.eps})"


@dataclass(frozen=True)
class Linf(Norm):
    name = "linf"
    order = float("inf")

    def project(self, delta: Tensor, eps: Eps) -> Tensor:
        radius = torch.as_tensor(eps, dtype=delta.dtype, device=delta.device)
        return delta.clamp(-radius, radius)

    def steepest(self, grad: Tensor) -> Tensor:
        return grad.sign()

    def uniform(self, keys: Keys, like: Tensor, eps: Eps) -> Tensor:
        """Each pixel from U(-eps, eps)."""
        return keys.uniform(tuple(like.shape[1:])).mul_(2).sub_(1).to(like.dtype).mul_(eps)


@dataclass(frozen=True)
class L2(Norm):
    name = "l2"
    order = 2.0

    def project(self, delta: Tensor, eps: Eps) -> Tensor:
        return project_l2(delta, eps)

    def steepest(self, grad: Tensor) -> Tensor:
        return unit(grad, 2)

    def uniform(self, keys: Keys, like: Tensor, eps: Eps) -> Tensor:
        """A normal direction, at a distance eps u^(1/D) with u from U(0, 1)."""
        direction = keys.normal(tuple(like.shape[1:])).to(like.dtype)
        distance = keys.uniform((), lane=3).to(like.dtype) ** (1 / direction[0].numel())
        return self.steepest(direction) * per_example(distance) * eps


@dataclass(frozen=True)
class L1(Norm):
    """Its steepest ascent is SLIDE's: equal steps on the `share` of pixels with the largest
    gradients (Tramer and Boneh, NeurIPS 2019, section 5)."""

    share: float = 0.05
    name = "l1"
    order = 1.0
    skips_saturated = True

    def project(self, delta: Tensor, eps: Eps) -> Tensor:
        return project_l1(delta, eps)

    def steepest(self, grad: Tensor) -> Tensor:
        flat = grad.flatten(1)
        count = max(1, round(self.share * flat.shape[1]))
        top = flat.abs().topk(count, dim=1)
        chosen = torch.zeros_like(flat).scatter(1, top.indices, flat.gather(1, top.indices).sign())
        return per_example_rows(chosen, grad) / per_example(lp(chosen, 1)).clamp(min=TINY)

    def uniform(self, keys: Keys, like: Tensor, eps: Eps) -> Tensor:
        """Exponential magnitudes with random signs, spread over the ball by an extra exponential."""
        shape = tuple(like.shape[1:])
        size = -torch.log1p(-keys.uniform(shape, lane=1)).to(like.dtype)
        sign = torch.where(keys.uniform(shape, lane=2) < 0.5, -1.0, 1.0).to(like.dtype)
        spare = -torch.log1p(-keys.uniform((), lane=3)).to(like.dtype)
        return sign * size / per_example(size.flatten(1).sum(1) + spare).clamp(min=TINY) * eps


@dataclass(frozen=True)
class L0(Norm):
    """At most `eps` pixels changed, each in all its channels (Croce and Hein, ICCV 2019, section 3).

    A step moves the average coordinate by the step size, in proportion to its gradient; pixels that
    touch the box count with what they would have become, so that the largest gradients stay.

    Raises:
        ConfigError: unless eps, where it is a number, is a whole one from 1.
    """

    name = "l0"
    order = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.eps, int | float) and not (self.eps >= 1 and float(self.eps).is_integer()):
            raise ConfigError(f"eps counts pixels in l0, so it is a whole number from 1 on, not {self.eps:g}; set eps")

    def of(self, delta: Tensor) -> Tensor:
        """(N,) how many pixels are changed."""
        return (delta != 0).any(1).flatten(1).sum(1).to(delta.dtype)

    def project(self, delta: Tensor, eps: Eps) -> Tensor:
        """Keeps the eps pixels that were changed most, by their L2 norm over the channels."""
        return delta * _most(delta.square(), eps)

    def inside(self, x: Tensor, adv: Tensor, eps: Eps, low: Tensor, high: Tensor) -> Tensor:
        """The nearest point of ball and box at once: pixels stay by what they gain inside the box (ibid., eq. (7))."""
        boxed = adv.clamp(low, high)
        gain = (adv - x).square() - (adv - boxed).square()
        return torch.where(_most(gain, eps) > 0, boxed, x)

    def usual_step(self, eps: Eps, steps: int) -> Eps:
        """Large, whatever eps: a new pixel must get ahead of those that were kept, in one step; in a range of 1."""
        return 1.0

    def steepest(self, grad: Tensor) -> Tensor:
        grad = near_one(grad)
        return grad / per_example(grad.abs().flatten(1).mean(1)).clamp(min=TINY)

    def uniform(self, keys: Keys, like: Tensor, eps: Eps) -> Tensor:
        """Numbers from U(-1, 1) on eps random pixels."""
        return self.project((2 * keys.uniform(tuple(like.shape[1:])) - 1).to(like.dtype), eps)


def _most(gain: Tensor, eps: Eps) -> Tensor:
    """(N, 1, H, W): 1 at the eps pixels with the largest gain over their channels, 0 elsewhere; the first of equals."""
    rank = gain.sum(1).flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    kept = rank < torch.as_tensor(eps, dtype=gain.dtype, device=gain.device).reshape(-1, 1)
    return kept.to(gain.dtype).reshape(len(gain), 1, *gain.shape[2:])


NORMS: dict[str, type[Norm]] = {norm.name: norm for norm in (Linf, L2, L1, L0)}


def norm_named(name: str, eps: float | Uniform | Listed) -> Norm:
    """The norm that recipes call `name`."""
    if name not in NORMS:
        raise ConfigError(unknown("norm", name, NORMS))
    return NORMS[name](eps)
