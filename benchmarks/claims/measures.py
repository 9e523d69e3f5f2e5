"""Measures of any trained network: accuracy clean and under attack, gaps, certainty, epochs."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from art_ext.evaluation.suite import Evaluator, informed
from art_ext.parts.attacks import PGD, for_evaluation
from art_ext.parts.norms import norm_named
from art_ext.parts.objectives import objective_named
from art_ext_attacks.square import Square
from art_ext_dac.certainty import certainty_variance
from benchmarks.claims.claim import Measure
from benchmarks.claims.intervals import Images
from benchmarks.claims.trained import Trained, images

EPS = 0.15
"""The radius of recipes/digits, L-inf."""
SURE_EPOCH = 0.95
"""Held-out accuracy at which a training counts as converged; set before anything was run."""


def pgd(objective: str, steps: int, eps: float = EPS, restarts: int = 1) -> PGD:
    """PGD in L-inf as an evaluation runs it: the best iterate of each example counts."""
    return for_evaluation(
        PGD(norm_named("linf", eps), steps, objective=objective_named(objective), restarts=restarts)
    )


def robust_of(evaluator: Evaluator, trained: Trained, eps: float) -> Tensor:
    """(N,) bool: right under PGD-20 on cross-entropy and under PGD-40 on the margin with two starts."""
    standing = evaluator.clean().right
    for attack in (pgd("ce", trained.steps(20), eps), pgd("margin", trained.steps(40), eps, restarts=2)):
        standing = evaluator.under("", attack, standing=standing).right
    return standing


def _clean(trained: Trained) -> Images:
    return images(trained.last.clean().right)


clean = Measure("clean", "clean accuracy", _clean)
clean_error = Measure("clean_error", "clean error", lambda trained: images(~trained.last.clean().right))


def robust(eps: float = EPS) -> Measure:
    words = "robust accuracy (worst of PGD-20 on CE and PGD-40 on the margin, 2 starts)"
    return Measure(
        f"robust@{eps:g}",
        words + ("" if eps == EPS else f" at eps {eps:g}"),
        lambda trained: images(robust_of(trained.last, trained, eps)),
    )


def accuracy(objective: str, steps: int, eps: float = EPS) -> Measure:
    """Accuracy under one PGD."""

    def take(trained: Trained) -> Images:
        return images(trained.last.under("", pgd(objective, trained.steps(steps), eps)).right)

    name = "FGSM" if steps == 1 else f"PGD-{steps}"
    shown = f"{name} on {objective}" + ("" if eps == EPS else f", eps {eps:g}")
    return Measure(f"pgd@{objective}x{steps}@{eps:g}", f"accuracy under {shown}", take)


def _informed(steps: int, trained: Trained) -> Images:
    right = trained.last.clean().right
    for name, attack in informed(trained.plan, trained.job.threat, trained.steps(steps)):
        right = trained.last.under(name, attack, standing=right).right
    return images(right)


def adaptive(steps: int) -> Measure:
    """Worst case over every adversary that the criterion declares."""
    words = f"accuracy under the criterion's own adversaries, worst of all, {steps} steps each"
    return Measure(f"adaptive{steps}", words, partial(_informed, steps))


def _square(trained: Trained) -> Images:
    attack = Square(norm_named("linf", EPS), trained.steps(1000))
    return images(trained.last.under("", attack).right)


square = Measure("square1000", "accuracy under Square, 1,000 queries", _square)


# ----------------------------------------------------------------------------------- over training

Which = Literal["best", "last"]


def epoch_robust(which: Which) -> Measure:
    """Robust accuracy of the best or of the last epoch's weights, the best chosen on held-out images."""
    return Measure(
        f"robust_{which}",
        f"robust accuracy, {which} epoch",
        lambda trained: images(robust_of(getattr(trained, which), trained, EPS)),
    )


def _fall(trained: Trained) -> Images:
    best, last = (robust_of(evaluator, trained, EPS).double() for evaluator in (trained.best, trained.last))
    return images(best - last)


best_minus_last = Measure("best_minus_last", "robust accuracy, best minus last epoch", _fall)


