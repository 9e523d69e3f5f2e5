"""CCAT against the reference vectors and plain loops, its traps, and its attack, trainer and detector for ART."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_ext.api import (
    L1,
    L2,
    PGD,
    BacktrackingPGD,
    ComposeError,
    ConfigError,
    CrossEntropy,
    EvaluationContext,
    Facts,
    Keys,
    Linf,
    Mixed,
    Outputs,
    Plan,
    Scores,
    UniformStart,
    View,
    Views,
    ZeroStart,
    ce,
    for_evaluation,
    other_confidence,
    thresholded_worst_case,
    unending,
)
from art_ext.data.batches import ArrayBatches
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.optim import one_cycle
from art_ext.engine.run import Run, RunSettings
from art_ext.evaluation.rejection import Rejection, keep_rate
from art_ext.evaluation.suite import Evaluator, HeldOut, Threat, evading
from art_ext.host.recipe import load_recipe
from art_ext.parts.detectors import Confidence
from art_ext.parts.objectives import best_other_probability
from art_ext_baselines import PGDAT
from art_ext_ccat import (
    CCAT,
    Bhattacharyya,
    Distal,
    PGDConfSettings,
    Transition,
    bhattacharyya,
    calibrated_target,
    distal_confidence,
    exponential_transition,
    linear_transition,
    power_transition,
    rejection,
)
from art_ext_ccat.attacks import ATTACKS, PGDConfOptions, build_pgd_conf, towards
from art_ext_ccat.starts import STARTS, DrawnStart, NarrowNormalStart, UniformNormStart
from art_ext_pc_lc import PCLC

torch.set_num_threads(1)
FACTS = Facts(4, (1, 4, 4))
FILE = Path(__file__).parents[1] / "vectors" / "ccat.json"
VECTORS = {entry["name"]: entry for entry in json.loads(FILE.read_text())}
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def close(got, expected, entry, dtype=torch.float64):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    tolerance = entry["tolerance"] if dtype == torch.float64 else max(entry["tolerance"], 2e-6)
    assert (got.double() - expected).abs().max() <= tolerance * (1 + expected.abs().max())


# Formulas ------------------------------------------------------------------------------------------------------


@both_precisions
@pytest.mark.parametrize("name", ["A_power_linf_rho1", "A_power_linf_rho10", "A_power_linf_rho12", "A_exp_linf_rho100"])
def test_transitions_reproduce_the_reference(name, dtype):
    entry = VECTORS[name]
    given, expected = entry["inputs"], entry["expected"]
    delta = torch.tensor(given["delta"], dtype=dtype)
    kind = "exponential" if "exp" in name else "power"
    transition = Transition(Linf(given["epsilon"]), given["rho"], kind)
    close(transition.norm.of(delta), expected["norms"], entry, dtype)
    lam = transition.one_hot_weight(delta)
    close(lam, expected["one_hot_weight"], entry, dtype)
    close(1 - lam, expected["uniform_weight"], entry, dtype)


@both_precisions
def test_targets_and_losses_reproduce_the_reference(dtype):
    entry = VECTORS["A_target_distribution"]
    given = entry["inputs"]
    lam = 1 - torch.tensor(given["uniform_weight"], dtype=dtype)
    target = calibrated_target(torch.tensor(given["labels"]), lam, given["num_classes"])
    close(target, entry["expected"]["target"], entry, dtype)
    torch.testing.assert_close(target.sum(1), torch.ones_like(lam))

    entry = VECTORS["A_ce_divergence"]
    logits = torch.tensor(entry["inputs"]["logits"], dtype=dtype, requires_grad=True)
    losses = CrossEntropy()(Outputs(logits), torch.tensor(entry["inputs"]["target"], dtype=dtype))
    close(losses.detach(), entry["expected"]["per_example"], entry, dtype)
    close(torch.autograd.grad(losses.mean(), logits)[0], entry["expected"]["grad_logits_of_mean"], entry, dtype)


@both_precisions
def test_the_objective_reproduces_the_reference(dtype):
    entry = VECTORS["A_pgd_conf_objective"]
    logits, y = torch.tensor(entry["inputs"]["logits"], dtype=dtype), torch.tensor(entry["inputs"]["labels"])
    close(-best_other_probability(logits, y), entry["expected"]["objective"], entry, dtype)
    score = other_confidence.bind(lambda x: Outputs(logits), logits, y)
    assert score.wrong(Outputs(logits)).long().tolist() == entry["expected"]["success"]
    entry = VECTORS["A_pgd_ce_objective"]
    score = ce.bind(lambda x: Outputs(logits), logits, y)
    close(-score.value(Outputs(logits)), entry["expected"]["objective"], entry, dtype)


@both_precisions
def test_the_batch_loss_reproduces_the_reference(dtype):
    entry = VECTORS["A_even_batch_loss"]
    given, expected = entry["inputs"], entry["expected"]
    logits, y = torch.tensor(given["logits"], dtype=dtype), torch.tensor(given["labels"])
    risk = Mixed(given["fraction"])
    rows = risk.rows(len(y))
    lam = 1 - torch.tensor(given["uniform_weight_of_adversarial_rows"], dtype=dtype)
    target = calibrated_target(y[rows.adv], lam, given["num_classes"])
    clean = View(Outputs(logits[rows.clean]), y[rows.clean], y[rows.clean])
    terms = risk(Views(clean, View(Outputs(logits[rows.adv]), y[rows.adv], target)), CrossEntropy())
    assert len(clean.y) == expected["n_clean"]
    close(terms["clean"] * 2, expected["clean_loss"], entry, dtype)
    close(terms["adversarial"] * 2, expected["adversarial_loss"], entry, dtype)
    close(sum(terms.values()), expected["loss_proportional"], entry, dtype)


def test_transitions_by_hand():
    size = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.3 * (1 + 1e-7), 0.9])
    torch.testing.assert_close(power_transition(size, 0.3, 2.0), torch.tensor([1, 4 / 9, 1 / 9, 0, 0, 0]))
    torch.testing.assert_close(linear_transition(size, 0.3, 2.0), torch.tensor([1, 1 / 3, 0, 0, 0, 0]))
    exponential = exponential_transition(size, 12.0)
    assert exponential[0] == 1
    assert (exponential > 0).all(), "it never reaches uniform"
    for kind in ("power", "linear", "exponential"):
        lam = Transition(Linf(0.3), 3.0, kind).one_hot_weight(size.reshape(-1, 1, 1, 1))
        assert ((lam >= 0) & (lam <= 1)).all()
        assert (lam.diff() <= 0).all(), "the larger the perturbation, the more uniform"


def test_clean_rows_keep_their_labels():
    y = torch.tensor([3, 1])
    assert Transition(Linf(0.3))(y, 4, None) is y
    one_hot = Transition(Linf(0.3))(y, 4, torch.zeros(2, 1, 2, 2))
    assert torch.equal(one_hot, F.one_hot(y, 4).float())


def test_bhattacharyya_by_hand():
    p, t = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64), torch.tensor([[0.8, 0.2, 0.0]], dtype=torch.float64)
    overlap = math.sqrt(0.4 + 1e-8) + math.sqrt(0.05 + 1e-8) + 1e-4
    assert float(bhattacharyya(p.log(), t)) == pytest.approx(-2 * math.log(overlap), abs=1e-12)
    assert float(bhattacharyya(t.clamp(min=1e-30).log(), t)) == pytest.approx(0, abs=1e-9)
    labels = Bhattacharyya()(Outputs(p.log()), torch.tensor([2]))
    torch.testing.assert_close(labels, bhattacharyya(p.log(), torch.tensor([[0.0, 0, 1]], dtype=torch.float64)))
    z = torch.tensor([[900.0, -900.0, 0.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(bhattacharyya(z, torch.full((1, 3), 1 / 3)).sum(), z)
    assert grad.isfinite().all()


def test_a_uniform_target_with_saturated_logits_is_finite():
    z = torch.tensor([[500.0, -500.0, 0.0, 0.0]], requires_grad=True)
    loss = CrossEntropy()(Outputs(z), torch.full((1, 4), 0.25))
    (grad,) = torch.autograd.grad(loss.sum(), z)
    assert loss.item() == pytest.approx(500)
    assert grad.isfinite().all()


# The attack ----------------------------------------------------------------------------------------------------


class Fixed:
    """A start at a given point."""

    clamped = True

    def __init__(self, delta):
        self.delta = delta

    def __call__(self, norm, keys, x, eps):
        return self.delta


def mlp(given, dtype=torch.float64):
    w1, b1, w2, b2 = (torch.tensor(given[name], dtype=dtype) for name in ("W1", "b1", "W2", "b2"))
    return lambda x: Outputs(torch.tanh(x.flatten(1) @ w1.T + b1) @ w2.T + b2)


def project(delta, x, norm, eps):
    """Ball, then box."""
    if norm == "linf":
        delta = delta.clamp(-eps, eps)
    else:
        p = 1 if norm == "l1" else 2
        size = delta.flatten(1).norm(p=p, dim=1).reshape(-1, 1, 1, 1)
        scaled = delta * (eps / size.clamp(min=1e-12)).clamp(max=1)
        delta = L1(eps).project(delta, eps) if norm == "l1" else scaled
    return torch.max(-x, torch.min(1 - x, delta))


def plain_attack(net, x, delta, e_of, *, norm, eps, lr, factor, momentum, steps, backtrack=True):
    """The authors' loop as the sheet writes it, minimising e: T updates, T + 1 evaluations."""
    g, size = torch.zeros_like(x), torch.full((len(x), 1, 1, 1), lr, dtype=x.dtype)
    best, best_delta = torch.full((len(x),), 1e12, dtype=x.dtype), torch.zeros_like(x)
    for i in range(steps + 1):
        delta = project(delta, x, norm, eps).detach().requires_grad_()
        e = e_of(net(x + delta).logits)
        (grad,) = torch.autograd.grad(e.sum(), delta)
        delta, e = delta.detach(), e.detach()
        better = e < best
        best, best_delta = torch.where(better, e, best), torch.where(better.reshape(-1, 1, 1, 1), delta, best_delta)
        if i == steps:
            break
        if norm == "linf":
            grad = grad.sign()
        else:
            p = 1 if norm == "l1" else 2
            grad = grad / grad.flatten(1).norm(p=p, dim=1).clamp(min=1e-300).reshape(-1, 1, 1, 1)
        g = momentum * g + (1 - momentum) * grad
        if not backtrack:
            delta = delta - size * g
            continue
        candidate = project(delta - size * g, x, norm, eps)
        fine = (e_of(net(x + candidate).logits) <= e).reshape(-1, 1, 1, 1)
        delta = torch.where(fine, delta - size * g, delta)
        size = torch.where(fine, size, (size / factor).clamp(min=1e-20))
    return best_delta, best, size.flatten()


