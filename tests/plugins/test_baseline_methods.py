"""MART, FAT, AWP, fast and free adversarial training and guided complement entropy.

Each formula against its vectors, each step against a plain loop in float64.
"""

import copy
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from tiny import FACTS, SEED, SGD, Scaled, assert_same, batches, differs, fit, network
from torch import nn
from torch.nn.utils import parametrizations

from art_ext.api import (
    PGD,
    ComposeError,
    ConfigError,
    Facts,
    Ingredient,
    Keys,
    Linf,
    ModelError,
    Outputs,
    Paper,
    Plan,
    Progress,
    Target,
    View,
    Views,
    ZeroStart,
    ce,
    cw,
    for_evaluation,
)
from art_ext.parts.attacks import Walk
from art_ext_baselines import (
    AWP,
    FAT,
    MART,
    PGDAT,
    TRADES,
    FastAT,
    FreeAT,
    GuidedComplementEntropy,
    Mart,
    Replay,
    boosted_cross_entropy,
    guided_complement_entropy,
    perturbed_weights,
    weight_perturbation,
    weighted_kl,
)
from art_ext_dac import DAC
from art_ext_pc_lc import PCLC

FOLDER = Path(__file__).parents[1] / "vectors"
EPS, STEPS, SIZE = 0.2, 3, 0.1


def vectors(name):
    return {entry["name"]: entry for entry in json.loads((FOLDER / f"{name}.json").read_text())}


BASELINES, PCLC_VECTORS, TRICKS = vectors("baselines"), vectors("pclc"), vectors("tricks")
PRECISIONS = [(torch.float64, None), (torch.float32, 1e-5)]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def close(got, expected, tolerance):
    expected = double(expected)
    assert (got.detach().double() - expected).abs().max() <= tolerance * (1 + expected.abs().max())


def forward(module):
    return lambda x: Outputs(module(x))


def noise(batch, epoch, step=0):
    return Keys(SEED, epoch, batch.index, step=step).stream("start", 0)


def attack(module, x, y, start, *, objective=None, steps=STEPS, eps=EPS, size=SIZE):
    """A plain PGD in eval mode from x + start."""
    module.eval()
    adv = x + start
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        score = F.cross_entropy(module(adv), y, reduction="sum") if objective is None else objective(module(adv))
        (grad,) = torch.autograd.grad(score, adv)
        adv = adv.detach() + size * grad.sign()
        adv = torch.minimum(torch.maximum(adv, x - eps), x + eps).clamp(0, 1)
    module.train()
    return adv.detach()


def loop(module, one_batch, *, epochs=2, batch_size=8, sgd=SGD):
    """The plain training loop: `one_batch(module, optimizer, x, y, batch, epoch, step)`."""
    module = copy.deepcopy(module).train()
    optimizer = torch.optim.SGD(module.parameters(), **sgd)
    step = 0
    for epoch in range(epochs):
        for batch in batches(batch_size).epoch(epoch):
            one_batch(module, optimizer, batch.x.double(), batch.y, batch, epoch, step)
            step += 1
    return module


