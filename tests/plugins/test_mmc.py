"""MMC, MM-LDA and their comparators: vectors, geometry, traps, one training step by hand, ART."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.estimators.classification import PyTorchClassifier
from tiny import plain_network
from torch import nn

import art_ext_mmc as mmc
import art_ext_rce as rce
from art_ext.api import (
    PGD,
    ComposeError,
    ConfigError,
    CrossEntropy,
    EvaluationContext,
    EveryTarget,
    Facts,
    Ingredient,
    Keys,
    Linf,
    ModelError,
    Outputs,
    Plan,
    RandomTarget,
    Target,
    ZeroStart,
    ce,
    cw,
    wrong_classes,
)
from art_ext.data.batches import ArrayBatches
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.run import Run, RunSettings
from art_ext_baselines import PGDAT, TRADES
from art_ext_mmc.attacks import ATTACKS, CenterPGDOptions, build_center_pgd
from art_ext_mmc.losses import of_class

FACTS = Facts(4, (1, 6, 6))
VECTORS = {e["name"]: e for e in json.loads((Path(__file__).parents[1] / "vectors" / "mmc.json").read_text())}
KINDS = [(torch.float64, None), (torch.float32, "float32")]


def close(got, expected, entry, kind=None):
    expected = torch.as_tensor(expected, dtype=torch.float64).expand(got.shape)
    if kind is None:
        bound = entry["tolerance"] * (1 + expected.abs().max())
        assert (got.double() - expected).abs().max() <= bound
    else:
        loose = entry["tolerance_float32"]
        torch.testing.assert_close(got.double(), expected, rtol=loose["rtol"], atol=loose["atol"])


def data(n=24, n_classes=4):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 6, 6, generator=generator), torch.arange(n) % n_classes


def fixed(ingredient=None, n_classes=4):
    """A network after the ingredient's surgery."""
    plan = Plan.of([ingredient or mmc.MMC(dim=8)], Facts(n_classes, (1, 6, 6)))
    return plan.operate(plain_network(n_classes)), plan


# ------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("name", [name for name in VECTORS if name.startswith("centers")])
@pytest.mark.parametrize(("dtype", "kind"), KINDS)
def test_centers_reproduce_the_reference(name, dtype, kind):
    entry = VECTORS[name]
    given, expected = entry["inputs"], entry["expected"]
    mu = mmc.mm_centers(given["num_classes"], given["feature_dim"], given["scale"]).to(dtype)
    gram = mu @ mu.T
    off = ~torch.eye(len(mu), dtype=torch.bool)
    close(gram.diagonal(), expected["gram_diagonal"], entry, kind)
    close(gram[off], expected["gram_off_diagonal"], entry, kind)
    distances = torch.cdist(mu, mu, compute_mode="donot_use_mm_for_euclid_dist").square()[off]
    close(distances, expected["pair_distance_squared"], entry, kind)
    close(mu.sum(0), expected["sum_of_centers"], entry, kind)
    assert int((mu != 0).any(0).sum()) == expected["nonzero_columns"]
    if "centers" in expected:
        close(mu, expected["centers"], entry, kind)
    else:
        close(mu[1, :5], expected["row_2_first_5"], entry, kind)
        close(mu[-1, :5], expected["last_row_first_5"], entry, kind)


def recursion(L, d, s):
    """The paper's algorithm, entry by entry."""
    mu = torch.zeros(L, d, dtype=torch.float64)
    mu[0, 0] = 1
    for k in range(1, L):
        for j in range(k):
            mu[k, j] = -(1 / (L - 1) + mu[k] @ mu[j]) / mu[j, j]
        if k < L - 1:
            mu[k, k] = (1 - mu[k] @ mu[k]).clamp(min=0).sqrt()
    return s * mu


@pytest.mark.parametrize(("L", "d"), [(2, 1), (3, 2), (10, 9), (50, 60), (100, 99)])
def test_the_closed_form_is_the_recursion(L, d):
    torch.testing.assert_close(mmc.mm_centers(L, d, 10.0), recursion(L, d, 10.0), rtol=0, atol=1e-9)


def test_two_classes_on_a_line_sit_at_both_ends():
    assert mmc.mm_centers(2, 1, 10.0).tolist() == [[10.0], [-10.0]]


