"""Two gloo processes are one process: the same adversarial examples and the same weights.

Run as a script under torchrun, this file is the worker; as a test, it starts two of them and compares.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

N, BATCH, SEED = 31, 15, 5  # batches of 15 and 16: the ranks have 8 and 7 rows, and 8 and 8
RUNS = (
    *("pgd_at", "trades float64", "pgd_at float64", "unsynchronised"),
    *("batch norm", "batch norm averaged", "batch norm unshared"),
)
# TRADES starts where its gradient is zero but for rounding, so float32 cannot tell the signs.
EQUAL = ("pgd_at", "trades float64", "pgd_at float64")


def module(norm):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), norm(), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )


def data():
    y = torch.arange(N) % 3
    x = torch.rand(N, 1, 7, 7, generator=torch.Generator().manual_seed(1)) * 0.6
    x[:, 0, 3] += 0.15 * y[:, None]
    return x, y


def train(name, devices):
    """One fit; what came of it on this rank."""
    from art_ext.api import Facts, Ingredient, Plan
    from art_ext.data.batches import ArrayBatches
    from art_ext.engine.fit import Fit
    from art_ext.engine.net import Net
    from art_ext.engine.run import Run, RunSettings
    from art_ext.evaluation.suite import HeldOut, Threat
    from art_ext_baselines import PGDAT, TRADES
    from art_ext_tricks import EMA

    seen = {}

    class Spy(Ingredient):
        """Keeps every adversarial example with its epoch and index."""

        name = "spy"

        def apply(self, plan):
            return plan.wrap(self, lambda then: lambda step: look(step, then))

    def look(step, then):
        for index, x in zip(step.keys.index.tolist(), step.craft().x, strict=True):
            seen[step.run.epoch, index] = x.clone()
        alone = name == "unsynchronised" and step.run.world > 1
        with step.run.fabric.no_backward_sync(step.fit.wrapped) if alone else contextlib.nullcontext():
            then(step)

    method = TRADES(eps=0.1, steps=4) if name.startswith("trades") else PGDAT(eps=0.1, steps=4)
    norm = (lambda: nn.BatchNorm2d(8)) if name.startswith("batch norm") else (lambda: nn.GroupNorm(2, 8))
    net = Net(module(norm))
    precision = "64-true" if "float64" in name else "32-true"
    run = Run(RunSettings(accelerator="cpu", devices=devices, precision=precision), SEED)
    averaged = name == "batch norm averaged"
    plan = Plan.of([method, Spy(), *([EMA(decay=0.9)] if averaged else [])], Facts(3, (1, 7, 7)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    validate = HeldOut(plan, *data(), Threat("linf", 0.1), steps=2, run=run)
    folder = Path(sys.argv[1]) / "averaged" if averaged else None
    fit = Fit(plan, net, optimizer, run, epochs=3, validate=validate, folder=folder)
    if name == "batch norm unshared":
        run.share_statistics = lambda net: None
    history = fit(ArrayBatches(*data(), BATCH, seed=SEED))
    return {
        "world": run.world,
        "seen": seen,
        "weights": {key: value.clone() for key, value in net.state_dict().items()},
        "losses": [report.metrics["train/loss"] for report in history.epochs],
        "robust": [report.metrics["train/robust_accuracy"] for report in history.epochs],
        "scores": [(report.scores.clean, report.scores.robust) for report in history.epochs],
        "best": history.best_epoch,
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{run: ([rank 0, rank 1], alone)}."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(folder)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = {name: train(name, 1) for name in EQUAL}
    torch.set_num_threads(threads)
    found = {name: ([rank[name] for rank in ranks], alone.get(name)) for name in RUNS}
    return {**found, "last.pt": torch.load(folder / "averaged" / "last.pt", weights_only=True)["net"]}


def difference(a, b):
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a)


def test_two_processes_ran(results):
    for name in RUNS:
        assert [rank["world"] for rank in results[name][0]] == [2, 2]
    for name in EQUAL:
        assert results[name][1]["world"] == 1


@pytest.mark.parametrize("name", EQUAL)
def test_ranks_share_the_rows(results, name):
    ranks, alone = results[name]
    first, second = (set(rank["seen"]) for rank in ranks)
    assert not first & second
    assert first | second == set(alone["seen"]) == {(e, i) for e in range(3) for i in range(N)}


@pytest.mark.parametrize("name", EQUAL)
def test_adversarial_examples_are_those_of_one_process(results, name):
    ranks, alone = results[name]
    together = {**ranks[0]["seen"], **ranks[1]["seen"]}
    assert difference(together, alone["seen"]) < 1e-6


@pytest.mark.parametrize("name", EQUAL)
def test_weights_are_those_of_one_process(results, name):
    ranks, alone = results[name]
    assert difference(ranks[0]["weights"], ranks[1]["weights"]) == 0
    assert difference(ranks[0]["weights"], alone["weights"]) < 1e-6
    assert ranks[0]["losses"] == pytest.approx(alone["losses"], abs=1e-6)
    assert ranks[0]["robust"] == pytest.approx(alone["robust"])
    assert ranks[0]["scores"] == ranks[1]["scores"] == alone["scores"]
    moved = difference(
        alone["weights"], {f"module.{k}": v for k, v in module(lambda: nn.GroupNorm(2, 8)).state_dict().items()}
    )
    assert moved > 0.01


def test_without_synchronised_gradients_it_would_show(results):
    """The comparison above can fail."""
    ranks, _ = results["unsynchronised"]
    assert difference(ranks[0]["weights"], ranks[1]["weights"]) > 1e-4
    assert difference(ranks[0]["weights"], results["pgd_at"][1]["weights"]) > 1e-4


def test_batch_statistics_and_the_best_epoch_are_the_same_on_all_ranks(results):
    ranks, _ = results["batch norm"]
    assert difference(ranks[0]["weights"], ranks[1]["weights"]) == 0
    assert ranks[0]["scores"] == ranks[1]["scores"]
    assert ranks[0]["best"] == ranks[1]["best"]
    apart, _ = results["batch norm unshared"]
    assert difference(apart[0]["weights"], apart[1]["weights"]) > 1e-6


def test_an_average_is_deployed_with_the_same_statistics_on_all_ranks(results):
    first, second = (rank["weights"] for rank in results["batch norm averaged"][0])
    assert difference(first, second) == 0
    assert difference({f"module.{key}": value for key, value in results["last.pt"].items()}, first) == 0
    assert difference(first, results["batch norm"][0][0]["weights"]) > 1e-4


if __name__ == "__main__":
    found = {name: train(name, 2) for name in RUNS}
    torch.save(found, Path(sys.argv[1]) / f"{os.environ['RANK']}.pt")
