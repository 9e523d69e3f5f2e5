"""What an attack costs: passes of single images through the network, counted as they happen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from art_ext.types import Forward, Outputs


@dataclass
class Spent:
    """Forward and backward passes so far, each of one image.

    Attributes:
        cut: forward passes that a gradient was wanted of, whose answers do not depend on the image in a way
            that autograd can follow.
    """

    forwards: int = 0
    backwards: int = 0
    cut: int = 0


class Counted:
    """A network whose passes are counted.

    Where the way from the image to the answers is cut (a detached tensor, a pass without autograd), the
    gradient is zero instead of an error, so that an attack goes on and its failure shows in the figures.
    """

    def __init__(self, net: Forward, spent: Spent) -> None:
        self.net, self.spent = net, spent

    def __call__(self, x: Tensor) -> Outputs:
        self.spent.forwards += len(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.net(x)
        seen = x[...]  # an alias with the strides of x: a hook on x itself would also count its next pass
        seen.register_hook(self._count)  # type: ignore[no-untyped-call]
        out = self.net(seen)
        if out.logits.requires_grad:
            return out
        self.spent.cut += len(x)
        return Outputs(out.logits + 0 * seen.flatten(1).sum(1, keepdim=True), out.extras)

    def _count(self, grad: Tensor) -> None:
        self.spent.backwards += len(grad)


class Spending(nn.Module):
    """A surrogate whose passes count with those of the attack that crafts on it."""

    def __init__(self, net: nn.Module, spent: Spent) -> None:
        super().__init__()
        self.net, self._spent = net, spent

    def forward(self, x: Tensor) -> Outputs:
        return Counted(self.net, self._spent)(x)
