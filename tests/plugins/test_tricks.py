"""The tricks against the reference vectors and plain loops, and the traps of their sheet."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.estimators.classification import PyTorchClassifier
from tiny import FACTS, SEED, SGD, assert_same, batches, data, differs, fit, network, weights
from torch import nn

from art_ext.api import (
    PGD,
    ComposeError,
    ConfigError,
    CrossEntropy,
    Facts,
    Growing,
    Keys,
    Linf,
    ModelError,
    Outputs,
    Plan,
    Progress,
    Uniform,
    View,
    Views,
    ce,
    cw,
    dlr_ratio,
    for_evaluation,
    warm_up,
)
from art_ext.border.art import RecipeTrainer
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.optim import steps
from art_ext.engine.run import Run, RunSettings
from art_ext.evaluation.suite import threat_of
from art_ext.host.sections import Train
from art_ext_baselines import AWP, FAT, MART, PGDAT, TRADES, FreeAT, Trades
from art_ext_pc_lc import PCLC
from art_ext_tricks import (
    ACTIVATIONS,
    EMA,
    SWA,
    Activation,
    Bag,
    BagAttack,
    BagTrainer,
    Centralise,
    EarlyStopSteps,
    EpsWarmUp,
    EvalBN,
    LRWarmUp,
    OptimizerChoice,
    ScaleLR,
    Smooth,
    SmoothLabels,
    Spare,
    SwapActivation,
    TrainBN,
    WeightDecay,
    centralised,
    ema_decay,
    has_decay,
    scaled_rate,
    smooth_labels,
)

FILE = Path(__file__).parents[1] / "vectors" / "tricks.json"
VECTORS = {entry["name"]: entry for entry in json.loads(FILE.read_text())}
AT = PGDAT(eps=0.2, steps=3, step_size=0.1)
SHORTCUTS = {cls.name: cls for cls in ACTIVATIONS if cls is not Activation}
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def parts(*ingredients):
    return Plan.of(ingredients, FACTS).compose()


def check(entry, got, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    if got.dtype == torch.float32:
        torch.testing.assert_close(got.double(), expected, **entry["tolerance_float32"])
    else:
        assert (got - expected).abs().max() <= entry["tolerance"] * (1 + expected.abs().max())


# Label smoothing -----------------------------------------------------------------------------------------------


@both_precisions
@pytest.mark.parametrize("name", ["label_smoothing_k10_0.1", "label_smoothing_k4_0"])
def test_smoothed_cross_entropy_reproduces_the_reference(name, dtype):
    entry = VECTORS[name]
    given = entry["inputs"]
    z, y = torch.tensor(given["logits"], dtype=dtype, requires_grad=True), torch.tensor(given["labels"])
    target = smooth_labels(y, z.shape[1], given["smoothing"], dtype)
    loss = CrossEntropy()(Outputs(z), target).mean()
    check(entry, loss.detach(), entry["expected"]["loss"])
    check(entry, torch.autograd.grad(loss, z)[0], entry["expected"]["grad_logits"])
    torchs = F.cross_entropy(z, y, label_smoothing=entry["expected"]["equal_torch_label_smoothing"])
    torch.testing.assert_close(loss, torchs)


def test_smoothed_targets_sum_to_one_and_reach_the_outer_loss_alone():
    made = parts(AT, Smooth(amount=0.2))
    target = made.target(torch.tensor([0, 2]), 3, None)
    torch.testing.assert_close(target, torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]))
    assert made.attack.objective is ce  # of the labels


@pytest.mark.parametrize(
    ("partner", "message"),
    [(PCLC(), "pc_lc needs one true class per example, but smooth supplies"), (MART(), "mart brings its own loss")],
)
def test_smoothing_needs_a_loss_that_takes_distributions(partner, message):
    with pytest.raises(ComposeError, match=message):
        parts(partner, Smooth())


def test_smoothing_must_leave_the_true_class_the_likeliest():
    with pytest.raises(ConfigError, match=r"smooth: smoothing by 0.7 leaves the true of 3 classes no more"):
        parts(Smooth(amount=0.7))


def test_a_smoothed_training_takes_the_steps_of_a_plain_loop():
    ours, _ = fit([AT, Smooth(amount=0.3)], network())
    theirs = copy.deepcopy(network())
    optimizer = torch.optim.SGD(theirs.parameters(), **SGD)
    for epoch in range(2):
        for batch in batches().epoch(epoch):
            adv = plain_pgd(theirs, batch, epoch)
            theirs.train()
            target = torch.full((len(batch.y), 3), 0.15).double().scatter(1, batch.y[:, None], 0.7)
            loss = -(target * F.log_softmax(theirs(adv), 1)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert_same(ours, theirs, atol=1e-8)


def plain_pgd(net, batch, epoch, eps=0.2, k=3, size=0.1, counter=None, mode="eval"):
    """PGD as the authors' script has it, with their counter; noise as the engine draws it."""
    net.train(mode == "train")
    x = batch.x.double()
    noise = 2 * Keys(SEED, epoch, batch.index).stream("start", 0).uniform(tuple(x.shape[1:])).double() - 1
    adv = (x + eps * noise).clamp(0, 1)
    left = None if counter is None else torch.full((len(x),), counter)
    for _ in range(k):
        adv = adv.detach().requires_grad_()
        logits = net(adv)
        (grad,) = torch.autograd.grad(F.cross_entropy(logits, batch.y, reduction="sum"), adv)
        moved = adv.detach() + size * grad.sign()
        moved = torch.minimum(torch.maximum(moved, x - eps), x + eps).clamp(0, 1)
        if left is not None:
            left -= (logits.argmax(1) != batch.y).long()
            if not (left > 0).any():
                break
            moved = torch.where((left > 0)[:, None, None, None], moved, adv.detach())
        adv = moved
    return adv


