"""What parts promise, held against them in the first step that they take: shapes, values, and inputs left alone.

A part that breaks its promise is named with the ingredient that brought it, before it has spoilt a
training. Later steps run without these checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from art_ext.engine.memory import is_out_of_memory
from art_ext.errors import ArtExtError, PartError
from art_ext.plan import Parts, Plan

__all__ = ["held_to_contracts"]

_ROUNDING = 1e-4

Check = Callable[[tuple[Any, ...], Any], str]
"""(what a part was called with, what it gave) to what is wrong with that, or ""."""


@contextmanager
def held_to_contracts(plan: Plan, parts: Parts, seen: set[tuple[type, ...]]) -> Iterator[None]:
    """While it holds, the attack, target, criterion and risk are checked at each call, the first time.

    Args:
        seen: the kinds of parts that kept their promises before; those that do now are added.

    Raises:
        PartError: in one line: the part, its ingredient, and what it did.
    """
    kinds = (type(parts.attack), type(parts.target), type(parts.criterion), type(parts.risk))
    if kinds in seen:
        yield
        return
    n_classes = plan.facts.n_classes
    promises: list[tuple[str, str, Check]] = [
        ("attack", "craft", lambda given, got: _crafted(given[1], got, plan.facts.clip)),
        ("target", "__call__", lambda given, got: _targets(given[0], got, n_classes)),
        ("criterion", "__call__", lambda given, got: _losses(given[0], got)),
        ("risk", "__call__", lambda _, got: _terms(got)),
    ]
    with ExitStack() as stack:
        for slot, method, check in promises:
            part = getattr(parts, slot)
            if part is not None:
                stack.enter_context(_checked(part, method, f"the {slot} {part} of {plan.owner(slot)}", check))
        yield
    seen.add(kinds)


@contextmanager
def _checked(part: Any, method: str, name: str, check: Check) -> Iterator[None]:
    """The part's class is one with a checking method for a while: it stays the same object, of the same kind."""
    kind = type(part)
    original = getattr(kind, method, None)
    if original is None:
        yield
        return

    def checking(self: Any, *given: Any, **named: Any) -> Any:
        before = [(tensor, tensor.detach().clone()) for tensor in _tensors(given)]
        try:
            got = original(self, *given, **named)
        except ArtExtError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            said = " ".join(str(error).split())[:200]
            raise PartError(f"{name} failed ({type(error).__name__}: {said}); repair or update its plugin") from error
        wrong = check(given, got)
        if not wrong and any(not _same(tensor, kept) for tensor, kept in before):
            wrong = "changed a tensor that it was given, in place"
        if wrong:
            raise PartError(f"{name} {wrong}; repair or update its plugin")
        return got

    held = type(kind.__name__, (kind,), {method: checking, "__slots__": (), "__module__": kind.__module__})
    try:
        object.__setattr__(part, "__class__", held)
    except TypeError:  # a function, or a class of another layout: its mistakes show as they come
        yield
        return
    try:
        yield
    finally:
        object.__setattr__(part, "__class__", kind)


def _tensors(given: tuple[Any, ...]) -> Iterator[Tensor]:
    for value in given:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):  # Outputs, Views, View
            yield from _tensors(tuple(value))


def _same(tensor: Tensor, kept: Tensor) -> bool:
    return tensor.shape == kept.shape and torch.equal(tensor.detach().nan_to_num(), kept.nan_to_num())


def _crafted(x: Tensor, got: Any, clip: tuple[float, float]) -> str:
    adversarial, delta = getattr(got, "x", None), getattr(got, "delta", None)
    if not isinstance(adversarial, Tensor) or not isinstance(delta, Tensor):
        return f"gave {_what(got)} instead of an Adversarial with x and delta"
    for name, tensor in (("x", adversarial), ("delta", delta)):
        if tensor.shape != x.shape:
            return f"gave {name} of shape {tuple(tensor.shape)} for images of shape {tuple(x.shape)}"
    if not bool(torch.isfinite(adversarial).all()):
        return "gave images that are not finite"
    low, high = float(adversarial.min()), float(adversarial.max())
    if low < clip[0] - _ROUNDING or high > clip[1] + _ROUNDING:
        return f"gave pixels from {low:g} to {high:g}, outside of {clip[0]:g} to {clip[1]:g}"
    return ""


def _targets(y: Tensor, got: Any, n_classes: int) -> str:
    if not isinstance(got, Tensor) or got.shape not in (y.shape, (len(y), n_classes)):
        return f"gave {_what(got)} for {len(y)} labels, and (N,) or (N, {n_classes}) is needed"
    return ""


def _losses(out: Any, got: Any) -> str:
    n = len(out.logits)
    if not isinstance(got, Tensor) or got.shape != (n,):
        return f"gave {_what(got)} for {n} rows, and one loss for each is needed, (N,), without a mean"
    return ""


def _terms(got: Any) -> str:
    if not isinstance(got, Mapping) or not got:
        return f"gave {_what(got)}, and terms of the loss by name are needed"
    for name, term in got.items():
        if not isinstance(term, Tensor) or term.ndim != 0:
            return f"gave {_what(term)} as {name!r}, and a scalar is needed"
    return ""


def _what(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