def descend(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Smooth(Ingredient):
    name = "smooth"
    paper = Paper("-", "-", "-", 2020)

    def apply(self, plan):
        class Half(Target):
            gives_distributions = True

            def __call__(self, y, n_classes, delta):
                return (F.one_hot(y, n_classes) + 1.0) / (n_classes + 1)

        return plan.fill(self, target=Half())


# MART


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_mart_reproduces_the_reference(dtype, tolerance):
    entry = BASELINES["A_mart_loss"]
    given, expected = entry["inputs"], entry["expected"]
    clean, adv = (
        torch.tensor(given[f"logits_{part}"], dtype=dtype).requires_grad_() for part in ("clean", "adversarial")
    )
    y = torch.tensor(given["labels"])
    terms = Mart(given["beta"])(Views(View(Outputs(clean), y, y), View(Outputs(adv), y, y)), None)
    loss = sum(terms.values())
    loss.backward()
    tolerance = tolerance or entry["tolerance"]
    close(loss, expected["loss"], tolerance)
    close(clean.grad, expected["grad_clean"], tolerance)
    close(adv.grad, expected["grad_adversarial"], tolerance)


def test_mart_by_hand():
    """Two classes, p(x') = (1/4, 3/4): BCE = -log 1/4 - log(1.0001 - 3/4) at y = 0."""
    adv, clean = torch.tensor([[0.0, math.log(3.0)]]), torch.zeros(1, 2)
    assert float(boosted_cross_entropy(adv, torch.tensor([0]))) == pytest.approx(math.log(4) - math.log(0.2501), 1e-6)
    kl = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert float(weighted_kl(clean, adv, torch.tensor([0]))) == pytest.approx(0.5 * kl, 1e-5)


@pytest.mark.parametrize(
    "logits",
    [[[2.0, 2.0, 2.0]], [[200.0, -200.0, 0.0]], [[-200.0, 200.0, 0.0]], [[2.0, 2.0, -1.0]]],
    ids=["all tied", "sure", "surely wrong", "two tied"],
)
def test_mart_is_finite_at_ties_saturation_and_a_batch_of_one(logits):
    for y in (torch.tensor([0]), torch.tensor([1])):
        clean, adv = (torch.tensor(logits).requires_grad_() for _ in range(2))
        value = boosted_cross_entropy(adv, y) + weighted_kl(clean, adv, y)
        value.sum().backward()
        assert value.shape == (1,)
        assert all(bool(t.isfinite().all()) for t in (value, clean.grad, adv.grad))


def test_mart_training_is_the_plain_loop():
    def one(module, optimizer, x, y, batch, epoch, step):
        start = 0.001 * noise(batch, epoch).normal((1, 6, 6)).double()
        adv = attack(module, x, y, start)
        z, z_adv = module(x), module(adv)
        p, p_adv = z.softmax(1), z_adv.softmax(1)
        others = p_adv.clone()
        others[torch.arange(len(y)), y] = -1
        bce = F.cross_entropy(z_adv, y) - torch.log(1.0001 - others.max(1).values + 1e-12).mean()
        kl = (p * (p.log() - torch.log(p_adv + 1e-12))).sum(1)
        own = p[torch.arange(len(y)), y]
        descend(optimizer, bce + 5 * (kl * (1.0000001 - own)).mean())

    got, _ = fit([MART(eps=EPS, steps=STEPS, step_size=SIZE)], network())
    assert_same(got, loop(network(), one))


def test_mart_refuses_what_its_loss_would_ignore():
    for other, word in ((PCLC(), "pc_lc"), (Smooth(), "smooth"), (PGDAT(), "pgd_at")):
        with pytest.raises(ComposeError, match=f"mart.*{word}|{word}.*mart"):
            Plan.of([MART(), other], FACTS)


# FAT


class Linear(nn.Module):
    def __init__(self, given):
        super().__init__()
        self.w, self.b = (double(given[name]) for name in "wb")

    def forward(self, x):
        return Outputs(x.flatten(1) @ self.w.T + self.b)


@dataclass(frozen=True)
class Counted:
    net: nn.Module
    rows: list

    def __call__(self, x):
        self.rows.append(len(x))
        return self.net(x)


def friendly_case():
    entry = BASELINES["A_friendly_attack"]
    given = entry["inputs"]
    x, y = double(given["images"]), torch.tensor(given["labels"])
    pgd = PGD(Linf(given["epsilon"]), given["max_steps"], given["step_size"], start=ZeroStart(), tau=given["tau"])
    return entry, Linear(given), x, y, pgd


def test_fat_reproduces_the_reference_in_input_order(monkeypatch):
    entry, net, x, y, pgd = friendly_case()
    steps, step = [], Walk.step
    monkeypatch.setattr(Walk, "step", lambda self, adv, *rest: (steps.append(len(adv)), step(self, adv, *rest))[1])
    adv = pgd.craft(net, x, ce.bind(net, x, y), Keys(0, 0, torch.arange(len(x)))).x
    close(adv, entry["expected"]["adversarial"], entry["tolerance"])
    assert sum(steps) == entry["expected"]["backprop_count"]


@pytest.mark.parametrize("tau", [0, 1, 2, 10])
def test_fat_stops_each_example_as_the_algorithm_says(tau):
    _, net, x, y, pgd = friendly_case()
    expected = []
    for image, label in zip(x, y, strict=True):
        adv, left = image[None], tau
        for _ in range(pgd.steps):
            adv = adv.detach().requires_grad_()
            out = net(adv).logits
            if out.argmax() != label:
                if left == 0:
                    break
                left -= 1
            (grad,) = torch.autograd.grad(F.cross_entropy(out, label[None]), adv)
            adv = adv.detach() + pgd.step_size * grad.sign()
            adv = torch.minimum(torch.maximum(adv, image - 0.1), image + 0.1).clamp(0, 1)
        expected.append(adv.detach())
    keys = Keys(0, 0, torch.arange(len(x)))
    got = replace(pgd, tau=tau).craft(net, x, ce.bind(net, x, y), keys).x
    assert torch.allclose(got, torch.cat(expected), rtol=0, atol=1e-12)
    if tau == pgd.steps:
        assert torch.equal(got, replace(pgd, tau=None).craft(net, x, ce.bind(net, x, y), keys).x)


@pytest.mark.parametrize("name", ["fat_tau_1", "fat_tau_2"])
def test_fat_counts_as_the_bag_of_tricks_does(name):
    """Their counter of tau lets an example move at tau - 1 wrong iterates: FAT's tau - 1."""
    given = TRICKS[name]["inputs"]
    answers = torch.tensor(given["misclassified"], dtype=torch.bool)
    at = iter(answers)

    class Script:
        """A score whose answers are written down, one row an iteration."""

        def __init__(self, index):
            self.index = index

        def value(self, out):
            return out.logits.sum(1)

        def wrong(self, out):
            return next(at)[self.index]

        def __getitem__(self, part):
            return Script(self.index[part])

    x = torch.full((3, 1, 1, 1), 0.5)
    pgd = PGD(Linf(0.4), len(answers), 0.01, start=ZeroStart(), tau=given["tau"] - 1)
    adv = pgd.craft(lambda z: Outputs(z.flatten(1)), x, Script(torch.arange(3)), Keys(0, 0, torch.arange(3))).x
    moves = ((adv - x).flatten() / 0.01).round().int().tolist()
    assert moves == TRICKS[name]["expected"]["updates"]


def test_fat_may_leave_an_image_as_it_is_and_spares_the_work():
    _, net, x, _, pgd = friendly_case()
    wrong = (net(x).logits.argmax(1) + 1) % 3
    counted = Counted(net, [])
    adv = replace(pgd, tau=0).craft(counted, x, ce.bind(net, x, wrong), Keys(0, 0, torch.arange(len(x))))
    assert torch.equal(adv.x, x)
    assert counted.rows == [len(x)]


def test_fat_does_not_depend_on_the_batch():
    _, net, x, y, pgd = friendly_case()
    pgd = replace(pgd, jitter=0.01, tau=1)
    keys = Keys(0, 0, torch.arange(len(x)))
    whole = pgd.craft(net, x, ce.bind(net, x, y), keys).x
    one = [slice(i, i + 1) for i in range(len(x))]
    alone = [pgd.craft(net, x[i], ce.bind(net, x[i], y[i]), keys[i]).x for i in one]
    assert torch.allclose(whole, torch.cat(alone), rtol=0, atol=1e-12)
    assert bool(((whole - x).abs() <= 0.1 + 1e-12).all())
    assert 0 <= float(whole.min()) <= float(whole.max()) <= 1


def test_fat_training_is_the_plain_loop():
    """tau 0 in the first epoch, 1 in the second; jitter and uniform start as in the paper."""

    def one(module, optimizer, x, y, batch, epoch, step):
        keys = noise(batch, epoch)
        start = (2 * keys.uniform((1, 6, 6)) - 1).double() * EPS
        adv = ((x + start).clamp(0, 1)).clone()
        omega = [0.001 * keys.stream("jitter", i).normal((1, 6, 6)).double() for i in range(STEPS)]
        left = torch.full((len(x),), epoch)
        module.eval()
        for i in range(STEPS):
            adv = adv.detach().requires_grad_()
            out = module(adv)
            (grad,) = torch.autograd.grad(F.cross_entropy(out, y, reduction="sum"), adv)
            left = left - (out.argmax(1) != y).long()
            moved = adv.detach() + SIZE * grad.sign() + omega[i]
            moved = torch.minimum(torch.maximum(moved, x - EPS), x + EPS).clamp(0, 1)
            adv = torch.where((left >= 0)[:, None, None, None], moved, adv.detach())
        module.train()
        descend(optimizer, F.cross_entropy(module(adv.detach()), y))

    got, _ = fit([FAT(eps=EPS, steps=STEPS, step_size=SIZE, milestones=(1,))], network())
    assert_same(got, loop(network(), one))


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["after", "before"])
def test_fat_stops_the_attack_of_others(order):
    plan = Plan.of([TRADES(eps=0.1), FAT(milestones=(30, 50, 70))][order], FACTS)
    parts = plan.compose(0)
    assert plan.owner("attack") == "trades"
    assert parts.attack.objective.name == "kl_to_clean"
    assert [parts.at(Progress(epoch, 85)).attack.tau for epoch in (0, 29.9, 30, 50, 84)] == [0, 0, 1, 2, 3]
    assert "altered by fat" in {slot: owner for slot, _, owner in plan.describe()}["attack"]