# Learning rates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "full", "key"), [("lr_warmup_15", 0.1, "lr_max"), ("eps_warmup_15", 8 / 255, None)])
def test_warm_ups_reproduce_the_clamped_reference(name, full, key):
    entry = VECTORS[name]
    given = entry["inputs"]
    full = given[key] if key else full
    got = [full * warm_up(t, given["warmup"]) for t in given["epochs"]]
    check(entry, torch.tensor(got, dtype=torch.float64), entry["expected"]["clamped"])
    assert max(got) <= full < max(entry["expected"]["public"])


def test_the_piecewise_schedule_of_the_paper_is_steps():
    entry = VECTORS["lr_piecewise"]
    schedule = steps([100, 105])
    got = [entry["inputs"]["lr_max"] * schedule(t, 110) for t in entry["inputs"]["epochs"]]
    check(entry, torch.tensor(got, dtype=torch.float64), entry["expected"]["lr"])


def test_linear_scaling_reproduces_the_reference():
    entry = VECTORS["linear_lr_scaling"]
    got = [0.1 * scaled_rate(rows) for rows in entry["inputs"]["batch"]]
    check(entry, torch.tensor(got, dtype=torch.float64), entry["expected"]["lr"])


@pytest.mark.parametrize(
    "base", [[], [PGDAT(eps=0.1, steps=1)], [FreeAT(replays=2, eps=0.1)]], ids=["ce", "at", "free"]
)
def test_learning_rates_are_paced_under_any_update(base):
    """Against the same training, whose schedule has both factors in it."""
    ours, _ = fit([*base, LRWarmUp(epochs=3), ScaleLR(base=32)], network(), epochs=4)
    theirs, history = fit(
        base, network(), epochs=4, schedule=lambda epoch, epochs: 8 / 32 * min((epoch + 1) / 3, 1.0)
    )
    assert_same(ours, theirs)
    assert history.epochs[-1].metrics["lr"] == pytest.approx(SGD["lr"] / 4)


def test_paces_leave_the_optimizer_s_own_rate_alone_and_are_shown():
    model, (x, y) = network().float(), data()
    art = classifier(model)
    trainer = RecipeTrainer(art, [ScaleLR(base=4), LRWarmUp(epochs=2)], track=False, verbose=False)
    trainer.fit(x.numpy(), y.numpy(), nb_epochs=3, batch_size=8)
    assert art.optimizer.param_groups[0]["lr"] == 0.05
    lines = [(owner, part) for slot, part, owner in trainer.plan().describe() if slot == "learning rate"]
    assert lines == [("scale_lr", "times batch / 4"), ("lr_warmup", "rises over 2 epochs")]
    assert trainer.history.epochs[-1].metrics["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize(("kind", "what"), [(LRWarmUp, "learning rate"), (EpsWarmUp, "radius")])
def test_a_warm_up_that_never_ends_is_refused_before_any_work(kind, what):
    model, (x, y) = network().float(), data()
    trainer = RecipeTrainer(classifier(model), [AT, kind(epochs=1000)], track=False, verbose=False)
    before = weights(model)
    with pytest.raises(ConfigError) as error:
        trainer.fit(x.numpy(), y.numpy(), nb_epochs=30)
    assert str(error.value) == (
        f"{kind.name} warms up for 1000 epochs and nb_epochs is 30, so the full {what} would never be used; "
        f"set nb_epochs to 1000, or the warm-up of {kind.name} to 30 or less"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [LRWarmUp, EpsWarmUp])
def test_the_shortest_training_that_a_warm_up_takes_reaches_the_full_size(kind):
    """Of `epochs`, the last one runs at the full size, as min((t + 1) / epochs, 1) says."""
    plan = Plan.of([AT, kind(epochs=4)], FACTS)
    plan.check_epochs(4, "epochs")
    rate, attack = plan.paced(Progress(3, 4), 8), plan.compose().attack.at(Progress(3, 4))
    assert (rate, attack.norm.eps) == (1, AT.eps)
    with pytest.raises(ConfigError, match="set epochs to 4, or"):
        plan.check_epochs(3, "epochs")


@pytest.mark.parametrize(
    ("trick", "epochs", "said"),
    [
        (EarlyStopSteps(), 71, ""),
        (EarlyStopSteps(), 60, ""),
        (EarlyStopSteps(), 40, "its counter stays 1 (tau 0) to the end, epoch 40, since first is 40"),
        (EarlyStopSteps(first=5, second=80), 60, "early_stop_steps.second: nothing happens at 80, after the last"),
        (FAT(), 91, ""),
        (FAT(), 60, ""),
        (FAT(), 20, "fat: tau stays 0 to the end, epoch 20, since the first milestone is 50"),
        (FAT(tau=1, milestones=(30, 40)), 20, "fat: tau stays 1 to the end, epoch 20, since the first milestone is 30"),
        (FAT(milestones=(8, 30, 40)), 20, "fat.milestones: nothing happens at 30 and 40, after the last of 20 epochs"),
        (FAT(milestones=()), 20, ""),
    ],
)
def test_milestones_beyond_the_end_are_remarked_on(trick, epochs, said):
    base = [] if isinstance(trick, FAT) else [AT]
    plan = Plan.of([*base, trick], FACTS)
    plan.check_epochs(epochs, "epochs")
    remarks = plan.remarks(epochs)
    assert len(remarks) == bool(said)
    assert all(said in remark and "\n" not in remark for remark in remarks)


def test_a_trainer_warns_of_milestones_beyond_the_end():
    x, y = data()
    trainer = RecipeTrainer(classifier(network().float()), [FAT(eps=0.1, steps=1)], track=False, verbose=False)
    with pytest.warns(UserWarning, match="fat: tau stays 0 to the end, epoch 1"):
        trainer.fit(x.numpy(), y.numpy(), nb_epochs=1)


# The attack ----------------------------------------------------------------------------------------------------


def test_the_radius_grows_and_the_step_does_not():
    attack = parts(PGDAT(eps=0.3, steps=5), EpsWarmUp(epochs=3)).attack
    assert attack.step_size == pytest.approx(2.5 * 0.3 / 5)
    radii = [attack.at(Progress(t, 10)).norm.eps for t in (0, 0.5, 1, 2, 5)]
    assert radii == pytest.approx([0.1, 0.15, 0.2, 0.3, 0.3])
    assert {attack.at(Progress(t, 10)).step_size for t in range(4)} == {attack.step_size}
    assert parts(PGDAT(eps=0.3, step_size="eps/10"), EpsWarmUp(epochs=3)).attack.step_size == pytest.approx(0.03)
    assert for_evaluation(attack).norm == Linf(0.3)
    assert threat_of(Plan.of([PGDAT(eps=0.3), EpsWarmUp()], FACTS)).eps == 0.3


def test_a_range_grows_at_both_ends():
    attack = parts(PGDAT(eps={"uniform": [0.1, 0.2], "per": "batch"}), EpsWarmUp(epochs=2)).attack
    assert attack.norm.eps == Growing(Uniform(0.1, 0.2, "batch"), 2)
    assert attack.at(Progress(0, 10)).norm.eps == Uniform(0.05, 0.1, "batch")
    assert attack.at(Progress(1, 10)).norm.eps == Uniform(0.1, 0.2, "batch")
    shares = parts(PGDAT(eps={"uniform": [0.1, 0.2]}, step_size="eps/10"), EpsWarmUp(epochs=2)).attack
    assert str(shares.at(Progress(0, 10)).step_size) == "0.1 eps"


@pytest.mark.parametrize("base", [PGDAT(eps=0.2, steps=2, step_size=0.1), TRADES(eps=0.2, steps=2), FreeAT(eps=0.2)])
def test_training_meets_the_radius_of_the_moment(base):
    first = {}

    def spy(step, inner):
        first.setdefault(step.run.epoch, step.parts.attack.norm.eps)
        inner(step)

    plan = Plan.of([base, EpsWarmUp(epochs=4)], FACTS)
    net = Net(network())
    run = Run(RunSettings(precision="64-true", fold=False), SEED, torch.device("cpu"))
    run_fit = Fit(plan, net, torch.optim.SGD(net.parameters(), **SGD), run, epochs=5)
    inner = run_fit.update
    run_fit.update = lambda step: spy(step, inner)
    run_fit(batches())
    assert list(first.values()) == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2])


