"""Claims of MMC (Pang et al., ICLR 2020)."""

from __future__ import annotations

from benchmarks.claims.claim import Claim, Paper, Term
from benchmarks.claims.features import center_pgd, distance_to_center, within_class
from benchmarks.claims.intervals import ABOVE, BELOW, Claimed, itself, within
from benchmarks.claims.measures import accuracy, adaptive, clean, early_accuracy, epochs_needed, robust
from benchmarks.claims.trainings import mm_lda, mmc, mmc_at, mmc_rand, pgd_at, standard, standard_mmc_rate

TABLE = "slides, table of white-box attacks on CIFAR-10"
CONVERGENCE = "slides, empirical faster convergence"
CE, TEN = accuracy("ce", 20), center_pgd(10)

MMC = Paper(
    "MMC: Rethinking Softmax Cross-Entropy Loss (Pang, Xu, Dong, Du, Chen, Zhu, ICLR 2020)",
    "mmc",
    (
        Claim(
            "mmc-epochs",
            CONVERGENCE,
            "Training converges in fewer epochs than with CE, each at its recipe's learning rate (0.02 and 0.1).",
            (Term(mmc, epochs_needed), Term(standard, epochs_needed)),
            BELOW,
        ),
        Claim(
            "mmc-epochs-same-rate",
            CONVERGENCE,
            "The same with CE at the rate of MMC.",
            (Term(mmc, epochs_needed), Term(standard_mmc_rate, epochs_needed)),
            BELOW,
        ),
        Claim(
            "mmc-early",
            CONVERGENCE,
            "Accuracy in the first epochs is above that of CE.",
            (Term(mmc, early_accuracy), Term(standard, early_accuracy)),
            ABOVE,
        ),
        Claim(
            "mmc-adaptive",
            "not in the paper: Tramer et al., NeurIPS 2020",
            "Alone it is not robust: under its adaptive attacks accuracy is near 0 (below 5%).",
            (Term(mmc, adaptive(100)),),
            Claimed("below", 0.05),
            "CIFAR-10, eps 8/255: about 0.5% is quoted; the paper's own attack leaves 24.8%",
            itself,
        ),
        Claim(
            "mmc-ce-blind",
            "not in the paper: numeric trap of its sheet",
            "An attack on cross-entropy shows it much more robust than it is.",
            (Term(mmc, CE), Term(mmc, adaptive(100))),
            ABOVE,
        ),
        Claim(
            "mmc-clean",
            TABLE,
            "Clean accuracy is that of CE, within 2 points.",
            (Term(mmc, clean), Term(standard, clean)),
            within(0.02),
            "92.7% for 92.9%",
        ),
        Claim(
            "mmc-dense",
            "slides, sample density",
            "Features concentrate: a smaller share of their variance lies within classes than with CE.",
            (Term(mmc, within_class), Term(standard, within_class)),
            BELOW,
        ),
        Claim(
            "mmc-near-centers",
            "slides, sample density",
            "Features lie near their centre: the mean distance is below half of s.",
            (Term(mmc, distance_to_center),),
            Claimed("below", 0.5),
            combine=itself,
        ),
        Claim(
            "mmc-over-rand",
            TABLE,
            "Under PGD-10 on the centre distance MMC-10 is above MMC-10 with random centres.",
            (Term(mmc, TEN), Term(mmc_rand, TEN)),
            ABOVE,
            "36.0% for 29.2%",
        ),
        Claim(
            "mmc-rand-over-mm-lda",
            TABLE,
            "MMC-10 with random centres is above MM-LDA.",
            (Term(mmc_rand, TEN), Term(mm_lda, TEN)),
            ABOVE,
            "29.2% for 16.5%",
        ),
        Claim(
            "mmc-mm-lda-over-ce",
            TABLE,
            "MM-LDA is above CE (attacked on cross-entropy).",
            (Term(mm_lda, TEN), Term(standard, accuracy("ce", 10))),
            ABOVE,
            "16.5% for 3.7%",
        ),
        Claim(
            "mmc-more-steps",
            TABLE,
            "More steps hurt: PGD-50 leaves less than PGD-10.",
            (Term(mmc, center_pgd(50)), Term(mmc, TEN)),
            BELOW,
            "24.8% for 36.0%",
        ),
        Claim(
            "mmc-at-larger-eps",
            TABLE,
            "Adversarial training with MMC is more robust than with CE at a larger eps than trained on (0.25).",
            (Term(mmc_at, robust(0.25)), Term(pgd_at, robust(0.25))),
            ABOVE,
            "untargeted, PGD-10 at 16/255: 37.4% for 34.1%",
        ),
    ),
    unseen="Center loss and L-GM, the other rows of the table, are not trained here.",
)
