"""APGD, FAB, Square and AutoAttack: closed forms, exhaustive search, promises, entries, ART."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.attacks.evasion import AutoProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from scipy.optimize import linprog
from tiny import FACTS
from torch import nn

import art_ext_attacks as attacks
from art_ext.api import (
    L1,
    L2,
    PGD,
    ConfigError,
    EvaluationContext,
    Facts,
    Keys,
    Linf,
    Outputs,
    Plan,
    ce,
    cw,
    dlr_ratio,
    for_evaluation,
    norm_named,
)
from art_ext_attacks import APGD, FAB, Square, components
from art_ext_attacks import square as square_file
from art_ext_attacks.apgd import likely_classes, targeted_dlr
from art_ext_attacks.ascent import checkpoints
from art_ext_attacks.autoattack import AutoAttack, AutoAttackSettings
from art_ext_attacks.projections import onto_hyperplane, onto_l1_ball
from art_ext_attacks.windows import double_bump, share_at, side
from art_ext_rce import RCE

torch.set_num_threads(1)
ENTRIES = {entry.name: entry for entry in attacks.ATTACKS}
NORMS = {"linf": Linf(0.1), "l2": L2(0.5), "l1": L1(2.0)}
each_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


class Rowwise(nn.Module):
    """Two layers without matrix products, whose rounding would depend on the batch."""

    def __init__(self, classes=5, pixels=18, hidden=12, seed=0, scale=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = torch.randn(hidden, pixels, generator=generator)
        self.second = torch.randn(classes, hidden, generator=generator) * scale

    def forward(self, x):
        h = torch.tanh((x.flatten(1)[:, None] * self.first).sum(-1))
        return (h[:, None] * self.second).sum(-1)


class Linear(nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias


def data(n=20, shape=(2, 3, 3), seed=1):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def crafted(attack, module, x, y, *, seed=5, index=None, targeted=False, mask=None):
    def net(batch):
        return Outputs(module(batch))

    index = torch.arange(len(x)) if index is None else torch.as_tensor(index)
    score = (attack.objective or ce).bind(net, x, y, targeted=targeted)
    return attack.craft(net, x, score, Keys(seed, 0, index), mask)


def family(norm):
    """Small forms of every attack on a ball."""
    members = {
        "apgd_ce": APGD(norm, 12),
        "apgd_dlr_x2": APGD(norm, 12, dlr_ratio, restarts=2),
        "apgd_t": APGD(norm, 12, dlr_ratio, targets=3),
        "apgd_larger": APGD(norm, 12, larger=norm.name == "l1"),
        "fab": FAB(norm, 8, restarts=2, targets=0),
        "fab_t": FAB(norm, 8, targets=3),
        "fab_minimal": FAB(norm, 8, targets=2, minimal=True),
        "square": Square(norm, 120),
    }
    standard = ("apgd_ce", "apgd_t", "fab_t", "square")
    return members | {"autoattack": AutoAttack({name: members[name] for name in standard})}


# --------------------------------------------------------------------------------------- formulas


def test_targeted_dlr_by_hand():
    z = torch.tensor([[3.0, 1.0, 0.0, -1.0, 2.0], [3.0, 1.0, 0.0, -1.0, 2.0]])
    got = targeted_dlr(z, torch.tensor([0, 1]), torch.tensor([2, 4]))
    # z_(1) - (z_(3) + z_(4)) / 2 = 3 - (1 + 0) / 2
    torch.testing.assert_close(got, torch.tensor([-3 / 2.5, 1 / 2.5]))
    torch.testing.assert_close(targeted_dlr(7 * z + 4, torch.tensor([0, 1]), torch.tensor([2, 4])), got)
    three = z[:, :3]
    assert targeted_dlr(three, torch.tensor([0, 0]), torch.tensor([1, 2])).tolist() == [-2, -3]


def test_likely_classes_leave_the_true_one_out():
    z = torch.tensor([[3.0, 1.0, 0.0, 2.0], [3.0, 1.0, 0.0, 2.0]])
    assert likely_classes(z, torch.tensor([0, 1]), 2).tolist() == [[3, 1], [0, 3]]
    assert likely_classes(z, torch.tensor([0, 1]), 9).shape == (2, 3)


def test_checkpoints_of_the_paper():
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert max(checkpoints(10)) <= 10


def test_windows_shrink_as_the_paper_says():
    at = (0, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001, 6001, 8001, 9999)
    got = [0.8 / share_at(query, 10_000, 0.8, rescale=True) for query in at]
    assert got == [1, 1, 2, 2, 4, 8, 16, 32, 64, 128, 256, 512, 512]
    assert share_at(1001, 5000, 0.8, rescale=True) == share_at(2002, 10_000, 0.8, rescale=True)
    assert share_at(1001, 5000, 0.8, rescale=False) == 0.8 / 32
    assert side(0.8, 32, 32, odd=False) == 29
    assert side(0.0001, 32, 32, odd=False) == 1
    assert side(0.05, 8, 8, odd=True) == 3
    assert side(0.8, 3, 9, odd=True) == 3


@pytest.mark.parametrize("order", [2.0, 1.0])
@pytest.mark.parametrize("size", [1, 3, 6, 7])
def test_bumps_have_norm_one_and_both_signs(order, size):
    shape = double_bump(size, order)
    torch.testing.assert_close(torch.linalg.vector_norm(shape[0], order).item(), 1.0)
    assert torch.equal(shape[0].T, shape[1])
    if size > 1:
        assert (shape[0][: size // 2] > 0).all()
        assert (shape[0][size // 2 :] < 0).all()


# ------------------------------------------------------------------------------------ projections


def hyperplanes(n=60, d=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, d, generator=generator, dtype=torch.float64)
    w[::4, 2] = 0
    w[::5, :2] = w[::5, 1:2].abs()  # equal weights
    x = torch.rand(n, d, generator=generator, dtype=torch.float64)
    x[::3, 0], x[::3, 1] = 0, 1  # no room on one side
    gap = torch.randn(n, generator=generator, dtype=torch.float64)
    gap[7] = 0
    return w, gap, x, 1 - x


def as_programme(p, w, gap, down, up):
    """The length of the shortest step by linear programming, or None where the box does not reach."""
    d = len(w)
    if p == 1:
        found = linprog(
            np.ones(2 * d), A_eq=np.r_[w, -w][None], b_eq=[gap], bounds=[*((0, u) for u in up), *((0, u) for u in down)]
        )
    else:
        above = np.block([[np.eye(d), -np.ones((d, 1))], [-np.eye(d), -np.ones((d, 1))]])
        bounds = [*zip(-down, up, strict=True), (0, None)]
        found = linprog(
            np.r_[np.zeros(d), 1], A_ub=above, b_ub=np.zeros(2 * d), A_eq=np.r_[w, 0][None], b_eq=[gap], bounds=bounds
        )
    return found.fun if found.status == 0 else None


def as_bisection(w, gap, down, up):
    """The length of the shortest step in L2: the multiplier by halving."""
    low, high = (0.0, 1e6) if gap > 0 else (-1e6, 0.0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if w @ np.clip(middle * w, -down, up) < gap else (low, middle)
    step = np.clip(high * w, -down, up)
    return np.linalg.norm(step) if abs(w @ step - gap) < 1e-6 else None


@pytest.mark.parametrize("p", [float("inf"), 2.0, 1.0])
def test_the_shortest_step_onto_a_hyperplane_inside_a_box(p):
    w, gap, down, up = hyperplanes()
    step = onto_hyperplane(p, w, gap, down, up)
    assert ((step >= -down - 1e-12) & (step <= up + 1e-12)).all()
    reached = 0
    for i in range(len(w)):
        rows = [part[i].numpy() for part in (w, gap, down, up)]
        best = as_bisection(*rows) if p == 2 else as_programme(p, *rows)
        if best is None:  # as far as the box lets it
            far = torch.where(w[i] * gap[i].sign() > 0, up[i], -down[i]) * (w[i] != 0)
            torch.testing.assert_close(step[i], far)
            continue
        reached += 1
        assert float(w[i] @ step[i]) == pytest.approx(float(gap[i]), abs=1e-9)
        assert float(torch.linalg.vector_norm(step[i], p)) == pytest.approx(best, abs=1e-6)
    assert 20 < reached < 60


def test_the_nearest_point_of_the_l1_ball_inside_a_box():
    generator = torch.Generator().manual_seed(2)
    delta = torch.randn(50, 9, generator=generator, dtype=torch.float64)
    x = torch.rand(50, 9, generator=generator, dtype=torch.float64)
    x[:, 0] = 0
    got = onto_l1_ball(delta, 1.5, x, 1 - x)
    for i in range(50):
        room = torch.where(delta[i] < 0, x[i], 1 - x[i])
        low, high = 0.0, 10.0
        for _ in range(100):
            middle = (low + high) / 2
            size = torch.minimum((delta[i].abs() - middle).clamp(min=0), room).sum()
            low, high = (middle, high) if size > 1.5 else (low, middle)
        expected = delta[i].sign() * torch.minimum((delta[i].abs() - high).clamp(min=0), room)
        torch.testing.assert_close(got[i], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(onto_l1_ball(delta, 100.0, x, 1 - x), torch.minimum(torch.maximum(delta, -x), 1 - x))


# ------------------------------------------------------------------------------------ closed forms


@pytest.fixture(scope="module")
def linear():
    """Three classes; images in the middle of a wide box, so that it does not matter."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(3, 18, generator=generator, dtype=torch.float64)
    module = Linear(weight, torch.randn(3, generator=generator, dtype=torch.float64))
    x = data(16).double()
    return module, x, module(x).argmax(1)


