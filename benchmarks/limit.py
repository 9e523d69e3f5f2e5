"""The arithmetic limit of a training step: its passes on the bare module, each timed by itself.

For PGD training: limit = K (fwd_eval + bwd_input) + fwd_train + bwd_full + optimizer. Other methods
have other counts, and passes of their own; see `methods.py`.

Each piece counts at the fastest of {batch norm kept, folded} x {NCHW, channels_last}; in training,
batch norm cannot be folded. What a step needs besides (noise, sign, clamp, batches, copies,
logging) is not in the limit.

A pass that is repeated finds its activations in the cache. A step of few passes does not: its limit
is also timed in sequence, the chosen variants one after another as a step takes them (`in_sequence`).
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
from art_ext.engine.net import Net, in_channels_last
from benchmarks.timing import Clock, Contender

TrainPass = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, x, y) to the loss of the outer pass."""
Inner = Callable[[Tensor, Tensor], Tensor]
"""(logits, y) to the sum that the attack raises."""


MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


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


Run = Callable[[nn.Module, Tensor, Tensor], Callable[[], object]]
"""(model, x, y) to one pass of a piece, as often called as it is repeated."""
ALL = slice(None)


@dataclass(frozen=True)
class Piece:
    """One pass of a step, in the variants that it could run in.

    Attributes:
        count: how often a step needs it; a fraction where it needs it for some of the rows.
    """

    count: float
    variants: list[Contender]
    passes: list[Callable[[], object]]

    def fastest(self, clock: Clock) -> Contender:
        return min(self.variants, key=lambda v: v.median(clock))

    def fastest_pass(self) -> Callable[[], object]:
        """One pass of the variant that needs the least CPU time."""
        return self.passes[self.variants.index(self.fastest("cpu"))]


@dataclass
class Limit:
    """The pieces of one step's limit, as contenders of the same interleaved rounds.

    Args:
        repeat: how often a piece runs in one measurement.

    Attributes:
        steps: steps of training that the counts are of, where one step needs other passes than the next.
        order: the numbers of the pieces as those steps take them; without it each comes `count` times in turn.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    repeat: int = 5
    pieces: list[Piece] = field(default_factory=list)
    steps: int = 1
    order: list[int] = field(default_factory=list)

    def attack(self, count: float, inner: Inner = inner_cross_entropy, rows: slice = ALL) -> Limit:
        """Forward in eval mode and back to the images, `count` times."""

        def make(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
            model.eval().requires_grad_(False)
            x = x.clone().requires_grad_()
            return lambda: torch.autograd.grad(inner(model(x), y), x)

        return self.add("attack", make, count, rows, folds=(False, True))

    def look(self, count: float, rows: slice = ALL) -> Limit:
        """Forward in eval mode alone."""

        def make(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
            model.eval()
            return torch.no_grad()(lambda: model(x))

        return self.add("look", make, count, rows, folds=(False, True))

    def train(
        self,
        outer: TrainPass = outer_cross_entropy,
        count: float = 1,
        optimizer: MakeOptimizer | None = None,
        *,
        word: str = "train",
        step: bool = True,
        to_images: bool = False,
    ) -> Limit:
        """Forward and back in train mode, and the optimizer.

        Args:
            step: with the optimizer's step; without, the gradients alone.
            to_images: the gradient of the images as well.
        """

        def make(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
            model.train()
            descent = (optimizer or sgd)(model)
            x = x.clone().requires_grad_(to_images)

            def run() -> None:
                descent.zero_grad(set_to_none=True)
                outer(model, x, y).backward()
                if step:
                    descent.step()

            return run

        return self.add(word, make, count)

    def add(
        self, word: str, make: Run, count: float = 1, rows: slice = ALL, folds: tuple[bool, ...] = (False,)
    ) -> Limit:
        """Another piece; the limit itself, for chains."""
        variants, passes = [], []
        for fold in folds:
            for last in (False, True):
                model = folded(self.model, self.x[:2]) if fold else copy.deepcopy(self.model)
                images = self.x[rows].contiguous()
                if last:
                    model, images = model.to(memory_format=torch.channels_last), in_channels_last(images)
                name = f"{word}: {'BN folded' if fold else 'BN kept'}, {'channels_last' if last else 'NCHW'}"
                passes.append(make(model, images, self.y[rows]))
                variants.append(Contender(name, self._repeated(passes[-1]), self.repeat))
        self.pieces.append(Piece(count, variants, passes))
        return self

    def _repeated(self, once: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            for _ in range(self.repeat):
                once()

        return run

    @property
    def contenders(self) -> list[Contender]:
        return [variant for piece in self.pieces for variant in piece.variants]

    def times(self, clock: Clock) -> list[float]:
        """The limit of a step in seconds, one entry a round."""
        best = [(piece.count, piece.fastest(clock).times[clock]) for piece in self.pieces]
        return [sum(count * times[i] for count, times in best) / self.steps for i in range(len(best[0][1]))]

    def in_sequence(self, steps: int) -> Contender:
        """The passes of `steps` steps in their order, of the variants that were fastest so far.

        Raises:
            ValueError: for a limit with shares of a pass, or one whose counts are of another number of steps.
        """
        if steps % self.steps:
            raise ValueError(f"the counts are of {self.steps} steps, which {steps} is no multiple of")
        if any(piece.count != int(piece.count) for piece in self.pieces):
            raise ValueError("a share of a pass has no place in a sequence; count it as a pass of some of the rows")
        passes = [piece.fastest_pass() for piece in self.pieces]
        in_turn = [number for number, piece in enumerate(self.pieces) for _ in range(int(piece.count))]
        sequence = [passes[number] for number in self.order or in_turn]

        def run() -> None:
            for _ in range(steps // self.steps):
                for once in sequence:
                    once()

        return Contender(f"{self.counts()}, in sequence", run, steps)

    def counts(self) -> str:
        """`10 attack + 1 train`: what a step is held to, on average."""
        words = [piece.variants[0].name.split(":")[0] for piece in self.pieces]
        counts = dict.fromkeys(words, 0.0)
        for piece, word in zip(self.pieces, words, strict=True):
            counts[word] += piece.count / self.steps
        return " + ".join(f"{count:.3g} {word}" for word, count in counts.items())


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
