"""CAT: formulas against the vectors, steps against a plain loop, and the mask network through a whole fit."""

import copy
import itertools
import json
import math
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from tiny import FACTS, SEED, SGD, Scaled, assert_same, batches, data, differs, network
from torch import nn

from art_ext.api import (
    PGD,
    Adversarial,
    ComposeError,
    ConfigError,
    Criterion,
    CrossEntropy,
    DataError,
    Facts,
    Ingredient,
    Keys,
    Linf,
    ModelError,
    Outputs,
    Paper,
    Plan,
    Scores,
    View,
    Views,
    ce,
    cw,
    kl_to_clean,
)
from art_ext.data.batches import Batch
from art_ext.engine import checkpoint
from art_ext.engine.fit import Fit
from art_ext.engine.helpers import alike, draw_weights
from art_ext.engine.net import Net
from art_ext.engine.optim import make_optimizer, steps
from art_ext.engine.run import Run, RunSettings
from art_ext.engine.step import Step
from art_ext.evaluation.suite import threat_of
from art_ext_baselines import AWP, PGDAT, TRADES, FreeAT
from art_ext_cat import (
    CAT,
    Calibrate,
    CATAttack,
    CatRisk,
    CATTrainer,
    MaskNetwork,
    TrainMask,
    calibrated,
    clean_and_robust,
    cw_surrogate,
    divergence,
    picture,
    weighted,
)
from art_ext_dac import DAC
from art_ext_mmc import MMC
from art_ext_pc_lc import PCLC, PCLCLoss

FILE = Path(__file__).parents[1] / "vectors" / "cat.json"
PAGE = Path(__file__).parents[2] / "plugins" / "art_ext_cat" / "README.md"
VECTORS = {entry["name"]: entry for entry in json.loads(FILE.read_text())}
SMALL = {"eps": 0.2, "steps": 3, "step_size": 0.1}
both_precisions = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, None), (torch.float32, 1e-5)])


def given(name, dtype):
    """(inputs as tensors, expected, tolerance) of a vector."""
    entry = VECTORS[name]
    inputs = {
        name: torch.tensor(value, dtype=None if name == "labels" else dtype) if isinstance(value, list) else value
        for name, value in entry["inputs"].items()
    }
    return inputs, entry["expected"], entry["tolerance"]


def close(got, expected, tolerance):
    expected = torch.tensor(expected, dtype=torch.float64)
    assert (got.detach().double() - expected).abs().max() <= tolerance * (1 + expected.abs().max())


def views(clean, adv, y):
    return Views(View(Outputs(clean), y, y), View(Outputs(adv), y, y))


# Formulas ------------------------------------------------------------------------------------------------------


@both_precisions
def test_the_classifiers_loss_reproduces_the_vectors(dtype, tolerance):
    inputs, expected, own = given("A_classifier_loss", dtype)
    clean, adv = (inputs[f"logits_{part}"].requires_grad_() for part in ("clean", "calibrated"))
    y = inputs["labels"]
    terms = CatRisk(inputs["beta"])(views(clean, adv, y), CrossEntropy())
    sum(terms.values()).backward()
    tolerance = tolerance or own
    close(terms["clean"], expected["weighted_ce"], tolerance)
    close(terms["calibrated"], inputs["beta"] * expected["kl"], tolerance)
    close(clean.grad, expected["grad_logits_clean"], tolerance)
    close(adv.grad, expected["grad_logits_calibrated"], tolerance)


@both_precisions
def test_the_masks_loss_reproduces_the_vectors(dtype, tolerance):
    inputs, expected, own = given("A_mask_loss", dtype)
    z = inputs["logits_calibrated"].requires_grad_()
    stay = divergence(inputs["logits_adversarial"], z).mean()
    label = F.cross_entropy(z, inputs["labels"])
    (stay + inputs["beta1"] * label).backward()
    close(stay, expected["kl"], tolerance or own)
    close(label, expected["ce"], tolerance or own)
    close(z.grad, expected["grad_logits_calibrated"], tolerance or own)


@both_precisions
def test_the_cw_surrogate_reproduces_the_vectors(dtype, tolerance):
    inputs, expected, own = given("A_cw_loss", dtype)
    z = inputs["logits"].requires_grad_()
    values = cw_surrogate(z, inputs["labels"], inputs["margin"])
    values.sum().backward()
    assert values.shape == (len(z),)
    close(values.sum(), expected["loss"], tolerance or own)
    close(z.grad, expected["grad_logits"], tolerance or own)


@both_precisions
def test_calibrated_examples_reproduce_the_vectors(dtype, tolerance):
    inputs, expected, own = given("A_calibrated_example", dtype)
    close(calibrated(inputs["images"], inputs["delta"], inputs["mask"], (0.0, 1.0)), expected["calibrated"], own
          if dtype == torch.float64 else tolerance)  # fmt: skip


def test_values_are_per_example():
    z, other, y = torch.randn(5, 4), torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    for whole, one in (
        (weighted(z[:, 0], z, y), lambda i: weighted(z[i, 0], z[i], y[i])),
        (divergence(z, other), lambda i: divergence(z[i], other[i])),
        (cw_surrogate(z, y, 5.0), lambda i: cw_surrogate(z[i], y[i], 5.0)),
    ):
        assert whole.shape == (5,)
        for i in range(5):
            torch.testing.assert_close(one(slice(i, i + 1)), whole[i : i + 1])


def test_gradients_stay_finite_where_probabilities_underflow():
    """The library's KL gives NaN for the gradient of such a target, which carries gradient here."""
    z = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    q = torch.tensor([[0.0, 200.0, 0.0]], requires_grad=True)
    y = torch.tensor([2])
    loss = divergence(z, q) + weighted(F.cross_entropy(z, y, reduction="none"), z, y)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert z.grad.isfinite().all()
    assert q.grad.isfinite().all()