class Scripted:
    """A network that is wrong when a table says so: row = iteration, column = sample; its gradient is 1."""

    def __init__(self, table):
        self.table, self.calls = table, 0

    def __call__(self, x):
        index = x.detach()[:, 0, 0, 0].round().long()
        wrong = torch.tensor(self.table)[min(self.calls, len(self.table) - 1)][index].double()
        self.calls += 1
        return Outputs(torch.stack([0.5 - wrong + 0 * x.sum((1, 2, 3)), x.sum((1, 2, 3)) * 1e-6], 1))


@pytest.mark.parametrize(("name", "epoch"), [("fat_tau_1", 0), ("fat_tau_2", 50)])
def test_the_counter_reproduces_the_reference(name, epoch):
    entry = VECTORS[name]
    table, n = entry["inputs"]["misclassified"], len(entry["inputs"]["misclassified"][0])
    attack = parts(PGDAT(eps=0.4, steps=len(table), step_size=0.01, start="zero"), EarlyStopSteps()).attack
    attack = attack.at(Progress(epoch, 110))
    assert attack.tau == entry["inputs"]["tau"] - 1
    # sample i is an image of value i, so that the script knows it after others have left
    x = torch.arange(n).double()[:, None, None, None].expand(n, 1, 1, 1).contiguous()
    attack = attack.__class__(**{**vars(attack), "clip": (-1.0, 9.0)})
    y = torch.zeros(n, dtype=torch.long)
    adv = attack.craft(Scripted(table), x, ce.bind(Scripted(table), x, y), Keys(0, 0, torch.arange(n)))
    assert (adv.delta.abs().flatten() / 0.01).round().long().tolist() == entry["expected"]["updates"]


def test_the_counter_rises_at_its_epochs():
    attack = parts(AT, EarlyStopSteps(first=2, second=4)).attack
    assert [attack.at(Progress(t, 10)).tau for t in (0, 1.9, 2, 3.9, 4, 9)] == [0, 0, 1, 1, 2, 2]
    assert for_evaluation(attack).tau is None


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_an_early_stopped_training_takes_the_steps_of_a_plain_loop(mode):
    """In train mode those that left the attack still count among the rows that normalise it."""
    base = [AT] if mode == "eval" else [AT, TrainBN()]
    ours, _ = fit([*base, EarlyStopSteps(first=1, second=5)], network())
    theirs = copy.deepcopy(network())
    optimizer = torch.optim.SGD(theirs.parameters(), **SGD)
    for epoch in range(2):
        for batch in batches().epoch(epoch):
            adv = plain_pgd(theirs, batch, epoch, counter=1 + (epoch >= 1), mode=mode)
            theirs.train()
            optimizer.zero_grad()
            F.cross_entropy(theirs(adv), batch.y).backward()
            optimizer.step()
    assert_same(ours, theirs, atol=1e-8)


def test_two_rules_of_stopping_contradict_each_other():
    for order in ([AT, FAT(), EarlyStopSteps()], [AT, EarlyStopSteps(), FAT()]):
        with pytest.raises(ComposeError, match=r"(fat and early_stop_steps|early_stop_steps and fat) both change"):
            parts(*order)