ATTACK_VECTORS = ["A1_pgd_linf_conf", "A2_pgd_linf_ce", "A3_pgd_l2_conf", "A4_pgd_linf_conf"]


@both_precisions
@pytest.mark.parametrize("name", ATTACK_VECTORS)
def test_the_attack_reproduces_the_reference(name, dtype):
    entry = VECTORS[name]
    given, expected = entry["inputs"], entry["expected"]
    net, y = mlp(given, dtype), torch.tensor(given["labels"])
    x, start = (torch.tensor(given[key], dtype=dtype) for key in ("images", "delta_init"))
    objective = other_confidence if given["objective"] == "conf" else ce
    attack = BacktrackingPGD(
        {"linf": Linf, "l2": L2}[given["norm"]](given["epsilon"]),
        given["max_iterations"],
        given["base_lr"],
        objective=objective,
        start=Fixed(start),
        momentum=given["momentum"],
        lr_factor=given["lr_factor"] if given["backtrack"] else None,
    )
    score = objective.bind(net, x, y)
    adv = attack.craft(net, x, score, Keys(0, 0, torch.arange(len(x))))
    close(adv.delta, expected["best_delta"], entry, dtype)
    close(-score.value(net(adv.x)), expected["best_objective"], entry, dtype)


@pytest.mark.parametrize("name", ATTACK_VECTORS)
def test_the_plain_loop_of_these_tests_is_the_reference(name):
    """So that it can stand in for the reference on other data; the step sizes are checked here."""
    entry = VECTORS[name]
    given, expected = entry["inputs"], entry["expected"]
    y = torch.tensor(given["labels"])
    x, start = (torch.tensor(given[key], dtype=torch.float64) for key in ("images", "delta_init"))

    def e_of(logits):
        conf = given["objective"] == "conf"
        return -best_other_probability(logits, y) if conf else -F.cross_entropy(logits, y, reduction="none")

    delta, best, sizes = plain_attack(
        mlp(given), x, start, e_of, norm=given["norm"], eps=given["epsilon"], lr=given["base_lr"],
        factor=given["lr_factor"], momentum=given["momentum"], steps=given["max_iterations"],
        backtrack=given["backtrack"],
    )
    close(delta, expected["best_delta"], entry)
    close(best, expected["best_objective"], entry)
    close(sizes, expected["final_step_sizes"], entry)