def test_the_weight_is_never_zero_and_carries_gradient():
    z, y = torch.tensor([[60.0, 0.0, 0.0]]), torch.tensor([0])
    assert 0 < weighted(torch.ones(1), z, y).item() < 1e-6
    leaf = torch.zeros(1, 3, requires_grad=True)
    weighted(torch.ones(1), leaf, y).sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_half_precision_is_judged_in_float32():
    z, y = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0])
    assert weighted(torch.ones(1), z.bfloat16(), y).dtype == torch.float32
    assert divergence(z.half(), z.bfloat16()).dtype == torch.float32


def test_the_cw_surrogate_with_huge_logits_and_beyond_the_hinge():
    y = torch.tensor([0])
    z = torch.tensor([[-30000.0, -20000.0, -25000.0]], requires_grad=True)
    cw_surrogate(z, y, 20000.0).sum().backward()
    assert z.grad.tolist() == [[-1.0, 1.0, 0.0]]
    far = torch.tensor([[0.0, 60.0, 0.0]], requires_grad=True)
    cw_surrogate(far, y, 50.0).sum().backward()
    assert not far.grad.any()
    torch.testing.assert_close(cw_surrogate(torch.tensor([[2.0, 5.0]]), y, 50.0), torch.tensor([-47.0]))


def test_calibrated_examples_stay_between_the_image_and_the_full_example():
    x, delta, mask = torch.rand(4, 1, 3, 3), torch.randn(4, 1, 3, 3), torch.rand(4, 1, 3, 3)
    full = (x + delta).clamp(0, 1)
    got = calibrated(x, full - x, mask, (0.0, 1.0))
    assert (got >= torch.minimum(x, full) - 1e-6).all()
    assert (got <= torch.maximum(x, full) + 1e-6).all()
    assert calibrated(x, delta, torch.ones_like(x), (0.0, 1.0)).equal(full)


# One step, several steps ---------------------------------------------------------------------------------------


def fit_of(
    ingredients, module, *, optimizer=None, epochs=2, facts=FACTS, seed=SEED, precision="64-true", fold=False,
    scaled=None, **options,
):  # fmt: skip
    run = Run(RunSettings("cpu", precision=precision, fold=fold, channels_last=False), seed)
    if scaled is not None:
        run.fabric.strategy.precision = scaled
    optimizer = torch.optim.SGD(module.parameters(), **SGD) if optimizer is None else optimizer
    return Fit(Plan.of(ingredients, facts), Net(module), optimizer, run, epochs=epochs, **options)


@pytest.fixture
def all_float64():
    """Fabric hands outputs over in the default type, even where the run's precision is 64-true."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@dataclass(frozen=True)
class Given:
    """An attack whose answers are written down."""

    answers: torch.Tensor
    seen: list = field(default_factory=list)
    objective: ClassVar = None
    bn: ClassVar = "eval"

    def craft(self, net, x, score, keys, mask=None):
        self.seen.append(net(x).logits.detach().clone())
        return Adversarial(x + self.answers[keys.index], self.answers[keys.index])


class ByHand(Ingredient):
    """CAT's parts around an attack and a mask network of ours."""

    name = "by_hand"
    paper = Paper("", "", "", 0)
    deltas: torch.Tensor
    network: nn.Module
    beta: float
    beta_1: float

    def apply(self, plan):
        plan = plan.fill(self, attack=Calibrate(Given(self.deltas), self.network, (0.0, 1.0)), risk=CatRisk(self.beta))
        plan = plan.help(self, "mask", self.network)
        return plan.wrap(self, lambda then: TrainMask(then, self.beta_1, "train", (0.0, 1.0)))


@both_precisions
def test_alternating_updates_reproduce_the_vectors(dtype, tolerance, request):
    if dtype == torch.float64:
        request.getfixturevalue("all_float64")
    inputs, expected, own = given("A_alternating_update", dtype)
    f = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).to(dtype)
    g = nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.Sigmoid(), nn.Unflatten(1, (1, 2, 3))).to(dtype)
    for module, letter in ((f, "f"), (g, "g")):
        module[1].weight.data, module[1].bias.data = inputs[f"w{letter}"].clone(), inputs[f"b{letter}"].clone()
    sgd = torch.optim.SGD(
        f.parameters(), lr=inputs["lr"], momentum=inputs["momentum"], weight_decay=inputs["weight_decay"]
    )
    count = inputs["images"].shape[0] * inputs["images"].shape[1]
    by_hand = ByHand(
        deltas=inputs["deltas"].flatten(0, 1), network=g, beta=inputs["beta"], beta_1=inputs["beta1"]
    )
    precision = "64-true" if dtype == torch.float64 else "32-true"
    fit = fit_of([by_hand], f, optimizer=sgd, facts=Facts(3, (1, 2, 3)), precision=precision)
    indices = torch.arange(count).split(inputs["images"].shape[1])
    for x, y, index, losses in zip(inputs["images"], inputs["labels"], indices, expected["losses_f_g"], strict=True):
        logs = fit.take(Batch(x, y, index))
        close(torch.tensor(logs["loss"] / len(x), dtype=dtype), losses[0], tolerance or own)
        mask_loss = (logs["mask/divergence"] + logs["mask/label"]) / len(x)
        close(torch.tensor(mask_loss, dtype=dtype), losses[1], tolerance or own)
    for module, letter in ((f, "f"), (g, "g")):
        close(module[1].weight, expected[f"w{letter}"], tolerance or own)
        close(module[1].bias, expected[f"b{letter}"], tolerance or own)


