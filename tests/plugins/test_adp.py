"""ADP against the reference vectors and a plain loop, and the traps of its sheet."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.estimators.classification import PyTorchClassifier
from torch import nn

import art_ext
from art_ext.api import ConfigError, EvaluationContext, EveryTarget, Facts, ModelError, Outputs, Plan, log_mean_softmax
from art_ext.border.art import RecipeTrainer
from art_ext.data.batches import ArrayBatches
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.run import Run, RunSettings
from art_ext.evaluation.suite import Evaluator
from art_ext.evaluation.transfer import mean_off_diagonal, transferability, transferability_matrix
from art_ext.parts.attacks import PGD, for_evaluation
from art_ext.parts.noise import Keys
from art_ext.parts.norms import Linf
from art_ext_adp import (
    ADP,
    ADPAttack,
    ADPLoss,
    ADPTrainer,
    adp_loss,
    ensemble_entropy,
    log_diversity,
    member_ce,
    member_margin,
    sum_of_ce,
)
from art_ext_adp.attacks import ATTACKS, EnsemblePGDOptions
from art_ext_baselines import PGDAT, TRADES

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "adp.json").read_text())
LOSSES = [entry for entry in VECTORS if "logits" in entry["inputs"]]
SHAPE = (1, 6, 6)
FACTS = Facts(4, SHAPE)
SEED = 7


def named(name):
    return next(entry for entry in VECTORS if entry["name"] == name)


def close(got, expected, tolerance):
    expected = torch.tensor(expected, dtype=torch.float64)
    assert (got.double() - expected).abs().max() <= tolerance * (1 + expected.abs().max())


def member(seed, classes=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, classes))


def three(classes=4):
    return art_ext.ensemble([member(seed, classes) for seed in range(3)])


def data(n=24, classes=4):
    y = torch.arange(n) % classes
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.5
    x[torch.arange(n), 0, y] += 0.4
    return x, y


# Formulas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", LOSSES, ids=lambda entry: entry["name"])
def test_the_loss_reproduces_the_reference(entry):
    given, expected, tolerance = entry["inputs"], entry["expected"], entry["tolerance"]
    members = torch.tensor(given["logits"], dtype=torch.float64).transpose(0, 1).requires_grad_()
    y = torch.tensor(given["labels"])
    close(member_ce(members, y).detach(), expected["ce_sum_per_sample"], tolerance)
    close(ensemble_entropy(members, given["log_offset"]).detach(), expected["ensemble_entropy"], tolerance)
    close(log_diversity(members, y, given["det_offset"]).detach(), expected["log_ed"], tolerance)
    loss = adp_loss(members, y, given["alpha"], given["beta"])
    close(loss.detach(), expected["loss_per_sample"], tolerance)
    mixture = log_mean_softmax(members)
    close(mixture.detach().exp(), expected["ensemble_probabilities"], tolerance)
    assert mixture.argmax(1).tolist() == expected["ensemble_prediction"]
    (grad,) = torch.autograd.grad(loss.mean(), members)
    close(grad.transpose(0, 1), expected["grad_logits"], tolerance)


@pytest.mark.parametrize("entry", LOSSES, ids=lambda entry: entry["name"])
def test_float32_logits_lose_nothing_but_their_own_rounding(entry):
    given, expected = entry["inputs"], entry["expected"]
    members = torch.tensor(given["logits"]).transpose(0, 1).requires_grad_()
    loss = adp_loss(members, torch.tensor(given["labels"]), given["alpha"], given["beta"])
    assert loss.dtype == torch.float32
    close(loss.detach(), expected["loss_per_sample"], 1e-5)
    (grad,) = torch.autograd.grad(loss.mean(), members)
    close(grad.transpose(0, 1), expected["grad_logits"], 1e-5)


def stationary_probability(k: int, classes: int, alpha: float) -> float:
    """p = F_y of every member at the minimum for beta = 0: 1/p = (alpha/K) log(p (L-1) / (1-p)), by bisection."""

    def excess(p: float) -> float:
        return alpha / k * math.log(p * (classes - 1) / (1 - p)) - 1 / p

    low, high = 1 / classes, 1 - 1e-16
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return (low + high) / 2


def test_without_beta_the_minimum_is_where_the_theory_says():
    entry = named("adp_stationary_k3_l10_alpha2")
    given = entry["inputs"]
    k, classes, alpha = given["members"], given["num_classes"], given["alpha"]
    p = stationary_probability(k, classes, alpha)
    close(torch.tensor(p, dtype=torch.float64), entry["expected"]["p"], entry["tolerance"])
    probabilities = torch.full((1, k, classes), (1 - p) / (classes - 1), dtype=torch.float64)
    probabilities[..., 4] = p
    members = probabilities.log().requires_grad_()
    (grad,) = torch.autograd.grad(adp_loss(members, torch.tensor([4]), alpha, 0.0).sum(), members)
    assert grad.abs().max() < 1e-9


def test_without_alpha_the_diversity_never_makes_up_for_a_lost_probability():
    """The optimum is one-hot whatever beta: from any point, moving all mass to the true class lowers the loss."""
    y = torch.tensor([0])
    split = torch.log(torch.tensor([[[0.9, 0.1, 1e-9, 1e-9], [0.9, 1e-9, 0.1, 1e-9], [0.9, 1e-9, 1e-9, 0.1]]]))
    sharper = split.clone()
    sharper[..., 0] += 5
    assert adp_loss(sharper, y, 0.0, 0.5) < adp_loss(split, y, 0.0, 0.5)
    torch.testing.assert_close(log_diversity(sharper, y), log_diversity(split, y))


def test_disjoint_false_classes_have_the_largest_diversity():
    # K = 3 divides L - 1 = 6: member k keeps a block of two classes for itself.
    members = torch.full((1, 3, 7), -60.0)
    members[0, :, 6] = 2.0
    for k in range(3):
        members[0, k, 2 * k : 2 * k + 2] = 0.0
    most = 3 * torch.log(torch.tensor(1 + 1e-6, dtype=torch.float64))
    torch.testing.assert_close(log_diversity(members, torch.tensor([6])), most[None], rtol=0, atol=1e-12)
    assert (log_diversity(torch.randn(50, 3, 7), torch.zeros(50, dtype=torch.long)) <= most).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_members_have_the_least_diversity_and_one_gradient(dtype):
    torch.manual_seed(0)
    one = torch.randn(5, 1, 10, dtype=dtype)
    members, y = one.expand(5, 3, 10).clone().requires_grad_(), torch.arange(5)
    value = log_diversity(members, y)
    least = 2 * np.log(1e-6) + np.log(3 + 1e-6)
    torch.testing.assert_close(value.detach(), torch.full((5,), least, dtype=torch.float64), rtol=0, atol=1e-7)
    (grad,) = torch.autograd.grad(value.sum(), members)
    assert torch.isfinite(grad).all()
    torch.testing.assert_close(grad, grad[:, :1].expand_as(grad), rtol=1e-3, atol=1e-3)


def test_saturated_members_have_finite_values_and_gradients():
    members = torch.zeros(1, 3, 10)
    members[..., 2] = 200.0
    members[0, 1, 5] = 199.0
    members.requires_grad_()
    loss = adp_loss(members, torch.tensor([2]))
    (grad,) = torch.autograd.grad(loss.sum(), members)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(grad).all()


def test_the_true_logit_has_no_part_in_the_diversity():
    torch.manual_seed(0)
    members, y = torch.randn(4, 3, 10, requires_grad=True), torch.tensor([0, 3, 9, 5])
    (grad,) = torch.autograd.grad(log_diversity(members, y).sum(), members)
    assert grad[torch.arange(4), :, y].abs().max() == 0


def test_values_are_per_example_and_a_batch_of_one_is_enough():
    torch.manual_seed(0)
    members, y = torch.randn(6, 3, 5), torch.arange(6) % 5
    whole = ADPLoss()(Outputs(log_mean_softmax(members), {"members": members}), y)
    for i in range(6):
        torch.testing.assert_close(adp_loss(members[i : i + 1], y[i : i + 1]), whole[i : i + 1])


def test_smoothed_cross_entropy_weighs_the_true_class_as_the_code_does():
    torch.manual_seed(0)
    members, y, c = torch.randn(4, 2, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 4]), 0.9
    target = torch.full((4, 5), (1 - c) / 4, dtype=torch.float64).scatter(1, y[:, None], c)
    expected = sum(F.cross_entropy(members[:, k], target, reduction="none") for k in range(2))
    torch.testing.assert_close(member_ce(members, y, c), expected)


def test_the_diversity_is_computed_in_float64_under_autocast():
    torch.manual_seed(0)
    members, y = torch.randn(4, 3, 10) * 1e-3, torch.arange(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = log_diversity(members, y)
    torch.testing.assert_close(value, log_diversity(members, y), rtol=0, atol=0)


def test_more_members_than_false_classes_are_warned_of_and_two_classes_refused():
    members = torch.randn(3, 4, 4)
    with pytest.warns(UserWarning, match="4 members have no 4 directions among 3 false classes"):
        ADPLoss()(Outputs(log_mean_softmax(members), {"members": members}), torch.tensor([0, 1, 2]))
    with pytest.raises(ConfigError, match="adp needs three classes or more, got 2"):
        Plan.of([ADP()], Facts(2, SHAPE))


# Against a plain loop ------------------------------------------------------------------------------------------


def plain_loop(net, x, y, *, epochs, size, lr, adversarial):
    """ADP's steps as its code has them, from the engine's keyed noise and batch order."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    order, number = ArrayBatches(x, y, size, SEED), 0
    for epoch in range(epochs):
        for batch in order.epoch(epoch):
            images, labels = batch.x.double(), batch.y
            if adversarial:
                keys = Keys(SEED, epoch, batch.index, step=number)
                eps = (0.01 + (0.05 - 0.01) * keys.stream("radius").of_batch().uniform(())).double()
                assert len(set(eps.tolist())) == 1  # one for the whole batch
                eps = eps[:, None, None, None]
                net.eval()
                noise = 2 * keys.stream("start", 0).uniform(SHAPE).double() - 1
                adv = (images + eps * noise).clamp(0, 1)
                for _ in range(3):
                    adv = adv.detach().requires_grad_()
                    p = torch.stack([F.softmax(m(adv), 1) for m in net.members]).mean(0)
                    (grad,) = torch.autograd.grad(-p.gather(1, labels[:, None]).log().sum(), adv)
                    adv = adv.detach() + 2.5 * eps / 3 * grad.sign()
                    adv = torch.minimum(torch.maximum(adv, images - eps), images + eps).clamp(0, 1)
                images, labels = torch.cat([images, adv]), torch.cat([labels, labels])
            net.train()
            logits = [m(images) for m in net.members]
            probabilities = [F.softmax(z, 1) for z in logits]
            mean = sum(probabilities) / len(logits)
            entropy = -(mean * (mean + 1e-20).log()).sum(1)
            keep = torch.ones_like(mean, dtype=torch.bool).scatter(1, labels[:, None], False)
            M = torch.stack([F.normalize(p[keep].reshape(len(p), -1), dim=1) for p in probabilities], 2)
            led = torch.log(torch.linalg.det(M.transpose(1, 2) @ M + 1e-6 * torch.eye(len(logits), dtype=mean.dtype)))
            ce = sum(F.cross_entropy(z, labels, reduction="none") for z in logits)
            optimizer.zero_grad()
            (ce - 2.0 * entropy - 0.5 * led).mean().backward()
            optimizer.step()
            number += 1