def network(seed=0, classes=4, dtype=torch.float64):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(96, classes)).to(dtype)


def images(n=10, dtype=torch.float64, seed=1):
    y = torch.arange(n) % 4
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.6
    x[torch.arange(n), 0, y] += 0.3
    return x.to(dtype), y


def craft(attack, module, x, y, *, keys=None, mask=None, targeted=False):
    def net(batch):
        return Outputs(module(batch))

    score = attack.objective.bind(net, x, y, targeted=targeted)
    return attack.craft(net, x, score, keys or Keys(3, 0, torch.arange(len(x))), mask), score


BALLS = {"linf": Linf(0.1), "l2": L2(0.4), "l1": L1(1.5)}


@pytest.mark.parametrize("name", BALLS)
@pytest.mark.parametrize("lr_factor", [1.3, None])
def test_one_pass_a_step_is_the_same_as_the_loop_with_two(name, lr_factor):
    module, (x, y) = network().eval(), images()
    with torch.no_grad():  # bends the landscape, so that steps are taken back
        module[0].weight *= 15
        module[-1].weight *= 4
    ball = BALLS[name]
    attack = BacktrackingPGD(
        ball, 25, ball.eps, objective=other_confidence, start=UniformNormStart(), momentum=0.5, lr_factor=lr_factor
    )
    keys = Keys(3, 0, torch.arange(len(x)))
    start = UniformNormStart()(ball, keys.stream("start", 0), x, ball.eps)
    adv, score = craft(attack, module, x, y, keys=keys)
    delta, best, sizes = plain_attack(
        lambda b: Outputs(module(b)), x, start, lambda z: -best_other_probability(z, y), norm=name, eps=ball.eps,
        lr=ball.eps, factor=lr_factor or 1, momentum=0.5, steps=25, backtrack=lr_factor is not None,
    )
    torch.testing.assert_close(adv.delta, delta, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(score.value(Outputs(module(adv.x))), -best, rtol=1e-7, atol=1e-9)
    if lr_factor is not None:
        assert (sizes < ball.eps).any(), "no step was taken back, so this test shows nothing"


@pytest.mark.parametrize("name", BALLS)
def test_on_a_saturated_plateau_the_first_of_the_best_points_is_kept(name):
    """Where p is 1 exactly, all scores are equal and every step is taken; the point kept sets the target's size."""
    module, (x, y) = network().eval(), images()
    with torch.no_grad():
        module[-1].weight *= 400
    ball = replace(BALLS[name], eps=2 * BALLS[name].eps)
    attack = BacktrackingPGD(ball, 12, ball.eps / 4, objective=other_confidence, start=ZeroStart(), momentum=0.5)
    adv, _ = craft(attack, module, x, y)

    def loop(steps):
        return plain_attack(
            lambda b: Outputs(module(b)), x, torch.zeros_like(x), lambda z: -best_other_probability(z, y), norm=name,
            eps=ball.eps, lr=ball.eps / 4, factor=1.5, momentum=0.5, steps=steps,
        )  # fmt: skip

    delta, _, sizes = loop(12)
    torch.testing.assert_close(adv.delta, delta, rtol=1e-7, atol=1e-9)
    flat = (loop(6)[1] == -1) & (sizes == ball.eps / 4)
    assert flat.sum() >= 3, "too few examples walked half of the way on a plateau, so this test shows little"


def test_a_step_is_one_pass():
    module, (x, y) = network().eval(), images()
    passes = []

    def net(batch):
        passes.append(len(batch))
        return Outputs(module(batch))

    attack = BacktrackingPGD(Linf(0.1), 7, 0.05, objective=other_confidence)
    attack.craft(net, x, other_confidence.bind(net, x, y), Keys(0, 0, torch.arange(len(x))))
    assert passes == [len(x)] * 8
    assert attack.cost == 8


def test_the_best_is_the_most_confident_not_the_first_success():
    """Of two points, the wrong but unsure one loses to the right one with more confidence in another class."""
    logits = torch.tensor([[0.30, 0.34, 0.36], [0.50, 0.05, 0.45]]).log()
    x = torch.zeros(1, 1, 1, 2)

    def net(batch):  # pixel 0 says which of the two points it is
        return Outputs(logits[:1] * (1 - batch[:, 0, :, 0]) + logits[1:] * batch[:, 0, :, 0])

    attack = BacktrackingPGD(Linf(1.0), 1, 1.0, objective=other_confidence, start=ZeroStart(), momentum=0.0)
    keys, score = Keys(0, 0, torch.arange(1)), other_confidence.bind(net, x, torch.tensor([0]))
    kept = attack.craft(net, x, score, keys).x
    assert not bool(score.wrong(net(kept)))
    assert float(score.value(net(kept))) == pytest.approx(0.45)
    first = replace(attack, stop_when_wrong=True).craft(net, x, score, keys).x
    assert bool(score.wrong(net(first)))


def test_saturated_gradients_give_no_nan():
    def net(batch):
        return Outputs(torch.stack([batch.flatten(1).sum(1) * 0 + 1e4, batch.flatten(1).sum(1) * 0], 1))

    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    for ball in (Linf(0.1), L2(0.1), L1(0.1)):
        attack = BacktrackingPGD(ball, 3, 0.05, objective=other_confidence, start=ZeroStart())
        made = attack.craft(net, x, other_confidence.bind(net, x, y), Keys(0, 0, torch.arange(3)))
        assert torch.equal(made.x, x), "a gradient of 0 moves nothing"


@pytest.mark.parametrize("ball", [L2(0.5), L1(1.5)], ids=str)
def test_saturated_gradients_lead_as_far_as_others(ball):
    """Logits e^60 apart leave p_other near 1e-26, and its gradient says where to go all the same."""
    module, (x, y) = network(dtype=torch.float32).eval(), images(dtype=torch.float32)
    y = module(x).argmax(1)
    fooled = []
    for gap in (1.0, 60.0):
        with torch.no_grad():
            top = module(x).topk(2, 1).values
            for part in (module[-1].weight, module[-1].bias):
                part *= gap / float((top[:, 0] - top[:, 1]).max())
        attack = BacktrackingPGD(ball, 40, ball.eps / 4, objective=other_confidence, start=ZeroStart())
        made, score = craft(attack, module, x, y)
        fooled.append(score.wrong(Outputs(module(made.x))))
    assert fooled[0].sum() >= 5
    assert torch.equal(*fooled)


@pytest.mark.parametrize("name", BALLS)
def test_ball_box_and_mask_are_respected(name):
    module, (x, y) = network().eval(), images()
    x[0], x[1] = 0.0, 1.0
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 1:3] = 1
    mask[..., 1, 1] = 0.5
    attack = BacktrackingPGD(BALLS[name], 6, 0.2, objective=other_confidence, start=STARTS["three_per_batch"])
    for given in (None, mask):
        made, _ = craft(attack, module, x, y, mask=given)
        assert (BALLS[name].of(made.delta) <= BALLS[name].eps * (1 + 1e-9)).all()
        assert made.x.min() >= 0
        assert made.x.max() <= 1
        assert torch.equal(made.delta, made.x - x)
    assert torch.equal(made.delta * (mask == 0), torch.zeros_like(x))
    assert (made.delta != 0).any()