def distances(module, x, y, norm):
    """Of each image to its nearest decision boundary: the smallest gap over the dual norm."""
    z, dual = module(x), {"linf": 1, "l2": 2, "l1": float("inf")}[norm.name]
    gaps = []
    for k in range(z.shape[1]):
        slope = torch.linalg.vector_norm(module.weight[k] - module.weight[y], dual, dim=1)
        gap = (z.gather(1, y[:, None]).squeeze(1) - z[:, k]) / slope
        gaps.append(torch.where(y == k, torch.full_like(gap, float("inf")), gap))
    return torch.stack(gaps).amin(0)


@each_norm
@pytest.mark.parametrize("targets", [0, 2])
def test_fab_finds_the_smallest_perturbation_of_a_linear_model(linear, norm, targets):
    module, x, y = linear
    made = crafted(FAB(norm, 50, targets=targets, minimal=True, clip=(-9, 9)), module, x, y)
    assert (module(made.x).argmax(1) != y).all()
    torch.testing.assert_close(norm.of(made.delta), distances(module, x, y, norm), rtol=1e-3, atol=0)


@each_norm
def test_fab_takes_what_the_box_leaves(linear, norm):
    """In a tight box, the smallest perturbation by linear programming, in L2 by bisection."""
    module, x, y = linear
    clip = (float(x.min()) - 0.05, float(x.max()) + 0.05)
    made = crafted(FAB(norm, 60, targets=2, minimal=True, clip=clip), module, x, y)
    wrong = module(made.x).argmax(1) != y
    assert wrong.sum() > 8
    for i in wrong.nonzero().squeeze(1).tolist():
        flat, down, up = x[i].flatten().numpy(), x[i].flatten().numpy() - clip[0], clip[1] - x[i].flatten().numpy()
        lengths = []
        for k in {0, 1, 2} - {int(y[i])}:
            w = (module.weight[k] - module.weight[y[i]]).numpy()
            gap = -(w @ flat + float(module.bias[k] - module.bias[y[i]]))
            rows = (w, gap, down, up)
            lengths.append(as_bisection(*rows) if norm.order == 2 else as_programme(norm.order, *rows))
        best = min(length for length in lengths if length is not None)
        assert float(norm.of(made.delta)[i]) == pytest.approx(best, rel=5e-3)