def test_more_classes_than_dimensions_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"dim 64 is below 99.*set dim to 99 or more$"):
        mmc.mm_centers(100, 64, 1.0)
    with pytest.raises(ConfigError, match=r"mmc: dim 2 is below 3.*set dim to 3 or more, or centers to optimised$"):
        Plan.of([mmc.MMC(dim=2)], FACTS)
    with pytest.raises(ConfigError, match=r"mm_lda: dim 2.*set dim to 3 or more$"):
        Plan.of([mmc.MMLDA(dim=2)], FACTS)
    with pytest.raises(ConfigError, match="dim 1 has two centres only"):
        Plan.of([mmc.MMC(dim=1, centers="optimised")], FACTS)
    for seed in range(2):
        with pytest.raises(ConfigError, match=r"^mmc_rand: dim 1 .*random centres coincide; set dim to 2 or more$"):
            Plan.of([mmc.MMCRand(dim=1, center_seed=seed)], FACTS)


@pytest.mark.parametrize(
    ("L", "d", "largest"),
    [(4, 3, -1 / 3), (6, 4, 0.0), (8, 4, 0.0), (7, 2, float(np.cos(2 * np.pi / 7)))],
)
def test_optimised_centers_keep_their_distance(L, d, largest):
    mu = mmc.optimised_centers(L, d, 5.0)
    assert mu.shape == (L, d)
    torch.testing.assert_close(mu.norm(dim=1), torch.full((L,), 5.0, dtype=torch.float64))
    gram = (mu @ mu.T / 25).masked_fill(torch.eye(L, dtype=torch.bool), -1)
    assert gram.max() <= largest + 1e-9
    assert torch.equal(mu, mmc.optimised_centers(L, d, 5.0))


def test_random_centers_have_the_norm_and_follow_the_seed():
    mu = mmc.random_centers(10, 16, 10.0, 0)
    torch.testing.assert_close(mu.norm(dim=1), torch.full((10,), 10.0, dtype=torch.float64))
    assert torch.equal(mu, mmc.random_centers(10, 16, 10.0, 0))
    assert not torch.equal(mu, mmc.random_centers(10, 16, 10.0, 1))


@pytest.mark.parametrize("name", ["mmc_L3_d2", "mmc_L10_d12_scale10"])
@pytest.mark.parametrize(("dtype", "kind"), KINDS)
def test_losses_and_adaptive_objectives_reproduce_the_reference(name, dtype, kind):
    entry = VECTORS[name]
    given, expected = entry["inputs"], entry["expected"]
    mu = mmc.mm_centers(given["num_classes"], given["feature_dim"], given["scale"]).to(dtype)
    z = torch.tensor(given["features"], dtype=dtype, requires_grad=True)
    y, t = torch.tensor(given["labels"]), torch.tensor(given["targets"])
    logits = -mmc.squared_distances(z, mu)
    close(logits.detach(), expected["test_logits_minus_d2"], entry, kind)
    predicted = [p for p in expected["prediction"] if p is not None]
    assert logits.argmax(1)[: len(predicted)].tolist() == predicted
    for loss, word in (
        (mmc.mmc_loss(logits, y).mean(), "mmc"),
        (F.cross_entropy(logits / 2, y), "mmlda"),
    ):
        close(loss.detach(), expected[f"{word}_loss"], entry, kind)
        (grad,) = torch.autograd.grad(loss, z, retain_graph=True)
        close(grad, expected[f"grad_{word}"], entry, kind)
    close(mmc.mmc_loss(logits, y, 1.0).mean().detach(), expected["mmc_loss_without_half"], entry, kind)
    out = Outputs(logits.detach())
    far, near = mmc.center_distance.bind(None, None, y), mmc.center_distance.bind(None, None, t, targeted=True)
    close(far.value(out), expected["attack_untargeted_per_sample"], entry, kind)
    close(near.value(out), expected["attack_targeted_per_sample"], entry, kind)
    close(cw.bind(None, None, y).value(out), expected["attack_margin_per_sample"], entry, kind)


def quadratic_head(mu, S, B):
    """The head of g-SCE in full, with these numbers in the places of its weights; S = A^T A by Cholesky."""
    head = mmc.QuadraticHead(mu.shape[1], len(mu), None, "full").to(mu.dtype)
    for weight, value in ((head.mu, mu), (head.root, torch.linalg.cholesky(S).mT), (head.bias, B)):
        weight.data.copy_(value)
    return head


@pytest.mark.parametrize(("dtype", "kind"), KINDS)
def test_gsce_reproduces_the_reference(dtype, kind):
    entry = VECTORS["gsce_general_k3_d2"]
    given, expected = entry["inputs"], entry["expected"]
    z = torch.tensor(given["features"], dtype=dtype, requires_grad=True)
    mu, S, B = (torch.tensor(given[name], dtype=dtype) for name in ("mu", "S", "B"))
    logits = quadratic_head(mu, S, B)(z)
    close(logits.detach(), expected["logits"], entry, kind)
    loss = F.cross_entropy(logits, torch.tensor(given["labels"]))
    close(loss.detach(), expected["loss"], entry, kind)
    close(torch.autograd.grad(loss, z)[0], expected["grad_features"], entry, kind)