def plain_training(
    f, g, *, inner="cw", weight=True, mask_bn="train", beta=5.0, beta_1=0.05, epochs=2, skipped=(), restarts=1
):
    """Algorithm 1 as a research script; g None is the ablation M = 1. Of several starts the highest cross-entropy.

    Of `skipped` steps, those of f and of g counted together from 0, the gradient overflows.
    """
    number_of = itertools.count()
    f, g = copy.deepcopy(f).train(), copy.deepcopy(g)
    of = torch.optim.SGD(f.parameters(), **SGD)
    og = None if g is None else torch.optim.SGD(g.parameters(), **SGD)
    means = []
    for epoch in range(epochs):
        for batch in batches().epoch(epoch, 0, 1):
            x, y = batch.x.double(), batch.y
            f.eval()
            p = F.softmax(f(x), 1).detach()
            runs = []
            for restart in range(restarts):
                noise = Keys(SEED, epoch, batch.index).stream("start", restart).uniform((1, 6, 6)).double()
                x_adv = (x + 0.2 * (2 * noise - 1)).clamp(0, 1)
                for _ in range(3):
                    x_adv = x_adv.detach().requires_grad_()
                    z = f(x_adv)
                    if inner == "cw":
                        other = (z - 1e4 * F.one_hot(y, 3)).max(1).values
                        loss = -(z[range(len(y)), y] - other + 50).clamp(min=0).sum()
                    elif inner == "ce":
                        loss = F.cross_entropy(z, y)
                    else:
                        loss = F.kl_div(F.log_softmax(z, 1), p, reduction="sum")
                    step = 0.1 * torch.autograd.grad(loss, x_adv)[0].sign()
                    x_adv = torch.clamp(torch.min(torch.max(x_adv.detach() + step, x - 0.2), x + 0.2), 0, 1)
                runs.append(x_adv)
            best = torch.stack([F.cross_entropy(f(run), y, reduction="none") for run in runs]).argmax(0)
            x_adv = torch.stack(runs)[best, range(len(y))]
            f.train()
            m = torch.ones_like(x) if g is None else g(x_adv)
            clean, z_cal = f(x), f(torch.clamp(x + m * (x_adv - x), 0, 1))
            w = 1.0000001 - F.softmax(clean, 1)[range(len(y)), y] if weight else 1.0
            kl = (F.softmax(clean, 1) * (F.log_softmax(clean, 1) - F.log_softmax(z_cal, 1))).sum(1)
            loss = (w * F.cross_entropy(clean, y, reduction="none")).mean() + beta * kl.mean()
            of.zero_grad()
            loss.backward()
            if next(number_of) not in skipped:
                of.step()
            if g is not None:
                f.train(mask_bn == "train")
                m = g(x_adv)
                z_adv, z_cal = f(x_adv), f(torch.clamp(x + m * (x_adv - x), 0, 1))
                kl = (F.softmax(z_adv, 1) * (F.log_softmax(z_adv, 1) - F.log_softmax(z_cal, 1))).sum(1)
                og.zero_grad()
                (kl.mean() + beta_1 * F.cross_entropy(z_cal, y)).backward()
                if next(number_of) not in skipped:
                    og.step()
                means.append(m.mean().item())
    return f, g, means


@pytest.mark.usefixtures("all_float64")
@pytest.mark.parametrize("fold", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize(
    "options",
    [{}, {"inner": "ce", "beta_1": 0.3}, {"inner": "kl", "beta": 1.0}, {"weight": False}, {"mask_bn": "eval"},
     {"mask": "none"}, {"mask": "none", "weight": False}, {"restarts": 3}, {"inner": "kl", "restarts": 2}],
    ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()) or "defaults",
)  # fmt: skip
def test_training_equals_a_plain_loop(options, fold):
    start = network()
    fit = fit_of([CAT(**SMALL, **options)], copy.deepcopy(start), fold=fold)
    g = fit.helpers["mask"].module if fit.helpers else None
    plain = {name: value for name, value in options.items() if name != "mask"}
    expected_f, expected_g, means = plain_training(start, g, **plain)
    history = fit(batches())
    assert fit.run.crafter.folded == fold
    assert_same(fit.net.module, expected_f)
    assert differs(expected_f, start)
    if g is not None:
        assert_same(g, expected_g)
        last = sum(means[3:]) / 3
        assert history.epochs[-1].metrics["train/mask/mean"] == pytest.approx(last, abs=1e-9)


@pytest.mark.usefixtures("all_float64")
@pytest.mark.parametrize("skipped", [(), (0,), (1,), (2, 3, 6)], ids=str)
def test_one_network_s_step_that_overflows_in_half_precision_leaves_the_other_s_alone(skipped):
    """Even numbers are the classifier's steps, odd ones the mask network's."""
    precision = Scaled(skipped)
    fit = fit_of([CAT(**SMALL)], network(), scaled=precision)
    g = fit.helpers["mask"].module
    expected_f, expected_g, _ = plain_training(network(), g, skipped=skipped)
    fit(batches())
    assert precision.passes == 12
    assert_same(fit.net.module, expected_f)
    assert_same(g, expected_g)
    assert precision.scaler.get_scale() == 1024.0 / 2 ** len(skipped)


def test_the_attack_runs_once_a_batch_before_the_classifier_moves():
    seen = []
    x, y = data(8)
    given = Given(torch.full((8, 1, 6, 6), 0.05), seen)

    class Spied(CAT):
        def apply(self, plan):
            plan = super().apply(plan)
            return plan.alter(self, "attack", lambda attack: given)

    fit = fit_of([Spied()], network().float(), precision="32-true")
    expected = copy.deepcopy(fit.net).eval()(x).logits.detach()
    fit.take(Batch(x, y, torch.arange(8)))
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], expected)
    fit.take(Batch(x, y, torch.arange(8)))
    assert len(seen) == 2


