"""PGD-AT and TRADES against the reference vectors, and what their ingredients put into a plan."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_ext.api import (
    L2,
    PGD,
    Augment,
    ConfigError,
    CrossEntropy,
    EvaluationContext,
    Facts,
    GaussianStart,
    Keys,
    Linf,
    Madry,
    Mixed,
    OfEps,
    Outputs,
    Plan,
    Uniform,
    View,
    Views,
    ce,
    cw,
    kl_to_clean,
    of_criterion,
)
from art_ext.host.recipe import load_recipe
from art_ext.parts.attacks import Walk
from art_ext_baselines import FAT, MART, PGDAT, TRADES, Trades, trades_boundary
from art_ext_baselines.attacks import ATTACKS, NamedPGDOptions, PGDOptions, build_criterion_pgd
from art_ext_pc_lc import PCLC

FACTS = Facts(4, (1, 2, 3), (0.0, 1.0))
FILE = Path(__file__).parents[1] / "vectors" / "baselines.json"
VECTORS = {entry["name"]: entry for entry in json.loads(FILE.read_text())}


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def close(got, expected, tolerance):
    expected = double(expected)
    assert (got.double() - expected).abs().max() <= tolerance * (1 + expected.abs().max())


def views(clean, adv, y):
    return Views(View(Outputs(clean), y, y), View(Outputs(adv), y, y))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, None), (torch.float32, 1e-5)])
def test_trades_reproduces_the_reference(dtype, tolerance):
    entry = VECTORS["A_trades_loss"]
    given, expected = entry["inputs"], entry["expected"]
    clean, adv = (double(given[f"logits_{part}"]).to(dtype).requires_grad_() for part in ("clean", "adversarial"))
    terms = Trades(given["beta"])(views(clean, adv, torch.tensor(given["labels"])), CrossEntropy())
    assert set(terms) == {"clean", "boundary"}
    loss = sum(terms.values())
    loss.backward()
    tolerance = tolerance or entry["tolerance"]
    close(loss.detach(), expected["loss"], tolerance)
    close(clean.grad, expected["grad_clean"], tolerance)
    close(adv.grad, expected["grad_adversarial"], tolerance)


class Fixed:
    """A start at a given point."""

    clamped = True

    def __init__(self, delta):
        self.delta = delta

    def __call__(self, norm, keys, x, eps):
        return self.delta


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, None), (torch.float32, 1e-6)])
def test_pgd_reproduces_the_reference(dtype, tolerance):
    entry = VECTORS["A_pgd_attack"]
    given = {name: double(v).to(dtype) for name, v in entry["inputs"].items() if name != "labels"}
    y = torch.tensor(entry["inputs"]["labels"])

    def net(x):
        return Outputs(x.flatten(1) @ given["w"].T + given["b"])

    x = given["images"]
    attack = PGD(Linf(0.1), steps=10, step_size=0.025, start=Fixed(given["delta_init"]))
    adv = attack.craft(net, x, ce.bind(net, x, y), Keys(0, 0, torch.arange(3)))
    close(adv.delta, entry["expected"]["delta"], tolerance or entry["tolerance"])


def test_the_boundary_term_is_zero_at_itself_and_finite_far_away():
    z = torch.randn(5, 4)
    assert trades_boundary(z, z).abs().max() == 0
    far = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    value = trades_boundary(far, far.detach().flip(1))
    value.sum().backward()
    assert value.item() == pytest.approx(400)
    assert torch.isfinite(far.grad).all()


def test_trades_with_beta_zero_is_normal_training():
    clean, adv, y = torch.randn(5, 4), torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    loss = sum(Trades(0.0)(views(clean, adv, y), CrossEntropy()).values())
    torch.testing.assert_close(loss, F.cross_entropy(clean, y))


def parts(*ingredients):
    return Plan.of(ingredients, FACTS).compose()


def test_pgd_at_fills_attack_and_risk():
    made = parts(PGDAT(eps="8/255", step_size="2/255", steps=7, momentum=0.5, restarts=2, start="zero", bn="train"))
    attack = made.attack
    assert (attack.norm, attack.steps, attack.step_size) == (Linf(8 / 255), 7, 2 / 255)
    assert (attack.momentum, attack.restarts, str(attack.start), attack.bn) == (0.5, 2, "zero", "train")
    assert attack.keep == "last"
    assert attack.objective is ce
    assert made.risk == Madry()


def test_the_clip_range_of_the_data_reaches_the_attacks():
    for ingredient in (PGDAT(), TRADES()):
        assert Plan.of([ingredient], Facts(3, (1, 4, 4), (-1.0, 2.0))).compose().attack.clip == (-1.0, 2.0)


def test_pgd_at_with_clean_rows():
    assert parts(PGDAT(clean_fraction=0.5)).risk == Mixed(0.5)
    assert parts(PGDAT(augment=True)).risk == Augment()
    with pytest.raises(ConfigError, match="augment keeps every row clean"):
        PGDAT(augment=True, clean_fraction=0.5)


def test_pgd_at_in_other_norms_with_drawn_radii():
    attack = parts(PGDAT(norm="l2", eps={"uniform": [0.1, 0.5]}, objective="margin")).attack
    assert attack.norm == L2(Uniform(0.1, 0.5))
    assert attack.objective is cw


def test_steps_may_be_a_share_of_the_drawn_radius():
    attack = parts(PGDAT(eps={"uniform": [0.1, 0.5]}, steps=1, step_size="eps/10", start="zero")).attack
    assert attack.step_size == OfEps(0.1)
    assert "1 steps of 0.1 eps," in str(attack)
    x, y = torch.full((12, 1, 4, 4), 0.5), torch.arange(12) % 3
    keys = Keys(3, 0, torch.arange(12))
    weight = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))

    def net(x):
        return Outputs(x.flatten(1) @ weight)

    delta = attack.craft(net, x, attack.objective.bind(net, x, y), keys).delta.abs()
    radius = attack.norm.radius(keys, x)
    assert len(set(radius.flatten().tolist())) == 12
    assert torch.allclose(delta, 0.1 * radius.expand_as(delta), atol=1e-6)


def test_trades_fills_attack_and_risk():
    made = parts(TRADES(beta=3, eps=0.3, step_size=0.01, steps=40))
    assert made.attack == PGD(Linf(0.3), 40, 0.01, objective=kl_to_clean, start=GaussianStart(0.001))
    assert made.risk == Trades(3.0)
    assert not made.risk.joint


@pytest.mark.parametrize("method", [TRADES, MART, FAT])
def test_the_papers_step_at_their_eps_and_steps_and_as_far_in_all_elsewhere(method):
    attack = parts(method()).attack
    assert attack.step_size.share * attack.norm.eps == pytest.approx(0.007)
    for eps, steps in ((0.15, 5), (0.3, 40)):
        attack = parts(method(eps=eps, steps=steps)).attack
        assert attack.step_size.share * eps * steps == pytest.approx(0.07 * eps / 0.031)
    assert parts(method(step_size=0.01)).attack.step_size == 0.01


@pytest.mark.parametrize("name", ["trades", "mart", "fat", "dac_trades", "dac_mart", "awp_trades", "bag_trades"])
def test_the_recipes_of_the_claims_keep_the_step_that_they_were_trained_with(name):
    recipe = load_recipe(f"digits/{name}")
    attack = Plan.of(recipe.ingredients(), Facts(10, (1, 8, 8))).compose().attack
    x = torch.rand(2, 1, 8, 8)
    assert Walk.of(attack, x, attack.norm.eps, None).size == pytest.approx(2.5 * 0.15 / 5, rel=1e-12)


def test_a_divergence_from_the_clean_answer_is_not_raised_from_the_clean_image():
    """There it is 0, and so is its gradient: the trap of TRADES without noise."""
    with pytest.raises(ConfigError, match=r"^pgd_at: the objective kl_to_clean has no gradient at the image") as caught:
        PGDAT(start="zero", objective="kl_to_clean")
    assert "\n" not in str(caught.value)
    for allowed in ({"start": "zero"}, {"start": "gaussian", "objective": "kl_to_clean"}):
        PGDAT(**allowed)


def test_a_divergence_is_not_aimed_at_a_class():
    with pytest.raises(ConfigError, match=r"^pgd_at: the objective kl_to_clean has no targeted form.* random_target"):
        PGDAT(random_target=True, objective="kl_to_clean")
    for objective in ("ce", "margin", "dlr", "criterion"):
        PGDAT(random_target=True, objective=objective)


@pytest.mark.parametrize(
    "options",
    [{"eps": 0}, {"eps": "8/0"}, {"eps": "1:30"}, {"eps": True}, {"steps": 0}, {"clean_fraction": 1},
     {"clean_fraction": -0.1}, {"norm": "linff"}, {"start": "middle"}, {"restarts": 0}, {"bn": "test"}],
)  # fmt: skip
def test_impossible_options_of_pgd_at(options):
    with pytest.raises(ConfigError, match=f"pgd_at.{next(iter(options))}: ") as caught:
        PGDAT(**options)
    assert "\n" not in str(caught.value)


def test_two_base_methods_contradict_each_other():
    both = r"pgd_at and trades both set the attack.*pgd_at and trades both set the risk"
    with pytest.raises(ConfigError, match=both):
        parts(PGDAT(), TRADES())


def context(*ingredients):
    return EvaluationContext(Plan.of(ingredients, FACTS), "linf", 0.15, (0.0, 1.0))


def test_evaluation_attacks_take_the_threat_of_the_recipe():
    build_pgd = next(entry.build for entry in ATTACKS if entry.name == "pgd")
    ((name, attack),) = build_pgd(NamedPGDOptions(), context(PGDAT()))
    assert name == "pgd20"
    assert (attack.norm, attack.steps, attack.keep, attack.bn) == (Linf(0.15), 20, "best", "eval")
    ((name, attack),) = build_pgd(
        NamedPGDOptions(objective="margin", restarts=3, norm="l2", eps=0.5), context(PGDAT())
    )
    assert name == "pgd20x3_margin"
    assert (attack.norm, attack.objective) == (L2(0.5), cw)


def test_criterion_pgd_attacks_every_declared_adversary():
    assert [name for name, _ in build_criterion_pgd(PGDOptions(), context(PGDAT()))] == ["pgd20", "pgd20_margin"]
    assert [name for name, _ in build_criterion_pgd(PGDOptions(), context(PGDAT(), PCLC()))] == [
        "pgd20_margin",
        "pgd20_pc_term",
        "pgd20_probability_margin",
        "pgd20_pc_lc_loss",
    ]
    assert {entry.name for entry in ATTACKS} >= {"pgd", "criterion_pgd"}


def test_pgd_at_on_the_adversary_of_the_criterion():
    plan = Plan.of([PGDAT(objective="criterion"), PCLC(warmup_epochs=2)], FACTS)
    assert plan.slots["attack"].objective is of_criterion
    assert plan.compose(0).attack.objective is ce
    assert plan.compose(2).attack.objective is cw


def test_trades_reaches_a_higher_divergence_than_noise():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))

    def net(x):
        return Outputs(module(x))

    x = torch.rand(6, 1, 2, 3)
    score = kl_to_clean.bind(net, x, torch.arange(6) % 4)
    attack = parts(TRADES(eps=0.2)).attack
    adv = attack.craft(net, x, score, Keys(0, 0, torch.arange(6)))
    start = x + attack.start(attack.norm, Keys(0, 0, torch.arange(6)).stream("start", 0), x, 0.2)
    assert (score.value(net(adv.x)) > 10 * score.value(net(start))).all()
