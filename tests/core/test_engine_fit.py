"""Whole trainings against plain loops, and the promises of a fit: phases, best epoch, checkpoints, failures."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_ext.api import L1, L2, Augment, Clean, Criterion, CrossEntropy, Facts, Ingredient, Linf, Plan, Scores, Uniform
from art_ext.data.batches import ArrayBatches
from art_ext.engine import checkpoint
from art_ext.engine.checkpoint import Shelf
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net, in_channels_last
from art_ext.engine.observe import Observer
from art_ext.engine.optim import (
    begin_late,
    cosine,
    exponential,
    follow_surgery,
    make_optimizer,
    make_schedule,
    one_cycle,
    remember_rates,
    steps,
)
from art_ext.engine.run import Run, RunSettings
from art_ext.errors import ConfigError, NonFiniteError
from art_ext.parts.noise import Keys
from art_ext_baselines import PGDAT, TRADES
from art_ext_pc_lc import PCLC

FACTS = Facts(3, (2, 6, 6))
SEED = 11
N, BATCH = 20, 8


def module(norm=nn.BatchNorm2d):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        norm(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, stride=2),
        norm(6),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def data(n=N):
    y = torch.arange(n) % 3
    x = torch.rand(n, 2, 6, 6, generator=torch.Generator().manual_seed(4)) * 0.8
    x[:, 0] += 0.1 * y[:, None, None]
    return x.float(), y


def batches(n=N, size=BATCH):
    return ArrayBatches(*data(n), size, seed=SEED)


def sgd(net, lr=0.1):
    return torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3)


def fit_of(ingredients, *, epochs=2, net=None, optimizer=None, settings=None, facts=FACTS, **options):
    net = Net(module()) if net is None else net
    run = Run(settings or RunSettings(accelerator="cpu", precision="64-true"), SEED)
    optimizer = sgd(net) if optimizer is None else optimizer
    return Fit(Plan.of(ingredients, facts), net, optimizer, run, epochs=epochs, **options)


# Plain loops ---------------------------------------------------------------------------------------------------


def plain_attack(net, x, y, index, epoch, *, eps, k, kind):
    """Madry's or TRADES' inner loop as their papers print it, from the engine's keyed noise."""
    keys = Keys(SEED, epoch, index).stream("start", 0)
    net.eval()
    with torch.no_grad():
        p = F.softmax(net(x), 1)
    if kind == "kl":
        adv = x + 0.001 * keys.normal((2, 6, 6)).double()
    else:
        adv = torch.clamp(x + eps * (2 * keys.uniform((2, 6, 6)).double() - 1), 0, 1)
    for _ in range(k):
        adv = adv.detach().requires_grad_(True)
        if kind == "kl":
            loss = F.kl_div(F.log_softmax(net(adv), 1), p, reduction="sum")
        else:
            loss = F.cross_entropy(net(adv), y)
        (grad,) = torch.autograd.grad(loss, adv)
        adv = adv.detach() + (10 * 0.007 / 0.031 if kind == "kl" else 2.5) * eps / k * grad.sign()
        adv = torch.clamp(torch.min(torch.max(adv, x - eps), x + eps), 0, 1)
    net.train()
    return adv.detach()


def pc_lc(logits, y, xi=0.995, lam=0.05):
    total = 0.0
    for z, own in zip(logits, y, strict=True):
        p, others = F.softmax(z, 0), [j for j in range(3) if j != own]
        w = F.softmax(z[others], 0)
        pc = sum(torch.clamp(p[j] + xi - p[own], min=0) for j in others) / 2
        total = total + pc + lam * sum(w[i] * torch.clamp(z[own] - z[j], min=0) for i, j in enumerate(others))
    return total / len(y)


