"""Claims of RCE (Pang, Du, Dong, Zhu, NeurIPS 2018)."""

from __future__ import annotations

from benchmarks.claims.claim import Claim, Paper, Term
from benchmarks.claims.intervals import ABOVE, Claimed, itself, more_than, within
from benchmarks.claims.measures import clean
from benchmarks.claims.rejecting import auc, non_me_clean, white_box_distance
from benchmarks.claims.trainings import rce, standard

TABLE = "slides, table of AUC scores"
FIGURES = {
    ("non-ME", "FGSM"): "98.6 for 66.8",
    ("non-ME", "PGD-20"): "90.6 for 70.5 (BIM)",
    ("non-ME", "C&W"): "99.5 for 64.1",
    ("non-ME", "C&W-hc"): "93.4 for 40.0",
    ("K-density", "FGSM"): "99.4 for 98.8",
    ("K-density", "PGD-20"): "91.8 for 90.0 (BIM)",
    ("K-density", "C&W"): "99.8 for 99.4",
    ("K-density", "C&W-hc"): "99.6 for 91.1",
}


def above(detector: str, attack: str) -> Claim:
    measure = auc(detector, attack)
    return Claim(
        f"rce-{detector}-{attack}".lower().replace("&", ""),
        TABLE,
        f"The AUC of {detector} against {attack} is above that of CE.",
        (Term(rce, measure), Term(standard, measure)),
        ABOVE,
        f"MNIST: {FIGURES[detector, attack]}",
    )


def largest_gain(attack: str) -> Claim:
    ours, other = auc("non-ME", attack), auc("K-density", attack)
    return Claim(
        f"rce-largest-gain-{attack}".lower().replace("&", ""),
        TABLE,
        f"Against {attack}, non-ME gains more over CE than K-density does.",
        (Term(rce, ours), Term(standard, ours), Term(rce, other), Term(standard, other)),
        ABOVE,
        combine=more_than,
    )


def collapses(name: str) -> Claim:
    training = rce if name == "RCE" else standard
    return Claim(
        f"rce-confidence-collapses-{name.lower()}",
        TABLE,
        f"The confidence of a network trained with {name} is no detector of C&W-hc: AUC below 0.5.",
        (Term(training, auc("confidence", "C&W-hc")),),
        Claimed("below", 0.5),
        "MNIST: 0.1 with RCE, 0.0 with CE",
        itself,
    )


RCE = Paper(
    "RCE: Towards Robust Detection of Adversarial Examples (Pang, Du, Dong, Zhu, NeurIPS 2018)",
    "rce",
    (
        *(above("non-ME", attack) for attack in ("FGSM", "PGD-20", "C&W", "C&W-hc")),
        *(above("K-density", attack) for attack in ("FGSM", "PGD-20", "C&W", "C&W-hc")),
        largest_gain("C&W-hc"),
        collapses("RCE"),
        collapses("CE"),
        Claim(
            "rce-clean",
            "slides, reverse logits",
            "Clean accuracy is that of CE, within 2 points.",
            (Term(rce, clean), Term(standard, clean)),
            within(0.02),
        ),
        Claim(
            "rce-non-me-clean",
            "slides, non-maximal entropy",
            "non-ME of clean images is higher than with CE (log 9 = 2.197 at most).",
            (Term(rce, non_me_clean), Term(standard, non_me_clean)),
            ABOVE,
        ),
        Claim(
            "rce-white-box",
            "slides, white-box attack",
            "An attack that also fools K-density (C&W-wb) needs a larger L2 distance than with CE.",
            (Term(rce, white_box_distance), Term(standard, white_box_distance)),
            ABOVE,
        ),
    ),
    unseen="Theorem 2 is a test of the formulas. ILCM and JSMA are not run. K-density takes the median scale of each "
    "network's own features; C&W runs 4 searches of 100 steps, C&W-wb 4 of 200 on the first 100 images.",
)
