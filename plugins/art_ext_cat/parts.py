"""The parts of CAT: an attack that is calibrated, a risk, and an update that trains the mask network as well."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_ext.api import (
    Adversarial,
    Attack,
    Criterion,
    CrossEntropy,
    Forward,
    Keys,
    Norm,
    Objective,
    Outputs,
    Progress,
    Risk,
    Rows,
    Score,
    Scores,
    Step,
    Terms,
    Update,
    Views,
    both,
    ce,
    cw,
)
from art_ext_cat.losses import calibrated, cw_surrogate, divergence, weighted

MASK = "mask"
"""The mask network's name among a fit's helpers, and the mask's among an attack's extras."""
FULL = "full"
"""The full adversarial example x' among an attack's extras."""


def cw_with(kappa: float) -> Objective:
    """The CW surrogate as an attack's objective (CATcw)."""

    def measure(out: Outputs, y: Tensor) -> Tensor:
        return cw_surrogate(out.logits, y, kappa)

    return Objective("cw", measure)


class MarginFirst(CrossEntropy):
    """Cross-entropy, attacked on the margin before the loss: training by eqs. (8) and (13) leaves small margins."""

    adversaries = (cw, ce)


def clean_and_robust(scores: Scores) -> tuple[float, ...]:
    """Clean plus robust accuracy, by which the authors choose the epoch; robust accuracy settles ties."""
    robust = scores.robust or 0.0
    return (scores.clean + robust, robust)


@dataclass(frozen=True)
class Calibrate:
    """Another attack, whose perturbation is then shrunk by the mask network: x_cal = clamp(x + M delta), M = g(x').

    Without a network M is 1. `Adversarial.x` is x_cal; its extras hold the "mask" and the "full" example x'.
    Made for training: an attacker has no reason to shrink what it found.
    """

    attack: Attack
    network: nn.Module | None
    clip: tuple[float, float]

    @property
    def objective(self) -> Objective | None:
        return self.attack.objective

    @property
    def bn(self) -> Literal["eval", "train"]:
        return self.attack.bn

    @property
    def norm(self) -> Norm | None:
        """The ball of the attack inside, which the calibrated examples do not leave."""
        return getattr(self.attack, "norm", None)

    def at(self, progress: Progress) -> Calibrate:
        return replace(self, attack=self.attack.at(progress)) if hasattr(self.attack, "at") else self

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        full = self.attack.craft(net, x, score, keys, mask)
        with torch.no_grad():  # L_f trains f alone: no gradient reaches g
            m = torch.ones_like(full.x) if self.network is None else self.network(full.x)
            x_cal = calibrated(x, full.x - x, m, self.clip)
        return Adversarial(x_cal, x_cal - x, {**full.extras, MASK: m, FULL: full.x})

    def __str__(self) -> str:
        return f"{'clamped' if self.network is None else 'calibrated'} {self.attack}"


@dataclass(frozen=True)
class CatRisk(Risk):
    """mean w(x) criterion(x) + beta mean KL(p(x) || p(x_cal)), eq. (13), with w = 1.0000001 - p_y(x) or 1.

    With cross-entropy the first term is L_w of eq. (8); another criterion takes its place in the
    product. Clean and calibrated rows go in two passes, as in the authors' code.
    """

    beta: float = 5.0
    weight: bool = True
    joint = False
    compares_outputs = True

    def rows(self, n: int) -> Rows:
        return Rows(slice(0, n), slice(0, n))

    def __call__(self, views: Views, criterion: Criterion) -> Terms:
        clean, adv = both(views)
        values = criterion(clean.out, clean.target)
        if self.weight:
            values = weighted(values, clean.out.logits, clean.y)
        robust = divergence(clean.out.logits, adv.out.logits).mean()
        return {"clean": values.mean(), "calibrated": self.beta * robust}

    def __str__(self) -> str:
        return f"CAT(beta {self.beta:g}{'' if self.weight else ', without weight'})"


class TrainMask:
    """Trains the mask network after the update inside, on the same craft (algorithm 1).

    1. x' and x_cal from the attack, at f.
    2. The update inside moves f; it finds that craft again.
    3. With the updated f: M = g(x'), f(x'), f(x_cal), and one step of g's own optimizer on
       L_g = mean KL(p(x') || p(x_cal)) + beta_1 mean CE(f(x_cal), y), eq. (14). f does not move.

    Step 3 always is about the labels and cross-entropy, whatever criterion and targets train f.
    The logs get "mask/divergence" and "mask/label", the terms of L_g, and "mask/mean": near 0 the
    robust term is dead. Robust accuracy is counted on x', not on x_cal.
    """

    holds_craft = True
    reads_weights = True

    def __init__(self, then: Update, beta_1: float, bn: Literal["eval", "train"], clip: tuple[float, float]) -> None:
        self.then, self.beta_1, self.bn, self.clip = then, beta_1, bn, clip

    def __call__(self, step: Step) -> None:
        full = step.craft().extras[FULL]
        self.then(step)
        rows = step.parts.risk.rows(len(step.x)).adv
        x, y = step.x[rows], step.y[rows]
        network, _ = step.helper(MASK)
        with step.through(self.bn) as f:
            mask = network(full)
            logits = f(full).logits
            calibrated_logits = f(calibrated(x, full - x, mask, self.clip)).logits
            terms = {
                "mask/divergence": divergence(logits, calibrated_logits).mean(),
                "mask/label": self.beta_1 * F.cross_entropy(calibrated_logits, y),
            }
            step.descend_helper(MASK, terms["mask/divergence"] + terms["mask/label"])
        step.run.watch_finite(terms)
        for name, value in {**terms, "mask/mean": mask.mean()}.items():
            step.log(name, value, len(x))
        step.logs.put("correct/adv", (logits.argmax(1) == y).sum())

    def __str__(self) -> str:
        return f"train mask(beta_1 {self.beta_1:g})"