def test_the_batch_an_example_is_in_does_not_matter():
    module, (x, y) = network().eval(), images()
    attack = BacktrackingPGD(Linf(0.1), 8, 0.1, objective=other_confidence, start=STARTS["half_per_example"])
    whole, _ = craft(attack, module, x, y)
    for rows in torch.arange(len(x)).split(3):
        part, _ = craft(attack, module, x[rows], y[rows], keys=Keys(3, 0, rows))
        torch.testing.assert_close(part.x, whole.x[rows], rtol=1e-9, atol=1e-12)


def test_crafting_leaves_no_gradient_behind():
    module, (x, y) = network(), images()
    craft(BacktrackingPGD(Linf(0.1), 3, 0.1, objective=other_confidence), module, x, y)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize(
    "options", [{"momentum": 1.0}, {"momentum": -0.1}, {"lr_factor": 1.0}, {"keep": "last"}, {"jitter": 0.1}]
)
def test_impossible_attacks(options):
    with pytest.raises(ConfigError):
        BacktrackingPGD(Linf(0.1), 3, 0.1, **options)


def test_starts_have_the_sizes_of_the_sheet():
    x, keys = torch.full((400, 1, 8, 8), 0.5, dtype=torch.float64), Keys(1, 0, torch.arange(400))
    normal = NarrowNormalStart()(Linf(0.3), keys, x, 0.3)
    assert float(normal.std()) == pytest.approx(0.3 / (2 * math.log(64)), rel=0.02)
    for ball in BALLS.values():
        share = ball.of(UniformNormStart()(ball, keys, x, ball.eps)) / ball.eps
        assert (share <= 1 + 1e-9).all()
        assert float(share.mean()) == pytest.approx(0.5, abs=0.05), "the norm is uniform on [0, eps]"
        assert float((share < 0.1).double().mean()) == pytest.approx(0.1, abs=0.05)


def test_the_kind_of_start_is_drawn_once_a_batch_unless_asked():
    x = torch.full((8, 1, 4, 4), 0.5)
    kinds = []
    for step in range(300):
        keys = Keys(1, 0, torch.arange(8), step=step)
        delta = STARTS["three_per_batch"](Linf(0.3), keys, x, 0.3)
        zero = (delta == 0).flatten(1).all(1)
        assert zero.all() or not zero.any()
        kinds.append(bool(zero[0]))
        large = torch.equal(delta, UniformNormStart()(Linf(0.3), keys, x, 0.3))
        small = torch.equal(delta, NarrowNormalStart()(Linf(0.3), keys, x, 0.3))
        assert zero.all() or large or small
    assert np.mean(kinds) == pytest.approx(1 / 3, abs=0.08)
    many = Keys(1, 0, torch.arange(600))
    halves = STARTS["half_per_example"](Linf(0.3), many, torch.full((600, 1, 4, 4), 0.5), 0.3)
    assert float((halves == 0).flatten(1).all(1).double().mean()) == pytest.approx(0.5, abs=0.06)
    assert str(DrawnStart((ZeroStart(),))) == "zero, drawn per batch"


def test_the_strongest_of_several_runs():
    module, (x, y) = network().eval(), images()
    attack = PGDConfSettings(steps=5, base_lr=0.05, restarts=3, every_class=True).attack(Linf(0.1), (0.0, 1.0), 4)
    assert len(attack.attacks) == 5
    made, score = craft(attack, module, x, y)
    value = score.value(Outputs(module(made.x)))
    for number, single in enumerate(attack.attacks):
        keys = Keys(3, 0, torch.arange(len(x))).stream("attack", number)
        own, _ = craft(single, module, x, y, keys=keys)
        assert (value >= score.value(Outputs(module(own.x))) - 1e-12).all()
    with pytest.raises(ConfigError, match="no targeted form"):
        craft(attack, module, x, y, targeted=True)
    aimed = replace(attack, attacks=attack.attacks[:2])
    made, score = craft(aimed, module, x, (y + 1) % 4, targeted=True)
    before, after = (score.value(Outputs(module(points))) for points in (x, made.x))
    assert (after > before).all(), "the other classes have less"


def test_towards_visits_every_wrong_class():
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 2, dtype=torch.float64)
    y = torch.tensor([0, 3])
    seen = [towards(k).bind(lambda x: Outputs(p.log()), p, y).value(Outputs(p.log())) for k in (1, 2, 3)]
    torch.testing.assert_close(torch.stack(seen, 1), torch.tensor([[0.2, 0.3, 0.4], [0.1, 0.2, 0.3]]).double())


def test_distal_images_and_the_adversary_who_wants_rejections():
    module, (x, y) = network().eval(), images(30)
    base = BacktrackingPGD(Linf(0.3), 20, 0.1, start=ZeroStart())
    distal = Distal(base)
    made, _ = craft(distal, module, x, y)
    other, _ = craft(distal, module, torch.zeros_like(x), y)
    assert torch.equal(made.x, other.x), "of the images only the shape matters"
    noise = Keys(3, 0, torch.arange(30)).stream("distal").uniform((1, 4, 4)).double()
    assert (made.x - noise).abs().max() <= 0.3 + 1e-9
    confidence = [F.softmax(module(points), 1).amax(1) for points in (noise, made.x)]
    assert (confidence[1] >= confidence[0]).all()
    assert confidence[1].mean() > confidence[0].mean() + 0.02
    low, _ = craft(replace(base, objective=rejection), module, x, y)
    sure = [F.softmax(module(points), 1).amax(1) for points in (x, low.x)]
    assert (sure[1] <= sure[0]).all()
    assert sure[1].mean() - 0.25 < 0.6 * (sure[0].mean() - 0.25), "most of the way to uniform"
    with pytest.raises(ConfigError, match="clip"):
        Distal(replace(base, clip=(-math.inf, math.inf)))
    with pytest.raises(ConfigError, match="leave the mask out"):
        craft(distal, module, x, y, mask=torch.ones(1, 1, 4, 4))
    assert distal.objective is distal_confidence