def test_robust_accuracy_is_counted_on_the_full_examples():
    """A mask of nearly 0 makes calibrated examples clean: they would look robust."""
    fit = fit_of([CAT(eps=0.9, steps=5, mask_bn="eval")], network().float(), epochs=8, precision="32-true")
    nn.init.constant_(fit.helpers["mask"].module.out.bias, -30.0)
    metrics = fit(batches()).epochs[-1].metrics
    assert metrics["train/mask/mean"] < 1e-6
    assert metrics["train/loss/calibrated"] == pytest.approx(0, abs=1e-4)
    assert metrics["train/robust_accuracy"] < metrics["train/clean_accuracy"] - 0.3


def test_a_larger_beta_1_closes_the_mask():
    """Sheet, claim 5, in direction: 5 epochs from the same start."""
    means = []
    for beta_1 in (0.0, 20.0):
        fit = fit_of([CAT(eps=0.4, steps=3, beta_1=beta_1)], network().float(), epochs=5, precision="32-true")
        means.append(fit(batches()).epochs[-1].metrics["train/mask/mean"])
    assert means[0] > 0.5 > means[1]


def test_a_batch_of_one_and_two_classes():
    fit = fit_of([CAT(**SMALL)], network(norm=False).float(), precision="32-true")
    x, y = data(1)
    logs = fit.take(Batch(x, y, torch.arange(1)))
    assert math.isfinite(logs["loss"])
    assert logs["rows/adv"] == 1
    assert cw_surrogate(torch.tensor([[1.0, 3.0]]), torch.tensor([0]), 50.0).tolist() == [-48.0]


# The mask network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trunk", "shape"),
    [("conv", (1, 8, 8)), ("conv", (1, 28, 28)), ("conv", (3, 5, 7)), ("conv", (1, 1, 1)),
     ("resnet18", (3, 8, 8)), ("resnet18", (3, 32, 32)), ("resnet18", (1, 9, 6))],
)  # fmt: skip
def test_masks_have_the_images_shape_and_start_near_one_half(trunk, shape):
    torch.manual_seed(0)
    mask = MaskNetwork(trunk, shape)(torch.rand(2, *shape))
    assert mask.shape == (2, *shape)
    assert 0 < mask.min() <= mask.max() < 1
    assert mask.mean().item() == pytest.approx(0.5, abs=0.25)


def test_the_networks_are_the_papers():
    conv = MaskNetwork("conv", (1, 28, 28))
    assert sum(p.numel() for p in conv.parameters()) == 640 + 73_856 + 147_584 + 1_153
    assert conv.trunk(torch.zeros(1, 1, 28, 28)).shape == (1, 128, 14, 14)
    with torch.device("meta"):
        residual = MaskNetwork("resnet18", (3, 32, 32))
    trunk = sum(p.numel() for p in residual.trunk.parameters())
    assert trunk == 11_173_962 - (512 * 10 + 10)  # ResNet-18 with a 3x3 stem and 10 classes, without its head
    assert residual.trunk(torch.zeros(1, 3, 32, 32, device="meta")).shape == (1, 512, 4, 4)
    small = MaskNetwork("resnet18", (3, 8, 8))
    assert small.trunk(torch.zeros(2, 3, 8, 8)).shape == (2, 512, 4, 4)


def test_the_mask_sees_pixels_in_the_unit_range():
    torch.manual_seed(0)
    unit = MaskNetwork("conv", (1, 6, 6))
    bytes_ = MaskNetwork("conv", (1, 6, 6), (0.0, 255.0))
    bytes_.load_state_dict(unit.state_dict())
    x = torch.rand(2, 1, 6, 6)
    torch.testing.assert_close(bytes_(255 * x), unit(x))
    assert MaskNetwork("conv", (1, 6, 6), (float("-inf"), float("inf")))(x).isfinite().all()


def test_a_mask_network_of_an_unknown_trunk_or_shape_is_refused():
    with pytest.raises(ConfigError, match="unknown trunk 'resnet'; did you mean resnet18"):
        MaskNetwork("resnet", (3, 8, 8))
    with pytest.raises(ConfigError, match=r"reads images \(C, H, W\), not the shape \(8, 8\); reshape"):
        MaskNetwork("conv", (8, 8))


def test_which_network_for_which_images():
    def kind(shape, **options):
        helper = Plan.of([CAT(**options)], Facts(10, shape)).helpers[0]
        return "resnet18" if any(isinstance(m, nn.BatchNorm2d) for m in helper.module.modules()) else "conv"

    assert (kind((1, 28, 28)), kind((3, 32, 32))) == ("conv", "resnet18")
    assert (kind((1, 8, 8), mask="resnet18"), kind((3, 8, 8), mask="conv")) == ("resnet18", "conv")
    with pytest.raises(ConfigError, match=r"reads images .C, H, W., but the inputs have the shape .20,"):
        Plan.of([CAT()], Facts(10, (20,)))
    assert Plan.of([CAT(mask="none")], Facts(10, (20,))).helpers == ()


