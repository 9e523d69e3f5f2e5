"""Passes through a network whose results do not depend on how many examples go through at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from art_ext.api import Forward, Outputs, Score

TOGETHER, LOOKS, NUMBERS = 192, 320, 2**17
"""Several runs over the same examples go through at once up to so many rows, without gradients some more, and
numbers in their images, or as many rows as the whole batch had: that much fits into memory."""
LEAST_ROWS = 8
"""Matrix kernels add up in another order below a handful of rows; smaller batches repeat their own rows."""


def runs_at_once(x: Tensor, standing: int, done: int) -> int:
    """How many runs to put into one: the first alone, since most that fall fall there, then as many as fit."""
    return at_once(x, standing, TOGETHER) if done else 1


def at_once(x: Tensor, standing: int, most: int) -> int:
    """How many points of each example that stands, of images like x (N, C, H, W), fit into a pass of `most` rows."""
    return max(max(len(x), min(most, NUMBERS // x.shape[1:].numel())) // standing, 1)


def joined(scores: Sequence[Score]) -> Score:
    """The scores of several runs as that of one; they differ in labels and references alone."""
    first, *_ = scores
    references = (torch.cat(parts) for parts in zip(*(score.reference for score in scores), strict=True))
    return replace(first, y=torch.cat([score.y for score in scores]), reference=tuple(references))


def filled(n: int, device: torch.device) -> Tensor | None:
    """Indices that repeat n rows up to `LEAST_ROWS`, or None where there are enough."""
    return None if n >= LEAST_ROWS else torch.arange(LEAST_ROWS, device=device) % n


def cut(out: Outputs, n: int) -> Outputs:
    """The first n rows of what a pass gave."""
    return Outputs(out.logits[:n], {name: value[:n] for name, value in out.extras.items()})


def laid_out(x: Tensor) -> Tensor:
    """x with a single channel's strides in channels-last order, which `torch.where` and others lose.

    The bytes are the same; convolutions read the strides, and their gradients take a tenth longer otherwise.
    """
    height, width = x.shape[2:]
    if x.shape[1] != 1 or not x.is_contiguous():
        return x
    return x.as_strided(x.shape, (height * width, 1, width, 1))


@torch.no_grad()
def look(net: Forward, x: Tensor) -> Outputs:
    """The outputs for x (N, C, H, W), without a graph."""
    rows = filled(len(x), x.device)
    return net(x) if rows is None else cut(net(x[rows]), len(x))


def climb(net: Forward, x: Tensor, score: Score) -> tuple[Outputs, Tensor, Tensor]:
    """Outputs, the score (N,), and its gradient in x (N, C, H, W)."""
    n, rows = len(x), filled(len(x), x.device)
    point = laid_out(x.clone() if rows is None else x[rows]).requires_grad_()
    own = score if rows is None else score[rows]
    with torch.enable_grad():
        out = net(point)
        value = own.value(out)
        (grad,) = torch.autograd.grad(value, point, torch.ones_like(value))
    out = Outputs(out.logits.detach(), {name: part.detach() for name, part in out.extras.items()})
    return (out, value.detach(), grad) if rows is None else (cut(out, n), value.detach()[:n], grad[:n])


def slopes(net: Forward, x: Tensor, levels: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Values (N, M) of M functions of the logits, and their gradients in x (N, M, C, H, W).

    Args:
        levels: (logits (n, K), rows (n,) of x that they belong to) to (n, M).
    """
    n, rows = len(x), filled(len(x), x.device)
    at = torch.arange(n, device=x.device) if rows is None else rows
    point = laid_out(x[at]).requires_grad_()
    with torch.enable_grad():
        values = levels(net(point).logits, at)
        count = values.shape[1]
        grads = [
            torch.autograd.grad(values[:, j].sum(), point, retain_graph=j + 1 < count)[0][:n] for j in range(count)
        ]
    return values.detach()[:n], torch.stack(grads, 1) if count > 1 else grads[0][:, None]
