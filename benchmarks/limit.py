"""The arithmetic limit of a training step: its passes on the bare module, each timed by itself.

    limit = K (fwd_eval + bwd_input) + references fwd_eval + fwd_train + bwd_full + optimizer

Each piece counts at the fastest of {batch norm kept, folded} x {NCHW, channels_last}; in training,
batch norm cannot be folded. What a step needs besides (noise, sign, clamp, batches, copies,
logging) is not in the limit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from art_ext.engine.freeze import foldable_pairs
from art_ext.engine.net import Net
from art_ext.engine.run import in_channels_last
from benchmarks.timing import Clock, Contender

TrainPass = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, x, y) to the loss of the outer pass."""
Inner = Callable[[Tensor, Tensor], Tensor]
"""(logits, y) to the sum that the attack raises."""


def inner_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="sum")


def inner_kl(logits: Tensor, y: Tensor) -> Tensor:
    reference = F.log_softmax(torch.zeros_like(logits), 1)
    return F.kl_div(F.log_softmax(logits, 1), reference, reduction="sum", log_target=True)


def outer_cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def outer_trades(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Two passes, as in the method's own code."""
    clean, adv = model(x), model(x + 0.01)
    return F.cross_entropy(clean, y) + 6.0 * F.kl_div(
        F.log_softmax(adv, 1), F.log_softmax(clean, 1), reduction="batchmean", log_target=True
    )


def folded(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy in eval mode with each batch norm folded into the layer before it, by torch's own function."""
    made = copy.deepcopy(model).eval()
    for layer, norm in foldable_pairs(Net(made), example):
        layer, norm = layer.removeprefix("module."), norm.removeprefix("module.")
        made.set_submodule(layer, fuse_conv_bn_eval(made.get_submodule(layer), made.get_submodule(norm)))
        rest = nn.Sequential(*(p for p in map(made.get_submodule(norm)._modules.get, ("drop", "act")) if p is not None))
        made.set_submodule(norm, rest if len(rest) else nn.Identity())
    return made


@dataclass
class Limit:
    """The pieces of one step's limit, as contenders of the same interleaved rounds.

    Args:
        attack_rows: how many rows of the batch are attacked.
        references: forward passes in eval mode that the objective needs once a step.
        repeat: how often a piece runs in one measurement.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    steps: int
    outer: TrainPass = outer_cross_entropy
    inner: Inner = inner_cross_entropy
    references: int = 0
    attack_rows: slice = field(default_factory=lambda: slice(None))
    repeat: int = 5

    def __post_init__(self) -> None:
        rows = self.attack_rows
        self.attack: list[Contender] = self._variants(
            "attack", self._attack_piece, self.x[rows], self.y[rows], (False, True)
        )
        self.reference = (
            self._variants("reference", self._reference_piece, self.x, self.y, (False, True)) if self.references else []
        )
        self.train = self._variants("train", self._train_piece, self.x, self.y, (False,))

    @property
    def contenders(self) -> list[Contender]:
        return [*self.attack, *self.reference, *self.train]

    def times(self, clock: Clock) -> list[float]:
        """The limit in seconds, one entry a round."""
        pieces = [(self.steps, self.attack), (self.references, self.reference), (1, self.train)]
        best = [(count, fastest(variants, clock).times[clock]) for count, variants in pieces if variants]
        return [sum(count * times[i] for count, times in best) for i in range(len(best[0][1]))]

    def describe(self, clock: Clock) -> str:
        return "; ".join(fastest(v, clock).name for v in (self.attack, self.reference, self.train) if v)

    def _variants(
        self,
        word: str,
        piece: Callable[[nn.Module, Tensor, Tensor], None],
        x: Tensor,
        y: Tensor,
        folds: tuple[bool, ...],
    ) -> list[Contender]:
        made = []
        for fold in folds:
            for last in (False, True):
                model = folded(self.model, x[:2]) if fold else copy.deepcopy(self.model)
                images = x.contiguous()
                if last:
                    model, images = model.to(memory_format=torch.channels_last), in_channels_last(images)
                name = f"{word}: {'BN folded' if fold else 'BN kept'}, {'channels_last' if last else 'NCHW'}"
                made.append(Contender(name, piece(model, images, y), self.repeat))
        return made

    def _attack_piece(self, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
        model.eval().requires_grad_(False)
        x = x.clone().requires_grad_()

        def run() -> None:
            for _ in range(self.repeat):
                torch.autograd.grad(self.inner(model(x), y), x)

        return run

    def _reference_piece(self, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
        model.eval()

        @torch.no_grad()
        def run() -> None:
            for _ in range(self.repeat):
                model(x)

        return run

    def _train_piece(self, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)

        def run() -> None:
            for _ in range(self.repeat):
                optimizer.zero_grad(set_to_none=True)
                self.outer(model, x, y).backward()
                optimizer.step()

        return run


def fastest(variants: list[Contender], clock: Clock) -> Contender:
    return min(variants, key=lambda v: v.median(clock))