def test_its_weights_are_drawn_from_the_runs_seed_alone():
    def first(seed, noise):
        torch.manual_seed(noise)
        state = torch.random.get_rng_state()
        fit = fit_of([CAT()], network(), seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        return fit.helpers["mask"].module

    one = first(1, 5)
    assert not differs(one, first(1, 6))
    assert differs(one, first(2, 5))
    assert all(not p.is_meta for p in one.parameters())
    assert all(p.is_meta for p in Plan.of([CAT()], FACTS).helpers[0].module.parameters())


def test_a_module_with_weights_keeps_them():
    module = nn.Linear(2, 2)
    before = copy.deepcopy(module)
    draw_weights(module, 3)
    assert not differs(module, before)


def test_its_optimizer_is_like_the_classifiers():
    model, other = nn.Linear(3, 2), nn.Linear(2, 2)
    for name, options in (("sgd", {"lr": 0.3, "momentum": 0.8}), ("adamw", {"lr": 0.01, "betas": (0.8, 0.9)}),
                          ("adam", {"lr": 0.1}), ("rmsprop", {"lr": 0.1, "alpha": 0.5})):  # fmt: skip
        main = make_optimizer(name, model.parameters(), options)
        made = alike(main, other.parameters())
        assert type(made) is type(main)
        assert made.param_groups[0]["params"] == list(other.parameters())
        for key in options:
            assert made.param_groups[0][key] == main.param_groups[0][key]
    groups = [{"params": [model.bias], "weight_decay": 0.0}, {"params": [model.weight], "weight_decay": 0.2}]
    assert alike(torch.optim.SGD(groups, lr=0.1), other.parameters()).param_groups[0]["weight_decay"] == 0.2


def test_an_optimizer_that_cannot_be_built_again_is_refused():
    class Odd(torch.optim.SGD):
        def __init__(self, parameters, secret):
            super().__init__(parameters, lr=secret)

    model = network()
    with pytest.raises(ModelError, match="a second Odd cannot be built from the options of the first"):
        fit_of([CAT()], model, optimizer=Odd(model.parameters(), 0.1))


def test_its_rates_follow_the_schedule_whoever_sets_it():
    fit = fit_of([CAT(**SMALL)], network().float(), schedule=steps([1]), precision="32-true")
    fit(batches())
    assert fit.helpers["mask"].raw_optimizer.param_groups[0]["lr"] == pytest.approx(SGD["lr"] * 0.1)
    model = network().float()
    sgd = torch.optim.SGD(model.parameters(), **SGD)
    scheduler = torch.optim.lr_scheduler.StepLR(sgd, 1, 0.5)
    fit = fit_of([CAT(**SMALL)], model, optimizer=sgd, scheduler=scheduler, precision="32-true")
    fit(batches())
    assert fit.helpers["mask"].raw_optimizer.param_groups[0]["lr"] == pytest.approx(SGD["lr"] * 0.5)


def test_checkpoints_hold_it_and_the_best_epoch_brings_its_own_back(tmp_path):
    scores = iter([Scores(0.5, 0.9), Scores(0.5, 0.2)])
    kept = []

    def validate(net, parts, epoch):
        kept.append(copy.deepcopy(fit.helpers["mask"].module))
        return next(scores)

    fit = fit_of([CAT(**SMALL)], network().float(), precision="32-true", validate=validate, folder=tmp_path)
    assert fit(batches()).best_epoch == 1
    best, last = (checkpoint.load(tmp_path / f"{name}.pt")["helpers"]["mask"] for name in ("best", "last"))
    for state, module in ((best, kept[0]), (last, kept[1])):
        again = MaskNetwork("conv", (1, 6, 6))
        again.load_state_dict(state["module"])
        assert not differs(again, module)
    fit.restore_best()
    assert not differs(fit.helpers["mask"].module, kept[0])
    assert differs(kept[0], kept[1])


# The plan ------------------------------------------------------------------------------------------------------


def test_the_plan_has_the_papers_defaults():
    plan = Plan.of([CAT()], FACTS)
    parts = plan.compose()
    inner = parts.attack.attack
    assert (inner.norm, inner.steps, inner.step_size, inner.keep, inner.bn) == (Linf(8 / 255), 10, None, "last", "eval")
    assert inner.objective.name == "cw"
    assert (parts.risk, parts.selection) == (CatRisk(5.0), clean_and_robust)
    assert [objective.name for objective in parts.criterion.adversaries] == ["margin", "ce"]
    assert isinstance(plan.wraps()[-1][1], TrainMask)
    assert (threat_of(plan).norm, threat_of(plan).eps) == ("linf", 8 / 255)
    lines = {slot: (part, owner) for slot, part, owner in plan.describe()}
    assert lines["attack"] == (f"calibrated {inner}", "cat")
    assert lines["helper mask"] == ("MaskNetwork", "cat")


@pytest.mark.parametrize(
    ("options", "option", "way_out"),
    [
        ({"inner": "ce", "kappa": 7}, "kappa", "set inner to cw"),
        ({"inner": "kl", "kappa": 150}, "kappa", "set inner to cw"),
        ({"mask": "none", "beta_1": 0.3}, "beta_1", "set mask to auto"),
        ({"mask": "none", "mask_bn": "eval"}, "mask_bn", "set mask to auto"),
    ],
)
def test_options_without_effect_are_refused(options, option, way_out):
    with pytest.raises(ConfigError, match=f"^cat: {option} has no effect .*; leave it out, or {way_out}") as caught:
        CAT(**options)
    assert "\n" not in str(caught.value)


def test_options_at_their_defaults_are_no_mistake():
    CAT(inner="ce", kappa=50, mask="none", beta_1=0.05, mask_bn="train")


def test_inner_losses_and_the_authors_mnist_settings():
    assert CAT(inner="ce").attack((0, 1)).objective is ce
    assert CAT(inner="kl").attack((0, 1)).objective is kl_to_clean
    attack = CAT(eps=0.4, steps=20, start_radius=0.1, clamp=False, bn="train").attack((0.0, 1.0))
    assert attack.bn == "train"
    x, keys = torch.ones(3, 1, 4, 4), Keys(0, 0, torch.arange(3))
    start = attack.start(attack.norm, keys, x, 0.4)
    assert 0.05 < start.abs().max() <= 0.1

    def net(x):
        return Outputs(x.flatten(1)[:, :3] * torch.tensor([-1.0, 1.0, 1.0]))

    full = attack.craft(net, x, attack.objective.bind(net, x, torch.zeros(3).long()), keys).x
    assert full.max() > 1.1
    network = MaskNetwork("conv", (1, 4, 4))
    made = Calibrate(attack, network, (0.0, 1.0)).craft(net, x, ce.bind(net, x, torch.zeros(3).long()), keys)
    assert made.x.max() <= 1


def test_without_a_mask_the_classifier_trains_on_clamped_examples_all_the_same():
    """Eq. (10) at M = 1, where the MNIST code's attack leaves the pixel range."""
    x, y, keys = torch.ones(3, 1, 6, 6), torch.zeros(3).long(), Keys(0, 0, torch.arange(3))

    def net(x):
        return Outputs(x.flatten(1)[:, :3] * torch.tensor([-1.0, 1.0, 1.0]))

    attack = Plan.of([CAT(eps=0.4, clamp=False, mask="none")], FACTS).compose().attack
    made = attack.craft(net, x, attack.objective.bind(net, x, y), keys)
    full = made.extras["full"]
    assert full.max() > 1.1
    torch.testing.assert_close(made.x, full.clamp(0, 1))
    torch.testing.assert_close(made.delta, made.x - x)
    assert str(attack).startswith("clamped PGD(")
    assert isinstance(Plan.of([CAT(mask="none")], FACTS).compose().attack, PGD)


def test_calibrate_hands_over_the_mask_and_the_full_example():
    torch.manual_seed(0)
    network, inner = MaskNetwork("conv", (1, 4, 4)), PGD(Linf(0.2), 3)
    x, y, keys = torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1]), Keys(0, 0, torch.arange(5))

    def net(x):
        return Outputs(x.flatten(1)[:, :3])

    made = Calibrate(inner, network, (0.0, 1.0)).craft(net, x, ce.bind(net, x, y), keys)
    full = inner.craft(net, x, ce.bind(net, x, y), keys).x
    assert torch.equal(made.extras["full"], full)
    assert torch.equal(made.extras["mask"], network(full))
    assert not made.extras["mask"].requires_grad
    torch.testing.assert_close(made.x, x + network(full) * (full - x))
    assert torch.equal(made.delta, made.x - x)
    assert made.delta.abs().max() <= 0.2 + 1e-6


