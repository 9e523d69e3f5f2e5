"""What an evaluation says of its time and passes: estimates that learn, a budget that all parts keep, counts."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import pytest
import torch
from evaluated import EPS, TINY, data, evaluation, trained
from torch import nn

from art_ext.engine.net import Net
from art_ext.evaluation.counting import Spending, Spent
from art_ext.evaluation.report import report_on
from art_ext.evaluation.report.evaluated import material_of
from art_ext.evaluation.subject import Rows
from art_ext.evaluation.suites import Wanted
from art_ext.evaluation.trials import FEWEST, Clock
from art_ext_attacks import ATTACKS

ENTRIES = {entry.name: entry for entry in ATTACKS}


@pytest.fixture(scope="module")
def module():
    return trained()


class Counting(nn.Module):
    """A network that counts the images that it and its twins are shown."""

    def __init__(self, module):
        super().__init__()
        self.module, self.counts = module, []

    def forward(self, x):
        self.counts.append(len(x))
        return self.module(x)

    def __deepcopy__(self, memo):
        twin = Counting(copy.deepcopy(self.module, memo))
        twin.counts = self.counts
        return twin

    @property
    def seen(self):
        return sum(self.counts)


def test_the_time_left_is_the_work_left_at_the_pace_so_far():
    clock = Clock()
    clock.work_left, clock.work_after = 800.0, 200.0
    assert clock.left is None
    clock.worked(10, 5.0)  # the first passes are slow, and say little
    assert clock.left is None
    clock.worked(90, 5.0)
    assert clock.left == pytest.approx(10 / 100 * 1000)
    clock.worked(900, 5.0)
    clock.work_left = 0.0
    assert clock.left == pytest.approx(15 / 1000 * 200)


def test_batches_shrink_with_the_budget():
    endless = Clock()
    endless.worked(1000, 10.0)
    assert endless.rows(256, 1e6) == 256
    clock = Clock(seconds=100.0)
    assert clock.rows(256, 50.0) == 256  # nothing is known of the pace
    clock.worked(1000, 10.0)  # 0.01 s a pass
    assert clock.rows(256, 50.0) == pytest.approx(0.2 * 100 / (0.01 * 50), abs=1)
    assert clock.rows(256, 1e6) == FEWEST
    assert clock.rows(16, 1.0) == 16


def test_estimates_follow_what_stands(module):
    """Where nothing stands, attacks on what stands cost nothing, and those on all images little."""
    ticks = []
    done = evaluation(module, eps=0.5, progress=ticks.append)
    campaign, every = done.campaign, torch.ones(120, dtype=torch.bool)
    right = int(campaign.right.sum())
    on_all, on_standing = campaign.planned[1], campaign.planned[-1]
    assert on_all.work == 3 * 20
    assert campaign.expected(on_all, every) == on_all.work * right
    assert campaign.expected(on_standing, every) == on_standing.work * right
    assert done.run().worst_case.accuracy == 0
    assert campaign.expected(on_standing, every) == 0
    assert campaign.expected(on_all, every) == 0  # it is done
    assert campaign.expected(replace(on_all, name="another"), every) == pytest.approx(0.1 * on_all.work * right)
    assert [tick.number for tick in ticks] == sorted(tick.number for tick in ticks)


def test_progress_names_the_undefended_network(module):
    ticks = []
    evaluation(module, n=20, baseline=Net(trained()), progress=ticks.append).run()
    names = [tick.name for tick in ticks]
    first = names.index("undefended, fgsm")
    assert not any(name.startswith("undefended") for name in names[:first])
    assert all(name.startswith("undefended, ") for name in names[first:])


def test_a_budget_is_kept_by_checks_curve_and_report_too(module, tmp_path):
    began = time.monotonic()
    done = evaluation(module, minutes=1e-4, folder=tmp_path, baseline=Net(trained()))
    record = done.run()
    report_on(done, record)
    assert time.monotonic() - began < 10
    assert not record.complete
    assert record.curve == ()
    assert record.baseline is None
    status = {check.name: (check.status, check.sentence) for check in record.checks}
    assert status["unbounded"] == ("not_run", "the budget ended before it was done")
    missing = material_of(done).missing
    assert {"confusion", "heatmaps", "planes", "features"} <= set(missing)
    assert (tmp_path / "report.html").is_file()


def test_passes_of_all_parts_are_counted(module):
    """A counter in the network sees as many images as attacks, checks and the curve say, and some looks beside."""
    network = Counting(module)
    done = evaluation(network, n=40)
    looks = network.seen
    record = done.run()
    assert set(record.passes) == {"attacks", "rejection", "checks", "curve", "undefended"}
    forwards = sum(part["forwards"] for part in record.passes.values())
    assert 0 <= network.seen - looks - forwards <= 60  # a folded twin is compared before it is used
    assert record.passes["attacks"]["forwards"] == sum(attack.forwards for attack in record.attacks)
    assert record.passes["curve"]["backwards"] > 0
    assert record.passes["checks"]["backwards"] > 0
    assert record.passes["rejection"]["forwards"] == 0


def test_passes_on_a_surrogate_count(module):
    surrogate = Counting(trained())
    suite = replace(TINY, wanted=(Wanted("transfer", {"steps": 5}, everywhere=True),))
    done = evaluation(module, n=20, suite=suite, attacks=ENTRIES, baseline=Net(surrogate))
    surrogate.counts.clear()
    done.attack()
    transfer = next(result for result in done.campaign.results() if result.name == "transfer_undefended")
    assert transfer.forwards == surrogate.seen + transfer.attacked  # and a look at each with the network itself
    assert transfer.backwards == 5 * transfer.attacked


def test_a_spending_network_answers_as_the_one_inside(module):
    spent, (x, _) = Spent(), data(4)
    net = Spending(Net(module), spent)
    at = x.clone().requires_grad_()
    torch.autograd.grad(net(at).logits.sum(), at)
    assert (spent.forwards, spent.backwards) == (4, 4)
    assert torch.equal(net(x).logits, module(x))


def test_each_figure_says_its_n_its_seed_and_its_budget(module):
    record = evaluation(module, n=30, seed=3, calibration=Rows(*data(30, seed=8))).run()
    for point in record.curve:
        assert (point.n, point.seed) == (30, 3)
        assert point.budget == "the smallest of all attacks, and 5 rounds of bisection, each PGD(8 steps, on margin)"
    assert record.rejection
    assert all((item.n, item.seed) == (30, 3) and item.budget for item in record.rejection)
    worst = next(item for item in record.rejection if item.aim == "evade")
    assert set(worst.budget.split(", ")) <= {attack.name for attack in record.attacks}
    assert all((attack.n, attack.seed) == (30, 3) and attack.budget for attack in record.attacks)
    assert record.threat.eps == EPS
