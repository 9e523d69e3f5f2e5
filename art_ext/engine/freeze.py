"""Crafting without weight gradients: the network frozen in place, or a twin that shares its storage."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from art_ext.engine.net import Net
from art_ext.errors import ModelError
from art_ext.parts.attacks import BNMode
from art_ext.types import Forward, Outputs

logger = logging.getLogger(__name__)

Foldable = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


@contextmanager
def restoring(module: nn.Module) -> Iterator[None]:
    """The mode of every layer and `requires_grad` of every parameter are put back afterwards, in any case."""
    modes = [(part, part.training) for part in module.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def frozen(module: nn.Module, bn: BNMode = "eval") -> Iterator[None]:
    """No parameter asks for a gradient, and every layer is in the given mode; restored in any case."""
    with restoring(module):
        module.train(bn == "train")
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        yield


def alias(net: Net) -> Net:
    """A copy of the module tree in eval mode that shares every tensor and asks for no gradients.

    The source may stay in train mode; its in-place updates are seen here at once.
    """
    memo: dict[int, object] = {id(b): b for b in net.buffers()}
    memo.update({id(p): nn.Parameter(p.detach(), requires_grad=False) for p in net.parameters()})
    return copy.deepcopy(net, memo).eval()


@contextmanager
def unused(net: nn.Module) -> Iterator[None]:
    """Refuses every pass through a module of `net`.

    A copy whose forward goes through a closure still runs the modules it was copied from, in their mode.
    """

    def refuse(module: nn.Module, args: object) -> None:
        raise ModelError(f"a copy of the network still runs the {type(module).__name__} that it was copied from")

    handles = [module.register_forward_pre_hook(refuse) for module in net.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Twin:
    """An eval-mode alias of a network for crafting, its batch norms folded into the layers before them.

    w' = w g / sqrt(var + eps) and b' = (b - mean) g / sqrt(var + eps) + beta are written into the
    twin's own tensors by `refresh`; all other tensors are shared with the source. Which pairs may
    be folded is read off one traced pass and then proven: on a copy with random statistics the
    folded logits must equal the plain ones. A pair where they do not is left as it is.

    Args:
        net: the source.
        example: (n, C, H, W), for the traced pass.
        folded: the pairs that were proven before, for a run that goes on: the proof depends on the weights.
    """

    def __init__(self, net: Net, example: Tensor, folded: list[tuple[str, str]] | None = None) -> None:
        self.source = net
        self.net = alias(net)
        self._shared = addresses(tables_of(self.net))  # before anything is folded, all tensors are the source's
        self._tables = tables_of(net)
        self._children = [(module._modules, tuple(module._modules.values())) for module in net.modules()]
        if folded is None:
            with unused(net):
                names = foldable_pairs(self.net, example)
            folded = exact_pairs(net, names, example)
        self.folded = folded
        self._pairs = [Pair(net, self.net, *pair) for pair in self.folded]
        align_gradients(self.net, example)

    def __call__(self, x: Tensor) -> Outputs:
        out: Outputs = self.net(x)
        return out

    @property
    def stale(self) -> bool:
        """Whether the source got new tensors (`p.data = ...`) or modules since, so that a new twin is needed."""
        if any(tuple(present.values()) != known for present, known in self._children):
            return True
        return addresses(self._tables) != self._shared

    @torch.no_grad()
    def refresh(self) -> Forward:
        """Folds the source's present weights and statistics."""
        for pair in self._pairs:
            pair.fold()
        return self


def align_gradients(net: Net, example: Tensor) -> list[str]:
    """Puts gradients into the memory order of the values, where a pass shows that they differ.

    Flattened channels-last maps, for one, get a channels-first gradient; on mixed orders the gradient
    of ReLU takes ten times as long as this copy. Returns the names of the modules it watches.
    """
    aligned: list[str] = []
    while (name := _misaligned(net, example)) is not None and name not in aligned:
        net.get_submodule(name).register_forward_hook(_align)
        aligned.append(name)
    return aligned