def _train_rise(trained: Trained) -> float:
    best, last = (robust_of(e, trained, EPS).double().mean() for e in (trained.train_best, trained.train_last))
    return float(last - best)


train_last_minus_best = Measure("train_rise", "robust accuracy on training images, last minus best", _train_rise)
train_robust = Measure(
    "train_robust",
    "robust accuracy on training images, last epoch",
    lambda trained: float(robust_of(trained.train_last, trained, EPS).double().mean()),
)


def _generalisation_gap(trained: Trained) -> float:
    train, test = (robust_of(e, trained, EPS).double().mean() for e in (trained.train_last, trained.last))
    return float(train - test)


generalisation_gap = Measure("gap", "robust accuracy, training minus test images, last epoch", _generalisation_gap)


def _epochs_to(trained: Trained) -> float:
    reached = [epoch for epoch, value in enumerate(trained.clean_by_epoch, 1) if value >= SURE_EPOCH]
    return float(reached[0] if reached else len(trained.clean_by_epoch) + 1)


epochs_needed = Measure(
    "epochs_needed", f"epochs until {SURE_EPOCH:.0%} of held-out images are right", _epochs_to, percent=False
)
early_accuracy = Measure(
    "early_accuracy",
    "held-out accuracy, mean of the first 5 epochs",
    lambda trained: float(torch.tensor(trained.clean_by_epoch[:5]).mean()),
)

STEPS = 5
"""Of the attack in training, in recipes/digits."""


def _attack_passes(trained: Trained) -> float:
    spent = sum(metrics["train/backwards"] for metrics in trained.metrics)
    return spent / (len(trained.metrics) * len(trained.job.training)) - 1


attack_passes = Measure(
    "attack_passes", "backward passes of the attack in training, an image and update", _attack_passes, percent=False
)

# ----------------------------------------------------------------------------------- certainty, gaps


def certainty(part: Literal["test", "train"]) -> Measure:
    """Variance of the logits of adversarial examples, over classes (definition 1 of DAC)."""

    def take(trained: Trained) -> Images | float:
        evaluator = trained.last if part == "test" else trained.train_last
        attack = PGD(norm_named("linf", EPS), trained.steps(10))  # every example attacked to the last step
        found = certainty_variance(evaluator.outputs(attack).logits)
        return images(found) if part == "test" else float(found.mean())

    return Measure(
        f"certainty_{part}", f"adversarial certainty on {part}{'ing' if part == 'train' else ''} images", take, False
    )


def gap(trained: Trained, values: Tensor) -> Images:
    """(N, K) values to true class minus the largest other, per image."""
    index = trained.last.y[:, None]
    others = values.scatter(1, index, float("-inf")).amax(1)
    return images(values.gather(1, index).squeeze(1) - others)


probability_gap = Measure(
    "probability_gap",
    "p_y minus the largest other probability, clean",
    lambda trained: gap(trained, trained.outputs().logits.softmax(1)),
)
logit_gap = Measure(
    "logit_gap",
    "a_y minus the largest other logit, clean",
    lambda trained: gap(trained, trained.outputs().logits),
    percent=False,
)


def _false_entropy(trained: Trained) -> Images:
    false = trained.outputs().logits.double().scatter(1, trained.last.y[:, None], float("-inf"))
    q = false.softmax(1)
    return images(-torch.special.xlogy(q, q).sum(1) / math.log(q.shape[1] - 1))


false_entropy = Measure(
    "false_entropy", "entropy of the false probabilities over ln(K - 1), clean", _false_entropy, percent=False
)


def _second(trained: Trained) -> Images:
    before, after = trained.outputs().logits, trained.outputs(pgd("ce", trained.steps(20))).logits
    fooled = trained.last.clean().right & (after.argmax(1) != trained.last.y)
    runner_up = before.scatter(1, trained.last.y[:, None], float("-inf")).argmax(1)
    return images(fooled & (after.argmax(1) == runner_up), fooled)


lands_second = Measure(
    "lands_second", "share of successful PGD-20 examples that land in the second most probable class", _second
)