@both_precisions
def test_normalisation_layers_reproduce_the_reference_in_both_modes(dtype):
    entry = VECTORS["bn_modes"]
    given, expected = entry["inputs"], entry["expected"]
    for mode in ("train", "eval"):
        layer = nn.BatchNorm1d(2, affine=False).to(dtype)
        layer.running_mean.copy_(torch.tensor(given["running_mean"], dtype=dtype))
        layer.running_var.copy_(torch.tensor(given["running_var"], dtype=dtype))
        out = layer.train(mode == "train")(torch.tensor(given["x"], dtype=dtype))
        check(entry, out, expected[f"{mode}_output"])
        check(entry, layer.running_mean, expected[f"{mode}_running_mean"])
        check(entry, layer.running_var, expected[f"{mode}_running_var"])


def test_modes_of_normalisation_layers_while_crafting():
    assert parts(PGDAT(bn="train"), EvalBN()).attack.bn == "eval"
    assert parts(TRADES(), TrainBN()).attack.bn == "train"
    for order in ([EvalBN(), TrainBN()], [TrainBN(), EvalBN()], [Bag(), TrainBN()]):
        with pytest.raises(ComposeError, match=r"crafts with normalisation layers in .* mode; remove one of them"):
            parts(AT, *order) if not isinstance(order[0], Bag) else parts(*order)


def test_crafting_in_train_mode_moves_statistics_and_the_network_trains_on():
    usual, _ = fit([AT], network())
    moved, _ = fit([AT, TrainBN()], network())
    assert differs(usual, moved)
    tracked = [module for module in moved.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(module.training for module in tracked)
    # each of 6 steps has 3 passes of the attack and 1 of the loss
    assert [int(module.num_batches_tracked) for module in tracked] == [24]


@pytest.mark.parametrize(("trick", "crafts_in_training"), [(EvalBN(), False), (TrainBN(), True)])
def test_dropout_follows_the_mode_of_crafting_and_both_train_on(trick, crafts_in_training):
    seen = []

    class Watched(nn.Dropout):
        def forward(self, x):
            seen.append(self.training)
            return super().forward(x)

    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), Watched(), nn.Linear(64, 3)).double()
    fit([PGDAT(eps=0.2, steps=2), trick], module, epochs=1, batch_size=12)
    assert seen == [crafts_in_training, crafts_in_training, True] * 2


@pytest.mark.parametrize("trick", [EvalBN(), TrainBN(), EpsWarmUp(), EarlyStopSteps()], ids=lambda trick: trick.name)
def test_tricks_of_the_attack_need_one(trick):
    with pytest.raises(ComposeError, match=f"{trick.name} changes the attack of a training, but nothing sets one"):
        parts(trick)


# Optimizers ----------------------------------------------------------------------------------------------------


@both_precisions
def test_centralised_sgd_reproduces_the_reference(dtype):
    entry = VECTORS["sgd_gc_linear_3_steps"]
    given = entry["inputs"]
    weight = nn.Parameter(torch.tensor(given["initial_weight"], dtype=dtype))
    options = {name: given[name] for name in ("lr", "momentum", "weight_decay")}
    optimizer = torch.optim.SGD([weight], **options)
    undo = Centralise(2)(optimizer, nn.Module())
    for gradient, expected in zip(given["gradients"], entry["expected"]["weights_after_each_step"], strict=True):
        weight.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
        check(entry, weight.detach(), expected)
        assert optimizer.param_groups[0]["weight_decay"] == given["weight_decay"]
    undo()
    before = weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert not torch.equal(before, weight)  # a centralised gradient of ones is 0, but decay and momentum are not
    assert weight.grad.eq(1).all()


def test_gcc_takes_convolutions_alone():
    torch.manual_seed(0)
    matrix, kernel = torch.randn(3, 4), torch.randn(2, 3, 3, 3)
    assert torch.equal(centralised(matrix, 4), matrix)
    assert centralised(kernel, 4).mean((1, 2, 3)).abs().max() < 1e-6
    assert torch.equal(centralised(torch.ones(5)), torch.ones(5))


def test_decay_of_adamw_stays_apart_from_centralised_gradients():
    def trained(*, centralise):
        weight = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64))
        optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)
        if centralise:
            Centralise(2)(optimizer, nn.Module())
        weight.grad = torch.tensor([[1.0, -1.0], [2.0, -2.0]], dtype=torch.float64)  # centralised already
        optimizer.step()
        return weight.detach()

    torch.testing.assert_close(trained(centralise=True), trained(centralise=False))


def test_decay_is_decided_by_axes_not_by_names():
    entry = VECTORS["weight_decay_groups"]
    given, expected = entry["inputs"], entry["expected"]
    parameters = {
        name: nn.Parameter(torch.zeros([2] * axes)) for name, axes in zip(given["params"], given["ndim"], strict=True)
    }
    spared = [name for name, parameter in parameters.items() if not has_decay(parameter, "kernels")]
    assert spared == expected["excluded_when_option_on"]
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    undo = Spare("kernels")(optimizer, nn.Module())
    decayed, free = optimizer.param_groups
    assert [id(p) for p in free["params"]] == [id(parameters[name]) for name in spared]
    assert (decayed["weight_decay"], free["weight_decay"], free["momentum"]) == (5e-4, 0.0, 0.9)
    undo()
    (whole,) = optimizer.param_groups
    assert [id(p) for p in whole["params"]] == [id(p) for p in parameters.values()]


