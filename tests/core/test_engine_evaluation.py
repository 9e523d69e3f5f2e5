"""Accuracy with its interval, and evaluation that attacks what stands and nothing else."""

import dataclasses

import pytest
import torch
from torch import nn

import art_ext.evaluation.suite as suite
from art_ext.api import L2, PGD, Adversarial, ConfigError, Facts, Linf, Plan, Uniform, ce, for_evaluation
from art_ext.engine.net import Net
from art_ext.evaluation.suite import Accuracy, Evaluator, HeldOut, Threat, as_metrics, informed, threat_of, worst
from art_ext_baselines import PGDAT
from art_ext_pc_lc import PCLC

FACTS = Facts(3, (1, 6, 6))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    net = Net(module)
    x, y = data()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x).logits, y).backward()
        optimizer.step()
    return net


def data(n=60):
    y = torch.arange(n) % 3
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    for label in range(3):
        x[y == label, 0, 2 * label] += 0.4
    return x.clamp(0, 1), y


def attack(eps=0.15, **options):
    return for_evaluation(PGD(Linf(eps), steps=5, **options))


def of(right, n):
    return Accuracy("a", torch.arange(n) < right)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Clopper and Pearson at 95%, from the tables of Newcombe (Statistics in Medicine, 1998, table I, method 5).
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
        (20, 20, 0.8316, 1.0),
    ],
)
def test_the_interval_is_the_exact_binomial_one(right, n, low, high):
    accuracy = of(right, n)
    assert accuracy.value == right / n
    assert accuracy.interval == pytest.approx((low, high), abs=5e-5)


def test_a_record_holds_what_a_table_shows():
    record = of(3, 4).as_record()
    assert (record["attack"], record["accuracy"], record["n"]) == ("a", 0.75, 4)
    assert record["low"] < 0.75 < record["high"]
    metrics = as_metrics([of(3, 4)])
    assert metrics["evaluate/a/accuracy"] == 0.75
    assert set(metrics) == {f"evaluate/a/{part}" for part in ("accuracy", "low", "high")}


class Recorder:
    """An attack that notes what it is given and leaves it as it is."""

    objective, bn = ce, "eval"

    def __init__(self):
        self.seen = []

    def craft(self, net, x, score, keys, mask=None):
        self.seen += keys.index.tolist()
        return Adversarial(x, torch.zeros_like(x))


def test_attacks_are_spared_on_examples_that_fell(net):
    x, y = data()
    wrong = y.clone()
    wrong[[3, 10]] = (wrong[[3, 10]] + 1) % 3
    evaluator, recorder = Evaluator(net, x, wrong), Recorder()
    clean = evaluator.clean().right
    assert not clean[3]
    assert not clean[10]
    assert torch.equal(evaluator.under("none", recorder).right, clean)
    assert recorder.seen == clean.nonzero().squeeze(1).tolist()
    recorder.seen = []
    standing = torch.zeros(60, dtype=torch.bool)
    standing[[5, 7]] = True
    evaluator.under("none", recorder, standing=standing)
    assert recorder.seen == [5, 7]
    assert standing.sum() == 2


def test_clean_accuracy_is_the_share_of_right_predictions(net):
    x, y = data()
    with torch.no_grad():
        expected = net.eval()(x).logits.argmax(1) == y
    net.train()
    assert torch.equal(Evaluator(net, x, y).clean().right, expected)
    assert net.training


def test_robust_is_never_above_clean_and_falls_with_eps(net):
    x, y = data()
    rows = Evaluator(net, x, y).run([(f"pgd{eps}", attack(eps)) for eps in (0.01, 0.1, 0.5)])
    clean = rows[0].right
    for row in rows[1:]:
        assert not (row.right & ~clean).any()
    values = [row.value for row in rows]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.9
    assert values[-1] < 0.2
    assert torch.equal(worst(rows), rows[1].right & rows[2].right & rows[3].right)


@pytest.mark.parametrize("restarts", [1, 3])
def test_the_batch_size_changes_nothing(net, monkeypatch, restarts):
    x, y = data()
    results = []
    for size in (256, 7, 1):
        monkeypatch.setattr(suite, "BATCH", size)
        evaluator = Evaluator(net, x, y, seed=3)
        results.append(evaluator.under("pgd", attack(0.06, restarts=restarts)).right)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert 0 < results[0].sum() < 60


def test_the_shard_changes_nothing(net):
    """What a rank finds for its examples is what one process finds."""
    x, y = data()
    evaluator = Evaluator(net, x, y)
    whole = evaluator.under("pgd", attack(0.06)).right
    clean = evaluator.clean().right
    for rank in range(2):
        mine = torch.zeros(60, dtype=torch.bool)
        mine[rank::2] = True
        shard = Evaluator(net, x, y).under("pgd", attack(0.06), standing=clean & mine).right
        assert torch.equal(shard[rank::2], whole[rank::2])


def test_a_network_that_is_always_wrong(net):
    """Nothing stands, so nothing is attacked: not an empty batch either."""
    x, y = data(6)
    with torch.no_grad():
        predicted = Evaluator(net, x, y).predict(x)
    evaluator, recorder = Evaluator(net, x, (predicted + 1) % 3), Recorder()
    assert evaluator.under("none", recorder).value == 0
    calls = []
    recorder.craft = lambda *args: calls.append(args)
    evaluator.under("none", recorder)
    assert not calls


def test_double_precision_networks_are_evaluated(net):
    x, y = data()
    double = Net(torch.nn.Sequential(nn.Flatten(), nn.Linear(36, 3))).double()
    assert Evaluator(double, x, y).under("pgd", attack()).n == 60


def test_networks_are_left_as_they_were(net):
    x, y = data()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    Evaluator(net, x, y).run([("pgd", attack())])
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_the_worst_of_nothing_is_an_error():
    with pytest.raises(ConfigError, match="worst case of no attacks"):
        worst([])


def test_the_threat_is_the_largest_ball_of_the_training_attack():
    plan = Plan.of([PGDAT(norm="l2", eps=Uniform(0.1, 0.4))], dataclasses.replace(FACTS, clip=(-1.0, 1.0)))
    assert threat_of(plan) == Threat("l2", 0.4, (-1.0, 1.0))
    assert threat_of(plan).ball() == L2(0.4)
    assert threat_of(Plan.of([], FACTS)) is None


def test_informed_attackers_run_what_the_criterion_declares():
    plan = Plan.of([PCLC(), PGDAT(eps=0.1)], FACTS)
    attacks = informed(plan, threat_of(plan), steps=7)
    assert [name for name, _ in attacks] == ["margin", "pc_term", "probability_margin", "pc_lc_loss"]
    assert all(a.norm == Linf(0.1) and a.steps == 7 and a.keep == "best" for _, a in attacks)


def test_held_out_scores_are_the_evaluator_s(net):
    x, y = data()
    plan = Plan.of([PGDAT(eps=0.06)], FACTS)
    scores = HeldOut(plan, x, y, threat_of(plan), steps=5)(net, plan.compose(), 0)
    evaluator = Evaluator(net, x, y)
    assert (scores.clean, scores.n) == (evaluator.clean().value, 60)
    assert scores.robust == evaluator.under("pgd", attack(0.06)).value
    assert HeldOut(plan, x, y, None)(net, plan.compose(), 0).robust is None
