"""The claims, one file a paper; `PAPERS` in the order of the page."""

from benchmarks.claims.papers.adp import ADP
from benchmarks.claims.papers.baselines import BASELINES
from benchmarks.claims.papers.cat import CAT
from benchmarks.claims.papers.ccat import CCAT
from benchmarks.claims.papers.dac import DAC
from benchmarks.claims.papers.mmc import MMC
from benchmarks.claims.papers.pc_lc import PC_LC
from benchmarks.claims.papers.rce import RCE
from benchmarks.claims.papers.tricks import TRICKS

PAPERS = (CCAT, CAT, DAC, PC_LC, MMC, RCE, ADP, TRICKS, BASELINES)
CLAIMS = tuple(claim for paper in PAPERS for claim in paper.claims)

FIRST = (
    *("ccat-linf-0.2", "ccat-linf-0.3", "ccat-l2-1", "ccat-l1-3", "ccat-confidence-falls"),
    *("cat-beta-1-clean", "cat-beta-1-robust", "cat-mask-falls-in-training"),
    *("dac-certainty-train", "dac-best-minus-last"),
    "pc-lc-probability-gap",
    *("mmc-epochs", "mmc-adaptive"),
    *("rce-non-me-fgsm", "rce-non-me-pgd-20", "rce-non-me-cw", "rce-non-me-cw-hc"),
    "adp-transfer",
    "tricks-decay-scaled",
)
"""Each method's main claim, whose trainings are run before the others."""
