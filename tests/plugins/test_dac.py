"""DAC: both forms of adversarial certainty, and both two-step updates, against vectors and plain loops."""

import copy
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from art.estimators.classification import PyTorchClassifier
from tiny import FACTS, SEED, SGD, Scaled, assert_same, batches, data, differs, fit, network
from torch import nn

from art_ext.api import Adversarial, ComposeError, ConfigError, Ingredient, Keys, Madry, Paper, Plan
from art_ext.data.batches import ArrayBatches
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.optim import steps
from art_ext.engine.run import Run, RunSettings
from art_ext.evaluation.suite import HeldOut, Threat
from art_ext.types import Facts
from art_ext_baselines import MART, PGDAT, TRADES, FreeAT
from art_ext_dac import DAC, DACTrainer, certainty_std, certainty_variance
from art_ext_tricks import Smooth

FILE = Path(__file__).parents[1] / "vectors" / "dac.json"
VECTORS = {entry["name"]: entry for entry in json.loads(FILE.read_text())}
EPS, STEPS, SIZE = 0.2, 3, 0.1
BASE = PGDAT(eps=EPS, steps=STEPS, step_size=SIZE)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def close(got, expected, tolerance):
    expected = double(expected)
    assert (got.detach().double() - expected).abs().max() <= tolerance * (1 + expected.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_certainty_reproduces_the_vectors(dtype, tolerance):
    given, expected = (VECTORS["A_certainty"][part] for part in ("inputs", "expected"))
    for form, each, mean, grad, scale in (
        (certainty_variance, "variance_per_example", "certainty_paper", "grad_certainty_paper", 1.0),
        (certainty_std, "std_per_example", "certainty_code", "grad_half_step_loss_code", given["stepsize"]),
    ):
        logits = torch.tensor(given["logits"], dtype=dtype).requires_grad_()
        values = form(logits)
        (scale * values.mean()).backward()
        close(values, expected[each], tolerance)
        close(values.mean(), expected[mean], tolerance)
        close(logits.grad, expected[grad], tolerance)


def test_two_classes_separate_the_two_variances():
    logits = double([[3.0, -1.0]])
    assert float(certainty_variance(logits)) == 4.0
    assert float(certainty_std(logits)) ** 2 == pytest.approx(8.0)


def test_certainty_at_equal_and_at_half_precision_logits():
    for form in (certainty_variance, certainty_std):
        equal = torch.full((1, 5), 2.0).requires_grad_()
        value = form(equal)
        value.sum().backward()
        assert value.shape == (1,)
        assert float(value.detach()) == 0
        assert not equal.grad.any()
        assert form(torch.tensor([[300.0, -300.0]]).half()).dtype == torch.float32
        assert bool(form(torch.tensor([[300.0, -300.0]]).half()).isfinite())


@dataclass(frozen=True)
class Given:
    """An attack whose answers are written down: the first and the second craft of a batch."""

    answers: list
    seen: list
    objective: ClassVar = None
    bn: ClassVar = "eval"

    def craft(self, net, x, score, keys, mask=None):
        self.seen.append({name: value.clone() for name, value in self.source.named_parameters()})
        adv = self.answers[(len(self.seen) - 1) % 2][keys.index]
        return Adversarial(adv, adv - x)

    source: ClassVar[nn.Module]


class Answers(Ingredient):
    name = "answers"
    paper = Paper("-", "-", "-", 2020)
    attack: ClassVar[Given]

    def apply(self, plan):
        return plan.fill(self, attack=self.attack, risk=Madry())


@pytest.mark.parametrize("form", ["code", "paper"])
def test_the_two_steps_reproduce_the_vectors(form):
    entry = VECTORS[f"A_two_step_{form}"]
    given, expected, tolerance = entry["inputs"], entry["expected"], entry["tolerance"]
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 5)).double()
    with torch.no_grad():
        module[1].weight.copy_(double(given["w"]))
        module[1].bias.copy_(double(given["b"]))
    first, second = (double(given[f"adversarial_{i}"])[0].reshape(-1, 1, 2, 3) for i in (1, 2))
    Given.source, Answers.attack = module, Given([first, second], [])
    # lambda of the vector's paper form is its stepsize; ours is the learning rate times it
    stepsize = given["stepsize"] / (1 if form == "code" else given["lr"])
    sgd = {name: given[name] for name in ("lr", "momentum", "weight_decay")}
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        run = Run(RunSettings(precision="64-true", fold=False), 0, torch.device("cpu"))
        plan = Plan.of([Answers(), DAC(form=form, stepsize=stepsize)], Facts(5, (1, 2, 3)))
        whole = Fit(plan, Net(module), torch.optim.SGD(module.parameters(), **sgd), run, epochs=1)
        history = whole(ArrayBatches(first.float(), torch.tensor(given["labels"][0]), len(first), 0))
    finally:
        torch.set_default_dtype(usual)
    half = Answers.attack.seen[1]
    close(half["1.weight"], expected["half_step_w"][0], tolerance)
    close(half["1.bias"], expected["half_step_b"][0], tolerance)
    close(module[1].weight, expected["w"], tolerance)
    close(module[1].bias, expected["b"], tolerance)
    certainty, ce = expected["certainty_and_ce"][0]
    metrics = history.epochs[0].metrics
    assert metrics["train/loss/certainty_std" if form == "code" else "train/loss/certainty_variance"] == pytest.approx(
        certainty
    )
    assert metrics["train/loss"] == pytest.approx(ce)