def plain_training(method, epochs=2, warmup=0):
    """A research script: one function, no engine."""
    net = module().double().train()
    optimizer = sgd(net)
    x_all, y_all = data()
    losses = []
    for epoch in range(epochs):
        if warmup and epoch == warmup:
            optimizer = sgd(net)
        order = batches().order(epoch)
        for rows in torch.split(order, BATCH):
            x, y = x_all[rows].double(), y_all[rows]
            if method == "pgd_at":
                adv = plain_attack(net, x, y, rows, epoch, eps=0.1, k=3, kind="ce")
                loss = F.cross_entropy(net(adv), y)
            elif method == "trades":
                adv = plain_attack(net, x, y, rows, epoch, eps=0.1, k=3, kind="kl")
                clean, moved = net(x), net(adv)
                kl = F.kl_div(F.log_softmax(moved, 1), F.softmax(clean, 1), reduction="batchmean")
                loss = F.cross_entropy(clean, y) + 4.0 * kl
            else:
                half = len(x) // 2
                adv = plain_attack(net, x[half:], y[half:], rows[half:], epoch, eps=0.1, k=3, kind="ce")
                logits = net(torch.cat([x[:half], adv]))
                loss = pc_lc(logits, y) if method == "pc_lc" and epoch >= warmup else F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return net, losses


METHODS = {
    "pgd_at": ([PGDAT(eps=0.1, steps=3)], 0),
    "trades": ([TRADES(eps=0.1, steps=3, beta=4)], 0),
    "mixed": ([PGDAT(eps=0.1, steps=3, clean_fraction=0.5)], 0),
    "pc_lc": ([PCLC(warmup_epochs=1), PGDAT(eps=0.1, steps=3, clean_fraction=0.5)], 1),
}


