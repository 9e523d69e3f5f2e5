"""The trainings that claims compare: recipes of recipes/digits and what is changed in them.

Each is trained once a seed, however many claims look at it. Changes bring the two sides of a
comparison to the same schedule; nothing was tuned on the three seeds of the page.
"""

from __future__ import annotations

from benchmarks.claims.claim import Training

EPOCHS = "train.epochs=30"
LONG = "train.epochs=80"
DROPS = "train.schedule={steps: [40, 60]}"
DECAY = "train.optimizer.sgd.weight_decay"
RATE = "train.optimizer.sgd.lr"
FEW = "train.held_out=0.5"
"""Half of the images to train on: robust overfitting is clearer, and the best epoch is chosen on 719."""

standard = Training("standard", "standard", (EPOCHS,), follow="clean", wants=("features",))
standard_mmc_rate = Training("standard_rate_0.02", "standard", (EPOCHS, f"{RATE}=0.02"), follow="clean")
pgd_at = Training("pgd_at", "pgd_at")

ccat = Training("ccat", "ccat", (EPOCHS,))

CAT_EPOCHS = "train.epochs=15"
cat = Training("cat", "cat", (CAT_EPOCHS,))
cat_label = Training("cat_beta_1_0.3", "cat", (CAT_EPOCHS, "cat.beta_1=0.3"))
cat_weak = Training("cat_beta_one", "cat", (CAT_EPOCHS, "cat.beta=1"))
cat_no_mask = Training("cat_no_mask", "cat", (CAT_EPOCHS, "cat.mask=none"))
cat_no_mask_no_weight = Training("cat_no_mask_no_weight", "cat", (CAT_EPOCHS, "cat.mask=none", "cat.weight=false"))
cat_ce = Training("cat_ce", "cat", (CAT_EPOCHS, "cat.inner=ce"))
cat_kl = Training("cat_kl", "cat", (CAT_EPOCHS, "cat.inner=kl"))
FAR = 0.25
cat_far = Training("cat_eps_0.25", "cat", (CAT_EPOCHS, f"cat.eps={FAR}"))
trades = Training("trades", "trades")
short_at = Training("pgd_at_15_epochs", "pgd_at", (CAT_EPOCHS,))
short_at_far = Training("pgd_at_15_epochs_eps_0.25", "pgd_at", (CAT_EPOCHS, f"pgd_at.eps={FAR}"))
short_trades = Training("trades_15_epochs", "trades", (CAT_EPOCHS,))
short_trades_far = Training("trades_15_epochs_eps_0.25", "trades", (CAT_EPOCHS, f"trades.eps={FAR}"))

long_at = Training("pgd_at_long", "pgd_at", (LONG, DROPS, FEW), follow="robust")
long_dac = Training("dac_pgd_at_long", "dac_pgd_at", (LONG, DROPS, FEW), follow="robust")
long_awp = Training("awp_pgd_at_long", "pgd_at", (
    "use=[{pgd_at: {norm: linf, eps: 0.15, steps: 5}}, {awp: {gamma: 0.01}}]", LONG, DROPS, FEW
), follow="robust")
dac_trades = Training("dac_trades", "dac_trades", (EPOCHS,))
mart = Training("mart", "mart", (EPOCHS,))
dac_mart = Training("dac_mart", "dac_mart", (EPOCHS,))

gce = Training("guided_complement_entropy", "guided_complement_entropy", (EPOCHS,))
pc_lc = Training("pc_lc", "pc_lc")
pc_alone = Training("pc_without_lc", "pc_lc", ("pc_lc.lam=0",))
pc_lc_cold = Training("pc_lc_no_warmup", "pc_lc", ("pc_lc.warmup_epochs=0",))
pc_lc_at = Training("pc_lc_pgd_at", "pc_lc_pgd_at")
mixed_at = Training("ce_pgd_at_mixed", "pc_lc_pgd_at", (
    "use=[{pgd_at: {norm: linf, eps: {uniform: [0.1, 0.2]}, steps: 5, clean_fraction: 0.5}}]",
))

mmc = Training("mmc", "mmc", (EPOCHS,), follow="clean", wants=("features",))
mmc_rand = Training("mmc_rand", "mmc_rand")
mm_lda = Training("mm_lda", "mm_lda")
mmc_at = Training("mmc_pgd_at", "mmc_pgd_at")

rce = Training("rce", "rce")

adp = Training("adp", "adp")
ensemble = Training("ensemble", "adp", ("adp.alpha=0", "adp.beta=0"))
adp_beta = Training("adp_without_alpha", "adp", ("adp.alpha=0",))
adp_at = Training("adp_pgd_at", "adp_pgd_at")
ensemble_at = Training("ensemble_pgd_at", "adp_pgd_at", ("adp.alpha=0", "adp.beta=0"))

trades_light = Training("trades_beta_1", "trades", ("trades.beta=1",))
fat = Training("fat_tau_0", "fat", (EPOCHS, "fat.milestones=[30, 31]"))

MORE = "train.epochs=60"
decay_none = Training("pgd_at_decay_1e-4", "pgd_at", (MORE, f"{DECAY}=1.0e-4"))
decay_paper = Training("pgd_at_decay_5e-4", "pgd_at", (MORE,))
decay_large = Training("pgd_at_decay_1e-2", "pgd_at", (MORE, f"{DECAY}=1.0e-2"))


def trick(name: str, text: str, *changes: str) -> Training:
    """PGD-AT with one detail changed."""
    return Training(name, "pgd_at", (f"use=[{{pgd_at: {{norm: linf, eps: 0.15, steps: 5}}}}, {text}]", *changes))


early_steps = trick("early_stop_steps", "{early_stop_steps: {first: 11, second: 19}}")
eps_warmup = trick("eps_warmup", "{eps_warmup: {epochs: 4}}")
lr_warmup = trick("lr_warmup", "{lr_warmup: {epochs: 4}}")
train_bn = trick("train_bn", "train_bn")
smooth = trick("smooth", "{smooth: {amount: 0.1}}")
adam = Training("adam", "pgd_at", ("train.optimizer={adam: {lr: 1.0e-3}}",))
softplus = trick("softplus", "softplus")
batch_512 = Training("batch_512", "pgd_at", ("train.batch_size=512",))
batch_512_scaled = trick("batch_512_scaled", "{scale_lr: {base: 128}}", "train.batch_size=512")
