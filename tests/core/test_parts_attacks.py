"""PGD against plain loops, closed forms and ART, and its promises for every norm."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_ext.errors import ConfigError
from art_ext.parts.attacks import PGD, GaussianStart, UniformStart, ZeroStart, for_evaluation
from art_ext.parts.noise import Keys
from art_ext.parts.norms import L1, L2, Linf, per_example
from art_ext.parts.objectives import Objective, ce, cw, dlr_ratio, kl_to_clean
from art_ext.parts.ranges import Uniform
from art_ext.types import Outputs

NORMS = {"linf": Linf(0.08), "l2": L2(0.5), "l1": L1(1.0)}
each_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


class Small(nn.Module):
    def __init__(self, seed=0, classes=4):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 6, 3, stride=2), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Linear(6 * 3 * 3, classes)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.fixture(scope="module")
def net():
    module = Small().double()
    # A net with some structure, so that attacks have something to find.
    x, y = _data(64)
    for _ in range(60):
        for p, grad in zip(
            module.parameters(), torch.autograd.grad(F.cross_entropy(module(x), y), module.parameters()), strict=True
        ):
            p.data.sub_(0.2 * grad)
    return module.eval()


def _data(n=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    x = torch.rand(n, 2, 7, 7, dtype=torch.float64, generator=generator)
    x[:, 0, :, 3] = (x[:, 0, :, 3] + y[:, None].double()) / 4
    return x, y


def _run(attack, module, x, y, *, seed=5, index=None, targeted=False, mask=None, draw=0, step=0):
    def forward(batch):
        return Outputs(module(batch))

    index = torch.arange(len(x)) if index is None else torch.as_tensor(index)
    score = attack.objective.bind(forward, x, y, targeted=targeted)
    return attack.craft(forward, x, score, Keys(seed, draw, index, step=step), mask)


def _value(objective, module, adv, x, y):
    score = objective.bind(lambda b: Outputs(module(b)), x, y)
    out = Outputs(module(adv))
    return score.value(out), score.wrong(out)


@each_norm
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"restarts": 2, "keep": "best"}, {"start": GaussianStart()}]
)
def test_perturbations_stay_in_ball_and_box(net, norm, options):
    x, y = _data()
    x[0], x[1] = 0.0, 1.0
    adv = _run(PGD(norm, steps=5, **options), net, x, y)
    assert (norm.of(adv.delta) <= norm.eps * (1 + 1e-9)).all()
    assert adv.x.min() >= 0
    assert adv.x.max() <= 1
    assert torch.equal(adv.delta, adv.x - x)
    assert (norm.of(adv.delta) > 0.1 * norm.eps).all()
    assert not adv.x.requires_grad


@each_norm
def test_other_clip_values_are_respected(net, norm):
    x, y = _data()
    adv = _run(PGD(norm, steps=5, clip=(0.25, 0.75)), net, x.clamp(0.25, 0.75), y)
    assert adv.x.min() >= 0.25
    assert adv.x.max() <= 0.75


@each_norm
@pytest.mark.parametrize("start", [UniformStart(), GaussianStart(0.01), ZeroStart()], ids=str)
def test_a_mask_is_respected(net, norm, start):
    x, y = _data()
    mask = torch.zeros(1, 1, 7, 7)
    mask[..., 2:5, 2:5] = 1
    adv = _run(PGD(norm, steps=4, start=start), net, x, y, mask=mask)
    outside = adv.delta * (1 - mask)
    assert torch.equal(outside, torch.zeros_like(outside))
    assert (norm.of(adv.delta) > 0).all()
    assert (norm.of(adv.delta) <= norm.eps * (1 + 1e-9)).all()


@each_norm
@pytest.mark.parametrize("objective", [ce, cw, dlr_ratio, kl_to_clean], ids=str)
def test_each_objective_rises(net, norm, objective):
    x, y = _data()
    adv = _run(PGD(norm, steps=8, objective=objective), net, x, y)
    before, after = (_value(objective, net, point, x, y)[0] for point in (x, adv.x))
    assert (after > before).double().mean() > 0.9


@pytest.mark.parametrize("objective", [ce, cw, dlr_ratio, kl_to_clean], ids=str)
def test_an_objective_is_refused_from_the_image_itself_just_where_it_is_flat_there(net, objective):
    x, y = _data()
    point = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(_value(objective, net, point, x, y)[0].sum(), point)
    assert bool(grad.abs().max() < 1e-12) == objective.flat_at_clean
    if objective.flat_at_clean:
        with pytest.raises(ConfigError, match=r"has no gradient at the image itself.*start at a random point"):
            PGD(Linf(0.1), objective=objective, start=ZeroStart())
        PGD(Linf(0.1), objective=objective, start=ZeroStart(), jitter=0.001)  # noise at each step moves it
    else:
        PGD(Linf(0.1), objective=objective, start=ZeroStart())


@each_norm
def test_restarts_and_the_best_iterate_only_help(net, norm):
    x, y = _data(24)
    base = PGD(norm, steps=4, keep="best")
    single, many = (_run(dataclasses.replace(base, restarts=r), net, x, y) for r in (1, 4))
    last = _run(dataclasses.replace(base, keep="last"), net, x, y)
    (v1, w1), (v4, w4), (vl, wl) = (_value(ce, net, a.x, x, y) for a in (single, many, last))

    def at_least(better, worse):
        (value, wrong), (other, other_wrong) = better, worse
        assert (wrong >= other_wrong).all()
        assert ((wrong > other_wrong) | (value >= other - 1e-9)).all()

    at_least((v4, w4), (v1, w1))
    at_least((v1, w1), (vl, wl))
    assert (v4 > v1 + 1e-9).any()


def test_restarts_of_the_last_iterate_keep_the_highest_score(net):
    """Against the restarts run one by one."""
    x, y = _data(10)
    attack = PGD(Linf(0.05), steps=3, restarts=3)
    got = _run(attack, net, x, y)
    runs = []
    for restart in range(3):
        start = Linf(0.05).uniform(Keys(5, 0, torch.arange(10)).stream("start", restart), x, 0.05)
        runs.append(_plain_pgd(net, x, y, 0.05, 2.5 * 0.05 / 3, 3, start))
    values = torch.stack([F.cross_entropy(net(run), y, reduction="none") for run in runs])
    expected = torch.stack(runs)[values.argmax(0), torch.arange(10)]
    assert torch.equal(got.x, expected)
    assert len(values.argmax(0).unique()) > 1


def test_a_judge_compares_restarts_by_another_score(net):
    """Cross-entropy chooses among starts that an attack on nothing never left."""
    x, y = _data(10)
    nothing = Objective("nothing", lambda out, y: 0.0 * out.logits.sum(1))
    attack = PGD(Linf(0.05), steps=1, restarts=3, objective=nothing)
    keys = Keys(5, 0, torch.arange(10))
    runs = [(x + Linf(0.05).uniform(keys.stream("start", n), x, 0.05)).clamp(0, 1) for n in range(3)]
    assert torch.equal(_run(attack, net, x, y).x, runs[0]), "of equals the first"
    for targeted, goal in ((False, y), (True, (y + 1) % 4)):
        losses = torch.stack([F.cross_entropy(net(run), goal, reduction="none") for run in runs])
        best = (-losses if targeted else losses).argmax(0)
        assert len(best.unique()) > 1
        got = _run(dataclasses.replace(attack, judge=ce), net, x, goal, targeted=targeted)
        assert torch.equal(got.x, torch.stack(runs)[best, torch.arange(10)])


def _plain_pgd(module, x, y, eps, step_size, steps, start, loss=F.cross_entropy):
    """Madry's loop as anyone would write it."""
    adv = torch.clamp(x + torch.clamp(start, -eps, eps), 0, 1)
    for _ in range(steps):
        adv = adv.clone().detach().requires_grad_(True)
        loss(module(adv), y).backward()
        moved = adv.detach() + step_size * adv.grad.sign()
        adv = torch.clamp(torch.min(torch.max(moved, x - eps), x + eps), 0, 1)
    return adv.detach()