def test_spared_vectors_follow_every_schedule():
    """A user's torch scheduler knows the first group only; the authors' second group kept its first rate."""
    x, y = data()
    model = network().float()
    art = classifier(model)
    scheduler = torch.optim.lr_scheduler.StepLR(art.optimizer, 1, gamma=0.1)
    rates = []
    art.optimizer.register_step_post_hook(lambda o, a, k: rates.append([g["lr"] for g in o.param_groups]))
    trainer = RecipeTrainer(art, [WeightDecay(value=0.1, on="kernels")], track=False, verbose=False)
    trainer.fit(x.numpy(), y.numpy(), nb_epochs=2, batch_size=24, scheduler=scheduler)
    assert rates == [pytest.approx([0.05, 0.05]), pytest.approx([0.005, 0.005])]
    (group,) = art.optimizer.param_groups
    assert group["weight_decay"] == SGD["weight_decay"]
    assert len(group["params"]) == len(list(model.parameters()))


SCHEDULERS = {
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.1**epoch),
    "CyclicLR": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "WarmRestarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.ConstantLR(o, 0.5, 1), torch.optim.lr_scheduler.StepLR(o, 1)], [1]
    ),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=4),
    "Plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, min_lr=[0.001]),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_spared_vectors_go_with_each_of_torch_s_schedulers(kind):
    x, y = data()

    def rates(ingredients):
        art, seen = classifier(network().float()), []
        art.optimizer.register_step_post_hook(lambda o, a, k: seen.append([g["lr"] for g in o.param_groups]))
        trainer = RecipeTrainer(art, ingredients, track=False, verbose=False)
        trainer.fit(x.numpy(), y.numpy(), nb_epochs=3, batch_size=24, scheduler=SCHEDULERS[kind](art.optimizer))
        return seen

    assert rates([WeightDecay(on="kernels")]) == [2 * row for row in rates([])]


@pytest.mark.parametrize(("on", "axes"), [("all", 0), ("kernels", 2), ("conv", 4)])
def test_weight_decay_on_some_tensors_takes_the_steps_of_a_plain_loop(on, axes):
    ours, _ = fit([WeightDecay(on=on)], network(), sgd={**SGD, "weight_decay": 0.1})
    theirs = copy.deepcopy(network())
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim >= axes], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.ndim < axes], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=SGD["lr"], momentum=SGD["momentum"])
    for epoch in range(2):
        for batch in batches().epoch(epoch):
            theirs.train()
            optimizer.zero_grad()
            F.cross_entropy(theirs(batch.x.double()), batch.y).backward()
            optimizer.step()
    assert_same(ours, theirs, atol=1e-9)


def test_recipes_get_the_optimizer_unless_they_have_their_own():
    settings = Plan.of([OptimizerChoice(kind="adamw"), WeightDecay(value=1e-3)], FACTS).settings
    tuned = Train().tuned(settings)
    assert tuned.optimizer.name == "adamw"
    assert (tuned.optimizer.options["lr"], tuned.optimizer.options["weight_decay"]) == (1e-4, 1e-3)
    own = Train(optimizer={"sgd": {"lr": 0.3, "weight_decay": 2e-4}}).tuned(settings)
    assert own.optimizer == ("sgd", {"lr": 0.3, "weight_decay": 2e-4})
    assert Train().tuned(Plan.of([OptimizerChoice(kind="nesterov")], FACTS).settings).optimizer.options["nesterov"]


def test_a_classifier_s_optimizer_must_be_of_the_kind():
    art = classifier(network().float())
    with pytest.raises(ModelError, match=r"optimizer asks for Adam, but .* is SGD; build it as torch.optim.Adam\("):
        RecipeTrainer(art, [OptimizerChoice(kind="adam")], track=False)
    x, y = data()
    plain, central = network().float(), network().float()
    for model, use in ((plain, []), (central, [OptimizerChoice(kind="gcc")])):
        own = classifier(model)
        RecipeTrainer(own, use, track=False, verbose=False).fit(x.numpy(), y.numpy(), nb_epochs=1, batch_size=8)
        assert not own.optimizer._optimizer_step_pre_hooks
        assert (own.optimizer.param_groups[0]["lr"], own.optimizer.param_groups[0]["momentum"]) == (0.05, 0.9)
    assert differs(plain, central)


@pytest.mark.parametrize(("kind", "nesterov"), [("sgd", False), ("gc", False), ("nesterov", True)])
def test_a_classifier_s_sgd_is_of_the_kind_while_it_is_trained(kind, nesterov):
    x, y = data()
    art = classifier(network().float())
    (group,) = art.optimizer.param_groups
    group["nesterov"], seen = not nesterov, set()
    art.optimizer.register_step_post_hook(lambda o, a, k: seen.add(o.param_groups[0]["nesterov"]))
    trainer = RecipeTrainer(art, [OptimizerChoice(kind=kind)], track=False, verbose=False)
    trainer.fit(x.numpy(), y.numpy(), nb_epochs=1, batch_size=8)
    assert seen == {nesterov}
    assert art.optimizer.param_groups[0]["nesterov"] is not nesterov


def classifier(model):
    return PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (1, 6, 6),
        3,
        optimizer=torch.optim.SGD(model.parameters(), **SGD),
        clip_values=(0.0, 1.0),
    )


# Activations ---------------------------------------------------------------------------------------------------


@both_precisions
def test_softplus_and_silu_reproduce_the_reference(dtype):
    entry = VECTORS["softplus_beta1_and_silu"]
    x = torch.tensor(entry["inputs"]["x"], dtype=dtype, requires_grad=True)
    value = SwapActivation("softplus", entry["inputs"]["beta"]).make()(x)
    check(entry, value.detach(), entry["expected"]["softplus"])
    check(entry, torch.autograd.grad(value.sum(), x)[0], entry["expected"]["softplus_slope"])
    check(entry, SwapActivation("silu").make()(x.detach()), entry["expected"]["silu"])