def plain_pgd(module, x, y, keys):
    start = (2 * keys.stream("start", 0).uniform((1, 6, 6)) - 1).double() * EPS
    module.eval()
    adv = (x + start).clamp(0, 1)
    for _ in range(STEPS):
        adv.requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(module(adv), y, reduction="sum"), adv)
        adv = torch.minimum(torch.maximum(adv.detach() + SIZE * grad.sign(), x - EPS), x + EPS).clamp(0, 1)
    module.train()
    return adv


def loop(form, stepsize, *, rates=lambda epoch: 1.0, epochs=2, clip=None, skipped=()):
    """`clip` is the largest norm of a gradient; `skipped` are steps, counted from 0, whose gradient overflows."""
    module = network().train()
    optimizer = torch.optim.SGD(module.parameters(), **SGD)
    number_of = itertools.count()

    def go(step):
        if clip is not None:
            assert torch.nn.utils.clip_grad_norm_(module.parameters(), clip) > clip
        if next(number_of) not in skipped:
            step()

    def plainly():
        with torch.no_grad():
            for w in module.parameters():
                w.sub_(stepsize * lr * w.grad)

    for epoch in range(epochs):
        for number, batch in enumerate(batches().epoch(epoch)):
            lr = SGD["lr"] * rates(epoch + number / 3)
            optimizer.param_groups[0]["lr"] = lr
            x, y, keys = batch.x.double(), batch.y, Keys(SEED, epoch, batch.index)
            z = module(plain_pgd(module, x, y, keys))
            optimizer.zero_grad()
            if form == "code":
                (stepsize * z.std(1).mean()).backward()
                go(optimizer.step)
            else:
                z.var(1, unbiased=False).mean().backward()
                go(plainly)
            adv = plain_pgd(module, x, y, keys.stream("craft", 1))
            optimizer.zero_grad()
            F.cross_entropy(module(adv), y).backward()
            go(optimizer.step)
    return module


@pytest.mark.parametrize("form", ["code", "paper"])
def test_training_is_the_plain_loop(form):
    got, _ = fit([BASE, DAC(form=form)], network())
    assert_same(got, loop(form, 0.3))


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("form", ["code", "paper"])
def test_clipping_acts_on_each_of_the_two_steps(form, scaled):
    """0.02 is less than any gradient's norm here, so both steps are clipped."""
    got, _ = fit([BASE, DAC(form=form)], network(), clip_gradient=0.02, scaled=Scaled() if scaled else None)
    expected = loop(form, 0.3, clip=0.02)
    assert_same(got, expected)
    assert differs(expected, loop(form, 0.3))


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("skipped", [(), (0,), (1,), (2, 3), (4, 5, 6)], ids=str)
def test_a_step_that_overflows_in_half_precision_is_left_out_alone(form, skipped):
    """Even numbers are half steps: without one, the robust step still comes, from the old weights and a new attack."""
    precision = Scaled(skipped)
    got, _ = fit([BASE, DAC(form=form)], network(), scaled=precision)
    assert precision.passes == 12
    assert_same(got, loop(form, 0.3, skipped=skipped))
    assert differs(loop(form, 0.3, skipped=(0,)), loop(form, 0.3))


def test_the_learning_rate_follows_batches_not_optimizer_steps():
    schedule = steps([1.4])
    got, _ = fit([BASE, DAC()], network(), schedule=schedule)
    assert_same(got, loop("code", 0.3, rates=lambda epoch: schedule(epoch, 2)))


def test_a_half_step_of_nothing_is_the_base_in_the_paper_form_only():
    """On a network without batch norm and from a start that is not random, stepsize 0 changes nothing."""
    base = PGDAT(eps=EPS, steps=STEPS, start="zero")
    start = network(norm=False)
    alone, _ = fit([base], start)
    assert_same(fit([base, DAC(form="paper", stepsize=0)], start)[0], alone, atol=0)
    assert differs(fit([base, DAC(form="code", stepsize=0)], start)[0], alone)  # weight decay and momentum act