def test_linf_equals_the_plain_loop_exactly(net):
    x, y = _data(16)
    start = Linf(0.06).uniform(Keys(5, 0, torch.arange(16)).stream("start", 0), x, 0.06)
    expected = _plain_pgd(net, x, y, 0.06, 0.013, 7, start)
    assert torch.equal(_run(PGD(Linf(0.06), steps=7, step_size=0.013), net, x, y).x, expected)


def test_l2_equals_the_plain_loop(net):
    x, y = _data(16)
    start = L2(0.5).uniform(Keys(5, 0, torch.arange(16)).stream("start", 0), x, 0.5)
    adv = torch.clamp(x + start, 0, 1)
    for _ in range(6):
        adv = adv.clone().detach().requires_grad_(True)
        F.cross_entropy(net(adv), y, reduction="sum").backward()
        rows = []
        for i in range(16):
            delta = adv[i].detach() + 0.2 * adv.grad[i] / adv.grad[i].norm() - x[i]
            delta = delta * min(1.0, 0.5 / float(delta.norm()))
            rows.append(torch.clamp(x[i] + delta, 0, 1))
        adv = torch.stack(rows)
    got = _run(PGD(L2(0.5), steps=6, step_size=0.2), net, x, y).x
    torch.testing.assert_close(got, adv, rtol=0, atol=1e-12)


