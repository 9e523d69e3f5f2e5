"""Claims of the baselines: PGD-AT, TRADES, MART, FAT, AWP."""

from __future__ import annotations

from benchmarks.claims.claim import Claim, Paper, Term
from benchmarks.claims.intervals import ABOVE, BELOW, Claimed, itself, more_than
from benchmarks.claims.measures import (
    STEPS,
    accuracy,
    attack_passes,
    best_minus_last,
    clean,
    epoch_robust,
    robust,
    train_last_minus_best,
    train_robust,
)
from benchmarks.claims.trainings import fat, long_at, long_awp, mart, pgd_at, standard, trades, trades_light

RICE, MADRY = "PGD-AT: Rice, Wong, Kolter, ICML 2020", "PGD-AT: Madry et al., ICLR 2018"
TRADES, MART = "TRADES: Zhang et al., ICML 2019", "MART: Wang et al., ICLR 2020"
FAT, AWP = "FAT: Zhang et al., ICML 2020", "AWP: Wu, Xia, Wang, NeurIPS 2020"
CE = accuracy("ce", 20)

BASELINES = Paper(
    "Baselines: PGD-AT, TRADES, MART, FAT, AWP",
    "baselines",
    (
        Claim(
            "at-overfits-test",
            RICE,
            "Robust overfitting: robust accuracy on test images falls from the best to the last epoch.",
            (Term(long_at, best_minus_last),),
            ABOVE,
            "CIFAR-10, PreAct-ResNet-18, AutoAttack: 45.7% to 39.7%",
            itself,
        ),
        Claim(
            "at-overfits-train",
            RICE,
            "On training images it goes on rising.",
            (Term(long_at, train_last_minus_best),),
            ABOVE,
            combine=itself,
        ),
        Claim(
            "at-clean",
            MADRY,
            "Clean accuracy is below that of normal training.",
            (Term(pgd_at, clean), Term(standard, clean)),
            BELOW,
        ),
        Claim(
            "at-robust",
            MADRY,
            "Robust accuracy is above that of normal training.",
            (Term(pgd_at, robust()), Term(standard, robust())),
            ABOVE,
        ),
        Claim(
            "trades-beta-clean",
            TRADES,
            "A larger beta (6 for 1) lowers clean accuracy.",
            (Term(trades, clean), Term(trades_light, clean)),
            BELOW,
        ),
        Claim(
            "trades-beta-robust",
            TRADES,
            "It raises robust accuracy.",
            (Term(trades, robust()), Term(trades_light, robust())),
            ABOVE,
        ),
        Claim(
            "mart-pgd",
            MART,
            "Accuracy under PGD on cross-entropy is above that of PGD-AT.",
            (Term(mart, CE), Term(pgd_at, CE)),
            ABOVE,
            "PreAct-ResNet-18: 53.9% for 52.9% under PGD-20",
        ),
        Claim(
            "mart-clean",
            MART,
            "Clean accuracy is below that of PGD-AT.",
            (Term(mart, clean), Term(pgd_at, clean)),
            BELOW,
        ),
        Claim(
            "mart-gap",
            f"{MART}; its evaluation since",
            "A stronger attack takes more off PGD on cross-entropy than it does with TRADES.",
            (Term(mart, CE), Term(mart, robust()), Term(trades, CE), Term(trades, robust())),
            ABOVE,
            "WRN-34-10: PGD-20 58.1%, AutoAttack 50.3%; TRADES 58.8%, 52.6%",
            more_than,
        ),
        Claim(
            "fat-clean",
            FAT,
            "Stopping at the first wrong iterate (tau 0) gives higher clean accuracy than all steps.",
            (Term(fat, clean), Term(pgd_at, clean)),
            ABOVE,
            "PreAct-ResNet-18: 85.1% for 83.0%",
        ),
        Claim(
            "fat-robust",
            FAT,
            "And lower robust accuracy.",
            (Term(fat, robust()), Term(pgd_at, robust())),
            BELOW,
            "PreAct-ResNet-18, CW: 50.4% for 50.9%",
        ),
        Claim(
            "fat-passes",
            FAT,
            f"It needs fewer backward passes of the attack than its {STEPS} steps.",
            (Term(fat, attack_passes),),
            Claimed("below", STEPS),
            combine=itself,
        ),
        Claim(
            "awp-best-minus-last",
            AWP,
            "Robust accuracy falls less from the best to the last epoch than with PGD-AT.",
            (Term(long_awp, best_minus_last), Term(long_at, best_minus_last)),
            BELOW,
        ),
        Claim(
            "awp-train",
            AWP,
            "Robust accuracy on training images is lower.",
            (Term(long_awp, train_robust), Term(long_at, train_robust)),
            BELOW,
        ),
        Claim(
            "awp-test",
            AWP,
            "Robust accuracy of the last epoch on test images is higher.",
            (Term(long_awp, epoch_robust("last")), Term(long_at, epoch_robust("last"))),
            ABOVE,
            "PreAct-ResNet-18, PGD-20, last epoch: 54.3% for 41.5%",
        ),
    ),
    unseen="That beta = 0 is normal training and gamma = 0 the base method are tests of the plugins.",
)
