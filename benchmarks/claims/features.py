"""Measures of MMC's features, of ensembles and of CAT's mask."""

from __future__ import annotations

import torch
from torch import Tensor

from art_ext.engine.net import Net
from art_ext.entries import EvaluationContext
from art_ext.evaluation.suite import Evaluator
from art_ext.evaluation.transfer import mean_off_diagonal, transferability
from art_ext.parts.attacks import Attack
from art_ext_adp.attacks import EnsemblePGDOptions, build_ensemble_pgd
from art_ext_adp.losses import ensemble_entropy, log_diversity
from art_ext_cat.losses import calibrated
from art_ext_cat.parts import MASK, Calibrate
from art_ext_mmc.attacks import CenterPGDOptions, build_center_pgd
from benchmarks.claims.claim import Measure
from benchmarks.claims.intervals import Images
from benchmarks.claims.measures import EPS, pgd
from benchmarks.claims.trained import Trained, images

# ------------------------------------------------------------------------------------------- MMC


def _context(trained: Trained) -> EvaluationContext:
    return EvaluationContext(trained.plan, "linf", EPS, trained.job.facts.clip)


def center_pgd(steps: int) -> Measure:
    """Accuracy under untargeted PGD on the centre distance, the paper's adaptive attack."""

    def take(trained: Trained) -> Images:
        options = CenterPGDOptions(steps=trained.steps(steps))
        ((_, attack),) = build_center_pgd(options, _context(trained))
        return images(trained.last.under("", attack).right)

    return Measure(f"center{steps}@none", f"accuracy under PGD-{steps} on the centre distance", take)


def _spread(trained: Trained) -> float:
    z, y = trained.outputs().extras["features"].flatten(1), trained.last.y
    means = torch.stack([z[y == label].mean(0) for label in range(10)])
    return float((z - means[y]).square().sum(1).mean() / (z - z.mean(0)).square().sum(1).mean())


within_class = Measure("within_class", "share of the features' variance that lies within classes", _spread)


def _to_center(trained: Trained) -> Images:
    logits = trained.outputs().logits  # -|z - mu_l|^2, and s is 10
    return images((-logits.gather(1, trained.last.y[:, None])).squeeze(1).clamp(min=0).sqrt() / 10)


distance_to_center = Measure("to_center", "|z - mu_y| as a share of s", _to_center)

# ------------------------------------------------------------------------------------------- ADP


def _transfer(trained: Trained) -> Tensor:
    members = [
        Evaluator(Net(member), trained.last.images, trained.last.y, seed=trained.last.seed)
        for member in trained.last.net.module.members  # type: ignore[union-attr]
    ]
    return transferability(members, pgd("ce", trained.steps(10)))


off_diagonal = Measure(
    "off_diagonal",
    "transfer to another member, PGD-10 (mean off-diagonal)",
    lambda trained: mean_off_diagonal(_transfer(trained)),
)
diagonal = Measure(
    "diagonal",
    "success on the member itself, PGD-10 (mean diagonal)",
    lambda trained: float(_transfer(trained).diagonal().nanmean()),
)


def _members(evaluator: Evaluator) -> Tensor:
    return evaluator.outputs().extras["members"]


diversity = Measure(
    "diversity",
    "log diversity (LED) of clean test images",
    lambda trained: images(log_diversity(_members(trained.last), trained.last.y)),
    percent=False,
)
diversity_at_start = Measure(
    "diversity_at_start",
    "the same before training",
    lambda trained: images(log_diversity(_members(trained.untrained), trained.last.y)),
    percent=False,
)
entropy = Measure(
    "entropy",
    "entropy of the mixture on clean test images, nats",
    lambda trained: images(ensemble_entropy(_members(trained.last))),
    percent=False,
)


def _against_mixture(trained: Trained) -> Images:
    right = trained.last.clean().right
    for objective in ("mean_logits_margin", "margin", "ce", "member_margin"):
        options = EnsemblePGDOptions(steps=trained.steps(100), objective=objective)
        attack: Attack
        ((_, attack),) = build_ensemble_pgd(options, _context(trained))
        right = trained.last.under("", attack, standing=right).right
    return images(right)


strong_mixture = Measure(
    "strong_mixture",
    "accuracy under PGD-100 on margins and CE of the mixture and its members, worst of all",
    _against_mixture,
)

# ------------------------------------------------------------------------------------------- CAT


def _calibrated(trained: Trained) -> tuple[Tensor, Tensor, Tensor]:
    """x', x_cal and the mask of the test images, of the training's own attack."""
    calibrate = trained.plan.compose().attack
    assert isinstance(calibrate, Calibrate)
    every = torch.arange(len(trained.last.y))
    full, _ = trained.last.craft(calibrate.attack, every)
    x = trained.last.images[every]
    with torch.no_grad():
        mask = trained.helpers[MASK].eval()(full)
    return full, calibrated(x, full - x, mask, (0.0, 1.0)), mask


mean_mask = Measure(
    "mean_mask", "mean mask on test images", lambda trained: images(_calibrated(trained)[2].mean((1, 2, 3)))
)


def _p_y(which: int, trained: Trained) -> Images:
    x = _calibrated(trained)[which]
    with torch.no_grad():
        p = trained.last.net.eval()(x).logits.softmax(1)
    return images(p.gather(1, trained.last.y[:, None]).squeeze(1))


p_full = Measure("p_full", "p_y(x'), mean", lambda trained: _p_y(0, trained))
p_calibrated = Measure("p_calibrated", "p_y(x_cal), mean", lambda trained: _p_y(1, trained))


def _mask_epoch(which: int, trained: Trained) -> float:
    return float(trained.metrics[which]["train/mask/mean"])


mask_first = Measure("mask_first", "mean mask, first epoch", lambda trained: _mask_epoch(0, trained))
mask_last = Measure("mask_last", "mean mask, last epoch", lambda trained: _mask_epoch(-1, trained))