def test_distal_images_take_the_attack_of_several_starts_and_keep_the_surest():
    module, (x, y) = network().eval(), images(30)
    several = PGDConfSettings(steps=8, base_lr=0.1, restarts=2, every_class=True).attack(Linf(0.3), (0.0, 1.0), 4)
    assert len(several.attacks) == 5
    distal = Distal(several)
    random, zero = several.raising(distal_confidence).attacks  # of the runs towards each class one is left
    made, _ = craft(distal, module, x, y)
    noise = Keys(3, 0, torch.arange(30)).stream("distal").uniform((1, 4, 4)).double()
    sure = []
    for number, part in enumerate((random, zero)):
        score = unending(distal_confidence).bind(lambda b: Outputs(module(b)), noise, y)
        keys = Keys(3, 0, torch.arange(30)).stream("attack", number)
        found = part.craft(lambda b: Outputs(module(b)), noise, score, keys).x
        sure.append(F.softmax(module(found), 1).amax(1))
    torch.testing.assert_close(F.softmax(module(made.x), 1).amax(1), torch.stack(sure).amax(0))
    assert "distal noise under the strongest of" in str(distal)


def test_noise_has_no_true_class_that_an_attack_could_be_content_with():
    """An attack that stops with the first wrong answer has nothing to stop at, whatever the labels say."""
    module, (x, y) = network().eval(), images(30)
    attack = PGD(Linf(0.3), 20, 0.05, start=ZeroStart(), keep="best", stop_when_wrong=True)
    one, other = (craft(Distal(attack), module, x, labels)[0].x for labels in (y, (y + 1) % 4))
    assert torch.equal(one, other)
    noise = Keys(3, 0, torch.arange(30)).stream("distal").uniform((1, 4, 4)).double()
    assert (F.softmax(module(one), 1).amax(1) > F.softmax(module(noise), 1).amax(1)).all()


# The ingredient ------------------------------------------------------------------------------------------------


def test_the_plan_of_ccat():
    parts = Plan.of([CCAT(eps=0.2, rho=12)], FACTS).compose()
    assert isinstance(parts.attack, BacktrackingPGD)
    assert (parts.attack.steps, parts.attack.step_size, parts.attack.lr_factor) == (40, 0.005, 1.5)
    assert (parts.attack.momentum, parts.attack.objective, parts.attack.bn) == (0.9, other_confidence, "eval")
    assert parts.attack.start == STARTS["three_per_batch"]
    assert parts.risk == Mixed(0.5)
    assert parts.target == Transition(Linf(0.2), 12.0)
    assert Plan.of([CCAT()], FACTS).compose().target.rho == 10
    assert Plan.of([CCAT(transition="linear")], FACTS).compose().target.rho == 10
    for eps, rho in ((0.03, 120.0), ("3/10", 12.0)):
        assert Plan.of([CCAT(transition="exponential", eps=eps)], FACTS).compose().target.rho == pytest.approx(rho)
    assert Plan.of([CCAT(transition="exponential", rho=7)], FACTS).compose().target.rho == 7
    assert isinstance(parts.criterion, CrossEntropy)
    assert [detector.name for detector in parts.detectors] == ["confidence"]
    assert parts.selection is thresholded_worst_case
    assert isinstance(Plan.of([CCAT(loss="bhattacharyya")], FACTS).compose().criterion, Bhattacharyya)
    assert Plan.of([CCAT()], Facts(4, (1, 4, 4), (-1.0, 2.0))).compose().attack.clip == (-1.0, 2.0)


def test_clean_fraction_is_the_clean_share():
    """The authors call int(fraction B) clean rows the adversarial fraction: at 0.25 they attack 75%."""
    rows = Plan.of([CCAT(clean_fraction=0.25)], FACTS).compose().risk.rows(8)
    assert (rows.clean, rows.adv) == (slice(0, 2), slice(2, 8))


@pytest.mark.parametrize(
    "options",
    [
        {"clean_fraction": 0}, {"clean_fraction": 1}, {"rho": 0}, {"eps": 0}, {"momentum": 1}, {"lr_factor": 1},
        {"base_lr": 0}, {"start": "zero"}, {"transition": "cosine"}, {"loss": "kl"}, {"steps": 0}, {"norm": "l0"},
    ],
    ids=str,
)
def test_impossible_options(options):
    with pytest.raises(ConfigError, match=f"ccat.{next(iter(options))}"):
        CCAT(**options)


def test_what_ccat_cannot_be_combined_with():
    with pytest.raises(ComposeError, match="pc_lc needs one true class per example, but ccat supplies"):
        Plan.of([CCAT(), PCLC(warmup_epochs=0)], FACTS)
    with pytest.raises(ComposeError) as caught:
        Plan.of([CCAT(), PGDAT()], FACTS)
    assert any({"ccat", "pgd_at"} <= set(problem.names) for problem in caught.value.problems)


N, BATCH, SEED = 22, 8, 5


def plain_training(ingredient, epochs=2):
    """CCAT as a script: one function, no engine, the loop of the authors for the attack."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    x_all, y_all = images(N, torch.float32)
    batches, step, o = ArrayBatches(x_all, y_all, BATCH, SEED), 0, ingredient
    for epoch in range(epochs):
        for rows in torch.split(batches.order(epoch), BATCH):
            x, y = x_all[rows].double(), y_all[rows]
            clean = int(o.clean_fraction * len(x))
            adv_x, adv_y = x[clean:], y[clean:]
            keys = Keys(SEED, epoch, rows[clean:], step=step).stream("start", 0)
            start = STARTS[o.start](Linf(o.eps), keys, adv_x, o.eps)
            net.eval()
            delta, _, _ = plain_attack(
                lambda b, net=net: Outputs(net(b)), adv_x, start, lambda z, y=adv_y: -best_other_probability(z, y),
                norm="linf", eps=o.eps, lr=o.base_lr, factor=o.lr_factor, momentum=o.momentum, steps=o.steps,
            )
            net.train()
            u = 1 - (1 - (delta.abs().flatten(1).amax(1) / o.eps).clamp(max=1)) ** (o.rho or 10)
            target = (1 - u[:, None]) * F.one_hot(adv_y, 4) + u[:, None] / 4
            target = torch.cat([F.one_hot(y[:clean], 4).double(), target])
            log_p = F.log_softmax(net(torch.cat([x[:clean], adv_x + delta])), 1)
            loss = -(target * log_p).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return net


def fit_of(ingredient, module, precision="64-true", **options):
    net = Net(module)
    run = Run(RunSettings(accelerator="cpu", precision=precision, **options), SEED)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    return Fit(Plan.of([ingredient], FACTS), net, optimizer, run, epochs=2)


@pytest.fixture
def all_float64():
    """Fabric hands outputs over in the default type, even where the run's precision is 64-true."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("all_float64")
