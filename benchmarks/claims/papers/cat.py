"""Claims of CAT (Huang, Menkovski, Pei, Pechenizkiy, ACML 2021)."""

from __future__ import annotations

from benchmarks.claims.claim import Claim, Paper, Term
from benchmarks.claims.features import mask_first, mask_last, mean_mask, p_calibrated, p_full
from benchmarks.claims.intervals import ABOVE, BELOW, more_than
from benchmarks.claims.measures import clean, robust
from benchmarks.claims.trainings import (
    FAR,
    cat,
    cat_ce,
    cat_far,
    cat_kl,
    cat_label,
    cat_no_mask,
    cat_no_mask_no_weight,
    cat_weak,
    short_at,
    short_at_far,
    short_trades,
    short_trades_far,
)

LARGER = "section 5.2.2, larger perturbation bounds"

CAT = Paper(
    "CAT: Calibrated Adversarial Training (Huang, Menkovski, Pei, Pechenizkiy, ACML 2021)",
    "cat",
    (
        Claim(
            "cat-beta-1-clean",
            "section 5.2.4, figure 6, table 8",
            "A larger beta_1 (0.3 for 0.05) raises clean accuracy.",
            (Term(cat_label, clean), Term(cat, clean)),
            ABOVE,
            "CIFAR-10, CATcw: 88.1% at 0.3, 84.2% at 0.05",
        ),
        Claim(
            "cat-beta-1-robust",
            "section 5.2.4, figure 6, table 8",
            "A larger beta_1 lowers robust accuracy.",
            (Term(cat_label, robust()), Term(cat, robust())),
            BELOW,
            "CIFAR-10, CATcw, PGD-20: 51.5% at 0.3, 55.3% at 0.05",
        ),
        Claim(
            "cat-mask-falls-in-training",
            "no result of the paper, but what equation (14) suggests",
            "The mean of the mask falls over training.",
            (Term(cat, mask_last), Term(cat, mask_first)),
            BELOW,
        ),
        Claim(
            "cat-mask-falls-with-beta-1",
            "section 5.2.4: a large value reduces the strength of the perturbation",
            "The mean of the mask falls as beta_1 grows.",
            (Term(cat_label, mean_mask), Term(cat, mean_mask)),
            BELOW,
        ),
        Claim(
            "cat-calibrated-class",
            "no result of the paper, but what equation (14) is for",
            "The true class is more probable on calibrated than on full adversarial examples.",
            (Term(cat, p_calibrated), Term(cat, p_full)),
            ABOVE,
        ),
        Claim(
            "cat-beta-clean",
            "appendix E, table 8",
            "A larger beta (5 for 1) lowers clean accuracy.",
            (Term(cat, clean), Term(cat_weak, clean)),
            BELOW,
            "CIFAR-10: 84.1% at 5",
        ),
        Claim(
            "cat-beta-robust",
            "appendix E, table 8",
            "A larger beta raises robust accuracy.",
            (Term(cat, robust()), Term(cat_weak, robust())),
            ABOVE,
            "CIFAR-10, PGD-20: 55.6% at 5",
        ),
        Claim(
            "cat-mask-ablation",
            "section 5.2.3, figure 4",
            "Without the mask (M = 1), clean accuracy is lower.",
            (Term(cat_no_mask, clean), Term(cat, clean)),
            BELOW,
        ),
        Claim(
            "cat-weight-ablation",
            "section 5.2.3, figure 4",
            "Without the weight too, clean accuracy is slightly lower still.",
            (Term(cat_no_mask_no_weight, clean), Term(cat_no_mask, clean)),
            BELOW,
        ),
        Claim(
            "cat-larger-eps-at",
            LARGER,
            f"Trained at a larger eps ({FAR} for 0.15), CAT loses less clean accuracy than adversarial training.",
            (Term(short_at, clean), Term(short_at_far, clean), Term(cat, clean), Term(cat_far, clean)),
            ABOVE,
            combine=more_than,
        ),
        Claim(
            "cat-larger-eps-trades",
            LARGER,
            "And less than TRADES.",
            (Term(short_trades, clean), Term(short_trades_far, clean), Term(cat, clean), Term(cat_far, clean)),
            ABOVE,
            combine=more_than,
        ),
        Claim(
            "cat-ce-over-kl",
            "section 5.2.3, figure 5",
            "Cross-entropy as the inner loss gives more robustness than the KL divergence.",
            (Term(cat_ce, robust()), Term(cat_kl, robust())),
            ABOVE,
        ),
        Claim(
            "cat-cw-over-kl",
            "section 5.2.3, figure 5",
            "So does the CW loss.",
            (Term(cat, robust()), Term(cat_kl, robust())),
            ABOVE,
        ),
    ),
)