@pytest.mark.parametrize(("dtype", "kind"), KINDS)
def test_an_ordinary_linear_layer_is_a_member_of_gsce(dtype, kind):
    entry = VECTORS["gsce_equals_sce"]
    given, expected = entry["inputs"], entry["expected"]
    z, W, b = (torch.tensor(given[name], dtype=dtype) for name in ("features", "W", "b"))
    S = torch.eye(W.shape[1], dtype=dtype).expand(len(W), -1, -1)
    logits = quadratic_head(W / 2, S, b + W.square().sum(1) / 4)(z)
    loss = F.cross_entropy(logits, torch.tensor(given["labels"]))
    close(loss.detach(), expected["gsce_loss"], entry, kind)
    close(F.cross_entropy(z @ W.T + b, torch.tensor(given["labels"])), expected["sce_loss"], entry, kind)


@pytest.mark.parametrize("shape", ["identity", "diagonal", "full"])
def test_quadratic_heads_are_members_of_gsce(shape):
    torch.manual_seed(0)
    head = mmc.QuadraticHead(5, 3, None, shape).double().requires_grad_(False)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    z = torch.randn(4, 5, dtype=torch.float64)
    S = {
        "identity": lambda: 0.5 * torch.eye(5, dtype=torch.float64).expand(3, 5, 5),
        "diagonal": lambda: 0.5 * torch.diag_embed(torch.exp(-head.log_variance)),
        "full": lambda: head.root.mT @ head.root,
    }[shape]()
    expected = torch.tensor([[head.bias[k] - (z[i] - head.mu[k]) @ S[k] @ (z[i] - head.mu[k]) for k in range(3)]
                             for i in range(4)], dtype=torch.float64)  # fmt: skip
    torch.testing.assert_close(head(z), expected)


def test_lgm_is_the_margin_loss_of_gaussians():
    torch.manual_seed(0)
    head = mmc.QuadraticHead(5, 3, None, "diagonal", log_determinant=True).double()
    nn.init.normal_(head.log_variance)
    z, y = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    net = Net(head, wanted=frozenset({"distances"}))
    got = mmc.LGMLoss(alpha=0.3, lam=0.1)(net(z), y)
    precision, log_det = torch.exp(-head.log_variance), head.log_variance.sum(1)
    for i in range(4):
        d = torch.stack([0.5 * ((z[i] - head.mu[k]) ** 2 * precision[k]).sum() for k in range(3)])
        scale = 1 + 0.3 * F.one_hot(y[i], 3)
        p = torch.exp(-d * scale) * torch.exp(-0.5 * log_det)
        expected = -torch.log(p[y[i]] / p.sum()) + 0.1 * (d[y[i]] + 0.5 * log_det[y[i]])
        torch.testing.assert_close(got[i], expected)


def test_the_centre_gradient_of_center_loss_is_delta_c():
    torch.manual_seed(0)
    head = mmc.CenterHead(nn.Linear(5, 3), 5, 3).double()
    nn.init.normal_(head.centers)
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 0, 1, 1, 1, 0])
    net = Net(head, wanted=mmc.CenterPull.needs)
    loss = mmc.CenterPull(lam=0.2, alpha=0.5)(net(x), y)
    expected = F.cross_entropy(head.linear(x), y, reduction="none") + 0.1 * (x - head.centers[y]).square().sum(1)
    torch.testing.assert_close(loss, expected)
    grad, x_grad = torch.autograd.grad(loss.mean(), [head.centers, x])
    for j in range(3):
        members = x[y == j].detach()
        delta = (head.centers[j] - members).sum(0) / (1 + len(members))
        torch.testing.assert_close(grad[j], 0.5 * delta)
    torch.testing.assert_close(x_grad, torch.autograd.grad(expected.mean(), x)[0])


# ---------------------------------------------------------------------------------------- traps


def test_cross_entropy_sees_no_gradient_where_the_adaptive_objectives_do():
    entry = VECTORS["saturation_of_soft_max_on_mmc_logits"]
    mu = mmc.mm_centers(10, 12, 10.0).float()
    z = (mu + 0.01).requires_grad_()
    y = torch.arange(10)
    out = Outputs(-mmc.squared_distances(z, mu))
    gap = out.logits.detach().topk(2).values
    assert float((gap[:, 0] - gap[:, 1]).mean()) == pytest.approx(entry["expected"]["logit_gap"], rel=1e-3)
    wrong = F.softmax(out.logits.detach(), 1) * (1 - torch.eye(10))
    assert float(wrong.max()) == entry["expected"]["float32_softmax_of_wrong_class"] == 0
    assert float(torch.autograd.grad(ce.measure(out, y).sum(), z, retain_graph=True)[0].abs().max()) == 0
    loss = mmc.MMCLoss()
    assert loss.saturates_softmax
    assert ce not in loss.adversaries
    for objective in loss.adversaries:
        grad = torch.autograd.grad(objective.measure(out, y).sum(), z, retain_graph=True)[0]
        assert (grad.norm(dim=1) > 1e-4).all(), objective


