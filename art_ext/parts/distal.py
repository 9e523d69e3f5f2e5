"""Distal inputs: noise that shows nothing, and that a network is made sure about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from art_ext.errors import ConfigError
from art_ext.parts.attacks import Attack
from art_ext.parts.detectors import log_confidence
from art_ext.parts.noise import Keys
from art_ext.parts.objectives import Objective, Score, unending
from art_ext.types import Adversarial, Forward, Outputs


class Raising(Attack, Protocol):
    """An attack that can raise another objective: PGD, or one that is made of several."""

    @property
    def clip(self) -> tuple[float, float]: ...

    @property
    def cost(self) -> int: ...

    def raising(self, objective: Objective) -> Attack: ...


def _confidence(out: Outputs, y: Tensor) -> Tensor:
    return log_confidence(out.logits)


distal_confidence = Objective("distal_confidence", _confidence, targetable=False)
"""The confidence in whatever class: what makes an input that shows nothing look like something."""


@dataclass(frozen=True)
class Distal:
    """Uniform noise images under an attack that raises the confidence in whatever class.

    Of the images given, only the shape matters (Hein, Andriushchenko, Bitterwolf, CVPR 2019; evaluated for
    confidence calibration by Stutz, Hein, Schiele, ICML 2020). What is kept of them is a false positive.

    Attributes:
        attack: its ball lies around the noise; its own objective gives way to this one's.
        objective: what is raised, a detector's score for example.

    Raises:
        ConfigError: for an attack without a finite box, which has no uniform noise; for a mask.
    """

    attack: Raising
    objective: Objective = distal_confidence
    bn: Literal["eval"] = "eval"

    def __post_init__(self) -> None:
        low, high = self.attack.clip
        if not high - low < float("inf"):
            raise ConfigError("distal images are noise in the clip range; give the classifier finite clip_values")

    @property
    def cost(self) -> int:
        """Of the attack, per example."""
        return self.attack.cost

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        if mask is not None:
            raise ConfigError("distal images are noise everywhere, which leaves nothing to a mask; leave the mask out")
        low, high = self.attack.clip
        noise = low + (high - low) * keys.stream("distal").uniform(tuple(x.shape[1:])).to(x.dtype)
        highest = unending(self.objective)
        made = self.attack.raising(highest).craft(net, noise, highest.bind(net, noise, score.y), keys)
        return Adversarial(made.x, made.x - x)

    def __str__(self) -> str:
        return f"distal noise under {self.attack.raising(self.objective)}"