def test_clean_and_robust_accuracy_choose_the_epoch():
    assert clean_and_robust(Scores(0.9, 0.5)) > clean_and_robust(Scores(0.7, 0.6))
    assert clean_and_robust(Scores(0.9)) == (0.9, 0.0)


def test_other_ingredients_may_change_the_attack_inside():
    class Train(Ingredient):
        name = "train_bn"
        paper = Paper("", "", "", 0)

        def apply(self, plan):
            from dataclasses import replace

            return plan.alter(self, "attack", lambda attack: replace(attack, bn="train"))

    for ingredients in ([CAT(), Train()], [Train(), CAT()]):
        attack = Plan.of(ingredients, FACTS).compose().attack
        assert isinstance(attack, Calibrate)
        assert (attack.bn, attack.attack.bn) == ("train", "train")


def test_a_drawn_radius_and_parts_that_know_progress():
    attack = Plan.of([CAT(eps={"uniform": [0.1, 0.3]})], FACTS).compose().attack
    assert attack.norm.largest == 0.3
    from art_ext.api import Progress

    assert attack.at(Progress(0, 1)) == attack
    given = Given(torch.zeros(1))
    assert Calibrate(given, nn.Identity(), (0, 1)).at(Progress(0, 1)).attack is given
    assert Calibrate(given, nn.Identity(), (0, 1)).norm is None


class Half(Criterion):
    name = "half"

    def __call__(self, out, target):
        return 0.5 * F.cross_entropy(out.logits, target, reduction="none")


def test_the_weight_multiplies_the_plans_criterion():
    clean, adv, y = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    whole = CatRisk(2.0)(views(clean, adv, y), CrossEntropy())
    half = CatRisk(2.0)(views(clean, adv, y), Half())
    torch.testing.assert_close(half["clean"], 0.5 * whole["clean"])
    torch.testing.assert_close(half["calibrated"], whole["calibrated"])
    plain = CatRisk(2.0, weight=False)(views(clean, adv, y), CrossEntropy())
    torch.testing.assert_close(plain["clean"], F.cross_entropy(clean, y))


def test_pc_lc_inside_cat_trains_and_differs_from_both():
    plan = Plan.of([CAT(**SMALL), PCLC(warmup_epochs=1)], FACTS)
    assert plan.compose(1).criterion == PCLCLoss()
    assert plan.owner("criterion") == "pc_lc"
    trained = []
    for ingredients in ([CAT(**SMALL)], [CAT(**SMALL), PCLC(warmup_epochs=1)], [PCLC(warmup_epochs=1)]):
        fit = fit_of(ingredients, network().float(), precision="32-true")
        assert fit(batches()).epochs[-1].metrics["train/loss"] > 0
        trained.append(fit.net.module)
    assert differs(trained[0], trained[1])
    assert differs(trained[1], trained[2])


def test_dac_goes_around_it_and_not_inside():
    with pytest.raises(ComposeError, match="cat needs the batch's adversarial examples to the end, but dac inside it"):
        Plan.of([DAC(), CAT()], FACTS)
    alone, both = (
        fit_of(ingredients, network().float(), precision="32-true")
        for ingredients in ([CAT(**SMALL)], [CAT(**SMALL), DAC()])
    )
    alone(batches())
    both(batches())
    assert differs(alone.net.module, both.net.module)
    assert differs(alone.helpers["mask"].module, both.helpers["mask"].module)


def test_the_masks_step_sees_the_weights_that_are_kept_and_not_those_awp_moved(monkeypatch):
    with pytest.raises(ComposeError, match="cat looks at the network after its step, but awp around it has moved"):
        Plan.of([CAT(), AWP()], FACTS)
    seen, descend = [], Step.descend_helper

    def look(step, name, loss):
        seen.append({name: value.clone() for name, value in step.net.module.named_parameters()})
        descend(step, name, loss)

    monkeypatch.setattr(Step, "descend_helper", look)
    whole = fit_of([AWP(gamma=0.1), CAT(**SMALL)], network().float(), precision="32-true", epochs=1)
    whole(batches(24))
    (during,) = seen
    assert all(torch.equal(value, during[name]) for name, value in whole.net.module.named_parameters())