def test_momentum_equals_mi_fgsm_by_hand(net):
    x, y = _data(8)
    eps, step, mu = 0.07, 0.02, 0.9
    adv, g = x.clone(), torch.zeros_like(x)
    for _ in range(6):
        adv = adv.clone().detach().requires_grad_(True)
        F.cross_entropy(net(adv), y, reduction="sum").backward()
        for i in range(8):
            g[i] = mu * g[i] + adv.grad[i] / adv.grad[i].abs().sum()
        adv = torch.clamp(torch.clamp(adv.detach() + step * g.sign() - x, -eps, eps) + x, 0, 1)
    got = _run(PGD(Linf(eps), steps=6, step_size=step, momentum=mu, start=ZeroStart()), net, x, y).x
    torch.testing.assert_close(got, adv, rtol=0, atol=1e-12)
    plain = _run(PGD(Linf(eps), steps=6, step_size=step, start=ZeroStart()), net, x, y).x
    assert not torch.allclose(got, plain, atol=1e-6)


def test_one_step_from_zero_is_fgsm(net):
    x, y = _data(8)
    point = x.clone().requires_grad_(True)
    F.cross_entropy(net(point), y).backward()
    expected = torch.clamp(x + 0.1 * point.grad.sign(), 0, 1)
    got = _run(PGD(Linf(0.1), steps=1, step_size=0.1, start=ZeroStart()), net, x, y).x
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-15)