@pytest.mark.parametrize(
    "ingredient",
    [CCAT(eps=0.1, steps=4, base_lr=0.1), CCAT(eps=0.1, rho=2, steps=3, base_lr=0.05, clean_fraction=0.25,
                                               start="half_per_example")],
    ids=["defaults", "options"],
)
def test_training_equals_a_plain_loop(ingredient):
    fit = fit_of(ingredient, network(), fold=False, channels_last=False)
    fit(ArrayBatches(*images(N, torch.float32), BATCH, SEED))
    expected = plain_training(ingredient)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(fit.net.module.state_dict()[name], value, rtol=1e-8, atol=1e-9, msg=name)
    assert not torch.allclose(expected[-1].weight, network()[-1].weight, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"loss": "bhattacharyya"}, {"transition": "linear"}], ids=str)
@pytest.mark.parametrize("rows", [1, 9])
def test_batches_of_one_row(rows, options):
    """int(0.5 x 1) leaves no clean row: that part is skipped, not a mean over nothing."""
    fit = fit_of(CCAT(eps=0.1, steps=2, **options), network(dtype=torch.float32), "32-true")
    history = fit(ArrayBatches(*images(rows, torch.float32), BATCH, SEED))
    assert all(math.isfinite(report.metrics["train/loss"]) for report in history.epochs)


# Evaluation ----------------------------------------------------------------------------------------------------


def test_the_evaluation_s_attack_takes_the_threat_of_the_recipe():
    context = EvaluationContext(Plan.of([CCAT()], FACTS), "l2", 0.5, (0.0, 1.0))
    ((name, attack),) = build_pgd_conf(PGDConfOptions(steps=500, restarts=2), context)
    assert name == "pgd_conf500x3"
    random, zero = attack.attacks
    assert (random.norm, random.step_size, random.restarts, random.lr_factor) == (L2(0.5), 0.001, 2, 1.1)
    assert isinstance(zero.start, ZeroStart)
    ((_, own),) = build_pgd_conf(PGDConfOptions(norm="l1", eps=3.0, every_class=True), context)
    assert own.attacks[0].norm == L1(3.0)
    assert own.attacks[0].step_size == 0.5
    assert len(own.attacks) == 5
    assert [entry.name for entry in ATTACKS] == ["pgd_conf"]


@pytest.mark.parametrize("ball", [Linf(0.4), L2(1.0), L1(18.0)], ids=str)
def test_the_authors_first_step_is_kept_where_it_crosses_the_ball(ball):
    usual = {"linf": 0.001, "l2": 0.001, "l1": 0.5}[ball.name]
    for clip, span in (((0.0, 1.0), 1.0), ((-1.0, 1.0), 2.0), ((-math.inf, math.inf), 1.0)):
        attack = PGDConfSettings().attack(ball, clip, 4).attacks[0]
        assert attack.step_size == pytest.approx(usual * span)
    few = PGDConfSettings(steps=20).attack(ball, (0.0, 1.0), 4).attacks[0]
    assert 20 * few.step_size == pytest.approx(2.5 * ball.eps)
    assert PGDConfSettings(steps=20, base_lr=0.002).attack(ball, (0.0, 1.0), 4).attacks[0].step_size == 0.002


@pytest.mark.parametrize(
    ("options", "clip", "size"),
    [
        ({}, (0.0, 1.0), 0.005),
        ({"eps": 8.0}, (0.0, 255.0), 0.005 * 255),
        ({"eps": 0.2}, (0.0, 1.0), 0.005),
        ({"eps": 0.3}, (0.0, 1.0), 2.5 * 0.3 / 40),
        ({"norm": "l2", "eps": 1.0}, (0.0, 1.0), 2.5 / 40),
        ({"norm": "l1", "eps": 12.0, "steps": 10}, (0.0, 1.0), 3.0),
        ({"eps": 0.3, "base_lr": 0.01}, (0.0, 1.0), 0.01),
    ],
)
def test_training_begins_with_the_authors_step_where_it_crosses_the_ball(options, clip, size):
    plan = Plan.of([CCAT(**options)], replace(FACTS, clip=clip))
    assert plan.compose().attack.step_size == pytest.approx(size)
    assert plan.remarks(5) == []


def test_a_step_of_training_that_does_not_cross_the_ball_is_pointed_out():
    (said,) = Plan.of([CCAT(eps=0.3, base_lr=0.005)], FACTS).remarks(5)
    assert "40 steps of 0.005 do not cross the ball of eps 0.3" in said
    assert "set it to 0.0075 or more" in said
    assert Plan.of([CCAT(eps=0.3, base_lr=0.0075)], FACTS).remarks(5) == []


def test_the_test_attack_knows_l0_and_cross_entropy():
    module, (x, y) = network().eval(), images()
    context = EvaluationContext(Plan(FACTS), "linf", 0.1, (0.0, 1.0))
    ((name, few),) = build_pgd_conf(PGDConfOptions(norm="l0", eps=2, steps=60, restarts=2), context)
    assert name == "pgd_conf60x3"
    assert [run.step_size for run in few.attacks] == [250.0, 250.0], "the authors', for gradients of 1-norm 1"
    made, score = craft(few, module, x, y)
    assert ((made.x != x).any(1).flatten(1).sum(1) <= 2).all()
    before, after = (score.value(Outputs(module(points))) for points in (x, made.x))
    assert (after >= before).all()
    assert (after - before).mean() > 0.02
    with pytest.raises(ConfigError, match="eps counts pixels in l0"):
        build_pgd_conf(PGDConfOptions(norm="l0"), context)

    plain = {"steps": 40, "restarts": 2, "base_lr": 0.05}
    ((name, usual),) = build_pgd_conf(PGDConfOptions(objective="ce", **plain), context)
    assert name == "pgd_ce_backtracking40x3"
    assert [run.objective for run in usual.attacks] == [ce, ce]
    (_, confident), = build_pgd_conf(PGDConfOptions(**plain), context)
    found = {attack: craft(attack, module, x, y)[0].x for attack in (usual, confident)}
    losses = {attack: F.cross_entropy(module(found[attack]), y) for attack in found}
    others = {attack: score.value(Outputs(module(found[attack]))).mean() for attack in found}
    assert losses[usual] > losses[confident]
    assert others[usual] < others[confident]