def test_the_second_attack_is_new():
    crafts = []

    class Noted(PGDAT):
        name = "noted"

        def apply(self, plan):
            plan = super().apply(plan)
            inner = plan.slots["attack"]

            class Spy:
                objective, bn = inner.objective, inner.bn

                def craft(self, *args, **kwargs):
                    crafts.append(inner.craft(*args, **kwargs).x)
                    return Adversarial(crafts[-1], crafts[-1] - args[1])

            from dataclasses import replace

            return replace(plan, slots={**plan.slots, "attack": Spy()})

    fit([Noted(eps=EPS, steps=1, step_size=1e-9), DAC(form="paper", stepsize=0)], network(norm=False), epochs=1)
    assert len(crafts) == 6  # two a batch
    assert float((crafts[0] - crafts[1]).abs().max()) > 0.1 * EPS  # another random start


class Noting(Ingredient):
    """Keeps the network as the update inside it finds it; listed before dac, at the half-step weights."""

    name = "noting"
    paper = Paper("-", "-", "-", 2020)
    found: ClassVar[list]

    def apply(self, plan):
        def noted(then):
            def update(step):
                self.found.append(copy.deepcopy(step.net.module))
                then(step)

            return update

        return plan.wrap(self, noted)


@pytest.mark.parametrize(("form", "measure"), [("code", certainty_std), ("paper", certainty_variance)])
def test_one_half_step_lowers_certainty_on_its_batch(form, measure):
    Noting.found = []
    fit([BASE, Noting(), DAC(form=form)], network(), epochs=1, batch_size=24)
    (half,), (batch,), start = Noting.found, list(batches(24).epoch(0)), network().train()
    adv = plain_pgd(start, batch.x.double(), batch.y, Keys(SEED, 0, batch.index))
    with torch.no_grad():
        assert float(measure(half.train()(adv)).mean()) < float(measure(start(adv)).mean())


@pytest.mark.parametrize("base", [PGDAT, TRADES, MART])
def test_training_ends_less_certain_than_the_base(base):
    def certainty(history):
        return history.epochs[-1].metrics["train/loss/certainty_variance"]

    sgd = {"lr": 0.2, "momentum": 0.9}
    watched = fit([base(eps=0.1), DAC(form="watch")], network(), epochs=12, sgd=sgd)[1]
    for form in ("code", "paper"):
        assert certainty(fit([base(eps=0.1), DAC(form=form, stepsize=1.0)], network(), epochs=12, sgd=sgd)[1]) < (
            certainty(watched)
        )


def test_watching_changes_nothing_and_the_loss_is_logged_once():
    alone, plain = fit([BASE], network())
    watched, history = fit([BASE, DAC(form="watch")], network())
    assert_same(watched, alone, atol=0)
    for key in ("train/loss", "train/robust_accuracy"):
        assert history.epochs[-1].metrics[key] == plain.epochs[-1].metrics[key]
    assert {"train/loss/certainty_std", "train/loss/certainty_variance"} <= set(history.epochs[-1].metrics)


def test_the_regularizer_is_one_step_on_the_sum():
    module = network().train()
    optimizer = torch.optim.SGD(module.parameters(), **SGD)
    for batch in batches().epoch(0):
        x, y = batch.x.double(), batch.y
        z = module(plain_pgd(module, x, y, Keys(SEED, 0, batch.index)))
        optimizer.zero_grad()
        (F.cross_entropy(z, y) + 0.2 * z.std(1).mean()).backward()
        optimizer.step()
    got, history = fit([BASE, DAC(form="regularizer", stepsize=0.2)], network(), epochs=1)
    assert_same(got, module)
    assert math.isfinite(history.epochs[0].metrics["train/loss/certainty"])


def test_what_dac_does_not_go_with():
    for form in ("code", "paper", "regularizer"):
        with pytest.raises(ConfigError, match="dac needs adversarial examples"):
            Plan.of([DAC(form=form)], FACTS)
    for form in ("code", "paper"):
        with pytest.raises(ComposeError, match="dac goes around one step a batch, but free_at takes several"):
            Plan.of([FreeAT(), DAC(form=form)], FACTS)
    with pytest.raises(ConfigError, match=r"dac\.stepsize"):
        DAC(stepsize=-1)
    with pytest.raises(ConfigError, match="unknown option of dac 'stepsze'; did you mean stepsize"):
        DAC(stepsze=1)


def test_alone_the_regularizer_says_what_to_add_and_nothing_to_remove():
    with pytest.raises(ComposeError) as caught:
        Plan.of([DAC(form="regularizer")], FACTS)
    assert str(caught.value).endswith("trains on clean rows; add an ingredient that trains on an attack")


def test_the_regularizer_goes_with_free_at():
    base = FreeAT(eps=0.1, replays=2)
    alone, both = (fit([base, *more], network())[0] for more in ([], [DAC(form="regularizer")]))
    assert differs(alone, both)


