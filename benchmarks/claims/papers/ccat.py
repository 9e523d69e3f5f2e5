"""Claims of CCAT (Stutz, Hein, Schiele, ICML 2020)."""

from __future__ import annotations

from benchmarks.claims.claim import Claim, Paper, Term
from benchmarks.claims.intervals import ABOVE, BELOW, more_than
from benchmarks.claims.measures import clean_error
from benchmarks.claims.rejecting import (
    NormName,
    confidence_along,
    distal_kept,
    robust_error,
    robust_error_ce,
)
from benchmarks.claims.trainings import ccat, pgd_at, standard

TABLE = "results under unseen attacks, 99% TPR"
RECALLED = "(as recalled, not checked against the article)"


def unseen(norm: NormName, eps: float, what: str, figure: str) -> Claim:
    measure = robust_error(norm, eps)
    return Claim(
        f"ccat-{norm}-{eps:g}",
        TABLE,
        f"At {what}, the thresholded robust error is below that of adversarial training with the same rejection.",
        (Term(ccat, measure), Term(pgd_at, measure)),
        BELOW,
        f"CIFAR-10: CCAT {figure} {RECALLED}",
    )


SEEN_RADIUS = robust_error("linf", 0.15)
EVERYTHING = robust_error("linf", 0.15, rejecting=False)
START, EDGE = confidence_along(0), confidence_along(1)

CCAT = Paper(
    "CCAT: Confidence-Calibrated Adversarial Training (Stutz, Hein, Schiele, ICML 2020)",
    "ccat",
    (
        unseen("linf", 0.2, "a radius beyond the trained one (4/3 of it)", "92.4%, AT-50% 93.7% at twice the radius"),
        unseen("linf", 0.3, "twice the trained radius", "92.4%, AT-50% 93.7%"),
        unseen("l2", 1.0, "an unseen norm, L2", "52.2%, AT-50% 98.4%"),
        unseen("l1", 3.0, "an unseen norm, L1", "58.8%, AT-50% 98.4%"),
        Claim(
            "ccat-confidence-falls",
            "author's article, figure 1, right",
            "Confidence falls along the adversarial perturbation, from the image to the edge of the ball.",
            (Term(ccat, START), Term(ccat, EDGE)),
            ABOVE,
        ),
        Claim(
            "ccat-confidence-falls-more-than-at",
            "author's article, figure 1",
            "It falls by more than with adversarial training, which is as sure at the edge as at the image.",
            (Term(ccat, START), Term(ccat, EDGE), Term(pgd_at, START), Term(pgd_at, EDGE)),
            ABOVE,
            combine=more_than,
        ),
        Claim(
            "ccat-confidence-falls-more-than-normal",
            "author's article, figure 1",
            "It falls by more than with normal training.",
            (Term(ccat, START), Term(ccat, EDGE), Term(standard, START), Term(standard, EDGE)),
            ABOVE,
            combine=more_than,
        ),
        Claim(
            "ccat-beyond-the-ball",
            "author's article, figure 1, right",
            "The low confidence goes on beyond the ball: at twice the perturbation it is below that at the image.",
            (Term(ccat, START), Term(ccat, confidence_along(2))),
            ABOVE,
        ),
        Claim(
            "ccat-seen-radius",
            "results at the trained radius, 99% TPR",
            "At the trained radius, adversarial training has the lower thresholded robust error.",
            (Term(ccat, SEEN_RADIUS), Term(pgd_at, SEEN_RADIUS)),
            ABOVE,
            f"CIFAR-10: CCAT 68.4%, AT-50% 62.7% {RECALLED}",
        ),
        Claim(
            "ccat-unthresholded",
            "author's article, results",
            "With nothing rejected, the robust error is above that of adversarial training.",
            (Term(ccat, EVERYTHING), Term(pgd_at, EVERYTHING)),
            ABOVE,
            "CIFAR-10: 80.16% for CCAT",
        ),
        Claim(
            "ccat-rejection-helps",
            "author's article, results",
            "The thresholded robust error is below its own unthresholded one.",
            (Term(ccat, SEEN_RADIUS), Term(ccat, EVERYTHING)),
            BELOW,
        ),
        Claim(
            "ccat-clean-above-normal",
            "author's article, results",
            "The clean error is above that of normal training.",
            (Term(ccat, clean_error), Term(standard, clean_error)),
            ABOVE,
            "CIFAR-10: 4.56% against 2.56%",
        ),
        Claim(
            "ccat-clean-below-at",
            "author's article, results",
            "The clean error is below that of adversarial training.",
            (Term(ccat, clean_error), Term(pgd_at, clean_error)),
            BELOW,
            "CIFAR-10: 4.56% against about 9%",
        ),
        Claim(
            "ccat-adaptive-attack",
            "equation (6)",
            "Maximising the confidence of a wrong class (PGD-Conf) gives a higher thresholded robust error than "
            "maximising the cross-entropy.",
            (Term(ccat, SEEN_RADIUS), Term(ccat, robust_error_ce)),
            ABOVE,
        ),
        Claim(
            "ccat-distal",
            "distal adversarial examples",
            "Fewer distal inputs (noise that was made confident) are kept than with normal training.",
            (Term(ccat, distal_kept), Term(standard, distal_kept)),
            BELOW,
        ),
    ),
)
