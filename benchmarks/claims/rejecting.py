"""Measures of a classifier that may reject: by confidence under PGD-Conf, and of the detectors of RCE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from art_ext.api import CarliniWagner, Strongest
from art_ext.evaluation.rejection import eligible, roc_auc
from art_ext.evaluation.suite import Evaluator
from art_ext.parts.attacks import PGD, Attack, for_evaluation
from art_ext.parts.detectors import Confidence, Detector
from art_ext.parts.norms import norm_named
from art_ext.parts.objectives import ce
from art_ext.types import Outputs
from art_ext_ccat import Distal, PGDConfSettings
from art_ext_rce.attacks import cw_white_box
from art_ext_rce.detectors import KDensity, LogOdds, NonMaxEntropy
from benchmarks.claims.claim import Measure
from benchmarks.claims.intervals import Images
from benchmarks.claims.measures import EPS
from benchmarks.claims.trained import Trained, images

NormName = Literal["linf", "l2", "l1"]
STEP = {"linf": 1 / 15, "l2": 1 / 5, "l1": 1 / 2}
"""First step of PGD-Conf as a share of the radius; a step that does not pay is divided by 1.1."""
RESTARTS = 2
WHITE_BOX_IMAGES = 100


def pgd_conf(trained: Trained, norm: NormName, eps: float) -> Strongest:
    """PGD-Conf from the image and from random starts, as sure of a wrong class as can be."""
    settings = PGDConfSettings(steps=trained.steps(100), base_lr=eps * STEP[norm], restarts=RESTARTS)
    return settings.attack(norm_named(norm, eps), (0.0, 1.0), 10)


def _robust_error(trained: Trained, attack: Attack, tau: float) -> Images:
    y, outs = trained.last.y, (trained.outputs(), trained.outputs(attack))
    wrong, adv_wrong = (out.logits.argmax(1) != y for out in outs)
    kept, adv_kept = (Confidence().score(out) >= tau for out in outs)
    return images((wrong & kept) | (adv_wrong & adv_kept), kept | adv_kept)


def robust_error(norm: NormName, eps: float, *, rejecting: bool = True) -> Measure:
    """RErr under PGD-Conf, with what falls below the threshold rejected, or with everything kept."""

    def take(trained: Trained) -> Images:
        tau = trained.confidence_threshold if rejecting else 0.0
        return _robust_error(trained, pgd_conf(trained, norm, eps), tau)

    kind = "thresholded" if rejecting else "unthresholded"
    return Measure(
        f"rerr_{kind}@{norm}{eps:g}", f"{kind} robust error under PGD-Conf, {norm} {eps:g}", take
    )


def _under_ce(trained: Trained) -> Images:
    attack = for_evaluation(PGD(norm_named("linf", EPS), trained.steps(40), objective=ce), stop_when_wrong=False)
    return _robust_error(trained, attack, trained.confidence_threshold)


robust_error_ce = Measure("rerr_ce", "thresholded robust error under PGD-40 on CE", _under_ce)


def confidence_along(kappa: float) -> Measure:
    """Mean of max_k p_k at x + kappa delta, delta from PGD-Conf and scaled to the radius."""

    def take(trained: Trained) -> Images:
        x = trained.last.images[torch.arange(len(trained.last.y))]
        delta = trained.crafted(pgd_conf(trained, "linf", EPS)) - x
        size = delta.flatten(1).abs().amax(1)[:, None, None, None]
        delta = torch.where(size > 0, delta * EPS / size.clamp(min=1e-12), delta)
        along = Evaluator(trained.last.net, (x + kappa * delta).clamp(0, 1), trained.last.y)
        return images(Confidence().score(along.outputs()))

    return Measure(f"confidence@{kappa:g}", f"mean confidence at {kappa:g} x the adversarial perturbation", take)


def _distal(trained: Trained) -> Images:
    attack = Distal(pgd_conf(trained, "linf", EPS).attacks[1])
    return images(Confidence().score(trained.outputs(attack)) >= trained.confidence_threshold)


distal_kept = Measure("distal_kept", "share of distal inputs that are kept", _distal)

# ------------------------------------------------------------------------------------------- RCE


def fgsm(trained: Trained) -> Attack:
    return PGD(norm_named("linf", EPS), 1, EPS)


def bim(trained: Trained) -> Attack:
    return for_evaluation(PGD(norm_named("linf", EPS), trained.steps(20)), stop_when_wrong=False)


def cw(trained: Trained) -> Attack:
    return CarliniWagner(10, confidence=0.0, steps=trained.steps(100), search_steps=4, rate=0.05)


def cw_hc(trained: Trained) -> Attack:
    return CarliniWagner(10, confidence=10.0, steps=trained.steps(100), search_steps=4, rate=0.05)


ATTACKS: dict[str, Callable[[Trained], Attack]] = {"FGSM": fgsm, "PGD-20": bim, "C&W": cw, "C&W-hc": cw_hc}


def _k_density(trained: Trained) -> KDensity:
    detector = KDensity("median")  # the scale of each network's own features, so that neither is favoured
    detector.fit(*trained.bank)
    return detector


DETECTORS: dict[str, Callable[[Trained], Detector]] = {
    "confidence": lambda trained: LogOdds(),
    "non-ME": lambda trained: NonMaxEntropy(),
    "K-density": _k_density,
}


def auc(detector: str, attack: str) -> Measure:
    """AUC over both versions of the images that are right when clean and wrong when attacked; 0.5 without any."""

    def take(trained: Trained) -> float:
        outs: tuple[Outputs, Outputs] = (trained.outputs(), trained.outputs(ATTACKS[attack](trained)))
        wrong, fooled = (out.logits.argmax(1) != trained.last.y for out in outs)
        score, pairs = DETECTORS[detector](trained), eligible(wrong, fooled)
        found = roc_auc(*(score.score(out)[pairs] for out in outs))
        return 0.5 if found is None else found

    return Measure(f"auc_{detector}@{attack}", f"AUC of {detector}, {attack}", take)


def _non_me(trained: Trained) -> Images:
    return images(NonMaxEntropy().score(trained.outputs()))


non_me_clean = Measure("non_me_clean", "non-ME of clean test images, nats", _non_me, percent=False)


def _white_box(trained: Trained) -> Images:
    evaluator, detector = trained.on_test(WHITE_BOX_IMAGES), _k_density(trained)
    attack = cw_white_box(detector, 10, (0.0, 1.0), steps=trained.steps(200), search_steps=4)
    every = torch.arange(len(evaluator.y))
    with evaluator.net.offering_features():
        adversarial, y = evaluator.craft(attack, every)
        out = evaluator.net.eval()(adversarial)
    answer = out.logits.argmax(1)
    success = (answer != y) & (detector.penalty(out, answer) <= 0)
    distance = (adversarial - evaluator.images[every]).flatten(1).norm(dim=1)
    return images((distance * success).detach(), success)


white_box_distance = Measure(
    "white_box_distance", "mean L2 distance of successful C&W-wb examples", _white_box, percent=False
)
