"""What can be measured of a network without attacking it: gradients, logit gaps, and whether answers repeat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_ext.engine.freeze import frozen
from art_ext.evaluation.counting import Counted, Spent
from art_ext.evaluation.suite import Evaluator
from art_ext.evaluation.threat import Threat
from art_ext.parts.noise import Keys
from art_ext.parts.norms import L0, TINY, Linf
from art_ext.parts.objectives import cross_entropy, margin

SAME = 1e-3
"""Share of the logits' range by which they may differ from rounding: sums are added up in other orders."""
MOST = 256
"""Images that are looked at, at most."""
ODD = 7
"""Rows of the small batches that an image is asked again in."""


@dataclass(frozen=True)
class Gradients:
    """At one random point of the ball for each of n images.

    Attributes:
        zero: (n,) bool: the margin's gradient is exactly zero.
        vanished: (n,) bool: cross-entropy's is too small to be a direction in float32.
        cut: no gradient reaches the image at all.
        gap: (n,) difference of the two largest logits of the clean image.
    """

    zero: Tensor
    vanished: Tensor
    cut: bool
    gap: Tensor


def gradients(evaluator: Evaluator, threat: Threat, index: Tensor) -> Gradients:
    """Measures them at the images `index` (n,)."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    spent = Spent()
    for at in torch.split(index, MOST):
        x, y = evaluator.batch(at)
        keys = Keys(evaluator.seed, 0, at.to(x.device)).stream("gradients")
        ball = Linf(0.01) if isinstance(threat.ball(), L0) else threat.ball()
        point = (x + ball.uniform(keys, x, ball.largest)).clamp(*threat.clip).requires_grad_()
        with frozen(evaluator.net):
            net = Counted(evaluator.net, spent)
            out = net(point)
            (of_margin,) = torch.autograd.grad(margin(out.logits, y).sum(), point, retain_graph=True)
            (of_ce,) = torch.autograd.grad(cross_entropy(out.logits, y).sum(), point)
        top = evaluator.logits(x).topk(2, dim=1).values
        sizes = [grad.abs().flatten(1).amax(1).cpu() for grad in (of_margin, of_ce)]
        parts.append((sizes[0] == 0, ~(sizes[1] > TINY), (top[:, 0] - top[:, 1]).cpu()))
    zero, vanished, gap = (torch.cat(column) for column in zip(*parts, strict=True))
    return Gradients(zero, vanished, spent.cut > 0, gap)


@dataclass(frozen=True)
class Repeats:
    """How much logits differ between two passes, as shares of their range: (n,) asked twice, and in other company."""

    twice: Tensor
    company: Tensor

    @property
    def varied(self) -> Tensor:
        return self.twice > SAME

    @property
    def mixed(self) -> Tensor:
        """Those that differ in other company, without those that differ anyway."""
        return (self.company > SAME) & ~self.varied


def repeats(evaluator: Evaluator, n: int) -> Repeats:
    """Asks for the first images again: all at once, and in batches of seven, last ones first."""
    index = torch.arange(min(n, MOST))
    x, _ = evaluator.batch(index)
    backwards = index.flip(0)
    with torch.random.fork_rng(devices=[]):  # its draws differ from pass to pass, and are the same in every run
        torch.manual_seed(evaluator.seed)
        first, second = evaluator.logits(x), evaluator.logits(x)
        small = torch.cat([evaluator.logits(x[rows]) for rows in torch.split(backwards, ODD)])
    company = torch.empty_like(first)
    company[backwards] = small
    size = (first.amax(1) - first.amin(1)).clamp(min=TINY)
    return Repeats(*(((other - first).abs().amax(1) / size).cpu() for other in (second, company)))

