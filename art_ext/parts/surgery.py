"""Changes of a network before training: finding its head, replacing modules below the root in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from art_ext.errors import ModelError, unknown
from art_ext.types import Facts


class Surgery(Protocol):
    """Changes a network; below the root in place, so that whoever holds the network keeps it.

    It must do nothing to a network that it has changed already: a trainer's second `fit` runs it again.
    """

    def __call__(self, model: nn.Module, facts: Facts) -> nn.Module: ...


def find_head(model: nn.Module, facts: Facts, path: str | None = None) -> tuple[str, nn.Module]:
    """The module that turns features into logits, with its name.

    It is the one at `path`, else timm's `get_classifier()`, else the last Linear met in a probe pass.

    Raises:
        ModelError: where there is none; it says how to name one.
    """
    names = {id(module): name for name, module in model.named_modules()}
    if path is not None:
        known = [name for name in names.values() if name]
        if path not in known:
            raise ModelError(unknown("head of the network", path, known))
        return path, model.get_submodule(path)
    ask = getattr(model, "get_classifier", None)
    head = ask() if callable(ask) else None
    if isinstance(head, nn.Module) and id(head) in names and not isinstance(head, nn.Identity):
        return names[id(head)], head
    last = last_linear(model, facts)
    if last is None:
        raise ModelError(
            f"{type(model).__name__} has no get_classifier() and no Linear layer that could be its head; "
            "name the module that gives the logits: model.head in a recipe"
        )
    return names[id(last)], last


def last_linear(model: nn.Module, facts: Facts) -> nn.Linear | None:
    """The last Linear that a probe pass in eval mode goes through; mode and statistics stay as they were."""
    met: list[nn.Linear] = []

    def note(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        assert isinstance(module, nn.Linear)
        met.append(module)

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
    modes = [(part, part.training) for part in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            model(probe(model, facts))
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes:
            part.training = training
    return met[-1] if met else None


def probe(model: nn.Module, facts: Facts) -> Tensor:
    """Two grey images on the model's device, in its number type."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    low, high = (bound if abs(bound) != float("inf") else 0.0 for bound in facts.clip)
    return torch.full((2, *facts.input_shape), (low + high) / 2, device=like.device, dtype=like.dtype)


def put(model: nn.Module, path: str, new: nn.Module) -> None:
    """Puts a module in the place `path`, in place; it takes over the old one's device, type and mode.

    Raises:
        ModelError: for the root itself, which only its owner can replace.
    """
    if not path:
        raise ModelError(
            f"{type(model).__name__} is itself the layer to be replaced; wrap it, for example in nn.Sequential"
        )
    parent_name, _, name = path.rpartition(".")
    parent, old = model.get_submodule(parent_name), model.get_submodule(path)
    like = next((p for p in (*old.parameters(), *model.parameters()) if p.is_floating_point()), None)
    if like is not None:
        new = new.to(device=like.device, dtype=like.dtype)
    setattr(parent, name, new.train(old.training))


class MethodHead(nn.Module):
    """Base of heads that a method puts in. There is one at most: inside another, logits would be no longer its own."""


def method_head(model: nn.Module, kind: type[MethodHead]) -> MethodHead | None:
    """The network's head of that kind, from a training before this one; None where it has no method's head.

    Raises:
        ModelError: for one of another kind.
    """
    found = next((module for module in model.modules() if isinstance(module, MethodHead)), None)
    if found is not None and not isinstance(found, kind):
        raise ModelError(
            f"the network has a {type(found).__name__}, which another method put in, and a {kind.__name__} cannot take "
            "its place; start from a network that was trained without that method"
        )
    return found


@dataclass(frozen=True)
class ReplaceHead:
    """Replaces the head by `make(old head, width of the features, classes)`; `kind` is what it makes.

    A head of that kind is left alone where it is the `same` as would be made.

    Raises:
        ModelError: for a network with another method's head, or one of the same kind with other options.
    """

    make: Callable[[nn.Module, int, int], MethodHead]
    kind: type[MethodHead]
    path: str | None = None
    same: Callable[[Any], bool] = lambda head: True

    def __call__(self, model: nn.Module, facts: Facts) -> nn.Module:
        known = method_head(model, self.kind)
        if known is not None:
            if not self.same(known):
                raise ModelError(
                    f"the network's {type(known).__name__} was made with other options than those asked for; "
                    "give the same, or start from a network without it"
                )
            return model
        path, head = find_head(model, facts, self.path)
        width = getattr(head, "in_features", None)
        if not isinstance(width, int):
            raise ModelError(
                f"the head {path!r} is a {type(head).__name__}, whose input width is not known; a Linear is needed"
            )
        put(model, path, self.make(head, width, facts.n_classes))
        return model

    def __str__(self) -> str:
        return f"head becomes {self.kind.__name__}"
