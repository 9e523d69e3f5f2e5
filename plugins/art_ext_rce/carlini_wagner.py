"""Carlini and Wagner's attack on a network and its K-density detector at once (Pang et al., NeurIPS 2018)."""

from __future__ import annotations

from dataclasses import replace

from art_ext.api import CarliniWagner, cw
from art_ext_rce.detectors import KDensity


def cw_white_box(
    detector: KDensity,
    n_classes: int,
    clip: tuple[float, float],
    *,
    confidence: float = 5.0,
    steps: int = 10_000,
    search_steps: int = 9,
) -> CarliniWagner:
    """C&W-wb: fools the classifier and K-density at once (Pang et al., NeurIPS 2018).

    1. plain C&W towards the target, half the steps, 3 searches, first constant 10;
    2. from there, with max(0, log median KD_t - log KD_t) added to f, first constant 100. The
       distance is measured from the original image, where the authors' code takes phase 1's.
    """
    first = CarliniWagner(n_classes, confidence, max(1, steps // 2), min(3, search_steps), 10.0, clip=clip)
    objective = replace(cw, needs=detector.needs)
    return CarliniWagner(
        n_classes, confidence, steps, search_steps, 100.0, clip=clip, penalty=detector.penalty, begin=first,
        objective=objective,
    )  # fmt: skip