@each_norm
@pytest.mark.parametrize("attack", ["apgd", "apgd_dlr", "apgd_t", "fab", "fab_t"])
def test_a_linear_model_falls_exactly_where_it_can(linear, norm, attack):
    """Above the distance of the boundary each attack succeeds, below none."""
    module, x, y = linear
    for i, distance in enumerate(distances(module, x, y, norm).tolist()):
        for factor, falls in ((1.03, True), (0.99, False)):
            ball, clip = norm_named(norm.name, factor * distance), (-9.0, 9.0)
            made = crafted(
                {
                    "apgd": APGD(ball, 100, cw, clip=clip),
                    "apgd_dlr": APGD(ball, 100, dlr_ratio, clip=clip),
                    "apgd_t": APGD(ball, 100, dlr_ratio, targets=2, clip=clip),
                    "fab": FAB(ball, 30, targets=0, clip=clip),
                    "fab_t": FAB(ball, 30, targets=2, clip=clip),
                }[attack],
                module,
                x[i : i + 1],
                y[i : i + 1],
            )
            assert bool(module(made.x).argmax(1) != y[i]) == falls
        if i == 3:
            break


@each_norm
def test_apgd_reaches_the_optimum_of_a_linear_model(linear, norm):
    module, x, y = linear
    two = Linear(module.weight[:2], module.bias[:2])
    y = two(x).argmax(1)
    eps = 0.6 * float(distances(two, x, y, norm).min())
    attack = APGD(norm_named(norm.name, eps), 100, cw, clip=(-9, 9))
    made = crafted(attack, two, x, y)
    slope = torch.linalg.vector_norm(
        two.weight[0] - two.weight[1], {"linf": 1, "l2": 2, "l1": float("inf")}[norm.name]
    )
    z, clean = two(made.x), two(x)
    gap = (z - clean).gather(1, 1 - y[:, None]) - (z - clean).gather(1, y[:, None])
    torch.testing.assert_close(gap.squeeze(1), (eps * slope).expand(16), rtol=0.02, atol=0)


