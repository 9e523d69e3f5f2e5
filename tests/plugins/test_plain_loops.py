"""Tricks that change a training of PGD-AT against one plain loop; and that every ingredient has such a test."""

from __future__ import annotations

import copy
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import FACTS, SEED, SGD, assert_same, batches, fit, network
from torch import nn

from art_ext.api import Keys, Plan
from art_ext_baselines import PGDAT
from art_ext_tricks import (
    Activation,
    Bag,
    EpsWarmUp,
    EvalBN,
    LRWarmUp,
    OptimizerChoice,
    ScaleLR,
    TrainBN,
)

EPS, STEPS, SIZE, EPOCHS = 0.2, 3, 0.1, 3
AT = PGDAT(eps=EPS, steps=STEPS, step_size=SIZE)


def plain_training(*, bn="eval", eps=lambda t: EPS, rate=lambda t: 1.0, act=None, smoothing=0.0, nesterov=False, gc=0):
    """PGD-AT as a research script has it; t is the epoch as a real number at the batch's start."""
    net = copy.deepcopy(network()).train()
    if act is not None:
        net[0][2] = act
    decay = SGD["weight_decay"]
    sgd = torch.optim.SGD(net.parameters(), **{**SGD, "nesterov": nesterov, "weight_decay": 0 if gc else decay})
    for epoch in range(EPOCHS):
        for i, batch in enumerate(batches().epoch(epoch)):
            x, y, radius = batch.x.double(), batch.y, eps(epoch + i / 3)
            net.train(bn == "train")
            start = 2 * Keys(SEED, epoch, batch.index).stream("start", 0).uniform((1, 6, 6)).double() - 1
            adv = (x + radius * start).clamp(0, 1)
            for _ in range(STEPS):
                adv.requires_grad_()
                (grad,) = torch.autograd.grad(F.cross_entropy(net(adv), y, reduction="sum"), adv)
                adv = adv.detach() + SIZE * grad.sign()
                adv = torch.minimum(torch.maximum(adv, x - radius), x + radius).clamp(0, 1)
            net.train()
            target = torch.full((len(y), 3), smoothing / 2).double().scatter(1, y[:, None], 1 - smoothing)
            sgd.zero_grad()
            F.cross_entropy(net(adv), target).backward()
            for w in net.parameters() if gc else ():
                w.grad.add_(w.detach(), alpha=decay)
                if w.ndim >= gc:
                    w.grad.sub_(w.grad.mean(tuple(range(1, w.ndim)), keepdim=True))
            sgd.param_groups[0]["lr"] = SGD["lr"] * rate(epoch + i / 3)
            sgd.step()
    return net


LOOPS = {
    "eval_bn": (EvalBN(), {}),
    "train_bn": (TrainBN(), {"bn": "train"}),
    "eps_warmup": (EpsWarmUp(epochs=2), {"eps": lambda t: EPS * min((t + 1) / 2, 1)}),
    "lr_warmup": (LRWarmUp(epochs=2), {"rate": lambda t: min((t + 1) / 2, 1)}),
    "scale_lr": (ScaleLR(base=32), {"rate": lambda t: 8 / 32}),
    "activation": (Activation(to="leaky_relu"), {"act": nn.LeakyReLU(0.1)}),
    "optimizer": (OptimizerChoice(kind="gc"), {"gc": 2}),
    "optimizer, gcc": (OptimizerChoice(kind="gcc"), {"gc": 4}),
    "optimizer, nesterov": (OptimizerChoice(kind="nesterov"), {"nesterov": True}),
    "bag": (
        Bag(activation="softplus", smoothing=0.1, bn="train"),
        {"bn": "train", "smoothing": 0.1, "act": nn.Softplus(), "rate": lambda t: 8 / 128},
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_pgd_at_with_a_trick_takes_the_steps_of_a_plain_loop(name):
    trick, changes = LOOPS[name]
    sgd = {**SGD, "nesterov": changes.get("nesterov", False)}
    start = Plan.of([AT, trick], FACTS).operate(network())
    ours, _ = fit([AT, trick], start, epochs=EPOCHS, sgd=sgd)
    assert_same(ours, plain_training(**changes), atol=1e-9)


def test_each_loop_is_another_one():
    """But for crafting in eval mode, which is the default."""
    ends = {name: plain_training(**changes)[1].weight.detach() for name, (_, changes) in LOOPS.items()}
    for one in ends:
        for other in ends:
            assert one == other or not torch.allclose(ends[one], ends[other], atol=1e-6), (one, other)


ELSEWHERE = {
    "core/test_engine_fit.py::test_training_equals_a_plain_loop": ("pgd_at", "trades", "pc_lc"),
    "plugins/test_baseline_methods.py::test_mart_training_is_the_plain_loop": ("mart",),
    "plugins/test_baseline_methods.py::test_fat_training_is_the_plain_loop": ("fat",),
    "plugins/test_baseline_methods.py::test_awp_training_is_the_plain_loop": ("awp",),
    "plugins/test_baseline_methods.py::test_fast_at_training_is_the_plain_loop": ("fast_at",),
    "plugins/test_baseline_methods.py::test_free_at_training_is_the_plain_loop": ("free_at",),
    "plugins/test_baseline_methods.py::test_guided_complement_entropy_training_is_the_plain_loop": (
        "guided_complement_entropy",
    ),
    "plugins/test_ccat.py::test_training_equals_a_plain_loop": ("ccat",),
    "plugins/test_cat.py::test_training_equals_a_plain_loop": ("cat",),
    "plugins/test_dac.py::test_training_is_the_plain_loop": ("dac",),
    "plugins/test_mmc.py::test_training_is_the_plain_loop": ("mmc", "mmc_rand"),
    "plugins/test_mmc.py::test_the_comparators_train_as_the_plain_loop": ("mm_lda", "center_loss", "l_gm", "g_sce"),
    "plugins/test_rce.py::test_training_is_the_plain_loop": ("rce",),
    "plugins/test_adp.py::test_the_engine_takes_the_steps_of_a_plain_loop": ("adp",),
    "plugins/test_tricks.py::test_a_smoothed_training_takes_the_steps_of_a_plain_loop": ("smooth",),
    "plugins/test_tricks.py::test_an_early_stopped_training_takes_the_steps_of_a_plain_loop": ("early_stop_steps",),
    "plugins/test_tricks.py::test_weight_decay_on_some_tensors_takes_the_steps_of_a_plain_loop": ("weight_decay",),
    "plugins/test_tricks.py::test_ema_ends_with_the_moving_average": ("ema",),
    "plugins/test_tricks.py::test_swa_ends_with_the_mean_of_the_last_epochs": ("swa",),
    "plugins/test_tricks.py::test_activations_replace_relu_in_place_and_once": (  # trained as `activation`
        "celu", "elu", "gelu", "leaky_relu", "selu", "silu", "softplus", "tanh",
    ),
}  # fmt: skip
"""The other loops, and the ingredients that each of them trains."""


def test_every_ingredient_has_a_plain_loop():
    tests = Path(__file__).parents[1]
    for place in ELSEWHERE:
        file, _, name = place.partition("::")
        assert f"def {name}(" in (tests / file).read_text(), place
    looped = {name.partition(",")[0] for name in LOOPS} | {name for names in ELSEWHERE.values() for name in names}
    ours = [point.load() for point in entry_points(group="art_ext") if point.dist and point.dist.name == "art_ext"]
    given = [plugin.art_ext_ingredients() for plugin in ours if hasattr(plugin, "art_ext_ingredients")]
    assert {kind.name for kinds in given for kind in kinds} == looped
