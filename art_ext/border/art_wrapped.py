"""ART's own evasion attacks as attacks of an evaluation: `evaluate: [{art: {attack: DeepFool}}]`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import art.attacks.evasion as evasion
import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_ext.entries import EvaluationContext, Family
from art_ext.errors import ConfigError, unknown
from art_ext.parts.noise import Keys
from art_ext.parts.norms import Norm, norm_named
from art_ext.parts.objectives import Objective, Score, cw
from art_ext.types import Adversarial, Forward

__all__ = ["Wrapped", "wrapped"]

ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
USUAL = {"verbose": False, "batch_size": 256}
BY_ANSWERS = frozenset(
    {
        "BoundaryAttack",
        "GeoDA",
        "HopSkipJump",
        "PixelAttack",
        "SignOPTAttack",
        "SimBA",
        "SpatialTransformation",
        "SquareAttack",
        "ThresholdAttack",
        "ZooAttack",
    }
)
"""Those that ask for no gradients, though ART does not say so."""
GIVEN = ("classifier", "estimator", "targeted", "verbose", "summary_writer", "self")
"""Parameters of ART's attacks that are not the user's."""


@dataclass(frozen=True)
class Wrapped:
    """One of ART's attacks on a network in clip-value units; its objective is its own.

    ART keys no noise by example: numbers depend on the batch, and of a few of its attacks (HopSkipJump) on nothing
    that can be set. What it finds outside the ball `within` does not count.
    """

    attack: str
    options: Mapping[str, Any]
    within: Norm
    n_classes: int
    clip: tuple[float, float]
    family: Family = "gradient"
    objective: Objective = field(default=cw)  # for the aim alone
    bn: Literal["eval"] = "eval"

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        device = "gpu" if x.device.type == "cuda" else "cpu"
        classifier = PyTorchClassifier(
            _Lent(net, x.dtype),
            nn.CrossEntropyLoss(),
            tuple(x.shape[1:]),
            self.n_classes,
            clip_values=self.clip,
            device_type=device,
        )
        kind = getattr(evasion, self.attack)
        extra = {} if mask is None else {"mask": mask.cpu().numpy()}
        with _seeded(keys), torch.enable_grad():
            made = kind(classifier, **self.options).generate(x.cpu().numpy(), y=score.y.cpu().numpy(), **extra)
        adv = torch.as_tensor(np.asarray(made)).to(x)
        return Adversarial(adv, adv - x)

    def __str__(self) -> str:
        shown = {name: value for name, value in self.options.items() if name not in USUAL}
        own = ", ".join(f"{name}={value}" for name, value in shown.items())
        return f"ART's {self.attack}({own}), what lies within {self.within}"


class _Lent(nn.Module):
    """A network's logits, without its parameters, which ART would move; some of its attacks ask in float64."""

    def __init__(self, net: Forward, dtype: torch.dtype) -> None:
        super().__init__()
        self._net, self.dtype = (net,), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self._net[0](x.to(self.dtype)).logits


@contextmanager
def _seeded(keys: Keys) -> Iterator[None]:
    """NumPy's global generator, which ART draws from, seeded by the examples, and as it was afterwards."""
    before = np.random.get_state()
    np.random.seed(int(keys.stream("art").words(()).sum() % 2**32))
    try:
        yield
    finally:
        np.random.set_state(before)


def wrapped(attack: str, options: Mapping[str, Any], context: EvaluationContext) -> Wrapped:
    """The attack of that name; norm and eps are the threat's where it has such options and they are not given.

    Raises:
        ConfigError: for an attack or an option that ART does not have, or a norm that this one does not.
    """
    known = {name: kind for name, kind in vars(evasion).items() if _takes_a_classifier(kind)}
    if attack not in known:
        raise ConfigError(unknown("evasion attack of ART", attack, known))
    kind = known[attack]
    own = set(inspect.signature(kind.__init__).parameters)
    for name in options:
        if name not in own.difference(GIVEN):
            raise ConfigError(unknown(f"option of ART's {attack}", name, own.difference(GIVEN)))
    ball, chosen = norm_named(context.norm, context.eps), dict(options)
    if "norm" in own and "norm" not in chosen:
        if context.norm not in ORDERS:
            raise ConfigError(f"ART's {attack} knows the norms {', '.join(ORDERS)}, not {context.norm}")
        chosen["norm"] = ORDERS[context.norm]
    if "eps" in own and "eps" not in chosen:
        chosen["eps"] = context.eps
        if "eps_step" in own:
            chosen.setdefault("eps_step", context.eps / 10)
    chosen = {**{name: value for name, value in USUAL.items() if name in own}, **chosen}
    family: Family = "black-box" if attack in BY_ANSWERS else "gradient"
    return Wrapped(attack, chosen, ball, context.plan.facts.n_classes, context.clip, family)


def _takes_a_classifier(kind: Any) -> bool:
    """Whether it is one of ART's evasion attacks that `PyTorchClassifier` meets the requirements of."""
    if not isinstance(kind, type) or not issubclass(kind, EvasionAttack):
        return False
    wanted = cast(Any, kind)._estimator_requirements or ()
    return all(issubclass(PyTorchClassifier, one if isinstance(one, type) else tuple(one)) for one in wanted)