def test_square_equals_exhaustive_search_on_tiny_images():
    """In L-inf, the corners of the ball are all that Square can reach."""
    module = Rowwise(4, 9, seed=3)
    x = data(24, (1, 3, 3))
    y = module(x).argmax(1)
    eps = 0.12
    corners = torch.tensor(list(itertools.product((-eps, eps), repeat=9))).reshape(-1, 1, 3, 3)
    best, falls = [], []
    for image, label in zip(x, y, strict=True):
        z = module((image + corners).clamp(0, 1))
        value = cw.measure(Outputs(z), label.expand(len(z)))
        best.append(value.max())
        falls.append(bool((z.argmax(1) != label).any()))
    made = crafted(Square(Linf(eps), 600, restarts=2), module, x, y)
    z = module(made.x)
    fell, value = z.argmax(1) != y, cw.measure(Outputs(z), y)
    assert (value <= torch.stack(best) + 1e-6).all()
    assert 3 < sum(falls) < 21
    assert fell.tolist() == falls
    stands = ~fell
    assert (value[stands] > torch.stack(best)[stands] - 1e-5).double().mean() > 0.9


def test_square_spares_what_is_known_to_fail(monkeypatch):
    module, x = Rowwise(seed=3), data(30)
    y, looks = module(x).argmax(1), []

    def counting(batch):
        looks.append(len(batch))
        return module(batch)

    attack = Square(Linf(0.08), 800)
    spared = crafted(attack, counting, x, y).x
    passes, looks = sum(looks), []
    monkeypatch.setattr(square_file, "LARGEST_TABLE", 0)
    assert torch.equal(crafted(attack, counting, x, y).x, spared)
    assert passes < 0.6 * sum(looks)


@each_norm
def test_square_looks_ahead_where_few_stand(norm, monkeypatch):
    """Several proposals of an example in one pass find what one at a time finds, in far fewer passes."""
    module, x, found, passes = Rowwise(seed=3), data(6), {}, {}
    y = module(x).argmax(1)
    for most in (1, 64):
        looks = []

        def counting(batch, looks=looks):
            looks.append(len(batch))
            return module(batch)

        monkeypatch.setattr(square_file, "LOOKS", most)
        found[most] = crafted(Square(norm, 200), counting, x, y).x
        passes[most] = len(looks)
    assert torch.equal(found[1], found[64])
    assert passes[64] < 0.4 * passes[1], passes


# --------------------------------------------------------------------------------------- promises


@each_norm
@pytest.mark.parametrize("name", family(Linf(0.1)))
def test_ball_box_and_mask_are_kept(norm, name):
    module, x = Rowwise(), data(16)
    x[0], x[1] = 0.0, 1.0
    y = module(x).argmax(1)
    mask = torch.ones(1, 1, 3, 3)
    mask[..., 1] = 0
    for made in (crafted(family(norm)[name], module, x, y), crafted(family(norm)[name], module, x, y, mask=mask)):
        assert made.x.shape == x.shape
        assert float(made.x.min()) >= 0
        assert float(made.x.max()) <= 1
        torch.testing.assert_close(made.delta, made.x - x)
        if "minimal" not in name:
            assert (norm.of(made.delta) <= norm.eps * (1 + 1e-5)).all()
    assert (made.delta[..., 1] == 0).all()
    assert (made.delta != 0).any()