def test_a_linear_model_is_attacked_as_well_as_possible():
    """max of w . delta over the ball is eps |w|_q, with q dual to the norm: L-inf 1, L2 2, L1 inf."""
    torch.manual_seed(0)
    w = torch.randn(2 * 5 * 5, dtype=torch.float64)
    head = nn.Linear(50, 2, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(torch.stack([torch.zeros_like(w), w]))
    module = nn.Sequential(nn.Flatten(), head)
    x, y = torch.full((3, 2, 5, 5), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    for norm, dual in ((Linf(0.03), 1), (L2(0.2), 2), (L1(0.3, share=0.001), float("inf"))):
        best = norm.eps * float(torch.linalg.vector_norm(w, dual))
        for start, slack in ((ZeroStart(), 1e-9), (UniformStart(), 0.03)):
            adv = _run(PGD(norm, steps=40, objective=cw, start=start), module, x, y)
            assert (adv.delta.flatten(1) @ w).tolist() == pytest.approx([best] * 3, rel=slack), (norm, start)


def test_stopping_early_finds_the_same_successes(net):
    x, y = _data(40)
    for norm in NORMS.values():
        attack = PGD(norm, steps=5, restarts=3, keep="best")
        wrong = [
            _value(ce, net, _run(dataclasses.replace(attack, stop_when_wrong=stop), net, x, y).x, x, y)[1]
            for stop in (True, False)
        ]
        assert torch.equal(*wrong)
        assert 0 < wrong[0].sum() < 40, norm


def test_stopping_early_works_less(net):
    x, y = _data(24)
    rows = []

    def forward(batch):
        rows.append(len(batch))
        return Outputs(net(batch))

    spent = []
    for stop in (True, False):
        rows.clear()
        attack = PGD(Linf(0.2), steps=5, restarts=3, keep="best", stop_when_wrong=stop)
        attack.craft(forward, x, ce.bind(forward, x, y), Keys(0, 0, torch.arange(24)))
        spent.append(sum(rows))
    assert spent[0] < spent[1] / 2
    assert spent[1] == 24 * 3 * 6


@each_norm
@pytest.mark.parametrize("options", [{}, {"restarts": 2, "keep": "best", "stop_when_wrong": True}])
def test_batches_do_not_change_an_example(net, norm, options):
    """Random starts and drawn radii are keyed by example: size, order and shard of a batch do not count."""
    x, y = _data(12)
    attack = PGD(dataclasses.replace(norm, eps=Uniform(0.5 * norm.eps, norm.eps)), steps=3, **options)
    whole = _run(attack, net, x, y).x
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_run(attack, net, x[order], y[order], index=order).x, whole[order], rtol=0, atol=1e-9)
    for part in ([0, 1, 2, 3, 4], [7], list(range(1, 12, 2))):
        got = _run(attack, net, x[part], y[part], index=part).x
        torch.testing.assert_close(got, whole[part], rtol=0, atol=1e-9)
    assert not torch.equal(_run(attack, net, x, y, draw=1).x, whole)
    assert not torch.equal(_run(attack, net, x, y, seed=6).x, whole)


@pytest.mark.parametrize("restarts", [1, 3])
def test_when_others_fall_does_not_change_an_example(net, restarts):
    """With work that ends early, what an example keeps is its own first success."""
    x, y = _data(12)
    attack = PGD(Linf(0.2), steps=6, step_size=0.03, restarts=restarts, keep="best", stop_when_wrong=True)
    whole = _run(attack, net, x, y).x
    assert _value(ce, net, whole, x, y)[1].sum() > 6
    for i in range(12):
        alone = _run(attack, net, x[i : i + 1], y[i : i + 1], index=[i]).x
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=0, atol=1e-9)


def test_parameters_get_no_gradients_and_inputs_stay(net):
    module = Small(3).double()
    x, y = _data()
    kept = x.clone()
    _run(PGD(Linf(0.1), steps=3), module, x, y)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(x, kept)
    assert not x.requires_grad


def test_targeted_attacks_reach_their_target():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(98, 4)).double()
    x, _ = _data(16)
    target = (module(x).argmax(1) + 1 + torch.arange(16) % 3) % 4
    for objective in (ce, cw, dlr_ratio):
        attack = PGD(Linf(0.5), steps=20, objective=objective, keep="best")
        adv = _run(attack, module, x, target, targeted=True)
        assert torch.equal(module(adv.x).argmax(1), target), objective
        assert (Linf(1.0).of(adv.delta) <= 0.5).all()


def test_drawn_radii_bound_each_example(net):
    x, y = _data(16)
    index = torch.arange(16)
    for per in ("example", "batch"):
        radius = Uniform(0.02, 0.2, per=per)
        adv = _run(PGD(Linf(radius), steps=6), net, x, y, step=4)
        drawn = radius.draw(Keys(5, 0, index, step=4)).double()
        reached = Linf(1.0).of(adv.delta)
        assert (reached <= drawn * (1 + 1e-9)).all()
        assert (reached > 0.9 * drawn).all()
        assert len(drawn.unique()) == (16 if per == "example" else 1)


def test_a_drawn_radius_scales_the_default_step(net):
    """Equal to the attack at that radius, example by example."""
    x, y = _data(6)
    radius = Uniform(0.02, 0.2)
    drawn = radius.draw(Keys(5, 0, torch.arange(6))).double()
    together = _run(PGD(Linf(radius), steps=3), net, x, y).x
    for i in range(6):
        alone = _run(PGD(Linf(float(drawn[i])), steps=3), net, x[i : i + 1], y[i : i + 1], index=[i]).x
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