def test_fat_alone_brings_its_attack_and_an_evaluation_does_not_stop():
    plan = Plan.of([FAT(eps=0.1)], FACTS)
    assert plan.owner("risk") == plan.owner("attack") == "fat"
    tried = for_evaluation(plan.compose().attack)
    assert tried.tau is None
    assert tried.jitter == 0
    assert tried.keep == "best"


def test_fat_refuses_options_that_would_mean_nothing():
    with pytest.raises(ConfigError, match=r"fat\.eps has no effect"):
        Plan.of([TRADES(), FAT(eps=0.3)], FACTS)
    with pytest.raises(ConfigError, match=r"fat cannot change the attack of pgd_at: tau .*restart"):
        Plan.of([PGDAT(restarts=2), FAT()], FACTS)
    with pytest.raises(ConfigError, match="tau must not be negative"):
        PGD(Linf(0.1), tau=-1)
    with pytest.raises(ConfigError, match=r"fat\.tau"):
        FAT(tau=-1)
    with pytest.raises(ConfigError, match=r"fat\.milestones: input should be a list, got 50"):
        FAT(milestones=50)


# AWP


def test_awp_reproduces_the_reference():
    entry = BASELINES["A_awp"]
    given, expected = entry["inputs"], entry["expected"]
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for name, parameter in zip(("w1", "b1", "w2", "b2"), net.parameters(), strict=True):
            parameter.copy_(double(given[name]))
    loss = F.cross_entropy(net(double(given["adversarial"])), torch.tensor(given["labels"]))
    loss.backward()
    moved = perturbed_weights(net)
    assert [id(p) for p in moved] == [id(net[0].weight), id(net[2].weight)]
    for name, weight in zip(("perturbed_w1", "perturbed_w2"), moved, strict=True):
        move = weight_perturbation(weight.detach(), weight.grad, given["gamma"], given["proxy_lr"])
        close(weight.detach() + move, expected[name], entry["tolerance"])
        single = weight_perturbation(weight.detach().float(), weight.grad.float(), given["gamma"], given["proxy_lr"])
        close(weight.detach().float() + single, expected[name], 1e-6)