def test_a_mask_in_part_narrows_the_ball():
    module, x = Rowwise(), data(16)
    y, half = module(x).argmax(1), torch.full((1, 1, 3, 3), 0.5)
    for name, attack in family(Linf(0.1)).items():
        assert crafted(attack, module, x, y, mask=half).delta.abs().max() <= 0.05 + 1e-6, name


@each_norm
@pytest.mark.parametrize("name", family(Linf(0.1)))
def test_an_example_is_attacked_alike_in_any_batch(norm, name):
    module, x = Rowwise(), data(20)
    y = module(x).argmax(1)
    attack = family(norm)[name]
    whole = crafted(attack, module, x, y).x
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(crafted(attack, module, x[order], y[order], index=order).x, whole[order])
    for part in ([3], [0, 5, 7], list(range(1, 20, 2))):
        assert torch.equal(crafted(attack, module, x[part], y[part], index=part).x, whole[part])
    if "fab" not in name:  # which draws but for restarts, and keeps only what they find
        assert not torch.equal(crafted(attack, module, x, y, seed=6).x, whole)


def test_float64_and_channels_last_images_are_taken():
    module = Rowwise().double()
    module.first, module.second = module.first.double(), module.second.double()
    x = data(12).double().contiguous(memory_format=torch.channels_last)
    y = module(x).argmax(1)
    for attack in family(Linf(0.1)).values():
        assert crafted(attack, module, x, y).x.dtype == torch.float64


def test_saturated_logits_stop_cross_entropy_alone():
    """At logits of 1e4, CE has no gradient in float32; DLR, margin, FAB and Square go on."""
    module, x = Rowwise(scale=1e4), data(30)
    y = module(x).argmax(1)
    plain = Rowwise(scale=1.0)
    reach = (plain(crafted(APGD(Linf(0.1), 40, cw), plain, x, y).x).argmax(1) != y).sum()
    assert reach > 10

    def felled(attack):
        return int((module(crafted(attack, module, x, y).x).argmax(1) != y).sum())

    by_ce = felled(APGD(Linf(0.1), 40, ce))
    for attack in (
        APGD(Linf(0.1), 40, cw),
        APGD(Linf(0.1), 40, dlr_ratio),
        APGD(Linf(0.1), 40, dlr_ratio, targets=4),
        FAB(Linf(0.1), 40),
    ):
        assert felled(attack) >= reach - 1
    assert felled(Square(Linf(0.1), 500)) >= reach - 2
    assert by_ce < reach - 3


@each_norm
@pytest.mark.parametrize("name", family(Linf(0.1)))
def test_targeted_attacks_reach_their_class(norm, name):
    module, x = Rowwise(), data(30)
    predicted = module(x).argmax(1)
    goal = (predicted + 1) % 5
    ball = norm_named(norm.name, 4 * norm.eps)
    got = module(crafted(family(ball)[name], module, x, goal, targeted=True).x).argmax(1)
    assert (got == goal).sum() > 8


def test_examples_that_fell_leave_the_work():
    module, x = Rowwise(), data(60)
    y, rows = module(x).argmax(1), []

    def counting(batch):
        rows.append(len(batch))
        return module(batch)

    wide, tight = [], []
    for ball, into in ((Linf(0.3), wide), (Linf(0.001), tight)):
        for attack in (
            APGD(ball, 20),
            FAB(ball, 20),
            Square(ball, 100),
            for_evaluation(PGD(ball, 20)),
        ):
            rows.clear()
            crafted(attack, counting, x, y)
            into.append(sum(rows))
    assert all(few < 0.6 * many for few, many in zip(wide, tight, strict=True)), (wide, tight)