def test_a_stepsize_where_nothing_steps_is_refused():
    with pytest.raises(ConfigError, match=r"^dac: stepsize has no effect .*; leave it out, or") as caught:
        DAC(form="watch", stepsize=0.1)
    assert "\n" not in str(caught.value)
    DAC(form="watch", stepsize=0.3)


@pytest.mark.parametrize(
    ("base", "rows"),
    [([], False), ([FreeAT(eps=0.1, replays=2)], False), ([BASE], True), ([Smooth(amount=0.1)], False)],
    ids=["clean", "free_at", "pgd_at", "smooth"],
)
def test_certainty_is_a_metric_of_any_run(base, rows):
    """On held-out images under the held-out adversary, against plain PGD on the network; steps are only watched."""
    module = network()
    alone, _ = fit(base, module)
    plan = Plan.of([*base, DAC(form="watch")], FACTS)
    x, y = data()
    held_out = HeldOut(plan, x, y, Threat("linf", EPS), steps=STEPS)
    watched, history = fit([*base, DAC(form="watch")], module, validate=held_out)
    assert_same(watched, alone, atol=0)
    metrics = history.epochs[-1].metrics
    assert ("train/loss/certainty_std" in metrics) == rows

    watched.eval()
    keys, step = Keys(0, 0, torch.arange(len(y))), 2.5 * EPS / STEPS
    adv = (x.double() + (2 * keys.stream("start", 0).uniform((1, 6, 6)) - 1).double() * EPS).clamp(0, 1)
    best, found = adv.clone(), torch.full((len(y),), -math.inf, dtype=torch.float64)
    fallen = torch.zeros(len(y), dtype=torch.bool)
    for number in range(STEPS + 1):
        adv = adv.detach().requires_grad_()
        z = watched(adv)
        loss, wrong = F.cross_entropy(z, y, reduction="none"), z.argmax(1) != y
        better = (wrong & ~fallen) | ((wrong == fallen) & (loss > found))
        best[better], found[better], fallen[better] = adv.detach()[better], loss.detach()[better], wrong[better]
        if number < STEPS:
            (grad,) = torch.autograd.grad(loss.sum(), adv)
            adv = adv.detach() + step * grad.sign()
            adv = torch.minimum(torch.maximum(adv, x - EPS), x + EPS).clamp(0, 1)
    z = watched(best).detach()
    mean = z.mean(1, keepdim=True)
    variance = ((z - mean) ** 2).sum(1) / z.shape[1]
    deviation = (((z - mean) ** 2).sum(1) / (z.shape[1] - 1)).sqrt()
    assert metrics["held_out/certainty_variance"] == pytest.approx(float(variance.mean()), abs=1e-6)
    assert metrics["held_out/certainty_std"] == pytest.approx(float(deviation.mean()), abs=1e-6)


@pytest.mark.parametrize("form", ["code", "paper", "regularizer"])
def test_every_form_measures_held_out_certainty(form):
    plan = Plan.of([BASE, DAC(form=form)], FACTS)
    x, y = data()
    scores = HeldOut(plan, x, y, Threat("linf", EPS), steps=1)(Net(network().float()), plan.compose(), 0)
    assert scores.measures.keys() == {"certainty_variance", "certainty_std"}
    assert HeldOut(plan, x, y, None)(Net(network().float()), plan.compose(), 0).measures == {}


class Stale(Ingredient):
    """Stands for a method that uses the batch's first craft after the classifier has moved."""

    name = "stale"
    paper = Paper("-", "-", "-", 2020)

    def apply(self, plan):
        def make(then):
            def update(step):
                step.craft()
                then(step)

            update.holds_craft = True
            return update

        return plan.wrap(self, make, needs=("adversarial rows",))


def test_an_update_that_holds_its_craft_cannot_go_around_dac():
    with pytest.raises(ComposeError, match="stale needs the batch's adversarial examples to the end, but dac") as error:
        Plan.of([BASE, DAC(), Stale()], FACTS)
    assert error.value.problems[0].names == ("stale", "dac")
    Plan.of([BASE, Stale(), DAC()], FACTS)
    Plan.of([BASE, DAC(form="watch"), Stale()], FACTS)


def classifier():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    return PyTorchClassifier(
        module, loss=nn.CrossEntropyLoss(), input_shape=(1, 6, 6), nb_classes=3, optimizer=optimizer, clip_values=(0, 1)
    )


def test_the_trainer_takes_a_base_and_logs_the_certainty():
    x, y = (part.numpy() for part in data())
    art = classifier()
    with pytest.raises(ConfigError, match="dac goes around the step of another method"):
        DACTrainer(art)
    trainer = DACTrainer(art, PGDAT(eps=0.1), stepsize=0.1, track=False, verbose=False)
    trainer.fit(x, y, nb_epochs=1, batch_size=8)
    assert "train/loss/certainty_std" in trainer.history.epochs[0].metrics