def test_awp_moves_each_weight_by_gamma_of_its_norm():
    weight, gradient = torch.randn(4, 3), torch.randn(4, 3)
    for rate in (1e-4, 0.01, 1.0):
        assert float(weight_perturbation(weight, gradient, 0.01, rate).norm()) == pytest.approx(
            0.01 * float(weight.norm()), rel=1e-5
        )
    zero = torch.zeros(4, 3)
    assert not weight_perturbation(zero, gradient, 0.01).any()
    assert not weight_perturbation(weight, zero, 0.01).any()
    half = weight_perturbation(weight.half(), gradient.half() * 1e-4, 0.01)
    assert half.dtype == torch.float16
    assert bool(half.isfinite().all())


def test_awp_selects_matrices_and_kernels_only():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MultiheadAttention(4, 2), nn.LayerNorm((2, 3)))
    net.register_parameter("pos_embed", nn.Parameter(torch.zeros(1, 2, 3)))
    net.weight_stage = nn.Sequential(nn.Linear(2, 2))
    net.weight_stage[0].requires_grad_(False)
    names = {id(p): name for name, p in net.named_parameters()}
    assert [names[id(p)] for p in perturbed_weights(net)] == [
        "0.weight",
        "2.in_proj_weight",
        "2.out_proj.weight",
        "3.weight",
    ]