def test_parameters_are_those_of_the_authors_code():
    made = {name: SwapActivation(name).make() for name in SHORTCUTS}
    assert (made["leaky_relu"].negative_slope, made["elu"].alpha, made["celu"].alpha) == (0.1, 1.0, 1.2)
    assert (made["softplus"].beta, made["softplus"].threshold) == (1.0, 20)


@pytest.mark.parametrize("name", SHORTCUTS)
def test_activations_replace_relu_in_place_and_once(name):
    x, _ = data()
    expected = {type(SwapActivation(name).make())}
    for ingredient in (SHORTCUTS[name](), Activation(to=name)):
        model = network()
        plan = Plan.of([ingredient], FACTS)
        assert plan.operate(model) is model
        met = {type(module) for module in model.modules()} & {nn.ReLU, *expected}
        assert met == expected
        (first,) = [module for module in model.modules() if type(module) in expected]
        plan.operate(model)
        assert any(module is first for module in model.modules())
        assert differs_in_outputs(model, network(), x)


def differs_in_outputs(one, other, x):
    with torch.no_grad():
        return not torch.allclose(one.eval()(x.double()), other.eval()(x.double()))


def test_a_shared_activation_is_replaced_wherever_it_stands():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 3))
    SwapActivation("gelu")(model, FACTS)
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())


class Functional(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.head, self.call, self.act = nn.Linear(36, 3), call, nn.ReLU()

    def forward(self, x):
        return self.call(self.act(self.head(x.flatten(1))))


@pytest.mark.parametrize("call", [F.relu, torch.relu, lambda x: x.relu(), lambda x: F.relu(x, inplace=True)])
def test_a_relu_that_is_called_as_a_function_is_refused(call):
    model = Functional(call).train()
    with pytest.raises(ModelError, match=r"Functional calls ReLU as a function .* write it with nn\.ReLU modules"):
        SwapActivation("softplus")(model, FACTS)
    assert model.training
    assert type(model.act) is nn.ReLU, "not half changed"
    assert model.act.training


@pytest.mark.parametrize(
    ("call", "name"),
    [(F.gelu, "GELU"), (F.silu, "SiLU"), (F.leaky_relu, "LeakyReLU"), (torch.selu, "SELU"), (F.relu6, "ReLU6")],
)
def test_other_activations_that_are_called_as_functions_are_refused_too(call, name):
    with pytest.raises(ModelError, match=rf"calls {name} as a function \(1 times a pass\).* nn\.{name} modules"):
        SwapActivation("softplus")(Functional(call), FACTS)


@pytest.mark.parametrize("to", SHORTCUTS)
def test_the_activation_that_is_wanted_may_be_called_as_a_function(to):
    call = {"leaky_relu": F.leaky_relu, "gelu": F.gelu, "silu": F.silu}.get(to, getattr(F, to))
    SwapActivation(to)(Functional(call), FACTS)


@pytest.mark.parametrize(
    ("there", "parameter"),
    [(nn.LeakyReLU(0.01), 0.3), (nn.Softplus(beta=10), 1.0), (nn.ELU(0.5), None), (nn.GELU("tanh"), None)],
    ids=str,
)
def test_one_of_the_kind_with_another_parameter_is_replaced(there, parameter):
    to = {nn.LeakyReLU: "leaky_relu", nn.Softplus: "softplus", nn.ELU: "elu", nn.GELU: "gelu"}[type(there)]
    swap = SwapActivation(to, parameter)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), there)
    swap(model, FACTS)
    assert repr(model[2]) == repr(swap.make()) != repr(there)
    kept = model[2]
    assert swap(model, FACTS)[2] is kept


def test_a_network_without_activations_is_refused():
    with pytest.raises(ModelError, match="has no activation to become softplus"):
        SwapActivation("softplus")(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), FACTS)


def test_two_activations_contradict_each_other_and_so_do_parameters_without_meaning():
    with pytest.raises(ComposeError, match="softplus and activation both replace the activations"):
        parts(SHORTCUTS["softplus"](), Activation(to="silu"))
    with pytest.raises(ConfigError, match=r"activation\.parameter has no meaning for silu"):
        parts(Activation(to="silu", parameter=2))


# Averages ------------------------------------------------------------------------------------------------------