@pytest.mark.parametrize("adversarial", [False, True], ids=["alone", "with drawn eps"])
def test_the_engine_takes_the_steps_of_a_plain_loop(adversarial):
    x, y = data()
    ours, theirs = three(), three().double()
    at = PGDAT(eps={"uniform": [0.01, 0.05], "per": "batch"}, steps=3, augment=True)
    plan = Plan.of([ADP(), *([at] if adversarial else [])], FACTS)
    net = Net(ours, wanted=plan.compose().needs)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    run = Run(RunSettings(accelerator="cpu", precision="64-true"), SEED)
    torch.set_default_dtype(torch.float64)  # fabric hands outputs over in the default type
    try:
        Fit(plan, net, optimizer, run, epochs=2)(ArrayBatches(x, y, 10, SEED))
    finally:
        torch.set_default_dtype(torch.float32)
    plain_loop(theirs, x, y, epochs=2, size=10, lr=0.05, adversarial=adversarial)
    for mine, plain in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine.double(), plain.double(), rtol=1e-7, atol=1e-9)


# Networks that are no ensembles --------------------------------------------------------------------------------


def classifier(model, classes=4, lr=0.01):
    return PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        SHAPE,
        classes,
        optimizer=torch.optim.Adam(model.parameters(), lr=lr),
        clip_values=(0.0, 1.0),
    )