def _misaligned(net: Net, example: Tensor) -> str | None:
    """The module nearest to the output whose output is channels-last and its gradient is not."""
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(grad: Tensor) -> None:
            if not grad.is_contiguous(memory_format=torch.channels_last):
                found.append(name)

        def hook(module: nn.Module, args: object, out: object) -> None:
            if _is_channels_last(out):
                out.register_hook(look)  # type: ignore[no-untyped-call]

        return hook

    leaves = [(name, module) for name, module in net.named_modules() if name and not module._modules]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.enable_grad():
            x = example.detach().clone().requires_grad_()
            torch.autograd.grad(net(x).logits.sum(), x)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _align(module: nn.Module, args: object, out: object) -> None:
    if _is_channels_last(out):
        out.register_hook(_in_channels_last)  # type: ignore[no-untyped-call]


def _in_channels_last(grad: Tensor) -> Tensor:
    return grad.contiguous(memory_format=torch.channels_last)


def _is_channels_last(out: object) -> TypeGuard[Tensor]:
    """Whether this is a tensor in channels-last order, and no other, that gets a gradient."""
    return (
        isinstance(out, Tensor)
        and out.ndim == 4
        and out.requires_grad
        and out.is_contiguous(memory_format=torch.channels_last)
        and not out.is_contiguous()
    )


Table = Mapping[str, Tensor | None]


def tables_of(net: nn.Module) -> list[Table]:
    """Where its modules keep their parameters and buffers, in order: looked at in every step, without making names."""
    return [table for module in net.modules() for table in (module._parameters, module._buffers)]


def addresses(tables: Sequence[Table]) -> list[int]:
    """Where in memory the tensors are that stand there now."""
    return [tensor.data_ptr() for table in tables for tensor in table.values() if tensor is not None]


class Pair:
    """A layer and the batch norm behind it; `fold` writes both into the twin's layer."""

    def __init__(self, source: nn.Module, twin: nn.Module, layer: str, norm: str) -> None:
        self.layer: Foldable = source.get_submodule(layer)  # type: ignore[assignment]
        self.norm: _BatchNorm = source.get_submodule(norm)  # type: ignore[assignment]
        target = twin.get_submodule(layer)
        weight = self.layer.weight.detach().clone()
        if weight.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        target.weight = nn.Parameter(weight, requires_grad=False)
        target.bias = nn.Parameter(weight.new_zeros(len(weight)), requires_grad=False)
        self.weight, self.bias = target.weight.data, target.bias.data
        self._per_output = (-1, *[1] * (weight.ndim - 1))
        replace_everywhere(twin, twin.get_submodule(norm), _behind(twin.get_submodule(norm)))

    def fold(self) -> None:
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt_()
        if norm.weight is not None:
            scale.mul_(norm.weight)
        torch.mul(self.layer.weight, scale.view(self._per_output), out=self.weight)
        mean = norm.running_mean if self.layer.bias is None else norm.running_mean - self.layer.bias
        if norm.bias is not None:
            torch.addcmul(norm.bias, mean, scale, value=-1, out=self.bias)
        else:
            torch.mul(mean, scale, out=self.bias).neg_()


def _behind(norm: nn.Module) -> nn.Module:
    """What of a norm layer remains after folding: nothing, or the activation that timm puts inside it."""
    inside = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if isinstance(part, nn.Module)]
    return nn.Sequential(*inside) if inside else nn.Identity()