@pytest.mark.parametrize(("steps", "clip"), [(40, 1.0), (1000, 255.0)])
def test_few_steps_and_wide_pixels_reach_the_edge_of_the_ball(steps, clip):
    """A suite lowers the steps of an attack whose step size nobody gave."""

    def net(batch):
        return Outputs(torch.stack([batch.flatten(1).sum(1) / clip, torch.zeros(len(batch), dtype=batch.dtype)], 1))

    x = torch.full((2, 1, 2, 2), 0.5 * clip, dtype=torch.float64)
    attack = PGDConfSettings(steps=steps, restarts=1).attack(Linf(0.2 * clip), (0.0, clip), 2).attacks[1]
    made = attack.craft(net, x, other_confidence.bind(net, x, torch.tensor([0, 1])), Keys(0, 0, torch.arange(2)))
    torch.testing.assert_close(made.delta.abs(), torch.full_like(x, 0.2 * clip))


def test_recipes_know_apgd_square_and_pgd_on_the_confidence_of_wrong_classes():
    """They go on after the answer is wrong, as PGD-Conf does, and end surer than those that stop."""
    asked = "[{apgd: {objective: OBJ, steps: 20}}, {square: {objective: OBJ, queries: 200}}, {pgd: {objective: OBJ}}]"
    module, (x, y) = network(dtype=torch.float32).eval(), images(16, torch.float32)
    sure = {}
    for objective in ("other_confidence", "margin"):
        recipe = load_recipe("digits/ccat", [f"evaluate={asked.replace('OBJ', objective)}"])
        context = EvaluationContext(Plan.of([CCAT()], FACTS), "linf", 0.3, (0.0, 1.0))
        for entry, options in recipe.attacks():
            ((name, attack),) = entry.build(options, context)
            assert name.endswith("_other_confidence") == (objective == "other_confidence")
            made, _ = craft(attack, module, x, y)
            assert float(made.delta.abs().max()) <= 0.3 + 1e-6
            sure[entry.name, objective] = best_other_probability(module(made.x), y)
            assert bool((module(made.x).argmax(1) != y).any())
    for name in ("apgd", "square", "pgd"):
        assert sure[name, "other_confidence"].mean() > sure[name, "margin"].mean() + 0.02


def test_epochs_are_judged_by_what_is_right_among_the_kept():
    assert thresholded_worst_case(Scores(0.9, 0.0, 10, 0.7)) > thresholded_worst_case(Scores(0.95, 0.4, 10, 0.6))
    assert thresholded_worst_case(Scores(0.9, 0.3, 10)) == (0.3, 0.9)
    plan = Plan.of([CCAT(eps=0.1, steps=6)], FACTS)
    detector, attack = evading(plan, Threat("linf", 0.2))
    assert isinstance(attack, BacktrackingPGD)
    assert (attack.norm, attack.steps, attack.objective) == (Linf(0.2), 6, other_confidence)
    assert not attack.stop_when_wrong
    assert evading(Plan.of([PGDAT()], FACTS), Threat("linf", 0.2)) is None
    module, (x, y) = network(dtype=torch.float32), images(40, torch.float32)
    net, held_out = Net(module), HeldOut(plan, x, y, Threat("linf", 0.1))
    scores = held_out(net, plan.compose(), 0)
    evaluator = Evaluator(net, x, y)
    clean, adv = evaluator.outputs(), evaluator.outputs(held_out.rejecting[1])
    p, q = F.softmax(clean.logits, 1), F.softmax(adv.logits, 1)
    right = sorted(float(p[i].max()) for i in range(40) if p[i].argmax() == y[i])
    tau = right[math.floor(len(right) * 0.01 + 1e-9)]
    bad = kept = 0
    for i in range(40):
        first, second = bool(p[i].max() >= tau), bool(q[i].max() >= tau)
        kept += max(first, second)
        bad += max(first and bool(p[i].argmax() != y[i]), second and bool(q[i].argmax() != y[i]))
    assert scores.thresholded == pytest.approx(1 - bad / kept)
    assert detector.threshold is None, "the plan's detector is not touched"
    hopeless = HeldOut(plan, x, (p.argmin(1)), Threat("linf", 0.1))(net, plan.compose(), 0)
    assert hopeless.thresholded == 0, "no correct example, so no threshold"


def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images / 16).float()[:, None], torch.tensor(data.target)