def test_differences_stay_exact_at_a_norm_of_100():
    mu = mmc.mm_centers(10, 12, 100.0)
    z = mu + 1e-3
    expanded = z.float().square().sum(1)[:, None] - 2 * z.float() @ mu.float().T + mu.float().square().sum(1)
    exact = mmc.squared_distances(z, mu).diagonal()
    assert (mmc.squared_distances(z.float(), mu.float()).diagonal() / exact - 1).abs().max() < 0.02
    assert (expanded.diagonal() / exact - 1).abs().max() > 1


@pytest.mark.parametrize("norm", [10.0, 100.0])
def test_the_loss_begins_near_half_the_squared_norm_and_falls_at_a_rate_for_it(norm):
    model, plan = fixed(mmc.MMC(dim=8, center_norm=norm))
    (x, y), criterion = data(), plan.compose().criterion
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1 / norm), []
    for _ in range(200):
        losses.append(criterion(Outputs(model(x)), y).mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert float(losses[0].detach()) == pytest.approx(norm**2 / 2, rel=0.05)
    assert float(losses[-1].detach()) < 0.8 * float(losses[0].detach())


def test_the_head_answers_in_distances_and_its_centres_are_a_buffer():
    model, _ = fixed(mmc.MMC(dim=8, center_norm=3))
    head = model[-1]
    assert isinstance(head, mmc.MMHead)
    assert "centers" in head.state_dict()
    assert "centers" not in dict(head.named_parameters())
    assert isinstance(head.embed, nn.Linear)
    x, _ = data(3)
    z = head.embed(model[:-1](x))
    torch.testing.assert_close(model(x), -(z[:, None] - head.centers).square().sum(-1))
    assert model(x[:1]).shape == (1, 4)
    assert bool((head.centers < 0).any())


def test_surgery_is_done_once_and_other_centres_are_refused():
    model, plan = fixed(mmc.MMC(dim=8))
    head = model[-1]
    assert plan.operate(model)[-1] is head
    for other in (mmc.MMC(dim=8, center_norm=5), mmc.MMC(dim=9), mmc.MMLDA(dim=8), mmc.MMCRand(dim=8)):
        with pytest.raises(ModelError, match="other fixed centres"):
            Plan.of([other], FACTS).operate(model)


class Smooth(Ingredient):
    name = "smooth_for_test"

    def apply(self, plan):
        class Distributions(Target):
            gives_distributions = True

        return plan.fill(self, target=Distributions())


def test_what_contradicts_a_saturated_softmax_is_refused_with_both_names():
    with pytest.raises(ComposeError, match="trades compares softmax outputs, but the logits of mmc"):
        Plan.of([TRADES(), mmc.MMC(dim=8)], FACTS)
    with pytest.raises(ComposeError, match=r"mmc needs one true class.*smooth_for_test"):
        Plan.of([mmc.MMC(dim=8), Smooth()], FACTS)
    with pytest.raises(ComposeError, match="mmc and mmc_rand both set the criterion"):
        Plan.of([mmc.MMC(dim=8), mmc.MMCRand(dim=8)], FACTS)
    assert isinstance(Plan.of([TRADES(), Smooth(), mmc.MMLDA(dim=8)], FACTS).compose().criterion, CrossEntropy)


def test_adversarial_training_crafts_on_the_centre_distance():
    plan = Plan.of([PGDAT(), mmc.MMC(dim=8)], FACTS)
    assert plan.compose().attack.objective is mmc.center_distance
    assert any("altered by mmc" in owner for _, _, owner in plan.describe())
    margin = Plan.of([PGDAT(objective="margin"), mmc.MMC(dim=8)], FACTS)
    assert margin.compose().attack.objective is cw
    assert Plan.of([PGDAT(objective="criterion"), mmc.MMC(dim=8)], FACTS).compose().attack.objective is cw
    assert Plan.of([PGDAT(), mmc.MMLDA(dim=8)], FACTS).compose().attack.objective is ce


def test_the_order_in_which_centres_and_attack_are_listed_does_not_matter():
    for recipe in ([mmc.MMC(dim=8), PGDAT()], [PGDAT(), mmc.MMC(dim=8)]):
        assert Plan.of(recipe, FACTS).compose().attack.objective is mmc.center_distance
    assert Plan.of([mmc.MMC(dim=8)], FACTS).compose().attack is None


@pytest.mark.parametrize(
    ("ingredient", "fields"),
    [
        (mmc.MMC, {"center_norm": 0}),
        (mmc.MMC, {"dim": 0}),
        (mmc.MMC, {"form": "both"}),
        (mmc.MMC, {"centre_norm": 1}),
        (mmc.MMCRand, {"center_seed": -1}),
        (mmc.LGM, {"alpha": -1}),
        (mmc.GSCE, {"shape": "round"}),
        (mmc.CenterLoss, {"lam": float("nan")}),
    ],
)
def test_impossible_options_are_refused(ingredient, fields):
    with pytest.raises(ConfigError):
        ingredient(**fields)


# ------------------------------------------------------------------------------- targeted attacks


def test_wrong_classes_are_wrong_uniform_and_keyed():
    y = torch.arange(9000) % 4
    keys = Keys(0, 0, torch.arange(9000))
    drawn = wrong_classes(keys, y, 4)
    assert bool((drawn != y).all())
    shares = torch.bincount((drawn - y) % 4, minlength=4) / len(y)
    assert shares[1:].sub(1 / 3).abs().max() < 0.02
    assert torch.equal(drawn[100:200], wrong_classes(keys[100:200], y[100:200], 4))
    assert bool((wrong_classes(keys, y % 2, 2) == 1 - y % 2).all())
    with pytest.raises(ConfigError):
        wrong_classes(keys, y, 1)


def test_targets_are_reached_for_and_every_target_is_the_strongest():
    model, _ = fixed()
    net, (x, y) = Net(model.eval()), data()
    with torch.no_grad():
        y = net(x).logits.argmax(1)
    keys = Keys(0, 0, torch.arange(len(x)))
    common = {"norm": Linf(0.1), "steps": 5, "objective": mmc.center_distance, "keep": "best"}
    score = mmc.center_distance.bind(net, x, y)
    made = RandomTarget(**common, n_classes=4).craft(net, x, score, keys)
    target = wrong_classes(keys, y, 4)
    logit = of_class(net(made.x).logits, target)
    assert (logit > of_class(net(x).logits, target)).all()
    told = mmc.center_distance.bind(net, x, target, targeted=True)
    assert torch.equal(RandomTarget(**common, n_classes=4).craft(net, x, told, keys).x, made.x)
    every = EveryTarget(**common, n_classes=4, stop_when_wrong=True).craft(net, x, score, keys)
    for result in (made, every):
        assert float(result.delta.abs().max()) <= 0.1 + 1e-6
        assert 0 <= float(result.x.min()) <= float(result.x.max()) <= 1
    fallen, one = (score.wrong(net(r.x)) for r in (every, made))
    assert fallen.sum() >= one.sum()
    attack, rows = EveryTarget(**common, n_classes=4, stop_when_wrong=True), [slice(i, i + 1) for i in range(6)]
    alone = torch.cat([attack.craft(net, x[row], score[row], keys[row]).x for row in rows])
    torch.testing.assert_close(alone, every.x[:6])


def test_targets_need_an_objective_that_can_be_lowered():
    with pytest.raises(ConfigError, match="kl_to_clean has no targeted form"):
        Plan.of([PGDAT(objective="kl_to_clean", random_target=True)], FACTS)
    with pytest.raises(ConfigError, match="two classes or more"):
        RandomTarget(Linf(0.1), n_classes=1)


@pytest.mark.parametrize(("target", "name"), [("none", "un"), ("random", "tar"), ("every", "every")])
def test_evaluations_name_the_attack(target, name):
    (entry,) = ATTACKS
    context = EvaluationContext(Plan.of([mmc.MMC(dim=8)], FACTS), "linf", 0.1, (0.0, 1.0))
    ((label, attack),) = entry.build(CenterPGDOptions(target=target, steps=3), context)
    assert label == f"center_pgd3_{name}"
    assert attack.objective is mmc.center_distance
    assert entry.build is build_center_pgd


# ----------------------------------------------------------------------------------- one training


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("form", ["paper", "code"])
def test_training_is_the_plain_loop(targeted, form):
    x, y = data()
    eps, steps, lr, epochs = 0.1, 3, 0.02, 2
    plan = Plan.of([PGDAT(eps=eps, steps=steps, random_target=targeted), mmc.MMC(dim=8, form=form)], FACTS)
    ours, plain = (plan.operate(plain_network()).double() for _ in range(2))
    optimizer = torch.optim.SGD(ours.parameters(), lr=lr, momentum=0.9)
    batches = ArrayBatches(x, y, 8, 0)
    fit = Fit(plan, Net(ours), optimizer, Run(RunSettings(precision="64-true"), 0, torch.device("cpu")), epochs=epochs)
    fit(batches)

    optimizer = torch.optim.SGD(plain.parameters(), lr=lr, momentum=0.9)
    factor = 0.5 if form == "paper" else 1.0
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            keys, clean = Keys(0, epoch, batch.index), batch.x.double()
            start = (2 * keys.stream("start", 0).uniform((1, 6, 6)) - 1).double() * eps
            target = (batch.y + 1 + (keys.stream("target").uniform(()).flatten() * 3).long()) % 4
            adv = (clean + start).clamp(0, 1)
            for _ in range(steps):
                adv.requires_grad_()
                z = plain[-1].embed(plain[:-1](adv))
                mu = plain[-1].centers[target if targeted else batch.y]
                distance = (z - mu).square().sum()
                (grad,) = torch.autograd.grad(-distance if targeted else distance, adv)
                adv = adv.detach() + 2.5 * eps / steps * grad.sign()
                adv = torch.minimum(torch.maximum(adv, clean - eps), clean + eps).clamp(0, 1)
            z = plain[-1].embed(plain[:-1](adv))
            loss = factor * (z - plain[-1].centers[batch.y]).square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for got, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        # lightning-fabric hands the logits of a 64-true pass over in float32: that is all the two may differ by.
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours[-1].centers, plain[-1].centers)