def test_awp_moves_weights_under_torchs_parametrisations():
    net = nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 4)), parametrizations.weight_norm(nn.Linear(4, 2)))
    names = {id(p): name for name, p in net.named_parameters()}
    assert [names[id(p)] for p in perturbed_weights(net)] == [
        "0.parametrizations.weight.original",
        "1.parametrizations.weight.original0",
        "1.parametrizations.weight.original1",
    ]


def perturbation(module, x, adv, y, gamma, base):
    """Steps 2 and 3 of AWP with a real proxy, as the authors' code has them."""
    proxy = copy.deepcopy(module).train()
    inner = torch.optim.SGD(proxy.parameters(), lr=0.01)
    descend(inner, -base(proxy, x, adv, y))
    moves = {}
    for (name, w), moved in zip(module.named_parameters(), proxy.parameters(), strict=True):
        if w.ndim > 1 and "weight" in name:
            diff = moved.detach() - w.detach()
            moves[name] = gamma * w.detach().norm() / (diff.norm() + 1e-20) * diff
    return moves


def shift(module, moves, sign):
    with torch.no_grad():
        for name, w in module.named_parameters():
            if name in moves:
                w.add_(moves[name], alpha=sign)


def adversarial_ce(module, x, adv, y):
    return F.cross_entropy(module(adv), y)


def trades_loss(module, x, adv, y):
    z, z_adv = module(x), module(adv)
    kl = F.kl_div(z_adv.log_softmax(1), z.softmax(1), reduction="batchmean")
    return F.cross_entropy(z, y) + 6 * kl


@pytest.mark.parametrize("name", ["pgd_at", "trades"])
def test_awp_training_is_the_plain_loop(name):
    base = adversarial_ce if name == "pgd_at" else trades_loss

    def one(module, optimizer, x, y, batch, epoch, step):
        keys = noise(batch, epoch)
        if name == "pgd_at":
            start = (2 * keys.uniform((1, 6, 6)) - 1).double() * EPS
            adv = attack(module, x, y, (x + start).clamp(0, 1) - x)
        else:
            module.eval()
            p = module(x).softmax(1).detach()
            start = 0.001 * keys.normal((1, 6, 6)).double()
            adv = attack(
                module, x, y, start, objective=lambda z: (p * (p.log() - z.log_softmax(1))).sum()
            )
        moves = perturbation(module, x, adv, y, 0.05, base) if epoch >= 1 else {}
        shift(module, moves, 1)
        descend(optimizer, base(module, x, adv, y))
        shift(module, moves, -1)

    method = (PGDAT if name == "pgd_at" else TRADES)(eps=EPS, steps=STEPS, step_size=SIZE)
    got, history = fit([method, AWP(gamma=0.05, warmup_epochs=1)], network())
    assert_same(got, loop(network(), one), atol=1e-9)
    # the proxy's pass is not logged: otherwise the loss would count twice
    assert history.epochs[-1].metrics["train/loss"] < 2 * history.epochs[0].metrics["train/loss"]


@pytest.mark.parametrize(("skipped", "proxy", "step"), [((), (), ()), ((0,), (0,), ()), ((1,), (), (0,)),
                                                        ((2, 3, 5), (1,), (1, 2))], ids=str)  # fmt: skip
