"""Batches that do not fit in memory go through the network in pieces, with the gradient of the whole.

Only the outputs of a batch are kept; the backward pass computes each piece once more (Chen et al.,
2016), so that one piece's activations are in memory at a time. Any loss of the outputs has the
gradient it would have had, since it still sees the whole batch at once. Batch norms are the
exception: in train mode they would see the rows of a piece alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from art_ext.errors import MemoryShortageError
from art_ext.types import Adversarial, Outputs

__all__ = ["batch_norms", "in_pieces", "is_out_of_memory", "joined_adversarial", "pieces", "release", "shortage"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the CPU, could not allocate."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in said or "out of memory" in said)
    )


def shortage(step: int, rows: int, reason: str) -> MemoryShortageError:
    """The one line for a batch that does not fit, and is not taken in pieces for a reason."""
    return MemoryShortageError(
        f"the batch of step {step}, {rows} images, does not fit in memory, and it is not taken in pieces by itself: "
        f"{reason}; set train.micro_batch to {max(rows // 2, 1)} or less, or lower train.batch_size"
    )


def release(device: torch.device) -> None:
    """Gives back what torch holds of a device's memory without using it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def pieces(n: int, rows: int | None) -> list[slice]:
    """n rows in as few pieces of at most `rows` as can be, all of nearly the same size."""
    count = 1 if rows is None else max(math.ceil(n / rows), 1)
    edges = [n * number // count for number in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def in_pieces(net: nn.Module, x: Tensor, rows: int | None) -> Outputs:
    """net(x) for x (N, C, H, W), at most `rows` at once, as well in the backward pass."""
    parts = pieces(len(x), rows)
    if len(parts) == 1:
        whole: Outputs = net(x)
        return whole
    outs: list[Outputs] = [
        checkpoint(net, x[part], use_reentrant=False, context_fn=lambda: _once(net))
        for part in parts
    ]
    extras = {name: torch.cat([out.extras[name] for out in outs]) for name in outs[0].extras}
    return Outputs(torch.cat([out.logits for out in outs]), extras)


def _once(net: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a piece's two passes: the second leaves the statistics of batch norms as they are."""
    return nullcontext(), _statistics_kept(net)


@contextmanager
def _statistics_kept(net: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for norm in batch_norms(net) for buffer in norm.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


def batch_norms(net: nn.Module) -> list[nn.Module]:
    """The layers that look at several rows at once in train mode."""
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]


def joined_adversarial(parts: list[Adversarial]) -> Adversarial:
    """The adversarial twins of several pieces as those of one batch."""
    if len(parts) == 1:
        return parts[0]
    extras: Mapping[str, Tensor] = {
        name: torch.cat([part.extras[name] for part in parts]) for name in parts[0].extras
    }
    return Adversarial(torch.cat([part.x for part in parts]), torch.cat([part.delta for part in parts]), extras)