def mm_lda_loss(form):
    factor = 0.5 if form == "paper" else 1.0
    mu = recursion(4, 8, 3.0).float().double()  # as a network in float32 keeps them

    def loss(w, z, y):
        z = z @ w["embed.weight"].T + w["embed.bias"]
        exponent = torch.stack([torch.stack([-factor * ((row - m) ** 2).sum() for m in mu]) for row in z])
        return -(exponent.exp() / exponent.exp().sum(1, keepdim=True))[range(len(y)), y].log().mean()

    return loss


def center_loss_loss(lam):
    def loss(w, x, y):
        logits = x @ w["linear.weight"].T + w["linear.bias"]
        pull = sum(((row - w["centers"].detach()[label]) ** 2).sum() for row, label in zip(x, y, strict=True))
        return F.cross_entropy(logits, y) + lam / 2 * pull / len(y)

    return loss


def center_step(alpha):
    """alpha delta c_j of Wen et al., eq. (4), as the gradient of centre j."""

    def gradients(w, x, y):
        steps = []
        for label, center in enumerate(w["centers"].detach()):
            own = [row for row, its in zip(x.detach(), y.tolist(), strict=True) if its == label]
            steps.append(alpha * sum((center - row for row in own), torch.zeros_like(center)) / (1 + len(own)))
        return {"centers": torch.stack(steps)}

    return gradients


