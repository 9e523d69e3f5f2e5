"""Claims of PC-LC (Li, Li, Pan, Zhu, AAAI 2021)."""

from __future__ import annotations

from benchmarks.claims.claim import Claim, Paper, Term
from benchmarks.claims.intervals import ABOVE, BELOW, Claimed, itself, more_than, within
from benchmarks.claims.measures import (
    accuracy,
    adaptive,
    clean,
    false_entropy,
    lands_second,
    logit_gap,
    probability_gap,
    robust,
    square,
)
from benchmarks.claims.trainings import gce, mixed_at, pc_alone, pc_lc, pc_lc_at, pc_lc_cold, standard

FGSM, PGD, MARGIN, DLR = accuracy("ce", 1), accuracy("ce", 40), accuracy("margin", 40), accuracy("dlr", 40)
WEAKNESS = "not in the paper: its known weakness"

PC_LC = Paper(
    "PC-LC: Probabilistically Compact Loss with Logit Constraints (Li, Li, Pan, Zhu, AAAI 2021)",
    "pc_lc",
    (
        Claim(
            "pc-lc-probability-gap",
            "introduction",
            "The gap between the probabilities of the true and the most probable false class is wider than with CE.",
            (Term(pc_lc, probability_gap), Term(standard, probability_gap)),
            ABOVE,
            "CIFAR-100, ResNet-56: 0.558 for 0.527",
        ),
        Claim(
            "pc-lc-logit-gap",
            "logit constraints, equation (16)",
            "The logit constraints keep the logit gap smaller than the PC term alone does.",
            (Term(pc_lc, logit_gap), Term(pc_alone, logit_gap)),
            BELOW,
        ),
        Claim(
            "pc-lc-clean",
            "table 1",
            "Clean accuracy is that of CE, within 2 points.",
            (Term(pc_lc, clean), Term(standard, clean)),
            within(0.02),
            "MNIST 99.2% for 99.2%; CIFAR-10 91.2% for 91.6%",
        ),
        Claim(
            "pc-lc-fgsm",
            "table 1",
            "Under FGSM accuracy is above that of CE.",
            (Term(pc_lc, FGSM), Term(standard, FGSM)),
            ABOVE,
            "MNIST, eps 0.3: 65.0% for 31.8%",
        ),
        Claim(
            "pc-lc-pgd",
            "table 1",
            "Under PGD on cross-entropy accuracy is above that of CE.",
            (Term(pc_lc, PGD), Term(standard, PGD)),
            ABOVE,
            "MNIST, eps 0.3: 39.7% for 0.8%",
        ),
        Claim(
            "pc-lc-margin",
            "table 1 (its CW column)",
            "Under an attack on the margin accuracy is above that of CE.",
            (Term(pc_lc, MARGIN), Term(standard, MARGIN)),
            ABOVE,
            "MNIST: 78.0% for 42.2% under CW",
        ),
        Claim(
            "pc-lc-margin-gain",
            WEAKNESS,
            "The gain over CE is smaller under the margin than under PGD on cross-entropy.",
            (Term(pc_lc, PGD), Term(standard, PGD), Term(pc_lc, MARGIN), Term(standard, MARGIN)),
            ABOVE,
            combine=more_than,
        ),
        Claim(
            "pc-lc-dlr-gain",
            WEAKNESS,
            "And under the difference of logits ratio.",
            (Term(pc_lc, PGD), Term(standard, PGD), Term(pc_lc, DLR), Term(standard, DLR)),
            ABOVE,
            combine=more_than,
        ),
        Claim(
            "pc-lc-square-gain",
            WEAKNESS,
            "And under Square, which sees no gradient.",
            (Term(pc_lc, PGD), Term(standard, PGD), Term(pc_lc, square), Term(standard, square)),
            ABOVE,
            combine=more_than,
        ),
        Claim(
            "pc-lc-adaptive",
            WEAKNESS,
            "Its own adversaries (PC term and margin) leave less than PGD on cross-entropy.",
            (Term(pc_lc, adaptive(40)), Term(pc_lc, PGD)),
            BELOW,
        ),
        Claim(
            "pc-lc-second-class",
            "figure 2",
            "Adversarial examples of a CE network mostly (more than half) land in the second most probable class.",
            (Term(standard, lands_second),),
            Claimed("above", 0.5),
            combine=itself,
        ),
        Claim(
            "gce-false-entropy",
            "the baseline of the tables: guided complement entropy (Chen et al., ICCV 2019)",
            "It flattens the probabilities of the false classes: their entropy is above that with CE.",
            (Term(gce, false_entropy), Term(standard, false_entropy)),
            ABOVE,
        ),
        Claim(
            "pc-lc-with-at",
            "table 5",
            "Adversarial training with PC-LC is more robust than with CE, same attack and mix of clean images.",
            (Term(pc_lc_at, robust()), Term(mixed_at, robust())),
            ABOVE,
            "CIFAR-10, eps 0.04: 33.7% for 11.4% under PGD",
        ),
        Claim(
            "pc-lc-warm-up",
            "training details",
            "Without the warm-up on cross-entropy training is slower or fails: lower clean accuracy.",
            (Term(pc_lc_cold, clean), Term(pc_lc, clean)),
            BELOW,
        ),
    ),
    unseen="SPSA and black-box transfer (tables 3 and 4) are not run.",
)