@pytest.mark.parametrize(
    ("ingredients", "message"),
    [
        ([CAT(), PGDAT()], "cat and pgd_at both set the attack"),
        ([CAT(), TRADES()], "cat and trades both set the risk"),
        ([CAT(), MMC(dim=4)], "cat compares softmax outputs, but the logits of mmc saturate them"),
        ([FreeAT(), CAT()], "cat goes around one step a batch, but free_at takes several"),
    ],
)
def test_what_it_does_not_go_with(ingredients, message):
    with pytest.raises(ComposeError, match=message):
        Plan.of(ingredients, FACTS)


@pytest.mark.parametrize(
    "options",
    [{"beta": -1}, {"beta_1": "x"}, {"inner": "dlr"}, {"kappa": -1}, {"weight": "maybe"}, {"mask": "vgg"}, {"eps": 0},
     {"steps": 0}, {"step_size": 0}, {"start_radius": 0}, {"clamp": 3}, {"bn": "test"}, {"mask_bn": "test"},
     {"norm": "l3"}],
)  # fmt: skip
def test_impossible_options(options):
    with pytest.raises(ConfigError, match=f"cat.{next(iter(options))}: ") as caught:
        CAT(**options)
    assert "\n" not in str(caught.value)


# ART -----------------------------------------------------------------------------------------------------------


def classifier(model=None, clip=(0.0, 1.0)):
    model = network().float() if model is None else model
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 6, 6), 3, optimizer=sgd, clip_values=clip, device_type="cpu"
    )


def arrays():
    x, y = data(24)
    return x.numpy(), y.numpy()


@pytest.fixture(scope="module")
def trained():
    trainer = CATTrainer(classifier(), **SMALL, track=False, verbose=False)
    trainer.fit(*arrays(), nb_epochs=6, batch_size=8)
    return trainer


def test_the_trainer_trains_in_place(trained):
    assert differs(trained.get_classifier().model, network().float())
    assert isinstance(trained.mask_network, MaskNetwork)
    metrics = trained.history.epochs[-1].metrics
    assert {"train/mask/mean", "train/mask/label", "train/mask/divergence", "train/loss/calibrated"} <= set(metrics)
    assert metrics["train/loss"] < trained.history.epochs[0].metrics["train/loss"]
    assert pickle.loads(pickle.dumps(trained)).seed == trained.seed


def test_calibrated_examples_and_masks_can_be_asked_for(trained):
    x, y = arrays()
    x_cal, mask = trained.calibrated(x, y)
    assert x_cal.shape == mask.shape == x.shape
    assert x_cal.dtype == mask.dtype == np.float32
    assert 0 < mask.min() <= mask.max() < 1
    attack = CATAttack(trained.get_classifier(), mask_network=trained.mask_network, **SMALL)
    np.testing.assert_array_equal(attack.generate(x, y), x_cal)
    attack.set_params(batch_size=5)
    np.testing.assert_allclose(attack.calibrated(x, y)[0], x_cal, atol=1e-6)
    change = np.abs(x_cal - x)
    assert (change <= mask * SMALL["eps"] + 1e-6).all()
    assert change.max() > 0
    trained.plan()  # looking at the next plan does not lose the trained network
    assert all(not p.is_meta for p in trained.mask_network.parameters())
    assert trained.mask_network.training


def test_calibrated_examples_are_closer_to_the_true_class(trained):
    """Sheet, claim 5: p_y(x_cal) > p_y(x') on average."""
    x, y = arrays()
    x_cal, _ = trained.calibrated(x, y)
    full = CATAttack(trained.get_classifier(), **SMALL).generate(x, y)
    p_cal, p_full = (
        F.softmax(torch.tensor(trained.predict(part)), 1)[range(len(y)), y].mean() for part in (x_cal, full)
    )
    assert p_cal > p_full


def test_there_are_none_before_a_fit_or_without_a_mask():
    x, y = arrays()
    with pytest.raises(ConfigError, match="has no mask network before fit"):
        CATTrainer(classifier(), track=False).calibrated(x, y)
    trainer = CATTrainer(classifier(), mask="none", track=False, verbose=False, **SMALL)
    trainer.fit(x, y, nb_epochs=1)
    with pytest.raises(ConfigError, match="trains without a mask"):
        trainer.calibrated(x, y)
    with pytest.raises(ConfigError, match="need a mask network"):
        CATAttack(classifier()).calibrated(x, y)
    with pytest.raises(ConfigError, match="mask_network is a torch module"):
        CATAttack(classifier(), mask_network="g")


def test_an_art_attack_as_the_inner_attack_is_calibrated_too():
    target = classifier()
    fgsm = FastGradientMethod(target, eps=0.2)
    trainer = CATTrainer(target, fgsm, track=False, verbose=False)
    attack = trainer.plan().compose().attack
    assert isinstance(attack, Calibrate)
    x, y = arrays()
    trainer.fit(x, y, nb_epochs=1)
    x_cal, mask = trainer.calibrated(x, y)
    np.testing.assert_allclose(x_cal, np.clip(x + mask * (fgsm.generate(x, y=y) - x), 0, 1), atol=1e-6)


