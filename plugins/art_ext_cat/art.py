"""CAT as ART knows trainers and attacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from art_ext.api import Attack, ConfigError, Facts, Plan, cw, for_evaluation, frozen, probe
from art_ext.border.art import ClassifierView, MethodAttack, MethodTrainer
from art_ext_cat.ingredient import CAT
from art_ext_cat.losses import calibrated
from art_ext_cat.parts import MASK


class CATAttack(MethodAttack):
    """The inner attack of CAT, without the mask: `CATAttack(classifier, eps=0.15, steps=20).generate(x, y)`.

    Nothing of CAT runs at test time, so an attacker does not shrink what it found. A targeted attack on
    the CW loss raises the plain margin: the hinge would stop pulling far from the target.

    Args:
        mask_network: a trained one, `CATTrainer.mask_network`: `generate` gives calibrated examples then, made
            as in training (the last iterate); for looking at them, never for an evaluation.
        fields: as `MethodAttack`.
    """

    ingredient = CAT
    own_params = (*MethodAttack.own_params, "mask_network")

    def __init__(self, estimator: Any, *, mask_network: nn.Module | None = None, **fields: Any) -> None:
        self.mask_network = mask_network
        super().__init__(estimator, **fields)

    def _check_params(self) -> None:
        super()._check_params()
        if self.mask_network is not None and not isinstance(self.mask_network, nn.Module):
            raise ConfigError(f"mask_network is a torch module, as CATTrainer.mask_network, got {self.mask_network!r}")

    def attack(self, facts: Facts) -> Attack:
        """The inner attack as an evaluation runs it, or, for calibrated examples, as training does."""
        assert isinstance(self._ingredient, CAT)
        inner = replace(self._ingredient.attack(facts.clip), clip=facts.clip)
        if self.targeted and self._ingredient.inner == "cw":
            inner = replace(inner, objective=cw)
        whole = for_evaluation(inner)
        return whole if self.mask_network is None else replace(whole, keep="last", stop_when_wrong=False)

    def generate(self, x: Any, y: Any = None, **kwargs: Any) -> Any:
        """As `MethodAttack.generate`; calibrated where there is a mask network.

        Raises:
            ConfigError: for a network that gives no masks, before anything is crafted.
        """
        if self.mask_network is None:
            return super().generate(x, y, **kwargs)
        return self._calibrated(x, y, **kwargs)[0]

    def calibrated(self, x: Any, y: Any = None) -> tuple[Any, Any]:
        """(x_cal, mask) of images x (N, C, H, W): float32, shaped as x.

        Raises:
            ConfigError: without a mask network, or for one that gives no masks.
        """
        return self._calibrated(x, y)

    def _calibrated(self, x: Any, y: Any, **kwargs: Any) -> tuple[Any, Any]:
        if self.mask_network is None:
            raise ConfigError("calibrated examples need a mask network: CATAttack(classifier, mask_network=...)")
        facts = ClassifierView(self.estimator, type(self)).facts
        check_mask_network(self.mask_network, facts)
        full = super().generate(x, y, **kwargs)
        return calibrate_arrays(self.mask_network, x, full, facts.clip, self.batch_size)


def check_mask_network(network: nn.Module, facts: Facts) -> None:
    """Asks a network for the masks of two grey images.

    Raises:
        ConfigError: unless it gives a number from 0 to 1 for each of their values.
    """
    name, example = f"mask_network {type(network).__name__}", probe(network, facts).float()
    way_out = "give CATTrainer.mask_network, or a MaskNetwork of the classifier's input_shape"
    with frozen(network), torch.no_grad():
        try:
            mask = network(example)
        except Exception as error:
            said = " ".join(str(error).split())[:120]
            raise ConfigError(f"{name} fails on images of shape {facts.input_shape} ({said}); {way_out}") from None
    if not isinstance(mask, Tensor) or mask.shape != example.shape:
        given = f"masks of shape {tuple(mask.shape[1:])}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise ConfigError(f"{name} gives {given} for images of shape {facts.input_shape}; {way_out}")
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ConfigError(f"{name} gives masks with values outside of 0 to 1; end it with a sigmoid")


def calibrate_arrays(
    network: nn.Module, x: Any, full: Any, clip: tuple[float, float], batch_size: int = 256
) -> tuple[Any, Any]:
    """(x_cal, mask) of images x and their full adversarial examples, in eval mode; NumPy in and out."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    images, moved = (torch.as_tensor(np.asarray(part, dtype=np.float32)) for part in (x, full))
    made: list[tuple[Tensor, Tensor]] = []
    with frozen(network), torch.no_grad():
        for rows in torch.split(torch.arange(len(images)), batch_size):
            mask = network(moved[rows].to(device)).cpu()
            made.append((calibrated(images[rows], moved[rows] - images[rows], mask, clip), mask))
    x_cal, masks = (torch.cat(parts).numpy() for parts in zip(*made, strict=True))
    return x_cal, masks


class CATTrainer(MethodTrainer):
    """Calibrated adversarial training: `CATTrainer(classifier, eps=0.15, beta_1=0.05).fit(x, y, nb_epochs=20)`.

    Attributes:
        mask_network: of the last fit, for `calibrated`; None before it, and without a mask.
    """

    ingredient = CAT
    mask_network: nn.Module | None = None
    _planned: nn.Module | None = None

    def plan(self, view: ClassifierView | None = None) -> Plan:
        """The plan of the next fit, built fresh."""
        plan = super().plan(view)
        self._planned = next((helper.module for helper in plan.helpers if helper.name == MASK), None)
        return plan

    def _run(self, *args: Any, **kwargs: Any) -> None:
        super()._run(*args, **kwargs)
        self.mask_network = self._planned

    def calibrated(self, x: Any, y: Any) -> tuple[Any, Any]:
        """(x_cal, mask) of images x (N, C, H, W) with classes y: what the classifier would train on now.

        `picture(x, x_cal, mask)` shows them.

        Raises:
            ConfigError: before a fit, and for a training without a mask.
        """
        (ingredient,) = self.ingredients
        if self.mask_network is None:
            reason = "trains without a mask" if dict(ingredient)["mask"] == "none" else "has no mask network before fit"
            raise ConfigError(f"this CATTrainer {reason}, so there are no calibrated examples")
        attack = CATAttack(self._classifier, mask_network=self.mask_network, seed=self.seed, **dict(ingredient))
        if self.attack is None:
            return attack.calibrated(x, y)
        clip = ClassifierView(self._classifier, type(self)).facts.clip
        return calibrate_arrays(self.mask_network, x, self.attack.generate(np.asarray(x), y=y), clip)
