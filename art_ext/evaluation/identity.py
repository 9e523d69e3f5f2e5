"""What a figure depends on, as digests: an evaluation goes on from earlier figures only where all of it is the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from art_ext.engine.freeze import frozen
from art_ext.evaluation.counting import Counted, Spent
from art_ext.evaluation.suite import Evaluator
from art_ext.evaluation.threat import Threat
from art_ext.parts.noise import Keys

PROBES = 16
"""Images that a network is asked about to know it again, as they are and at a random point of the ball around them."""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def fingerprint(*values: object) -> str:
    """32 hex digits that are equal for equal values: of data, of objects by class and fields, of functions by code.

    Equal from process to process, unless an object shows nothing of itself; never equal by name alone.
    """
    reader = _Reader()
    for value in values:
        reader.read(value)
    return reader.digest.hexdigest()[:32]


def installed() -> str:
    """The version of art_ext whose figures are kept."""
    try:
        return version("art_ext")
    except PackageNotFoundError:
        return "unknown"


def network_digest(evaluator: Evaluator, threat: Threat) -> str:
    """Of a network as attacks see it: its weights, its answers, and the signs of its gradients.

    Wrappers with the same weights differ in the answers, or in the gradients alone where they mend or cut those.
    """
    n = len(evaluator.y)
    index = torch.arange(0, n, -(-n // PROBES))
    x, _ = evaluator.batch(index)
    ball, keys = threat.ball(), Keys(evaluator.seed, 0, index.to(x.device)).stream("probes")
    moved = (x + ball.uniform(keys, x, ball.largest)).clamp(*threat.clip)
    with torch.random.fork_rng(devices=[]), frozen(evaluator.net):  # for networks that draw from torch's generator
        torch.manual_seed(evaluator.seed)
        point = moved.requires_grad_()
        near = Counted(evaluator.net, Spent())(point).logits
        weights = torch.arange(near.shape[-1], device=near.device).cos().to(near.dtype)  # of no meaning, all different
        (grad,) = torch.autograd.grad((near * weights).sum(), point)
        answers = [evaluator.logits(x), near.detach()]
    state = {**dict(evaluator.net.named_parameters()), **dict(evaluator.net.named_buffers())}
    return fingerprint(state, answers, grad.sign().to(torch.int8))


class _Reader:
    """Feeds values into a digest, each with its kind; what was read before is a reference to it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[int, int] = {}
        self.kept: list[object] = []

    def read(self, value: Any) -> None:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            self._say(type(value).__name__, repr(value))
            return
        if id(value) in self.seen:
            self._say("again", str(self.seen[id(value)]))
            return
        self.seen[id(value)] = len(self.seen)
        self.kept.append(value)  # so that nothing else gets its id
        for kinds, read in self._readers:
            if isinstance(value, kinds):
                read(self, value)
                return
        self._object(value)

    def _say(self, kind: str, text: str = "") -> None:
        self.digest.update(f"{kind} {len(text)} {text};".encode())

    def _all(self, kind: str, values: Sequence[object]) -> None:
        self._say(kind, str(len(values)))
        for value in values:
            self.read(value)

    def _tensor(self, value: Tensor) -> None:
        plain = value.detach().cpu().contiguous()
        self._say("tensor", f"{plain.dtype} {tuple(plain.shape)}")
        if plain.numel():
            self.digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)

    def _array(self, value: np.ndarray[Any, Any]) -> None:
        self._say("array", f"{value.dtype} {value.shape}")
        if value.dtype.hasobject:
            self._all("objects", value.reshape(-1).tolist())
        else:
            self.digest.update(np.ascontiguousarray(value).tobytes())

    def _mapping(self, value: Mapping[Any, Any]) -> None:
        self._all("mapping", [part for item in value.items() for part in item])

    def _sequence(self, value: Sequence[Any]) -> None:
        self._all(type(value).__name__, value)

    def _set(self, value: Set[Any]) -> None:
        self._all("set", sorted(fingerprint(part) for part in value))

    def _type(self, value: type) -> None:
        self._say("type", f"{value.__module__}.{value.__qualname__}")

    def _code(self, value: CodeType) -> None:
        self._all("code", [value.co_code, value.co_consts, value.co_names])

    def _function(self, value: FunctionType) -> None:
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        self._say("function", f"{value.__module__}.{value.__qualname__}")
        self._all("parts", [value.__code__, value.__defaults__, value.__kwdefaults__, *cells])

    def _method(self, value: MethodType) -> None:
        self._all("method", [value.__func__, value.__self__])

    def _partial(self, value: partial[Any]) -> None:
        self._all("partial", [value.func, value.args, value.keywords])

    def _module(self, value: nn.Module) -> None:
        self._type(type(value))
        own = {name: part for name, part in vars(value).items() if not name.startswith("_") and name != "training"}
        parts = [value._parameters, value._buffers, value._modules]
        self._all("module", [*parts, own])

    def _object(self, value: object) -> None:
        self._type(type(value))
        if is_dataclass(value):
            self._all("fields", [(item.name, getattr(value, item.name)) for item in fields(value)])
        elif hasattr(value, "__dict__"):
            self._mapping(vars(value))
        else:
            self._say("shown", _ADDRESS.sub("", repr(value)))

    _readers: tuple[tuple[Any, Callable[[_Reader, Any], None]], ...] = (
        (Tensor, _tensor),
        (np.ndarray, _array),
        (nn.Module, _module),
        (Mapping, _mapping),
        (list | tuple, _sequence),
        (Set, _set),
        (type, _type),
        (CodeType, _code),
        (FunctionType, _function),
        (MethodType, _method),
        (partial, _partial),
    )