def history_of_weights(model, *, epochs, average=None):
    """Weights and floating buffers after every step of plain training."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    seen = []
    for epoch in range(epochs):
        for batch in batches().epoch(epoch):
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(batch.x.double()), batch.y).backward()
            optimizer.step()
            seen.append({n: v for n, v in weights(model).items() if v.is_floating_point()})
    return seen


def test_ema_ends_with_the_moving_average():
    ours, _ = fit([EMA(decay=0.9)], network(), epochs=3)
    seen = history_of_weights(network(), epochs=3)
    expected = seen[0]
    for n, now in enumerate(seen[1:], start=1):
        d = min(0.9, (1 + n) / (10 + n))
        expected = {name: d * expected[name] + (1 - d) * now[name] for name in now}
    got = weights(ours)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-9)


def test_swa_ends_with_the_mean_of_the_last_epochs():
    ours, _ = fit([SWA(start=0.5)], network(), epochs=5)  # epochs 3, 4 and 5 end after more than half
    seen = history_of_weights(network(), epochs=5)
    per_epoch = len(seen) // 5
    ends = [seen[per_epoch * (epoch + 1) - 1] for epoch in (2, 3, 4)]
    got = weights(ours)
    for name in ends[0]:
        torch.testing.assert_close(got[name], torch.stack([end[name] for end in ends]).mean(0), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("start", "epochs", "alone"), [(0.75, 4, True), (0.75, 5, False), (0.0, 1, True), (0.5, 2, True)]
)
def test_an_average_of_one_epoch_is_remarked_on(start, epochs, alone):
    (*said,) = Plan.of([SWA(start=start)], FACTS).remarks(epochs)
    assert [line.startswith(f"swa: only the last of {epochs} epochs counts") for line in said] == [True] * alone
    averaged, plain = (fit(use, network(), epochs=epochs)[0] for use in ([SWA(start=start)], []))
    assert differs(averaged, plain) is not alone


@pytest.mark.parametrize("average", [EMA(decay=0.9), SWA(start=0.2)], ids=lambda average: average.name)
def test_the_average_is_what_is_judged_kept_and_deployed(average):
    judged = []

    def validate(net, parts, epoch):
        from art_ext.api import Scores

        judged.append({n: v.clone() for n, v in net.module.state_dict().items()})
        return Scores(clean=float(epoch == 1), n=1)

    def trained(ingredients, **options):
        model = network()
        net, run = Net(model), Run(RunSettings(precision="64-true", fold=False), SEED, torch.device("cpu"))
        optimizer = torch.optim.SGD(model.parameters(), **SGD)
        run_fit = Fit(Plan.of(ingredients, FACTS), net, optimizer, run, epochs=3, **options)
        run_fit(batches())
        return run_fit, model

    run_fit, model = trained([average], validate=validate)
    for name, value in judged[-1].items():
        assert torch.equal(model.state_dict()[name], value), name
    run_fit.restore_best()
    for name, value in judged[1].items():
        assert torch.equal(model.state_dict()[name], value), name
    _, plain = trained([])
    assert differs(model, plain)


def test_averages_go_around_steps_of_any_kind_and_leave_training_alone():
    for base in ([AT], [FreeAT(eps=0.1, replays=2)], [AT, AWP()]):
        averaged, history = fit([*base, EMA()], network())
        plain, plain_history = fit(base, network())
        assert [e.metrics["train/loss"] for e in history.epochs] == [
            e.metrics["train/loss"] for e in plain_history.epochs
        ]
        assert differs(averaged, plain)


def test_an_average_has_a_state():
    made = Plan.of([EMA()], FACTS).compose().update
    net = network()
    made.take(net, 1.0)
    other = Plan.of([EMA()], FACTS).compose().update
    other.load_state_dict(made.state_dict())
    assert other.count == 1
    assert all(torch.equal(a, b) for a, b in zip(other.mean, made.mean, strict=True))


def test_one_average_is_enough():
    with pytest.raises(ComposeError, match="ema and swa both average the weights"):
        parts(EMA(), SWA())


def test_the_decay_rises_to_its_own():
    assert [ema_decay(0.9, n) for n in (0, 10, 1000)] == pytest.approx([0.1, 11 / 20, 0.9])


# bag -----------------------------------------------------------------------------------------------------------


def test_bag_alone_is_pgd_at_in_the_recommended_setting():
    plan = Plan.of([Bag()], Facts(10, (3, 32, 32)))
    made = plan.compose()
    assert (made.attack.norm, made.attack.steps, made.attack.bn) == (Linf(8 / 255), 10, "eval")
    assert made.attack.step_size == pytest.approx(2 / 255)
    assert str(made.risk) == "adversarial rows"
    tuned = Train().tuned(plan.settings)
    assert (tuned.epochs, tuned.batch_size, tuned.optimizer.options["weight_decay"]) == (110, 128, 5e-4)
    assert tuned.schedule == ("steps", {"milestones": [100.0, 105.0], "factor": 0.1})
    assert Train(epochs=3).tuned(plan.settings).epochs == 3


def test_bag_around_another_method_changes_its_training():
    made = parts(TRADES(bn="train"), Bag(smoothing=0.1))
    assert made.attack.bn == "eval"
    assert made.attack.objective.name == "kl_to_clean"
    assert made.target == SmoothLabels(0.1)
    with pytest.raises(ConfigError, match=r"bag\.steps does nothing to the attack of another ingredient"):
        parts(TRADES(), Bag(steps=3))


def test_bag_is_the_sum_of_its_tricks():
    whole, _ = fit([Bag(eps=0.2, steps=3, step_size=0.1, smoothing=0.2, bn="train", decay_on="kernels")], network())
    tricks = [AT, Smooth(amount=0.2), TrainBN(), WeightDecay(on="kernels"), ScaleLR()]
    summed, _ = fit(tricks, network())
    assert_same(whole, summed, atol=0)


def test_bag_contradicts_what_it_has_itself():
    with pytest.raises(ComposeError, match=r"bag sets train\.weight_decay to 0\.0005 and weight_decay to 0\.1"):
        parts(Bag(), WeightDecay(value=0.1))
    with pytest.raises(ComposeError, match="bag has weight decay on conv and weight_decay on kernels; remove one"):
        parts(Bag(decay_on="conv"), WeightDecay(value=5e-4, on="kernels"))
    with pytest.raises(ComposeError, match="weight_decay has weight decay on conv and bag on all; remove one"):
        parts(WeightDecay(value=5e-4, on="conv"), Bag())
    with pytest.raises(ComposeError, match="bag and smooth both set the target"):
        parts(Bag(smoothing=0.1), Smooth())
    for pair, names in (([Bag(), ScaleLR(base=64)], "bag and scale_lr"), ([ScaleLR(), Bag()], "scale_lr and bag")):
        with pytest.raises(ComposeError, match=f"{names} both scale the learning rate with the batch; remove one"):
            parts(*pair)
    parts(Bag(scale_lr=False), ScaleLR(base=64))


def test_bag_s_rate_is_meant_for_128_images():
    for rows, factor in ((128, 1.0), (512, 4.0), (32, 0.25)):
        assert Plan.of([Bag()], FACTS).paced(Progress(0.0, 110), rows) == factor
        assert Plan.of([Bag(scale_lr=False)], FACTS).paced(Progress(0.0, 110), rows) == 1.0


def test_bag_through_art():
    x, y = data()
    model = network().float()
    art = classifier(model)
    seen = []
    art.optimizer.register_step_post_hook(lambda o, a, k: seen.append(o.param_groups[0]["weight_decay"]))
    trainer = BagTrainer(art, track=False, verbose=False, eps=0.1, steps=2, activation="softplus", weight_decay=0.01)
    trainer.fit(x.numpy(), y.numpy(), nb_epochs=2, batch_size=8)
    assert set(seen) == {0.01}
    assert art.optimizer.param_groups[0]["weight_decay"] == SGD["weight_decay"]
    assert any(isinstance(module, nn.Softplus) for module in model.modules())
    for targeted in (False, True):
        attack = BagAttack(art, eps=0.1, steps=3, targeted=targeted)
        adv = attack.generate(x.numpy(), ((y + targeted) % 3).numpy())
        assert np.abs(adv - x.numpy()).max() <= 0.1 + 1e-6
        assert adv.min() >= 0
        assert adv.max() <= 1
    assert attack.attack(FACTS).bn == "eval"


# Vectors of the attack's step, and impossible options ----------------------------------------------------------


@both_precisions
@pytest.mark.parametrize("name", ["pgd_step_basic", "fastat_step_1.25_eps"])
def test_one_step_of_pgd_reproduces_the_reference(name, dtype):
    entry = VECTORS[name]
    given = {key: torch.tensor(v, dtype=dtype) for key, v in entry["inputs"].items() if isinstance(v, list)}
    x, delta, grad = (given[key].reshape(1, 1, 1, -1) for key in ("x", "delta", "grad"))

    class Start:
        clamped = True

        def __call__(self, norm, keys, images, eps):
            return delta

    def net(images):
        z = (images * grad).sum((1, 2, 3))
        return Outputs(torch.stack([torch.zeros_like(z), z], 1))

    attack = PGD(Linf(entry["inputs"]["eps"]), 1, entry["inputs"]["alpha"], start=Start())
    adv = attack.craft(net, x, ce.bind(net, x, torch.tensor([0])), Keys(0, 0, torch.arange(1)))
    check(entry, adv.delta.flatten(), entry["expected"]["delta"][0])


@pytest.mark.parametrize(
    ("cls", "options"),
    [(Smooth, {"amount": 1}), (Smooth, {"amount": -0.1}), (EpsWarmUp, {"epochs": 0}), (LRWarmUp, {"epochs": "x"}),
     (ScaleLR, {"base": 0}), (EarlyStopSteps, {"first": -1}), (OptimizerChoice, {"kind": "adamm"}),
     (OptimizerChoice, {"lr": 0}), (WeightDecay, {"value": -1}), (Activation, {"to": "relu"}), (EMA, {"decay": 1}),
     (SWA, {"start": 1}), (Bag, {"bn": "test"}), (Bag, {"eps": 0})],
    ids=lambda value: getattr(value, "name", None),
)  # fmt: skip
def test_impossible_options(cls, options):
    with pytest.raises(ConfigError, match=f"{cls.name}.{next(iter(options))}: "):
        cls(**options)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_momentum_is_refused_where_the_optimizer_has_none(kind):
    with pytest.raises(ConfigError) as error:
        OptimizerChoice(kind=kind, momentum=0.5)
    assert str(error.value).startswith(f"optimizer: momentum has no effect on {kind}; leave it out, or set kind to sgd")
    assert "\n" not in str(error.value)
    for allowed in ({"kind": kind}, {"kind": kind, "momentum": 0.9}, {"kind": "nesterov", "momentum": 0.5}):
        OptimizerChoice(**allowed)


def test_epochs_of_the_counter_are_in_order():
    with pytest.raises(ConfigError, match="second comes after first"):
        EarlyStopSteps(first=50, second=40)
    assert math.isfinite(EarlyStopSteps(first=0, second=0).second)


@both_precisions
def test_trades_reproduces_the_reference(dtype):
    entry = VECTORS["trades_k5"]
    given, y = entry["inputs"], torch.tensor(entry["inputs"]["labels"])
    clean, adv = (torch.tensor(given[f"logits_{part}"], dtype=dtype, requires_grad=True) for part in ("clean", "adv"))
    views = Views(View(Outputs(clean), y, y), View(Outputs(adv), y, y))
    loss = sum(Trades(given["beta"])(views, CrossEntropy()).values())
    check(entry, loss.detach(), entry["expected"]["loss"])
    for leaf, name in ((clean, "grad_clean"), (adv, "grad_adv")):
        check(entry, torch.autograd.grad(loss, leaf, retain_graph=True)[0], entry["expected"][name])


@both_precisions
def test_margins_reproduce_the_reference(dtype):
    entry = VECTORS["margin_and_dlr_k5"]
    z, y = torch.tensor(entry["inputs"]["logits"], dtype=dtype), torch.tensor(entry["inputs"]["labels"])
    for objective, name in ((cw, "cw"), (dlr_ratio, "dlr")):
        value = objective.measure(Outputs(z), y)
        check(entry, value, entry["expected"][f"{name}_per_sample"])
        check(entry, value.mean(), entry["expected"][f"{name}_mean"])


@pytest.mark.parametrize("fused", [False, True])
def test_centralised_gradients_know_the_scale_of_half_precision(fused):
    """A fused step takes the scale out itself, after our hook has put the weight decay in."""

    def trained(*, scaled):
        weight = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        optimizer = torch.optim.SGD([weight], **{**SGD, "weight_decay": 0.5}, fused=fused)
        Centralise(2)(optimizer, nn.Module())
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale((weight**3).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        return weight.detach()

    torch.testing.assert_close(trained(scaled=True), trained(scaled=False))