def test_a_single_network_is_refused_with_the_line_of_code():
    with pytest.raises(ModelError, match=r"adp needs the members .* art_ext.ensemble\(\[net_a, net_b, net_c\]\)"):
        ADPTrainer(classifier(member(0)), track=False)
    attack = ADPAttack(classifier(member(0)), eps=0.1)
    with pytest.raises(ModelError, match=r"ADPAttack needs the members .* art_ext.ensemble"):
        attack.generate(data()[0].numpy(), data()[1].numpy())


def test_the_mixture_of_a_single_network_can_be_attacked_all_the_same():
    x, y = data()
    attack = ADPAttack(classifier(member(0)), eps=0.1, steps=2, adversary="margin")
    assert attack.generate(x.numpy(), y.numpy()).shape == x.shape


# ART -----------------------------------------------------------------------------------------------------------


def test_art_trains_an_ensemble_in_place_and_its_predictions_are_log_probabilities():
    x, y = data(32)
    model = three()
    art = classifier(model)
    trainer = ADPTrainer(art, track=False, verbose=False, alpha=1.0)
    before = log_diversity(members_of(model, x), y).mean()
    modes = [part.training for part in model.modules()]
    trainer.fit(x.numpy(), y.numpy(), nb_epochs=30, batch_size=8)
    assert [part.training for part in model.modules()] == modes
    assert art.model is model
    shown = {name: trainer.history.epochs[-1].metrics[f"train/{name}"] for name in (
        "loss", "adp/cross_entropy", "adp/ensemble_entropy", "adp/log_diversity")}  # fmt: skip
    parts = shown["adp/cross_entropy"] - shown["adp/ensemble_entropy"] - 0.5 * shown["adp/log_diversity"]
    assert parts == pytest.approx(shown["loss"], abs=1e-4), "the loss is made of what is shown"
    predictions = art.predict(x.numpy())
    np.testing.assert_allclose(np.exp(predictions).sum(1), 1, rtol=1e-5)
    assert (predictions.argmax(1) == y.numpy()).mean() > 0.9
    assert log_diversity(members_of(model, x), y).mean() > before + 1  # claim (g) 2