@pytest.fixture
def all_float64():
    """Fabric hands outputs over in the default type, even where the run's precision is 64-true."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("all_float64")
@pytest.mark.parametrize("fold", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize("method", METHODS)
def test_training_equals_a_plain_loop(method, fold):
    ingredients, warmup = METHODS[method]
    settings = RunSettings(accelerator="cpu", precision="64-true", fold=fold, channels_last=False)
    fit = fit_of(ingredients, epochs=3, settings=settings)
    history = fit(batches())
    expected, losses = plain_training(method, epochs=3, warmup=warmup)
    assert (fit.run.crafter.folded == 2) is fold
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(fit.net.module.state_dict()[name], value, rtol=1e-9, atol=1e-10, msg=name)
    per_epoch = [losses[i * 3 : i * 3 + 3] for i in range(3)]
    for report, (a, b, c) in zip(history.epochs, per_epoch, strict=True):
        assert report.metrics["train/loss"] == pytest.approx((8 * a + 8 * b + 4 * c) / 20)
    assert not torch.allclose(expected[0].weight, module()[0].weight.double(), atol=1e-3)


def test_memory_order_changes_no_more_than_rounding():
    weights = []
    for channels_last in (False, True):
        settings = RunSettings(accelerator="cpu", precision="64-true", channels_last=channels_last)
        fit = fit_of(METHODS["pgd_at"][0], settings=settings)
        fit(batches())
        weights.append(fit.net.module[0].weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_the_same_seed_twice_is_identical_to_the_bit(precision):
    states = []
    for _ in range(2):
        fit = fit_of(METHODS["pc_lc"][0], settings=RunSettings(accelerator="cpu", precision=precision))
        fit(batches())
        states.append(fit.net.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_mixed_precision_folds_as_well_and_stays_near():
    results = []
    for precision in ("32-true", "bf16-mixed"):
        fit = fit_of(METHODS["pgd_at"][0], settings=RunSettings(accelerator="cpu", precision=precision))
        results.append(fit(batches()).epochs[-1].metrics["train/loss"])
        assert fit.run.crafter.folded == 2
        assert fit.net.module[0].weight.dtype == torch.float32
    assert results[0] != results[1]
    assert results[1] == pytest.approx(results[0], abs=0.05)


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_half_precision_weights_are_refused(precision):
    with pytest.raises(ConfigError, match=rf"rounds pixels .* use {precision.removesuffix('-true')}-mixed"):
        Run(RunSettings(accelerator="cpu", precision=precision), SEED)


def test_another_seed_is_another_run():
    results = []
    for seed in (1, 2):
        fit = fit_of(METHODS["pgd_at"][0])
        fit.run.seed = seed
        fit(batches())
        results.append(fit.net.module[0].weight.detach())
    assert not torch.allclose(*results, atol=1e-6)


def test_one_channel_images_are_laid_out_for_channels_last():
    x = torch.rand(4, 1, 5, 6)
    assert torch.equal(in_channels_last(x), x)
    assert in_channels_last(x).stride() == (30, 1, 6, 1)
    assert in_channels_last(torch.rand(4, 3, 5, 6)).is_contiguous(memory_format=torch.channels_last)


# One step ------------------------------------------------------------------------------------------------------


class Spy(Ingredient):
    """Wraps the update and hands the step to a function of the test."""

    name = "spy"
    look: object = None

    def apply(self, plan):
        return plan.wrap(self, lambda then: lambda step: self.look(step, then))


def test_crafting_is_done_once_while_the_weights_stand_still():
    seen = []

    def look(step, then):
        first = step.craft()
        assert step.craft() is first
        then(step)
        assert step.craft() is not first
        seen.append(len(first.x))

    fit_of([PGDAT(eps=0.1, steps=2), Spy(look=look)], epochs=1)(batches())
    assert seen == [8, 8, 4]


def test_a_step_counts_its_attacks():
    """Two crafts for a whole PGD-AT step that looks at its adversarial rows first: memo, then moved weights."""
    net = Net(module())
    calls = []
    net.module[0].register_forward_hook(lambda m, args, out: calls.append(m.training))
    settings = RunSettings(accelerator="cpu", fold=False)
    fit = fit_of([PGDAT(eps=0.1, steps=4)], epochs=1, net=net, settings=settings)
    fit(batches(8))
    assert calls == [False] * 4 + [True]


def test_crafting_leaves_the_source_in_train_mode_with_its_statistics():
    def look(step, then):
        bn = step.net.module[1]
        before = bn.running_mean.clone()
        step.craft()
        assert torch.equal(bn.running_mean, before) is (step.parts.attack.bn == "eval")
        assert all(part.training for part in step.net.modules())
        assert all(parameter.grad is None for parameter in step.net.parameters())
        then(step)
        assert not torch.equal(bn.running_mean, before)
        step.fit.optimizer.zero_grad(set_to_none=True)

    for bn in ("eval", "train"):
        fit_of([PGDAT(eps=0.1, steps=2, bn=bn), Spy(look=look)], epochs=1)(batches())


def test_terms_and_accuracies_are_reported_per_row():
    fit = fit_of([TRADES(eps=0.1, steps=2)], epochs=1)
    (report,) = fit(batches()).epochs
    m = report.metrics
    assert m["train/loss"] == pytest.approx(m["train/loss/clean"] + m["train/loss/boundary"])
    for name in ("train/clean_accuracy", "train/robust_accuracy"):
        assert 0 <= m[name] <= 1
        assert m[name] * 20 == pytest.approx(round(m[name] * 20))
    assert (report.epoch, report.epochs, report.step, m["lr"]) == (1, 1, 3, 0.1)


def test_augmented_batches_weigh_clean_and_adversarial_rows_alike():
    x, y = data(8)
    fit = fit_of([PGDAT(eps=0.1, steps=2, augment=True)], epochs=1)
    assert fit.parts.risk == Augment()
    net = copy.deepcopy(fit.net)
    (report,) = fit(batches(8)).epochs
    rows = batches(8).order(0)
    adv = plain_attack(net_logits(net), x[rows].double(), y[rows], rows, 0, eps=0.1, k=2, kind="ce")
    logits = net.train()(torch.cat([x[rows].double(), adv])).logits
    expected = F.cross_entropy(logits, y[rows].repeat(2)).item()
    assert report.metrics["train/loss"] == pytest.approx(expected)


def net_logits(net):
    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x).logits

    return Logits()


@pytest.mark.parametrize("ingredient", [PGDAT(eps=0.1, steps=1), PGDAT(eps=0.1, steps=1, clean_fraction=0.5),
                                        TRADES(eps=0.1, steps=1)], ids=str)
def test_a_last_batch_of_one_row_works_with_batch_norm(ingredient):
    fit = fit_of([ingredient], epochs=1)
    history = fit(batches(17))
    assert math.isfinite(history.epochs[0].metrics["train/loss"])


def test_gradients_are_clipped_when_asked():
    def run(limit):
        settings = RunSettings(accelerator="cpu", precision="64-true", clip_gradient=limit)
        net = Net(module())
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        fit_of([PGDAT(eps=0.1, steps=1)], epochs=1, net=net, optimizer=optimizer, settings=settings)(batches(8))
        moved = [p.detach() for p in net.parameters()]
        start = [p.detach().double() for p in module().parameters()]
        return math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(moved, start, strict=True)))

    assert run(1e-3) == pytest.approx(1e-3, rel=1e-3)
    assert run(None) > 0.1


# Phases, rates, epochs -----------------------------------------------------------------------------------------


class Watch(Observer):
    def __init__(self, look):
        self.look = look

    def epoch_end(self, report):
        self.look(report)


def test_a_phase_ends_with_a_fresh_optimizer_and_schedule():
    rates, momenta = [], []

    def look(step, then):
        group = step.fit.raw_optimizer.param_groups[0]
        state = step.fit.raw_optimizer.state[group["params"][0]]
        momenta.append(state.get("momentum_buffer") is not None)
        rates.append(group["lr"])
        then(step)

    fit = fit_of([PCLC(warmup_epochs=2), Spy(look=look)], epochs=4, schedule=steps([1]))
    fit(batches(16))
    # Two batches an epoch; each phase falls to a tenth at its own epoch 1.
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.1, 0.1, 0.01, 0.01])
    assert momenta == [False, True, True, True, False, True, True, True]


def test_schedules_span_their_own_phase():
    seen = []

    def schedule(epoch, epochs):
        seen.append((epoch, epochs))
        return 1.0

    fit_of([PCLC(warmup_epochs=3)], epochs=5, schedule=schedule)(batches(16))
    assert seen == [(e + b / 2, 3) for e in range(3) for b in range(2)] + [
        (e + b / 2, 2) for e in range(2) for b in range(2)
    ]


def test_the_criterion_changes_at_the_phase_s_end():
    kinds = []

    def look(step, then):
        kinds.append(type(step.parts.criterion).__name__)
        then(step)

    fit_of([PCLC(warmup_epochs=1), Spy(look=look)], epochs=2)(batches(8))
    assert kinds == ["CrossEntropy", "PCLCLoss"]


def test_a_scheduler_of_the_user_is_stepped_once_an_epoch():
    net = Net(module())
    optimizer = sgd(net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    fit = fit_of([], epochs=3, net=net, optimizer=optimizer, scheduler=scheduler)
    history = fit(batches())
    assert [report.metrics["lr"] for report in history.epochs] == pytest.approx([0.1, 0.05, 0.025])
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer := sgd(net, 0.0), patience=0)
    fit_of([], epochs=3, net=net, optimizer=optimizer, scheduler=plateau)(batches())
    assert plateau.last_epoch == 3


def test_a_scheduler_of_the_user_restarts_with_the_phase():
    net = Net(module())
    optimizer = sgd(net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    fit = fit_of([PCLC(warmup_epochs=2)], epochs=4, net=net, optimizer=optimizer, scheduler=scheduler)
    assert [r.metrics["lr"] for r in fit(batches()).epochs] == pytest.approx([0.1, 0.05, 0.1, 0.05])


def scripted(scores):
    return lambda net, parts, epoch: scores[epoch]


def test_the_best_epoch_is_the_most_robust_and_ties_go_to_clean():
    scores = [Scores(0.9, 0.4), Scores(0.7, 0.6), Scores(0.8, 0.6), Scores(0.8, 0.6), Scores(0.99, 0.5)]
    snapshots = []
    fit = fit_of(METHODS["pgd_at"][0], epochs=5, validate=scripted(scores))
    fit.observers = [Watch(lambda report: snapshots.append(copy.deepcopy(fit.net.state_dict())))]
    history = fit(batches())
    assert (history.best_epoch, history.best, history.last) == (3, scores[2], scores[4])
    assert [report.best for report in history.epochs] == [True, True, True, False, False]
    assert all(torch.equal(v, snapshots[4][k]) for k, v in fit.net.state_dict().items())
    fit.restore_best()
    assert all(torch.equal(v, snapshots[2][k]) for k, v in fit.net.state_dict().items())
    assert not torch.equal(snapshots[2]["module.0.weight"], snapshots[4]["module.0.weight"])


def test_warm_up_epochs_are_never_the_best():
    scores = [Scores(1.0, 0.9), Scores(1.0, 0.95), Scores(0.8, 0.3), Scores(0.8, 0.2)]
    ingredients = [PCLC(warmup_epochs=2), PGDAT(eps=0.1, steps=1)]
    assert fit_of(ingredients, epochs=4, validate=scripted(scores))(batches()).best_epoch == 3
    # A run that ends inside its warm-up has its last epoch.
    assert fit_of(ingredients, epochs=2, validate=scripted(scores))(batches()).best_epoch == 2


def test_ordinary_training_is_judged_by_clean_accuracy():
    scores = [Scores(0.9, 0.0), Scores(0.8, 0.9)]
    assert fit_of([], epochs=2, validate=scripted(scores))(batches()).best_epoch == 1


def test_without_held_out_data_the_last_epoch_stays():
    fit = fit_of([], epochs=3)
    history = fit(batches())
    assert (history.best_epoch, history.best) == (3, None)
    state = copy.deepcopy(fit.net.state_dict())
    fit.restore_best()
    assert all(torch.equal(value, state[name]) for name, value in fit.net.state_dict().items())


def test_an_observer_may_stop_the_run():
    fit = fit_of([], epochs=9)
    fit.observers = [Watch(lambda report: setattr(fit.run, "stop", report.epoch == 2))]
    assert len(fit(batches()).epochs) == 2


# Failures and checkpoints --------------------------------------------------------------------------------------


class Breaks(Criterion):
    """Cross-entropy that becomes NaN at a given call."""

    name = "breaks"

    def __init__(self, at):
        self.broken, self.calls = at, 0

    def __call__(self, out, target):
        self.calls += 1
        loss = CrossEntropy()(out, target)
        return loss * float("nan") if self.calls == self.broken else loss


class Broken(Ingredient):
    name = "broken"
    at: int

    def apply(self, plan):
        return plan.fill(self, criterion=Breaks(self.at))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_part(tmp_path):
    # Three batches an epoch with two criterion calls each (clean and adversarial rows): the tenth is
    # step 4, second part. All later losses are NaN as well.
    ingredients = [Broken(at=10), PGDAT(eps=0.05, steps=1, augment=True)]
    fit = fit_of(ingredients, epochs=5, folder=tmp_path)
    with pytest.raises(NonFiniteError, match=r"at step 4, in the part 'adversarial'.*last good checkpoint stays"):
        fit(batches())
    assert [path.name for path in Shelf(tmp_path).paths()] == ["step-00000003.pt"]
    state = Shelf(tmp_path).newest()
    assert (state["epoch"], state["batch"]) == (1, 0)
    assert all(torch.isfinite(value).all() for value in state["net"].values())
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000003.pt", "best.pt"}


def test_a_nan_is_never_kept_in_a_checkpoint(tmp_path):
    fit = fit_of([Broken(at=2)], epochs=2, folder=tmp_path, checkpoint_every=1)
    with pytest.raises(NonFiniteError, match=r"at step 1, in the part 'clean'"):
        fit(batches())
    assert [path.name for path in Shelf(tmp_path).paths()] == ["step-00000001.pt"]


def test_best_and_last_weights_lie_beside_the_training_states(tmp_path):
    scores = [Scores(0.9, 0.4), Scores(0.9, 0.6), Scores(0.9, 0.5)]
    fit = fit_of(METHODS["pgd_at"][0], epochs=3, validate=scripted(scores), folder=tmp_path, checkpoint_every=2)
    fit(batches())
    names = ["best.pt", "last.pt", "step-00000008.pt", "step-00000009.pt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    last, best = (checkpoint.load(tmp_path / f"{name}.pt") for name in ("last", "best"))
    assert (last["epoch"], best["epoch"], best["step"]) == (3, 2, 6)
    assert torch.equal(last["net"]["0.weight"], fit.net.module[0].weight.detach())
    fit.restore_best()
    assert torch.equal(best["net"]["0.weight"], fit.net.module[0].weight.detach())


def test_processes_that_did_not_start_are_an_error(monkeypatch):
    import art_ext.engine.run as engine_run

    class Alone:
        world_size = 1

        def __init__(self, **options): ...

        def launch(self): ...

    monkeypatch.setattr(engine_run, "Fabric", Alone)
    with pytest.raises(ConfigError, match="asks for 2 processes, but 1 started"):
        Run(RunSettings(devices=2), 0)


# Optimizers and schedules --------------------------------------------------------------------------------------


def test_schedules_by_hand():
    at = steps([2, 4], 0.1)
    assert [at(e, 6) for e in (0, 1.9, 2, 3.5, 4, 6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    uneven = steps([60, 90, 110], factors=[0.1, 0.1, 0.5])  # FAT's, to 0.005 of the rate
    assert [uneven(e, 120) for e in (59, 60, 90, 110)] == pytest.approx([1, 0.1, 0.01, 0.005])
    falling = make_schedule("exponential", {"factor": 0.95})
    assert [falling(e, 9) for e in (0, 0.99, 1, 7.5)] == pytest.approx([1, 1, 0.95, 0.95**7])
    assert exponential(0.5, every=0.1)(0.3, 1) == pytest.approx(0.125)
    with pytest.raises(ConfigError, match="3 milestones take as many factors, got 2"):
        steps([1, 2, 3], factors=[0.1, 0.1])
    with pytest.raises(ConfigError, match="every is a number of epochs above 0"):
        exponential(every=0)
    curve = cosine(warmup=2)
    assert curve(0, 10) == pytest.approx(0.0005)
    assert curve(1, 10) == pytest.approx(0.5, abs=1e-3)
    assert [curve(e, 10) for e in (2, 6, 10)] == pytest.approx([1, 0.5, 0])
    cycle = one_cycle(0.3, 0.04, 0.0)
    assert [cycle(e, 10) for e in (0, 1.5, 3, 6.5, 10)] == pytest.approx([0.04, 0.52, 1.0, 0.5, 0.0])


def test_unknown_optimizers_and_options():
    with pytest.raises(ConfigError, match="did you mean sgd"):
        make_optimizer("sdg", module().parameters(), {"lr": 0.1})
    with pytest.raises(ConfigError, match="optimizer sgd: "):
        make_optimizer("sgd", module().parameters(), {"learning_rate": 0.1})
    with pytest.raises(ConfigError, match="optimizer sgd: "):
        make_optimizer("sgd", module().parameters(), {"lr": -1})


def test_an_optimizer_follows_surgery():
    net = module()
    optimizer = torch.optim.AdamW(
        [{"params": list(net[:7].parameters()), "lr": 0.1}, {"params": list(net[7].parameters()), "lr": 0.5}]
    )
    net(torch.rand(4, 2, 6, 6)).sum().backward()
    optimizer.step()
    net[7] = nn.Linear(24, 5)
    follow_surgery(optimizer, net)
    body, head = optimizer.param_groups
    assert {id(p) for p in head["params"]} == {id(p) for p in net[7].parameters()}
    assert {id(p) for p in body["params"]} == {id(p) for p in net[:7].parameters()}
    assert {id(p) for p in optimizer.state} == {id(p) for p in body["params"]}
    net(torch.rand(4, 2, 6, 6)).sum().backward()
    optimizer.step()


def test_a_parameter_may_get_its_first_gradient_after_others():
    """As a criterion's own parameters do, where the first step of a batch does not look at them."""

    def trained(fused):
        early, late = (torch.nn.Parameter(torch.tensor([value])) for value in (1.0, 2.0))
        optimizer = torch.optim.SGD([early, late], lr=0.1, momentum=0.9, weight_decay=0.1, fused=fused)
        for step in range(4):
            optimizer.zero_grad()
            (early.square() + (late.square() if step % 2 else 0)).backward()
            begin_late(optimizer)
            optimizer.step()
        return early.item(), late.item()

    assert trained(fused=True) == pytest.approx(trained(fused=False))