@pytest.mark.parametrize("inner", ["cw", "ce", "kl"])
def test_the_attack_is_the_inner_one_without_the_mask(inner, trained):
    x, y = arrays()
    attack = CATAttack(trained.get_classifier(), inner=inner, clamp=False, **SMALL)
    adv = attack.generate(x, y)
    assert np.abs(adv - x).max() <= SMALL["eps"] + 1e-6
    assert adv.min() >= 0
    assert adv.max() <= 1
    made = attack.attack(FACTS)
    assert isinstance(made, PGD)
    assert made.keep == "best"
    right, under = ((trained.predict(part).argmax(1) == y).mean() for part in (x, adv))
    assert under < right


def test_a_targeted_attack_raises_the_plain_margin(trained):
    x, y = arrays()
    attack = CATAttack(trained.get_classifier(), targeted=True, eps=0.5, steps=10)
    assert attack.attack(FACTS).objective is cw
    goal = (y + 1) % 3
    before, after = ((trained.predict(part).argmax(1) == goal).mean() for part in (x, attack.generate(x, goal)))
    assert after > before
    with pytest.raises(ConfigError, match="kl_to_clean has no targeted form"):
        CATAttack(trained.get_classifier(), targeted=True, inner="kl").generate(x, goal)


def test_other_clip_values():
    x, y = arrays()
    trainer = CATTrainer(classifier(clip=(0.0, 255.0)), eps=40, steps=2, track=False, verbose=False)
    trainer.fit(255 * x, y, nb_epochs=1)
    x_cal, _ = trainer.calibrated(255 * x, y)
    assert x_cal.max() > 2
    assert np.abs(x_cal - 255 * x).max() <= 40 + 1e-3


class Pair(nn.Module):
    """No mask, but two."""

    def forward(self, x):
        return torch.sigmoid(x), torch.sigmoid(x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(3, 3), r"mask_network Linear fails on images of shape \(1, 6, 6\) \(.*mat1"),
        (nn.Linear(6, 6).double(), "mask_network Linear fails on images"),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 36)), r"gives masks of shape \(36,\) for images of shape \(1, 6"),
        (MaskNetwork("conv", (3, 6, 6)), "mask_network MaskNetwork fails on images"),
        (Pair(), "mask_network Pair gives a tuple for images of shape"),
        (nn.Hardtanh(-3.0, -1.0), "values outside of 0 to 1; end it with"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_network_that_gives_no_masks_is_refused_before_the_attack(network, message, monkeypatch):
    x, y = arrays()
    attack = CATAttack(classifier(), mask_network=network, **SMALL)
    monkeypatch.setattr(PGD, "craft", lambda *args, **kwargs: pytest.fail("it was crafted"))
    for ask in (attack.generate, attack.calibrated):
        with pytest.raises(ConfigError, match=message) as caught:
            ask(x, y)
        assert "\n" not in str(caught.value)


def test_a_network_without_weights_can_give_masks():
    """M = x': the brighter a pixel, the more of its change is kept."""
    x, y = arrays()
    x_cal, mask = CATAttack(classifier(), mask_network=nn.Identity(), **SMALL).calibrated(x, y)
    assert x_cal.shape == mask.shape == x.shape
    assert (np.abs(x_cal - x) <= mask * SMALL["eps"] + 1e-6).all()
    assert np.abs(x_cal - x).max() > 0


def kind_of(value):
    return type(value).__name__


@pytest.mark.parametrize("bad", [None, "mask", [[1.0], [1.0, 2.0]], {"mask": 1}, object()], ids=kind_of)
def test_a_picture_of_what_is_no_array_is_refused(bad):
    x = np.zeros((2, 1, 8, 8))
    for place, name in enumerate(("x", "x_cal", "mask")):
        given = [x, x, x]
        given[place] = bad
        with pytest.raises(DataError, match=f"^a picture needs arrays or tensors, but {name} is a ") as caught:
            picture(*given)
        assert "\n" not in str(caught.value)


def test_the_page_s_lines_for_the_masks_of_a_run_are_run(tmp_path, monkeypatch):
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    owner = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 3, optimizer=sgd, clip_values=(0.0, 1.0), device_type="cpu"
    )
    x, y = np.random.default_rng(0).random((12, 1, 8, 8), dtype=np.float32), np.arange(12) % 3
    trainer = CATTrainer(owner, eps=0.15, steps=5, folder=tmp_path / "run" / "hardened", track=False, verbose=False)
    trainer.fit(x, y, nb_epochs=1, batch_size=6, validation_data=(x, y))
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    scope = {"classifier": owner, "x": x, "y": y}
    exec(compile(block, "README.md", "exec"), scope)
    assert (tmp_path / "masks.png").exists()
    np.testing.assert_array_equal(scope["x_cal"], trainer.calibrated(x, y)[0])


@pytest.mark.parametrize("clip", [(1.0, 0.0), (0.0, 0.0), (-math.inf, math.inf), (0.0, math.nan)])
def test_a_picture_needs_to_know_black_and_white(clip):
    x = np.zeros((2, 1, 8, 8))
    with pytest.raises(DataError, match=r"a picture needs a finite clip range from black to white, .*; give clip"):
        picture(x, x, x, clip)


def test_a_picture_of_what_the_mask_does(trained, tmp_path):
    x, y = arrays()
    figure = picture(x, *trained.calibrated(x, y))
    assert [axes.get_ylabel() for axes in figure.axes] == ["clean", "calibrated", "change", "mask"]
    assert figure.axes[0].images[0].get_array().shape == (6, 12 * 7 - 1)
    figure.savefig(tmp_path / "masks.png")
    assert (tmp_path / "masks.png").stat().st_size > 1000
    colour = picture(np.zeros((2, 3, 8, 8)), np.zeros((2, 3, 8, 8)), np.ones((2, 3, 8, 8)))
    assert colour.axes[2].images[0].get_array().shape == (8, 17, 3)
    assert (colour.axes[2].images[0].get_array()[:, :8] == 0.5).all()
    with pytest.raises(DataError, match="of one shape"):
        picture(x, x[:3], x)