@each_norm
@pytest.mark.parametrize("kind", ["apgd", "apgd_t", "fab", "fab_t"])
def test_what_no_gradient_moves_leaves_the_work_unless_answers_are_random(norm, kind):
    """Behind rounded inputs, each further step would repeat the last; behind noise, it is another draw."""
    module, x, noise = Rowwise(), data(30), torch.Generator().manual_seed(0)

    def answers(batch, scale):
        rounded = torch.round(batch * 4) / 4
        return module(rounded.detach()) + scale * torch.randn(len(batch), 5, generator=noise) + 0 * batch.sum()

    ball = norm_named(norm.name, norm.eps / 20)
    attack = {
        "apgd": APGD(ball, 30),
        "apgd_t": APGD(ball, 30, dlr_ratio, targets=3),
        "fab": FAB(ball, 30, targets=0),
        "fab_t": FAB(ball, 30, targets=3),
    }[kind]
    y, rows = module(torch.round(x * 4) / 4).argmax(1), {}
    for scale in (0.0, 1e-3):
        looks = []

        def counting(batch, scale=scale, looks=looks):
            looks.append(len(batch))
            return answers(batch, scale)

        crafted(attack, counting, x, y)
        rows[scale] = sum(looks)
    assert rows[0.0] < 0.6 * rows[1e-3], rows


def test_an_example_may_start_wrong():
    module, x = Rowwise(), data(12)
    y = (module(x).argmax(1) + 1) % 5
    for norm in NORMS.values():
        for name, attack in family(norm).items():
            assert (module(crafted(attack, module, x, y).x).argmax(1) != y).all(), name


def test_autoattack_says_what_felled_each():
    module, x = Rowwise(), data(40)
    y = module(x).argmax(1)
    attack = family(Linf(0.06))["autoattack"]
    assert attack.names == ("apgd_ce", "apgd_t", "fab_t", "square")
    made = crafted(attack, module, x, y)
    fell = module(made.x).argmax(1) != y
    assert torch.equal(made.extras["felled_by"] >= 0, fell)
    assert 5 < fell.sum() < 40


def test_random_networks_are_attacked_with_mean_gradients():
    module, x = Rowwise(), data(30)
    y = module(x).argmax(1)
    noise = torch.Generator().manual_seed(0)

    def noisy(batch):
        return module(batch + 0.3 * torch.randn(batch.shape, generator=noise))

    felled = [int((module(crafted(APGD(Linf(0.1), 15, eot=n), noisy, x, y).x).argmax(1) != y).sum()) for n in (1, 20)]
    assert felled[1] > felled[0]


# -------------------------------------------------------------------------------- entries and ART


def built(name, norm="linf", plan=None, **options):
    entry = ENTRIES[name]
    return dict(entry.build(entry.options(**options), EvaluationContext(plan or Plan(FACTS), norm, 0.1, (0.0, 1.0))))


def test_entries_take_the_threat_and_name_their_results():
    assert list(built("autoattack")) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert list(built("autoattack", version="plus")) == ["apgd_ce", "apgd_dlr", "fab", "square", "apgd_t", "fab_t"]
    assert list(built("autoattack", version="rand")) == ["apgd_ce", "apgd_dlr"]
    whole = built("autoattack", as_one=True)
    assert list(whole) == ["autoattack"]
    assert whole["autoattack"] == AutoAttack(built("autoattack"))
    assert whole["autoattack"].norm == Linf(0.1)
    assert list(built("autoattack", version="plus", as_one=True)) == ["autoattack_plus"]
    assert list(built("apgd")) == ["apgd_ce"]
    assert list(built("apgd", objective="targeted_dlr")) == ["apgd_t"]
    assert list(built("apgd", objective="margin", restarts=3)) == ["apgd_marginx3"]
    assert list(built("fab")) == ["fab_t"]
    assert list(built("fab", targets=0, restarts=2)) == ["fabx2"]
    assert list(built("square")) == ["square"]
    for attack in built("autoattack", norm="l2", eps=0.3).values():
        assert (attack.norm.name, attack.norm.eps, attack.clip) == ("l2", 0.3, (0.0, 1.0))


def test_the_components_are_the_references():
    ten = Facts(10, (1, 8, 8))
    standard = components("standard", Linf(0.1), ten)
    assert (standard["apgd_ce"].restarts, standard["apgd_t"].targets, standard["fab_t"].targets) == (1, 9, 9)
    assert (standard["square"].queries, standard["square"].rescale) == (5000, False)
    sparse = components("standard", L1(5.0), ten)
    assert (sparse["apgd_t"].restarts, sparse["apgd_t"].targets, sparse["apgd_ce"].larger) == (1, 5, True)
    more = [components("standard", ball, ten)["apgd_ce"].restarts for ball in (L2(0.5), L1(5.0))]
    assert more == [5, 10]  # the reference has 1 and 5
    plus = components("plus", L2(0.5), ten)
    assert (plus["apgd_dlr"].restarts, plus["fab"].restarts, plus["fab"].targets) == (5, 5, 0)
    assert {attack.eot for attack in components("rand", Linf(0.1), ten).values()} == {20}