def gaussian(w, z, label):
    """(d_l, 1/2 log |Lambda_l|) of rows (N, d) to class l, for a diagonal Lambda, or none."""
    variance = w["log_variance"][label].exp() if "log_variance" in w else torch.ones_like(w["mu"][label])
    return 0.5 * ((z - w["mu"][label]) ** 2 / variance).sum(1), 0.5 * variance.log().sum()


def l_gm_loss(alpha, lam):
    def loss(w, z, y):
        z = z @ w["embed.weight"].T + w["embed.bias"] if "embed.weight" in w else z
        total = 0.0
        for row, own in zip(z[:, None], y.tolist(), strict=True):
            distances, logs = zip(*(gaussian(w, row, label) for label in range(4)), strict=True)
            weights = [
                torch.exp(-d * (1 + alpha * (label == own)) - log)
                for label, (d, log) in enumerate(zip(distances, logs, strict=True))
            ]
            total = total - (weights[own] / sum(weights)).log() + lam * (distances[own] + logs[own])
        return total.mean() / len(y)

    return loss


def g_sce_loss(w, z, y):
    z = z @ w["embed.weight"].T + w["embed.bias"] if "embed.weight" in w else z
    eye = torch.eye(z.shape[1], dtype=z.dtype)
    logits = []
    for label in range(4):
        gap, S = z - w["mu"][label], eye / 2
        if "root" in w:
            S = w["root"][label].T @ w["root"][label]
        elif "log_variance" in w:
            S = torch.diag(torch.exp(-w["log_variance"][label])) / 2
        logits.append(-(gap @ S * gap).sum(1) + w["bias"][label])
    return F.cross_entropy(torch.stack(logits, 1), y)