def test_base_rates_are_remembered_once():
    optimizer = sgd(module(), 0.3)
    remember_rates(optimizer)
    optimizer.param_groups[0]["lr"] = 0.01
    remember_rates(optimizer)
    assert optimizer.param_groups[0]["initial_lr"] == 0.3


# The net -------------------------------------------------------------------------------------------------------


def test_standardisation_lives_inside_the_net():
    inner = module().eval()
    mean, std = torch.tensor([0.3, 0.5]).reshape(2, 1, 1), torch.tensor([0.2, 0.4]).reshape(2, 1, 1)
    x, _ = data(4)
    torch.testing.assert_close(Net(inner, mean, std).eval()(x).logits, inner((x - mean) / std))
    assert set(Net(inner, mean, std).state_dict()) == {f"module.{name}" for name in inner.state_dict()}


def test_features_are_what_enters_the_head():
    inner = module().eval()
    net = Net(inner, head=inner[7], wanted=frozenset({"features"}))
    x, _ = data(4)
    with net.offering_features():
        out = net(x)
    torch.testing.assert_close(out.extras["features"], inner[:7](x))
    assert not inner[7]._forward_pre_hooks
    assert net(x).extras == {}


@pytest.mark.parametrize("norm", [Linf, L2, L1])
def test_adversarial_rows_lie_in_their_own_drawn_balls(norm):
    """float32, folded, channels-last: what the risk sees is within the radius that each example drew."""
    seen = []

    def look(step, then):
        adv = step.craft()
        drawn = norm(Uniform(0.01, 0.2)).radius(step.keys, step.x).flatten()
        seen.append((norm(1.0).of(adv.x - step.x) / drawn).max())
        assert (adv.x >= 0).all()
        assert (adv.x <= 1).all()
        then(step)

    ingredients = [PGDAT(norm=norm.name, eps={"uniform": [0.01, 0.2]}, steps=2), Spy(look=look)]
    fit_of(ingredients, epochs=1, settings=RunSettings(accelerator="cpu"))(batches())
    assert all(0.5 < ratio < 1 + 1e-4 for ratio in seen)
    assert len(seen) == 3


def test_a_clean_plan_never_crafts():
    fit = fit_of([], epochs=1)
    assert fit.parts.risk == Clean()
    fit.run.crafting = lambda *args: pytest.fail("an attack was run")
    fit(batches())