def members_of(model, x):
    model.eval()
    with torch.no_grad():
        return torch.stack([m(x) for m in model.members], 1)


@pytest.mark.parametrize("adversary", [objective.name for objective in ADPLoss.adversaries])
def test_each_adversary_attacks_within_its_budget_and_towards_targets(adversary):
    x, y = data()
    model = three()
    attack = ADPAttack(classifier(model), eps=0.1, steps=5, adversary=adversary)
    adv = attack.generate(x.numpy(), y.numpy())
    assert np.abs(adv - x.numpy()).max() <= 0.1 + 1e-6
    assert adv.min() >= 0
    assert adv.max() <= 1
    target = (y + 1) % 4
    towards = ADPAttack(classifier(model), eps=0.3, steps=10, adversary=adversary, targeted=True)
    led = towards.generate(x.numpy(), target.numpy())
    with torch.no_grad():
        gained = model(torch.tensor(led)) - model(x)
    assert gained.gather(1, target[:, None]).mean() > 0


def test_an_unknown_adversary_is_refused():
    with pytest.raises(ConfigError, match="unknown adversary of adp 'member_margim'; did you mean member_margin"):
        ADPAttack(classifier(three()), adversary="member_margim").generate(data()[0].numpy())


def test_the_member_sums_keep_a_gradient_where_the_mixture_has_none():
    """One member that is sure of the true class, in float32, hides the others from the mixture's cross-entropy."""
    members = torch.zeros(1, 3, 4)
    members[0, 0, 1] = 300.0
    members[0, 1, 1] = 300.0
    members[0, 2, 1] = 300.0
    members[0, 2, 2] = 299.0
    members.requires_grad_()
    out = Outputs(log_mean_softmax(members), {"members": members})
    y = torch.tensor([1])
    (hidden,) = torch.autograd.grad(sum_of_ce.measure(out, y).sum(), members, retain_graph=True)
    (margins,) = torch.autograd.grad(member_margin(members, y).sum(), members)
    assert hidden[0, 2].abs().max() > 0.1
    assert (margins[0].abs().amax(1) == 1).all()  # of every member, saturated or not