def test_awp_moves_the_weights_back_where_a_step_overflows_in_half_precision(skipped, proxy, step):
    """Passes alternate: the proxy's, without which the step is taken where the weights are, and the step's own.

    Args:
        proxy, step: batches whose pass overflows.
    """

    def one(module, optimizer, x, y, batch, epoch, number):
        start = (2 * noise(batch, epoch).uniform((1, 6, 6)) - 1).double() * EPS
        adv = attack(module, x, y, (x + start).clamp(0, 1) - x)
        moves = {} if number in proxy else perturbation(module, x, adv, y, 0.05, adversarial_ce)
        shift(module, moves, 1)
        if number in step:
            module(adv)  # what batch norm sees of it stays
        else:
            descend(optimizer, adversarial_ce(module, x, adv, y))
        shift(module, moves, -1)

    precision = Scaled(skipped)
    got, _ = fit(
        [PGDAT(eps=EPS, steps=STEPS, step_size=SIZE), AWP(gamma=0.05)], network(), epochs=1, scaled=precision
    )
    assert precision.passes == 6
    assert_same(got, loop(network(), one, epochs=1), atol=1e-9)
    assert precision.scaler.get_scale() == 1024.0 / 2 ** len(step)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_fused_optimizer_takes_the_same_steps_where_the_first_one_overflows(monkeypatch, clip):
    """torch's own would begin its momentum with whatever memory holds."""
    monkeypatch.setattr(torch, "empty_like", lambda like, **options: torch.full_like(like, 7.0, **options))
    trained = []
    for fused in (False, True):
        method, precision = PGDAT(eps=EPS, steps=STEPS), Scaled((0, 2))
        sgd = {**SGD, "fused": fused}
        trained.append(fit([method], network(), epochs=1, sgd=sgd, scaled=precision, clip_gradient=clip)[0])
    assert_same(*trained)
    assert differs(trained[0], network())


def test_free_at_keeps_its_perturbation_finite_where_a_step_overflows_in_half_precision():
    for norm in ("linf", "l2"):
        method, precision = FreeAT(norm=norm, eps=EPS, replays=2), Scaled((1, 2))
        got, history = fit([method], network(), scaled=precision)
        assert all(bool(weight.isfinite().all()) for weight in got.parameters())
        assert math.isfinite(history.epochs[-1].metrics["train/loss"])
        assert differs(got, network())


def test_awp_that_would_begin_after_the_last_epoch_is_refused():
    plan = Plan.of([PGDAT(eps=EPS), AWP(warmup_epochs=9)], FACTS)
    plan.check_epochs(10, "nb_epochs")
    with pytest.raises(ConfigError, match="awp warms up for 9 epochs and nb_epochs is 9, so its update would never"):
        plan.check_epochs(9, "nb_epochs")


def test_awp_of_size_zero_is_the_base():
    method = PGDAT(eps=EPS, steps=STEPS)
    assert_same(fit([method, AWP(gamma=0)], network())[0], fit([method], network())[0], atol=0)


class Inside(Ingredient):
    """An update that shows the network's weights, and fails."""

    name = "inside"
    paper = Paper("-", "-", "-", 2020)
    seen: ClassVar[list] = []

    def apply(self, plan):
        def update(step):
            self.seen.append((step.net.module, copy.deepcopy(step.net.module)))
            raise RuntimeError("in between")

        return plan.fill(self, update=update)


def test_awp_restores_the_weights_when_the_step_fails():
    start = network()
    Inside.seen.clear()
    with pytest.raises(RuntimeError, match="in between"):
        fit([PGDAT(eps=EPS), Inside(), AWP(gamma=0.1)], start)
    after, during = Inside.seen[0]
    assert not torch.allclose(during[1].weight, start[1].weight, atol=1e-3)
    assert torch.equal(during[1].bias, start[1].bias)
    assert_same(after, start, atol=1e-15)


def test_awp_needs_adversarial_rows_and_weights():
    with pytest.raises(ComposeError, match="awp needs adversarial examples"):
        Plan.of([AWP()], FACTS)
    frozen = network()
    for weight in perturbed_weights(frozen):
        weight.requires_grad_(False)
    with pytest.raises(ModelError, match="awp finds no weight"):
        fit([PGDAT(eps=EPS), AWP()], frozen)