def trained_on_digits(ingredients, x, y):
    torch.manual_seed(0)
    layers = []
    for before, after, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    net = Net(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)))
    plan, run = Plan.of(ingredients, Facts(10, (1, 8, 8))), Run(RunSettings(accelerator="cpu"), 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    Fit(plan, net, optimizer, run, epochs=15, schedule=one_cycle())(ArrayBatches(x, y, 64, 0))
    return net


@pytest.mark.slow
def test_directions_on_digits():
    """Sheet (g), items 1, 2, 5 and 6: seed 0, and margins of half of what was seen or less."""
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, held, test = order[:1200], order[1200:1500], order[1500:1620]
    seen = {}
    for name, ingredients in {"normal": [], "ccat": [CCAT(eps=0.15, steps=10, base_lr=0.05)]}.items():
        net = trained_on_digits(ingredients, x[train], y[train])
        detector, evaluator = Confidence(), Evaluator(net, x[test], y[test])
        tau = detector.calibrate(Evaluator(net, x[held], y[held]).outputs(), y[held])
        attacks = {
            "conf": PGDConfSettings(steps=40, base_lr=0.05, restarts=1).attack(Linf(0.15), (0.0, 1.0), 10),
            "ce": for_evaluation(PGD(Linf(0.15), 20)),
        }
        clean, adversarial = evaluator.outputs(), {key: evaluator.outputs(attack) for key, attack in attacks.items()}
        for key, out in adversarial.items():
            wrong, adv_wrong = (o.logits.argmax(1) != y[test] for o in (clean, out))
            seen[name, key] = Rejection.of(detector.score(clean), wrong, detector.score(out), adv_wrong, tau)
        whole = for_evaluation(PGD(Linf(0.15), 20, objective=other_confidence), stop_when_wrong=False)
        delta = evaluator.craft(whole, torch.arange(len(test)))[0] - x[test]
        for share in (0.25, 1.0):
            logits = net.eval()(x[test] + share * delta).logits.detach()
            seen[name, share] = float(detector.score(Outputs(logits)).mean())
        noise = evaluator.outputs(Distal(BacktrackingPGD(Linf(0.15), 20, 0.1, start=UniformStart())))
        seen[name, "distal"] = keep_rate(detector.score(noise) >= tau)
    # 1: the further along the perturbation, the less sure; not so for normal training.
    assert seen["ccat", 1.0] < seen["ccat", 0.25] - 0.2
    assert seen["normal", 1.0] > seen["ccat", 1.0] + 0.25
    # 2: without its rejection it is not robust; with it, far better than without, and than normal training.
    unthresholded = max(seen["ccat", key].unthresholded for key in attacks)
    assert unthresholded > 0.7
    assert seen["ccat", "conf"].robust_error < unthresholded - 0.25
    assert seen["ccat", "conf"].robust_error < seen["normal", "conf"].robust_error - 0.2
    # 5: an attack on cross-entropy alone overstates robustness.
    assert seen["ccat", "conf"].robust_error > seen["ccat", "ce"].robust_error + 0.2
    # 6: noise that shows nothing.
    assert seen["ccat", "distal"] < seen["normal", "distal"] - 0.5
    assert seen["ccat", "conf"].error < 0.05


# ART -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier():
    from art.estimators.classification import PyTorchClassifier

    module = network(dtype=torch.float32)
    return PyTorchClassifier(
        module, nn.CrossEntropyLoss(), (1, 4, 4), 4, torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9),
        clip_values=(0.0, 1.0), device_type="cpu",
    )


def arrays(n=64, seed=1):
    x, y = images(n, torch.float32, seed)
    return x.numpy(), y.numpy()


def test_the_trainer_the_attack_and_the_detector_of_art(classifier):
    from art_ext_ccat import CCATAttack, CCATDetector, CCATTrainer

    x, y = arrays()
    before = classifier.model[0].weight.detach().clone()
    trainer = CCATTrainer(classifier, eps=0.1, base_lr=0.05, steps=5, track=False)
    trainer.fit(x, y, nb_epochs=6, batch_size=16, validation_data=arrays(24, seed=2))
    assert not torch.equal(classifier.model[0].weight, before)
    assert trainer.history.best.thresholded is not None

    attack = CCATAttack(classifier, eps=0.1, base_lr=0.05, steps=10, restarts=2)
    made = attack.generate(x, np.eye(4)[y])
    assert made.dtype == np.float32
    assert np.abs(made - x).max() <= 0.1 + 1e-6
    assert made.min() >= 0
    assert made.max() <= 1

    def others(points):
        logits = torch.tensor(classifier.predict(points))
        return best_other_probability(logits, torch.tensor(y)).numpy()

    assert (others(made) >= others(x) - 1e-6).all()
    assert others(made).mean() > others(x).mean() + 0.02
    np.testing.assert_array_equal(CCATAttack(classifier, eps=0.1, base_lr=0.05, steps=10, restarts=2,
                                             batch_size=7).generate(x, y).shape, x.shape)
    aimed = CCATAttack(classifier, eps=0.1, base_lr=0.05, steps=10, restarts=1, targeted=True).generate(x, (y + 1) % 4)
    wanted = [F.softmax(torch.tensor(classifier.predict(p)), 1)[range(64), (y + 1) % 4].mean() for p in (x, aimed)]
    assert wanted[1] > wanted[0]

    detector = CCATDetector(classifier, tpr=0.9)
    detector.fit(*arrays(40, seed=3))
    report, rejected = detector.detect(made)
    assert rejected.dtype == bool
    assert rejected.shape == (64,)
    np.testing.assert_array_equal(rejected, report["scores"] < report["threshold"])


def test_distal_images_of_art(classifier):
    from art_ext_ccat import DistalAttack

    x, _ = arrays(20)
    attack = DistalAttack(classifier, radius=0.2, base_lr=0.1, steps=10, restarts=1)
    made = attack.generate(x)
    noise = Keys(0, 0, torch.arange(20)).stream("distal").uniform((1, 4, 4)).numpy()
    assert np.abs(made - noise).max() <= 0.2 + 1e-6
    np.testing.assert_array_equal(made, attack.generate(np.zeros_like(x)))
    sure = [F.softmax(torch.tensor(classifier.predict(points)), 1).amax(1) for points in (noise, made)]
    assert bool((sure[1] >= sure[0] - 1e-6).all())
    assert sure[1].mean() > sure[0].mean() + 0.02
    with pytest.raises(ConfigError, match="unknown option of DistalAttack 'eps'"):
        DistalAttack(classifier, eps=0.2)
    assert "every_class" not in attack.attack_params


def test_what_has_no_targeted_form_says_what_to_leave_out(classifier):
    from art_ext_ccat import CCATAttack, DistalAttack

    with pytest.raises(ConfigError, match=r"every_class goes to all wrong classes, but targeted .*; leave one"):
        CCATAttack(classifier, every_class=True, targeted=True)
    x, y = arrays(4)
    attack = CCATAttack(classifier, every_class=True, steps=2, restarts=1)
    with pytest.raises(ConfigError, match="leave one of them out"):
        attack.set_params(targeted=True)
    assert (attack.targeted, attack.every_class) == (False, True)
    attack.generate(x, y)
    with pytest.raises(ConfigError, match=r"distal_confidence has no targeted form; .*, or leave targeted out"):
        DistalAttack(classifier, steps=2, restarts=1, targeted=True).generate(x, y)


def test_the_attack_s_options_are_the_test_time_attack_s(classifier):
    from art_ext_ccat import CCATAttack

    attack = CCATAttack(classifier)
    assert (attack.steps, attack.restarts, attack.lr_factor, attack.eps) == (1000, 10, 1.1, 0.03)
    assert "rho" not in attack.attack_params
    with pytest.raises(ConfigError, match="did you mean restarts"):
        CCATAttack(classifier, restart=3)
    attack.set_params(steps=5, norm="l2")
    random, zero = attack.attack(FACTS).attacks
    assert (random.steps, random.norm, random.restarts) == (5, L2(0.03), 10)
    assert zero.restarts == 1