def test_it_combines_with_other_risks():
    x, y = data()
    model = three()
    trainer = RecipeTrainer(classifier(model), [TRADES(eps=0.05, steps=2), ADP()], track=False, verbose=False)
    trainer.fit(x.numpy(), y.numpy(), nb_epochs=1, batch_size=8)
    assert np.isfinite(trainer.history.epochs[-1].metrics["train/loss"])


# Evaluation ----------------------------------------------------------------------------------------------------


def test_evaluations_name_their_objective():
    context = EvaluationContext(Plan.of([ADP()], FACTS), "linf", 0.15, (0.0, 1.0))
    (entry,) = ATTACKS
    ((name, attack),) = entry.build(EnsemblePGDOptions(), context)
    assert (name, attack.norm) == ("ensemble_pgd40_mean_logits_margin", Linf(0.15))
    assert attack.objective is ADPLoss.adversaries[0]
    ((name, attack),) = entry.build(EnsemblePGDOptions(objective="ce", every_target=True, restarts=2), context)
    assert name == "ensemble_pgd40x2_ce_every"
    assert isinstance(attack, EveryTarget)
    assert attack.n_classes == 4


def test_the_transferability_matrix_reproduces_the_reference():
    entry = named("transfer_2_members")
    clean, adv = (torch.tensor(entry["inputs"][key]).bool() for key in ("clean_correct", "adv_correct"))
    close(transferability_matrix(clean, adv), entry["expected"]["matrix"], entry["tolerance"])
    assert mean_off_diagonal(transferability_matrix(clean, adv)) == 0.25


def test_transfer_without_an_eligible_image_is_missing():
    matrix = transferability_matrix(torch.tensor([[True, False], [False, True]]), torch.zeros(2, 2, 2).bool())
    assert torch.isnan(matrix[0, 1])
    assert matrix.diagonal().tolist() == [1.0, 1.0]
    assert np.isnan(mean_off_diagonal(matrix))


def test_the_page_s_transferability_of_an_art_classifier_runs_on_arrays():
    page = (Path(__file__).parents[2] / "plugins" / "art_ext_adp" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    x, y = data()
    classifier = PyTorchClassifier(three().eval(), nn.CrossEntropyLoss(), tuple(x.shape[1:]), 3, clip_values=(0, 1))
    scope = {"classifier": classifier, "x": x.numpy(), "y": y.numpy()}
    exec(compile(code, "README.md", "exec"), scope)
    members = [Evaluator(Net(member), x, y) for member in classifier.model.members]
    expected = transferability(members, for_evaluation(PGD(Linf(0.15), 10)))
    torch.testing.assert_close(scope["matrix"], expected, rtol=0, atol=0, equal_nan=True)


def test_transferability_crafts_on_each_member_and_asks_all():
    x, y = data()
    nets = [Evaluator(Net(each.eval()), x, y) for each in three().members]
    matrix = transferability(nets, for_evaluation(PGD(Linf(0.5), 5)))
    assert matrix.shape == (3, 3)
    with pytest.raises(ConfigError, match="two networks or more"):
        transferability(nets[:1], for_evaluation(PGD(Linf(0.5), 5)))


@pytest.mark.parametrize("options", [{"alpha": -1}, {"beta": "x"}, {"label_smooth": 0}, {"label_smooth": 1.1}])
def test_impossible_options(options):
    with pytest.raises(ConfigError, match=f"adp.{next(iter(options))}: "):
        ADP(**options)


def test_a_true_class_below_chance_is_refused():
    with pytest.raises(ConfigError, match=r"adp\.label_smooth must be above 1/4"):
        Plan.of([ADP(label_smooth=0.2)], FACTS)