@pytest.mark.parametrize("base", [PGDAT, TRADES, MART, FAT, FastAT])
def test_awp_and_dac_go_around_every_base(base):
    start = network()
    alone, _ = fit([base(eps=EPS)], start)
    for wrappers in ([AWP()], [DAC()], [AWP(), DAC()]):
        made, history = fit([base(eps=EPS), *wrappers], start)
        assert differs(made, alone)
        assert math.isfinite(history.epochs[-1].metrics["train/loss"])


def test_dac_inside_awp_would_leave_a_stale_craft():
    with pytest.raises(ComposeError, match=r"awp needs the batch's adversarial examples to the end, but dac inside"):
        Plan.of([PGDAT(), DAC(), AWP()], FACTS)


# fast and free adversarial training


def test_fast_at_takes_the_step_of_the_vector():
    given = TRICKS["fastat_step_1.25_eps"]["inputs"]
    x, delta, grad = (double(given[name]).reshape(1, 1, 2, 2) for name in ("x", "delta", "grad"))

    class At:
        clamped = True

        def __call__(self, norm, keys, like, eps):
            return delta

    attack_slot = Plan.of([FastAT(eps=given["eps"])], FACTS).compose().attack
    assert attack_slot.steps == 1
    assert attack_slot.step_size == pytest.approx(given["alpha"])
    score = replace(ce, measure=lambda out, y: out.logits.sum(1)).bind(None, x, torch.tensor([0]))
    made = replace(attack_slot, start=At()).craft(
        lambda z: Outputs((z * grad).flatten(1)), x, score, Keys(0, 0, torch.arange(1))
    )
    expected = TRICKS["fastat_step_1.25_eps"]["expected"]["delta"]
    close(made.delta.flatten()[None], expected, 1e-9)


def test_fast_at_training_is_the_plain_loop():
    def one(module, optimizer, x, y, batch, epoch, step):
        start = (2 * noise(batch, epoch).uniform((1, 6, 6)) - 1).double() * EPS
        adv = attack(module, x, y, (x + start).clamp(0, 1) - x, steps=1, size=1.25 * EPS)
        descend(optimizer, F.cross_entropy(module(adv), y))

    assert_same(fit([FastAT(eps=EPS)], network())[0], loop(network(), one))


def free_loop(replays, batch_size=8, epochs=2):
    shared = torch.zeros(batch_size + 1, 1, 6, 6, dtype=torch.float64)

    def one(module, optimizer, x, y, batch, epoch, step):
        for _ in range(replays):
            delta = shared[: len(x)].clone().requires_grad_()
            optimizer.zero_grad()
            F.cross_entropy(module((x + delta).clamp(0, 1)), y).backward()
            shared[: len(x)] = (shared[: len(x)] + EPS * delta.grad.sign()).clamp(-EPS, EPS)
            optimizer.step()

    return loop(network(), one, epochs=epochs, batch_size=batch_size), shared


@pytest.mark.parametrize("batch_size", [8, 10, 23], ids=["even", "short last batch", "longer last batch"])
def test_free_at_training_is_the_plain_loop(batch_size):
    expected, _ = free_loop(3, batch_size)
    got, history = fit([FreeAT(eps=EPS, replays=3)], network(), batch_size=batch_size)
    assert_same(got, expected)
    assert history.epochs[0].step == {8: 3, 10: 3, 23: 1}[batch_size]
    assert history.epochs[0].metrics["train/loss"] < 3  # of one replay, not of all


def test_free_at_keeps_its_delta():
    plan = Plan.of([FreeAT(eps=EPS, replays=2)], FACTS)
    update = plan.compose().update
    assert update.state_dict() == {}
    update.delta = torch.rand(4, 1, 6, 6)
    other = Replay(2)
    other.load_state_dict(update.state_dict())
    assert torch.equal(other.delta, update.delta)
    other.load_state_dict({})
    assert other.delta is None