def replace_everywhere(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts `new` wherever `old` is registered below the root."""
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


def _plain_norm(module: nn.Module) -> bool:
    # A subclass may do anything in its forward; timm's carries `drop` and `act` and is understood.
    known = type(module).forward in (_BatchNorm.forward, nn.BatchNorm2d.forward) or hasattr(module, "act")
    return isinstance(module, _BatchNorm) and known and module.running_mean is not None


@torch.no_grad()
def foldable_pairs(net: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """(layer, batch norm) names where, in one pass, the norm reads exactly what the layer wrote."""
    names = {module: name for name, module in net.named_modules()}
    written: dict[int, tuple[nn.Module, Tensor, int]] = {}
    calls: dict[nn.Module, int] = {}
    found: list[tuple[nn.Module, nn.Module]] = []

    def after_layer(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        written[id(out)] = (module, out, _version(out))

    def before_norm(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        layer, _, version = written.get(id(args[0]), (None, None, -1))
        if layer is not None and version == _version(args[0]):
            found.append((layer, module))

    handles = []
    for module in names:
        if isinstance(module, Foldable):
            handles.append(module.register_forward_hook(after_layer))
        elif _plain_norm(module):
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        net(example)
    finally:
        for handle in handles:
            handle.remove()
    return [(names[a], names[b]) for a, b in found if calls[a] == calls[b] == 1]


def _version(tensor: Tensor) -> int:
    return int(tensor._version)


def exact_pairs(net: Net, pairs: list[tuple[str, str]], example: Tensor) -> list[tuple[str, str]]:
    """The pairs that can be folded, found by halving: a pre-activation net's stem, say, is read by its
    first norm and by a shortcut as well, while all others may be folded."""
    if not pairs or folding_is_exact(net, pairs, example):
        return pairs
    if len(pairs) == 1:
        return []
    half = len(pairs) // 2
    found = exact_pairs(net, pairs[:half], example) + exact_pairs(net, pairs[half:], example)
    return found if folding_is_exact(net, found, example) else []


@torch.no_grad()
def folding_is_exact(net: Net, pairs: list[tuple[str, str]], example: Tensor) -> bool:
    """Whether folding these pairs keeps the logits, on a copy with random statistics and input.

    Fresh statistics (mean 0, variance 1) would hide a wrong pair.
    """
    plain = copy.deepcopy(net).eval()
    generator = torch.Generator().manual_seed(0)

    def random(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator).mul_(high - low).add_(low).to(like)

    for module in plain.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.copy_(random(module.running_mean, -0.5, 0.5))
            module.running_var.copy_(random(module.running_var, 0.5, 1.5))
            if module.weight is not None:
                module.weight.copy_(random(module.weight, 0.5, 1.5))
                module.bias.copy_(random(module.bias, -0.5, 0.5))
    folded = alias(plain)
    for layer, norm in pairs:
        Pair(plain, folded, layer, norm).fold()
    x = random(example, 0.0, 1.0)
    # Half precision and TF32 round by more than a wrong pair may differ.
    with torch.autocast(x.device.type, enabled=False), torch.backends.cudnn.flags(allow_tf32=False):
        expected, got = plain(x).logits, folded(x).logits
    return torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


class Crafter:
    """Lends out networks for attacks: without weight gradients, folded where that is proven exact.

    A twin is kept from one loan to the next; it is made anew for another network, or after the
    network got new tensors.
    """

    def __init__(self, fold: bool = True) -> None:
        self.fold = fold
        self._twin: Twin | None = None
        self._proven: list[tuple[str, str]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Whether it folds, and what it found can be folded."""
        pairs = self._proven if self._twin is None else self._twin.folded
        return {"fold": self.fold, "folded": None if pairs is None else [list(pair) for pair in pairs]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.fold, self._twin = state["fold"], None
        self._proven = None if state["folded"] is None else [(layer, norm) for layer, norm in state["folded"]]

    @property
    def folded(self) -> int:
        """How many batch norms the present twin has folded."""
        return 0 if self._twin is None else len(self._twin.folded)

    @contextmanager
    def __call__(self, net: Net, bn: BNMode, example: Tensor) -> Iterator[Forward]:
        twin = self._twin_of(net, example) if bn == "eval" and self.fold else None
        if twin is not None:
            yield twin.refresh()
            return
        with frozen(net, bn):
            yield net

    def _twin_of(self, net: Net, example: Tensor) -> Twin | None:
        if self._twin is None or self._twin.source is not net or self._twin.stale:
            try:
                self._twin, self._proven = Twin(net, example[:2], self._proven), None
            except Exception as error:  # any module may refuse to be copied or traced: it is attacked as it is
                logger.info("crafting on the network itself, since its twin could not be made: %s", error)
                self.fold, self._twin = False, None
        return self._twin
