"""Claims of ADP (Pang, Xu, Du, Chen, Zhu, ICML 2019)."""

from __future__ import annotations

from benchmarks.claims.claim import Claim, Paper, Term
from benchmarks.claims.features import diagonal, diversity, diversity_at_start, entropy, off_diagonal, strong_mixture
from benchmarks.claims.intervals import ABOVE, BELOW, Claimed, itself, more_than
from benchmarks.claims.measures import accuracy, clean
from benchmarks.claims.trainings import adp, adp_at, adp_beta, ensemble, ensemble_at

PGD_10 = accuracy("ce", 10)

ADP = Paper(
    "ADP: Promoting Diversity of Ensembles (Pang, Xu, Du, Chen, Zhu, ICML 2019)",
    "adp",
    (
        Claim(
            "adp-transfer",
            "slides, transferability",
            "Adversarial examples of one member transfer less to another than in a plain ensemble.",
            (Term(adp, off_diagonal), Term(ensemble, off_diagonal)),
            BELOW,
        ),
        Claim(
            "adp-diagonal",
            "slides, transferability",
            "The member itself falls to nearly all of its own adversarial examples (above 90%).",
            (Term(adp, diagonal),),
            Claimed("above", 0.9),
            combine=itself,
        ),
        Claim(
            "adp-clean",
            "slides, results",
            "Clean accuracy is at most one point worse than that of a plain ensemble.",
            (Term(adp, clean), Term(ensemble, clean)),
            Claimed("above", -0.01),
        ),
        Claim(
            "adp-diversity-rises",
            "definition of ensemble diversity",
            "The log diversity rises during training.",
            (Term(adp, diversity), Term(adp, diversity_at_start)),
            ABOVE,
        ),
        Claim(
            "adp-diversity",
            "definition of ensemble diversity",
            "It ends above that of a plain ensemble.",
            (Term(adp, diversity), Term(ensemble, diversity)),
            ABOVE,
        ),
        Claim(
            "adp-entropy",
            "the ADP regulariser",
            "So does the entropy of the mixture.",
            (Term(adp, entropy), Term(ensemble, entropy)),
            ABOVE,
        ),
        Claim(
            "adp-pgd10",
            "slides, results",
            "Under PGD-10 on cross-entropy the mixture is more accurate than a plain ensemble.",
            (Term(adp, PGD_10), Term(ensemble, PGD_10)),
            ABOVE,
        ),
        Claim(
            "adp-strong",
            "not in the paper: Tramer et al., NeurIPS 2020",
            "Under stronger attacks that gain is smaller.",
            (Term(adp, PGD_10), Term(ensemble, PGD_10), Term(adp, strong_mixture), Term(ensemble, strong_mixture)),
            ABOVE,
            "CIFAR-10, eps 0.01: from about 48% to 0%",
            more_than,
        ),
        Claim(
            "adp-with-at",
            "slides, results",
            "With adversarial training ADP is more robust than adversarial training of the ensemble alone.",
            (Term(adp_at, strong_mixture), Term(ensemble_at, strong_mixture)),
            ABOVE,
        ),
        Claim(
            "adp-alpha-needed",
            "slides, theory",
            "Without alpha there is no lasting diversity: members go to one-hot, the entropy is below ADP's.",
            (Term(adp, entropy), Term(adp_beta, entropy)),
            ABOVE,
        ),
    ),
    unseen="That identical members stay identical is a test of the plugin.",
)