@each_norm
def test_zero_gradients_give_numbers(norm):
    module = nn.Sequential(nn.Flatten(), nn.Linear(98, 4)).double()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    x, y = _data(3)
    for momentum in (0.0, 0.9):
        adv = _run(PGD(norm, steps=3, start=ZeroStart(), momentum=momentum), module, x, y)
        assert torch.equal(adv.x, x)


def test_a_gaussian_start_is_not_clamped_before_the_first_pass():
    seen = []

    def forward(batch):
        seen.append(batch.detach().clone())
        return Outputs(batch.flatten(1)[:, :3])

    x = torch.zeros(4, 1, 3, 3)
    attack = PGD(Linf(0.1), steps=2, start=GaussianStart(0.001))
    attack.craft(forward, x, ce.bind(forward, x, torch.tensor([0, 1, 2, 0])), Keys(0, 0, torch.arange(4)))
    assert seen[0].min() < 0
    assert 0.0002 < seen[0].std() < 0.005
    assert seen[1].min() >= 0


def test_l1_spends_nothing_on_saturated_pixels():
    """Half of the pixels are white already and have the largest upward gradients."""
    w = torch.linspace(3, 1, 8, dtype=torch.float64)
    head = nn.Linear(8, 2, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(torch.stack([torch.zeros_like(w), w]))
    module = nn.Sequential(nn.Flatten(), head)
    x = torch.cat([torch.ones(4), torch.zeros(4)]).double().reshape(1, 1, 2, 4)
    attack = PGD(L1(0.5, share=0.01), steps=10, objective=cw, start=ZeroStart())
    adv = _run(attack, module, x, torch.tensor([0]))
    assert float(adv.delta.sum()) == pytest.approx(0.5)
    assert torch.equal(adv.delta[..., 0, :], torch.zeros(1, 1, 4).double())


def test_impossible_attacks_are_refused():
    for options, message in [
        ({"steps": 0}, "steps must be at least 1"),
        ({"restarts": 0}, "restarts must be at least 1"),
        ({"step_size": 0.0}, "step_size must be above 0"),
        ({"momentum": -0.1}, "momentum must not be negative"),
        ({"stop_when_wrong": True}, "needs keep='best'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            PGD(Linf(0.1), **options)


def test_an_evaluation_runs_the_strong_form():
    attack = for_evaluation(PGD(Linf(Uniform(0.1, 0.3)), steps=7, bn="train"), objective=cw)
    assert (attack.norm.eps, attack.keep, attack.bn, attack.steps, attack.objective) == (0.3, "best", "eval", 7, cw)
    assert attack.stop_when_wrong


@pytest.mark.parametrize("norm", [Linf(0.06), L2(0.4)], ids=str)
def test_equals_art_from_the_same_start(net, norm):
    """ART's own PGD on the same float32 net, no random start, no early stopping in either."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    logging.disable(logging.CRITICAL)
    module = Small()
    module.load_state_dict({name: value.float() for name, value in net.state_dict().items()})
    module.eval()
    x, y = _data(16)
    x = (0.45 + 0.1 * x).float()  # the box does not bind: ART clips to it before the ball, we after it
    classifier = PyTorchClassifier(
        module, nn.CrossEntropyLoss(reduction="sum"), (2, 7, 7), 4, clip_values=(0.0, 1.0), device_type="cpu"
    )  # summed, since ART adds 1e-7 to the gradient's norm
    order = {"linf": np.inf, "l2": 2}[norm.name]
    theirs = ProjectedGradientDescentPyTorch(
        classifier, norm=order, eps=norm.eps, eps_step=norm.eps / 4, max_iter=8, num_random_init=0, verbose=False
    ).generate(x.numpy(), F.one_hot(y, 4).numpy())
    attack = PGD(norm, steps=8, step_size=norm.eps / 4, start=ZeroStart())
    ours = _run(attack, module, x, y).x
    logging.disable(logging.NOTSET)
    assert np.abs(theirs - x.numpy()).max() > 0.01
    # A sign flips where a gradient is 0 to rounding; all other pixels agree.
    assert (np.abs(ours.numpy() - theirs) < 1e-5).mean() > 0.999


def test_per_example_broadcasts_over_images():
    assert per_example(torch.arange(3)).shape == (3, 1, 1, 1)
