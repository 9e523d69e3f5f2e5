"""Claims of DAC (Zhang, Backes, Zhang, 2023)."""

from __future__ import annotations

from benchmarks.claims.claim import Claim, Paper, Term, Training
from benchmarks.claims.intervals import ABOVE, BELOW
from benchmarks.claims.measures import best_minus_last, certainty, epoch_robust, generalisation_gap, robust
from benchmarks.claims.trainings import dac_mart, dac_trades, long_at, long_dac, mart, trades

TABLE = "slides, empirical evidence"
AROUND: tuple[tuple[str, Training, Training], ...] = (("TRADES", dac_trades, trades), ("MART", dac_mart, mart))
FIGURES = {"TRADES": "46.4% for 45.0%", "MART": "47.2% for 44.7%"}

DAC = Paper(
    "DAC: Generating Less Certain Adversarial Examples (Zhang, Backes, Zhang, arXiv 2310.04539, 2023)",
    "dac",
    (
        Claim(
            "dac-certainty-train",
            "definition 1; slides, adversarial certainty",
            "Adversarial certainty on training images is lower than with the base method.",
            (Term(long_dac, certainty("train")), Term(long_at, certainty("train"))),
            BELOW,
        ),
        Claim(
            "dac-certainty-test",
            "definition 1; slides, adversarial certainty",
            "Adversarial certainty on test images is lower too.",
            (Term(long_dac, certainty("test")), Term(long_at, certainty("test"))),
            BELOW,
        ),
        Claim(
            "dac-best-minus-last",
            TABLE,
            "Robust accuracy falls less from the best to the last epoch.",
            (Term(long_dac, best_minus_last), Term(long_at, best_minus_last)),
            BELOW,
            "CIFAR-10, AutoAttack: 48.2 - 42.8 = 5.4 points, AT 45.7 - 39.7 = 6.0",
        ),
        Claim(
            "dac-last",
            TABLE,
            "Robust accuracy of the last epoch is higher.",
            (Term(long_dac, epoch_robust("last")), Term(long_at, epoch_robust("last"))),
            ABOVE,
            "CIFAR-10, AutoAttack: 42.8% for 39.7%",
        ),
        Claim(
            "dac-best",
            TABLE,
            "So is that of the best epoch.",
            (Term(long_dac, epoch_robust("best")), Term(long_at, epoch_robust("best"))),
            ABOVE,
            "CIFAR-10, AutoAttack: 48.2% for 45.7%",
        ),
        Claim(
            "dac-generalisation",
            "slides, robust generalisation",
            "The gap between robust accuracy on training and on test images is smaller.",
            (Term(long_dac, generalisation_gap), Term(long_at, generalisation_gap)),
            BELOW,
        ),
        *(
            claim
            for name, with_dac, alone in AROUND
            for claim in (
                Claim(
                    f"dac-{name.lower()}-certainty",
                    TABLE,
                    f"Around {name}, adversarial certainty on training images is lower.",
                    (Term(with_dac, certainty("train")), Term(alone, certainty("train"))),
                    BELOW,
                ),
                Claim(
                    f"dac-{name.lower()}-robust",
                    TABLE,
                    f"Around {name}, robust accuracy of the last epoch is higher.",
                    (Term(with_dac, robust()), Term(alone, robust())),
                    ABOVE,
                    f"CIFAR-10, AutoAttack: {FIGURES[name]}",
                ),
            )
        ),
    ),
    unseen="That one half step lowers certainty on its own batch, and that s = 0 is the base method, are tests of "
    "the plugin. DAC takes two steps a batch; a base method with as many steps is no part of the paper's comparison.",
)