@pytest.mark.parametrize("wrapper", [AWP(), DAC()])
def test_free_at_cannot_be_wrapped(wrapper):
    for order in ([FreeAT(), wrapper], [wrapper, FreeAT()]):
        with pytest.raises(ComposeError, match=f"{wrapper.name} goes around one step a batch, but free_at") as error:
            Plan.of(order, FACTS)
        assert error.value.problems[0].names == (wrapper.name, "free_at")


def test_free_at_can_be_averaged_and_takes_a_criterion():
    class Average(Ingredient):
        name = "average"
        paper = Paper("-", "-", "-", 2020)

        def apply(self, plan):
            return plan.wrap(self, lambda then: lambda step: then(step), stratum="average")

    plan = Plan.of([FreeAT(eps=EPS), Average(), GuidedComplementEntropy()], FACTS)
    assert plan.owner("criterion") == "guided_complement_entropy"
    with pytest.raises(ComposeError, match="pgd_at and free_at both set the attack"):
        Plan.of([PGDAT(), FreeAT()], FACTS)


# guided complement entropy


@pytest.mark.parametrize("name", ["gce_k10_n5", "gce_k3_n2"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_guided_complement_entropy_reproduces_the_vectors(name, dtype):
    entry = PCLC_VECTORS[name]
    given, expected = entry["inputs"], entry["expected"]
    logits = torch.tensor(given["logits"], dtype=dtype).requires_grad_()
    loss = guided_complement_entropy(logits, torch.tensor(given["labels"]), given["alpha"]).mean()
    loss.backward()
    tolerance = entry["tolerance"] if dtype == torch.float64 else entry["tolerance_float32"]["atol"]
    close(loss, expected["loss"], tolerance)
    close(logits.grad, expected["grad_logits"], tolerance)


def test_guided_complement_entropy_at_its_ends():
    """Its minimum is -log(K-1)/log K; a saturated p_y keeps an exact value and a finite gradient."""
    sure = torch.tensor([[100.0, 0.0, 0.0, 0.0]]).requires_grad_()
    value = guided_complement_entropy(sure, torch.tensor([0]), 1 / 3).detach()
    assert float(value) == pytest.approx(-math.log(3) / math.log(4), 1e-6)
    uneven = torch.tensor([[100.0, 3.0, 0.0, 0.0]]).requires_grad_()
    guided_complement_entropy(uneven, torch.tensor([0]), 1 / 3).sum().backward()
    assert float(uneven.grad[0, 1]) > 0.01  # the authors' guards would give 0 here
    wrong = torch.tensor([[-200.0, 200.0, 0.0, 0.0]]).requires_grad_()
    value = guided_complement_entropy(wrong, torch.tensor([0]), 1 / 3)
    value.sum().backward()
    assert bool(wrong.grad.isfinite().all())
    assert value.shape == (1,)
    assert -1e-6 <= float(value.detach()) <= 0


def test_guided_complement_entropy_training_is_the_plain_loop():
    def one(module, optimizer, x, y, batch, epoch, step):
        p = module(x).softmax(1)
        own = p[torch.arange(len(y)), y]
        q = p / (1 - own)[:, None]
        kept = torch.ones_like(p).scatter(1, y[:, None], 0.0)
        loss = (own ** (1 / 3) * (q * q.log() * kept).sum(1) / math.log(3)).mean()
        descend(optimizer, loss)

    assert_same(fit([GuidedComplementEntropy()], network())[0], loop(network(), one))


def test_guided_complement_entropy_refuses_what_it_cannot_do():
    with pytest.raises(ConfigError, match="needs 3 classes or more, and this task has 2"):
        Plan.of([GuidedComplementEntropy()], Facts(2, (1, 6, 6)))
    with pytest.raises(ComposeError, match="one true class"):
        Plan.of([GuidedComplementEntropy(), Smooth()], FACTS)
    for alpha in (0, 1, -0.5):
        with pytest.raises(ConfigError, match=r"guided_complement_entropy\.alpha"):
            GuidedComplementEntropy(alpha=alpha)
    assert GuidedComplementEntropy().apply(Plan(FACTS)).compose().criterion.adversaries[0] is cw
