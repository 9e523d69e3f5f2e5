"""Some images of an evaluation, attacked once more, with the pixels and the features that figures show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_ext.engine.freeze import frozen
from art_ext.errors import ModelError
from art_ext.evaluation.suite import Evaluator, joined
from art_ext.evaluation.threat import Threat
from art_ext.parts.attacks import Attack
from art_ext.parts.surgery import find_head
from art_ext.types import Adversarial, Facts, Outputs

CHUNK = 128


@dataclass(frozen=True)
class Sample:
    """Some images of one network's data, clean and attacked; all on the CPU."""

    index: Tensor
    x: Tensor
    adversarial: Tensor
    y: Tensor
    clean: Outputs
    attacked: Outputs
    has_features: bool

    @property
    def probabilities(self) -> tuple[Tensor, Tensor]:
        return F.softmax(self.clean.logits.double(), 1), F.softmax(self.attacked.logits.double(), 1)

    @property
    def said(self) -> tuple[Tensor, Tensor]:
        return self.clean.logits.argmax(1), self.attacked.logits.argmax(1)

    @property
    def fooled(self) -> Tensor:
        """(n,) bool: right when clean, wrong when attacked."""
        clean, attacked = self.said
        return (clean == self.y) & (attacked != self.y)

    def first(self, n: int) -> Tensor:
        """Rows of up to n images, the fooled before those that stand, those wrong when clean left out."""
        standing = (self.said[0] == self.y) & ~self.fooled
        return torch.cat([self.fooled.nonzero().squeeze(1), standing.nonzero().squeeze(1)])[:n]


def take(
    evaluator: Evaluator, attack: Attack, most: int, threat: Threat, enough: Callable[[], bool] = bool
) -> Sample:
    """Attacks up to `most` images, drawn by the evaluator's seed; fewer, but a chunk at least, once it is `enough`."""
    draw = torch.Generator().manual_seed(evaluator.seed)
    index = torch.randperm(len(evaluator.y), generator=draw)[:most]
    head = _head(evaluator, threat)
    parts: list[tuple[Tensor, ...]] = []
    outs: list[tuple[Outputs, Outputs]] = []
    for rows in torch.split(index, CHUNK):
        x, y = evaluator.batch(rows)
        made = craft(evaluator, attack, rows)
        outs.append((outputs(evaluator, x, head), outputs(evaluator, made.x, head)))
        parts.append((rows, x.cpu(), made.x.cpu(), y.cpu()))
        if enough():
            break
    rows, x, adversarial, y = (torch.cat(part) for part in zip(*parts, strict=True))
    clean, attacked = (joined(out) for out in zip(*outs, strict=True))
    order = rows.argsort()
    clean, attacked = _rows(clean, order), _rows(attacked, order)
    return Sample(rows[order], x[order], adversarial[order], y[order], clean, attacked, head is not None)


def craft(evaluator: Evaluator, attack: Attack, index: Tensor) -> Adversarial:
    """What an attack gives for the images at `index` (n,), networks that the attack itself holds in eval mode."""
    with ExitStack() as stack:
        for value in vars(attack).values():
            if isinstance(value, nn.Module):
                stack.enter_context(frozen(value))
        return evaluator.attacked(attack, index)


def _head(evaluator: Evaluator, threat: Threat) -> nn.Module | None:
    """The module that features enter, where the network has one."""
    shape = tuple(evaluator.images.shape[1:])
    try:
        return find_head(evaluator.net.module, Facts(2, shape, threat.clip))[1]
    except ModelError:
        return None


@contextmanager
def _listening(head: nn.Module | None, heard: list[Tensor]) -> Iterator[None]:
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(lambda module, args: heard.append(args[0]))
    try:
        yield
    finally:
        handle.remove()


def outputs(evaluator: Evaluator, x: Tensor, head: nn.Module | None) -> Outputs:
    """Logits and, where there is a head, the "features" that entered it last; on the CPU."""
    heard: list[Tensor] = []
    with frozen(evaluator.net), torch.no_grad(), _listening(head, heard):
        logits = evaluator.net(x).logits
    return Outputs(logits.cpu(), {"features": heard[-1].flatten(1).cpu()} if heard else {})


def _rows(out: Outputs, order: Tensor) -> Outputs:
    return Outputs(out.logits[order], {name: value[order] for name, value in out.extras.items()})
