"""Bag of tricks for adversarial training (Pang et al., ICLR 2021): one ingredient a trick, as an art_ext plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from art_ext.api import Ingredient, hookimpl, lazily
from art_ext_tricks.activations import ACTIVATIONS, Activation, SwapActivation
from art_ext_tricks.averages import EMA, SWA
from art_ext_tricks.bag import Bag
from art_ext_tricks.crafting import EarlyStopSteps, EpsWarmUp, EvalBN, TrainBN
from art_ext_tricks.formulas import centralised, ema_decay, scaled_rate, smooth_labels
from art_ext_tricks.optimizers import Centralise, OptimizerChoice, Spare, WeightDecay, has_decay
from art_ext_tricks.pace import LRWarmUp, ScaleLR
from art_ext_tricks.targets import Smooth, SmoothLabels

if TYPE_CHECKING:
    from art_ext_tricks.art import BagAttack, BagTrainer

__all__ = [
    "ACTIVATIONS",
    "EMA",
    "SWA",
    "Activation",
    "Bag",
    "BagAttack",
    "BagTrainer",
    "Centralise",
    "EarlyStopSteps",
    "EpsWarmUp",
    "EvalBN",
    "LRWarmUp",
    "OptimizerChoice",
    "ScaleLR",
    "Smooth",
    "SmoothLabels",
    "Spare",
    "SwapActivation",
    "TrainBN",
    "WeightDecay",
    "centralised",
    "ema_decay",
    "has_decay",
    "scaled_rate",
    "smooth_labels",
]

__getattr__ = lazily(__name__, art=("BagAttack", "BagTrainer"))


@hookimpl
def art_ext_ingredients() -> list[type[Ingredient]]:
    return [
        Smooth,
        EpsWarmUp,
        LRWarmUp,
        ScaleLR,
        EarlyStopSteps,
        EvalBN,
        TrainBN,
        OptimizerChoice,
        WeightDecay,
        EMA,
        SWA,
        *ACTIVATIONS,
        Bag,
    ]