def test_the_criterions_adversaries_are_attacked():
    plan = Plan.of([RCE()], FACTS)
    named = built("apgd", plan=plan, objective="criterion")
    assert [attack.objective for attack in named.values()] == list(plan.compose().criterion.adversaries)


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_attacked_with_differences_of_logits(classes):
    module, x = Rowwise(classes), data(20)
    y = module(x).argmax(1)
    attack = AutoAttackSettings().attack(Linf(0.1), Facts(classes, (2, 3, 3)))
    assert attack.attacks["apgd_t"].targets == classes - 1
    assert (module(crafted(attack, module, x, y).x).argmax(1) != y).sum() > 3


def test_impossible_attacks_are_refused_in_one_line():
    with pytest.raises(ConfigError, match="APGD attacks in linf, l2 and l1, not in l0"):
        APGD(norm_named("l0", 3))
    for name in ("apgd", "fab", "square", "autoattack"):
        with pytest.raises(ConfigError, match="not in l0"):
            built(name, norm="l0", eps=3)
    with pytest.raises(ConfigError, match="targets go with the objective dlr"):
        APGD(Linf(0.1), targets=2)
    with pytest.raises(ConfigError, match="larger balls are l1's alone"):
        built("apgd", larger=True)
    with pytest.raises(ConfigError, match="two classes"):
        components("standard", Linf(0.1), Facts(1, (1, 8, 8)))
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        FAB(Linf(0.1), 0)
    with pytest.raises(ConfigError, match="share"):
        Square(Linf(0.1), share=0)
    with pytest.raises(ConfigError, match="restart"):
        attacks.SquareIngredient(restart=2)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5))
    y = torch.arange(60) % 5
    x = 0.5 * data(60, (1, 6, 6))
    x[torch.arange(60), 0, :, y] += 0.4
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
    made = PyTorchClassifier(
        module, loss=nn.CrossEntropyLoss(), input_shape=(1, 6, 6), nb_classes=5, clip_values=(0, 1)
    )
    return made, x.numpy(), y.numpy()


def test_as_art_attacks_they_find_what_arts_apgd_finds(classifier):
    model, x, y = (part[:40] if isinstance(part, np.ndarray) else part for part in classifier)
    theirs = AutoProjectedGradientDescent(
        model, eps=0.15, eps_step=0.03, max_iter=40, nb_random_init=1, batch_size=40, verbose=False
    ).generate(x, y)
    fooled = int((model.predict(theirs).argmax(1) != y).sum())
    assert 3 < fooled < 37
    counts = {}
    for attack in (
        attacks.APGDAttack(model, eps=0.15, steps=40),
        attacks.FABAttack(model, eps=0.15, steps=40),
        attacks.SquareAttack(model, eps=0.15, queries=500),
        attacks.AutoAttack(model, eps=0.15),
    ):
        adv = attack.generate(x, y)
        assert (adv.shape, adv.dtype) == (x.shape, np.float32)
        assert np.abs(adv - x).max() <= 0.15 + 1e-6
        counts[type(attack).__name__] = int((model.predict(adv).argmax(1) != y).sum())
        attack.set_params(batch_size=7)
        assert np.array_equal(attack.generate(x[:7], y[:7]), adv[:7])
    assert counts["APGDAttack"] >= fooled - 1
    assert counts["FABAttack"] >= fooled - 2
    assert counts["AutoAttack"] >= max(*counts.values(), fooled)


def test_art_attacks_aim_at_a_class(classifier):
    model, x, y = classifier
    goal = (y + 1) % 5
    for kind, options in (
        (attacks.APGDAttack, {"steps": 30}),
        (attacks.FABAttack, {"steps": 30}),
        (attacks.SquareAttack, {"queries": 300}),
    ):
        adv = kind(model, eps=0.4, targeted=True, **options).generate(x[:20], goal[:20])
        assert (model.predict(adv).argmax(1) == goal[:20]).sum() > 8, kind
