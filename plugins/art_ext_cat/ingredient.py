"""The ingredient: attack, risk, mask network, and the update that trains it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from art_ext.api import (
    PGD,
    ConfigError,
    Count,
    Ingredient,
    Keys,
    NonNegative,
    Norm,
    Objective,
    Paper,
    Plan,
    Positive,
    Radius,
    Start,
    StepSize,
    UniformStart,
    ce,
    kl_to_clean,
    norm_named,
)
from art_ext_cat.mask import MaskNetwork, Trunk
from art_ext_cat.parts import MASK, Calibrate, CatRisk, MarginFirst, TrainMask, clean_and_robust, cw_with

BN = Literal["eval", "train"]


@dataclass(frozen=True)
class SmallStart:
    """A random point of a ball of its own radius."""

    radius: float
    clamped = True

    def __call__(self, norm: Norm, keys: Keys, x: Tensor, eps: float | Tensor) -> Tensor:
        return norm.uniform(keys, x, self.radius)

    def __str__(self) -> str:
        return f"uniform within {self.radius:g}"


class CAT(Ingredient):
    """Calibrated adversarial training (Huang, Menkovski, Pei, Pechenizkiy, ACML 2021).

    A mask network shrinks each adversarial perturbation where it would change the image's class;
    the classifier minimises a weighted clean loss and the divergence between clean and calibrated
    outputs. The mask network is dropped after training. Defaults are those for CIFAR-10.

    Raises:
        ConfigError: for images that are not (C, H, W).
    """

    name = "cat"
    adaptive = (("pgd", {"objective": "margin", "steps": 100, "restarts": 5}),)
    paper = Paper(
        "Calibrated Adversarial Training",
        "Huang, Menkovski, Pei, Pechenizkiy",
        "ACML",
        2021,
        "https://arxiv.org/abs/2110.00623",
    )

    beta: Annotated[NonNegative, Field(description="weight of the KL term, eq. (13); 5, and 1 on MNIST")] = 5.0
    beta_1: Annotated[
        NonNegative, Field(description="label constraint of the mask, eq. (14): larger is cleaner, less robust")
    ] = 0.05
    inner: Annotated[
        Literal["cw", "ce", "kl"], Field(description="loss of the attack: CATcw, CATcent, or TRADES' divergence")
    ] = "cw"
    kappa: Annotated[NonNegative, Field(description="of the CW loss; 50, and 150 on MNIST")] = 50.0
    weight: Annotated[bool, Field(description="weight the clean loss by 1 - p_y, eq. (8)")] = True
    mask: Annotated[
        Literal["auto", Trunk, "none"],
        Field(description="auto: conv for grey images, resnet18 for colour, as in the paper; none: M = 1 (ablation)"),
    ] = "auto"
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Annotated[Radius, Field(description="radius in clip-value units")] = 8 / 255
    steps: Annotated[Count, Field(description="10, and 20 on MNIST")] = 10
    step_size: Annotated[
        StepSize | None, Field(description="2.5 eps / steps when left out: the code's 2/255; eps/20 on MNIST")
    ] = None
    restarts: Annotated[Count, Field(description="each example keeps the last iterate of highest cross-entropy")] = 1
    start_radius: Annotated[
        Positive | None, Field(description="of the random start; eps when left out; 0.1 in the MNIST code")
    ] = None
    clamp: Annotated[bool, Field(description="false: x' may leave the pixel range, as in the MNIST code")] = True
    bn: Annotated[BN, Field(description="mode of the classifier while crafting; train in the code")] = "eval"
    mask_bn: Annotated[BN, Field(description="mode of the classifier in the mask's step; train in the code")] = "train"

    @model_validator(mode="after")
    def _no_idle_options(self) -> Self:
        if self.inner != "cw" and self.changed("kappa"):
            raise ValueError(f"kappa has no effect on the inner loss {self.inner}; leave it out, or set inner to cw")
        for option in self.changed("beta_1", "mask_bn") if self.mask == "none" else ():
            raise ValueError(f"{option} has no effect without a mask; leave it out, or set mask to auto")
        return self

    def apply(self, plan: Plan) -> Plan:
        clip = plan.facts.clip
        plan = plan.fill(self, attack=self.attack(clip), risk=CatRisk(self.beta, self.weight))
        plan = plan.default(self, criterion=MarginFirst(), selection=clean_and_robust)
        if self.mask == "none":
            if not self.clamp:  # f trains on x_cal, which eq. (10) clamps in any case
                plan = plan.alter(self, "attack", lambda inner: Calibrate(inner, None, clip), around=True)
            return plan
        with torch.device("meta"):
            network = MaskNetwork(self._trunk(plan.facts.input_shape), plan.facts.input_shape, clip)
        plan = plan.help(self, MASK, network)
        plan = plan.alter(self, "attack", lambda inner: Calibrate(inner, network, clip), around=True)
        return plan.wrap(
            self, lambda then: TrainMask(then, self.beta_1, self.mask_bn, clip), needs=("adversarial rows",)
        )

    def attack(self, clip: tuple[float, float]) -> PGD:
        """The inner attack, without the mask."""
        start: Start = UniformStart() if self.start_radius is None else SmallStart(self.start_radius)
        return PGD(
            norm_named(self.norm, self.eps),
            self.steps,
            self.step_size,
            objective=self._objective(),
            start=start,
            restarts=self.restarts,
            judge=ce,
            bn=self.bn,
            clip=clip if self.clamp else (-math.inf, math.inf),
        )

    def _objective(self) -> Objective:
        return {"ce": ce, "cw": cw_with(self.kappa), "kl": kl_to_clean}[self.inner]

    def _trunk(self, shape: tuple[int, ...]) -> Trunk:
        if len(shape) != 3:
            raise ConfigError(
                f"cat's mask network reads images (C, H, W), but the inputs have the shape {shape}; "
                "reshape them, or set cat.mask to none"
            )
        if self.mask == "conv" or (self.mask == "auto" and shape[0] == 1):
            return "conv"
        return "resnet18"