BY_HAND = {
    "mm_lda": (mmc.MMLDA(dim=8, center_norm=3), mm_lda_loss("paper"), None),
    "mm_lda of the code": (mmc.MMLDA(dim=8, center_norm=3, form="code"), mm_lda_loss("code"), None),
    "center_loss": (mmc.CenterLoss(lam=0.05, alpha=0.7), center_loss_loss(0.05), center_step(0.7)),
    "l_gm": (mmc.LGM(alpha=0.3, lam=0.2), l_gm_loss(0.3, 0.2), None),
    "l_gm, diagonal": (mmc.LGM(alpha=0.3, lam=0.2, covariance="diagonal", dim=5), l_gm_loss(0.3, 0.2), None),
    "g_sce": (mmc.GSCE(), g_sce_loss, None),
    "g_sce, diagonal": (mmc.GSCE(shape="diagonal", dim=5), g_sce_loss, None),
    "g_sce, full": (mmc.GSCE(shape="full", dim=4), g_sce_loss, None),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_the_comparators_train_as_the_plain_loop(name):
    """Features z of the network's body and the head's weights w, everything written out; float64, nine steps."""
    ingredient, loss_of, gradients_of = BY_HAND[name]
    plan, lr, epochs = Plan.of([ingredient], FACTS), 0.02, 3
    start = plan.operate(plain_network()).double()
    ours, plain = copy.deepcopy(start), copy.deepcopy(start)
    batches, run = ArrayBatches(*data(), 8, 0), Run(RunSettings(precision="64-true"), 0, torch.device("cpu"))
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # fabric hands outputs over in the default type
    try:
        optimizer = torch.optim.SGD(ours.parameters(), lr=lr, momentum=0.9)
        Fit(plan, Net(ours, wanted=plan.compose().needs), optimizer, run, epochs=epochs)(batches)
    finally:
        torch.set_default_dtype(usual)

    optimizer = torch.optim.SGD(plain.parameters(), lr=lr, momentum=0.9)
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            w, z = dict(plain[-1].named_parameters()), plain[:-1](batch.x.double())
            optimizer.zero_grad()
            loss_of(w, z, batch.y).backward()
            for weight, gradient in ({} if gradients_of is None else gradients_of(w, z, batch.y)).items():
                w[weight].grad = gradient
            optimizer.step()
    for (weight, got), expected in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11, msg=lambda m, weight=weight: f"{weight}: {m}")
        assert not torch.equal(got, dict(start.named_parameters())[weight]), f"{weight} did not move"


@pytest.mark.parametrize(
    "ingredient",
    [mmc.MMC(dim=8), mmc.MMC(dim=2, centers="optimised"), mmc.MMCRand(dim=2), mmc.MMLDA(dim=8), mmc.CenterLoss(),
     mmc.LGM(), mmc.LGM(covariance="diagonal", dim=5), mmc.GSCE(), mmc.GSCE(shape="full", dim=4)],
    ids=lambda i: f"{i.name}",
)  # fmt: skip
def test_every_ingredient_trains_alone_and_with_pgd_at(ingredient):
    x, y = data()
    for others in ([], [PGDAT(eps=0.1, steps=2)]):
        plan = Plan.of([ingredient, *others], FACTS)
        model = plan.operate(plain_network())
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        net = Net(model, wanted=plan.compose().needs)
        fit = Fit(plan, net, optimizer, Run(RunSettings(), 0, torch.device("cpu")), epochs=4)
        history = fit(ArrayBatches(x, y, 24, 0))
        assert history.epochs[-1].metrics["train/loss"] < history.epochs[0].metrics["train/loss"]
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert moved == {name for name, _ in model.named_parameters()}


# --------------------------------------------------------------------------------------------- ART


def classifier(n_classes=3):
    model = plain_network(n_classes)
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 6, 6), n_classes,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.003, momentum=0.9), clip_values=(0, 1),
    )  # fmt: skip


def separable(n=60):
    generator = torch.Generator().manual_seed(2)
    y = torch.arange(n) % 3
    x = 0.2 * torch.rand(n, 1, 6, 6, generator=generator)
    for label in range(3):
        x[y == label, :, 2 * label : 2 * label + 2] += 0.7
    return x.numpy(), y.numpy()


def test_art_trains_the_new_head_and_the_attacks_find_its_weakness():
    victim, (x, y) = classifier(), separable()
    model = victim.model
    trainer = mmc.MMCTrainer(victim, dim=8, track=False)
    trainer.fit(x, y, nb_epochs=25, batch_size=20)
    assert victim.model is model
    assert isinstance(model[-1], mmc.MMHead)
    assert (victim.predict(x).argmax(1) == y).mean() > 0.9
    trainer.fit(x, y, nb_epochs=1, batch_size=20)

    adv = mmc.MMCAttack(victim, eps=0.3, steps=10).generate(x, y)
    goal = (y + 1) % 3
    hit = mmc.MMCAttack(victim, eps=0.3, steps=10, targeted=True).generate(x, goal)
    picked = np.arange(len(y)), goal
    assert (victim.predict(hit)[picked] >= victim.predict(x)[picked]).all()
    assert (victim.predict(adv).argmax(1) != y).mean() > 0.3


HEADS = {
    "mmc": lambda victim: mmc.MMCTrainer(victim, dim=8, track=False),
    "center_loss": lambda victim: mmc.CenterLossTrainer(victim, track=False),
    "l_gm": lambda victim: mmc.LGMTrainer(victim, track=False),
    "rce": lambda victim: rce.RCETrainer(victim, track=False),
}


@pytest.mark.parametrize("before", HEADS)
@pytest.mark.parametrize("after", HEADS)
def test_a_head_goes_neither_into_nor_around_that_of_another_method(before, after):
    victim, (x, y) = classifier(), separable()
    HEADS[before](victim).fit(x, y, nb_epochs=1, batch_size=20)
    if before == after:
        HEADS[after](victim).fit(x, y, nb_epochs=1, batch_size=20)
        return
    weights = {name: value.clone() for name, value in victim.model.state_dict().items()}
    with pytest.raises(ModelError, match=r"which another method put in|rce cannot train this classifier"):
        HEADS[after](victim).fit(x, y, nb_epochs=1, batch_size=20)
    assert all(torch.equal(value, weights[name]) for name, value in victim.model.state_dict().items())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda v: mmc.LGMTrainer(v, track=False), lambda v: mmc.LGMTrainer(v, covariance="diagonal", track=False)),
        (lambda v: mmc.GSCETrainer(v, dim=8, track=False), lambda v: mmc.GSCETrainer(v, dim=4, track=False)),
        (lambda v: mmc.GSCETrainer(v, shape="full", track=False), lambda v: mmc.LGMTrainer(v, track=False)),
    ],
    ids=["covariance", "dim", "method"],
)
def test_a_head_with_other_options_is_refused(first, second):
    victim, (x, y) = classifier(), separable()
    first(victim).fit(x, y, nb_epochs=1, batch_size=20)
    first(victim).fit(x, y, nb_epochs=1, batch_size=20)
    with pytest.raises(ModelError, match=r"QuadraticHead was made with other options than those asked for"):
        second(victim).fit(x, y, nb_epochs=1, batch_size=20)


def test_a_cross_entropy_attack_looks_weaker_than_the_adaptive_one():
    victim, (x, y) = classifier(), separable()
    mmc.MMCTrainer(victim, dim=8, track=False).fit(x, y, nb_epochs=40, batch_size=20)
    net, images, labels = Net(victim.model.eval()), torch.tensor(x), torch.tensor(y)
    keys = Keys(0, 0, torch.arange(len(y)))

    def left(objective):
        attack = PGD(Linf(0.3), 10, objective=objective, start=ZeroStart(), keep="best")
        made = attack.craft(net, images, objective.bind(net, images, labels), keys)
        return float((net(made.x).logits.argmax(1) == labels).float().mean())

    assert left(ce) > 0.8
    assert left(cw) < left(ce) - 0.3


@pytest.mark.parametrize("seed", [2**63, 99999999999999999999999, -1, True, "3", 2.0])
def test_impossible_seeds_of_centers(seed):
    with pytest.raises(ConfigError, match=r"^mmc_rand\.center_seed: ") as error:
        mmc.MMCRand(center_seed=seed)
    assert "\n" not in str(error.value)


def test_the_largest_seed_draws_centers():
    _, plan = fixed(mmc.MMCRand(dim=3, center_seed=2**63 - 1))
    assert plan.used == ("mmc_rand",)


@pytest.mark.parametrize("kind", [mmc.MMC, mmc.MMCRand, mmc.MMLDA, mmc.LGM, mmc.GSCE], ids=lambda kind: kind.name)
@pytest.mark.parametrize("dim", [2**70, 2**16 + 1, 0, True, "8", 8.0])
def test_impossible_widths(kind, dim):
    with pytest.raises(ConfigError, match=rf"^{kind.name}\.dim: ") as error:
        kind(dim=dim)
    assert "\n" not in str(error.value)
    assert kind(dim=2**16).dim == 2**16


def test_nearest_center_ranks_raw_logits():
    out = Outputs(torch.tensor([[-1.0, -300.0], [-250.0, -200.0]]))
    detector = mmc.NearestCenter()
    assert detector.score(out).tolist() == [-1.0, -200.0]
    assert Plan.of([mmc.MMC(dim=8)], FACTS).compose().detectors[0].name == "nearest_center"
    (adversary,) = detector.adversaries
    assert adversary.measure(out, torch.tensor([0, 1])).tolist() == [-300.0, -250.0]
