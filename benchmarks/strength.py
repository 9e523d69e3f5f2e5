"""`python -m benchmarks.strength`: the standard suite beside the reference's, and writes benchmarks/strength.md.

What is measured is kept in runs/strength and not repeated, so it can be interrupted; `rm -r runs/strength`
starts afresh. CPU time is the process's own, so other work on the machine disturbs it little.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch
from torch import Tensor, nn

from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.run import Run
from art_ext.evaluation.suite import Evaluator
from art_ext.files import write_atomically
from art_ext.host.job import prepare
from art_ext.host.recipe import load_recipe
from art_ext.parts.norms import norm_named
from art_ext.types import Facts
from art_ext_attacks import components

RESULTS, PAGE = Path("runs/strength"), Path("benchmarks/strength.md")
IMAGES, SEEDS, NORM = 200, (0, 1), "linf"
REFERENCE_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
COMPONENTS = {"apgd_ce": "apgd-ce", "apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}


class Quantised(nn.Module):
    """A network behind an input rounded to a few levels, whose gradient is 0 almost everywhere."""

    def __init__(self, network: nn.Module, levels: int = 16) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, x: Tensor) -> Tensor:
        return self.network(torch.round(x * self.levels) / self.levels)  # type: ignore[no-any-return]


class Scaled(nn.Module):
    """A network with logits so large that the softmax saturates."""

    def __init__(self, network: nn.Module, scale: float = 1e4) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) * self.scale  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Model:
    """A network of the benchmark: what it is trained with, attacked at eps, and maybe masked by."""

    name: str
    recipe: str
    eps: float
    mask: Callable[[nn.Module], nn.Module] | None = None
    norm: str = NORM


MODELS = (
    Model("standard", "standard", 0.05),
    Model("PGD-AT", "pgd_at", 0.15),
    Model("TRADES, eps 0.1", "trades", 0.1),
    Model("TRADES, eps 0.15", "trades", 0.15),
    Model("TRADES, eps 0.2", "trades", 0.2),
    Model("PC-LC", "pc_lc", 0.05),
    Model("MMC", "mmc", 0.1),
    Model("RCE", "rce", 0.05),
    Model("ADP", "adp", 0.05),
    Model("CCAT", "ccat", 0.05),
    Model("standard, input of 17 levels", "standard", 0.05, Quantised),
    Model("PGD-AT, logits of 1e4", "pgd_at", 0.15, Scaled),
    Model("PGD-AT, L2", "pgd_at", 0.8, norm="l2"),
    Model("PGD-AT, L1", "pgd_at", 1.5, norm="l1"),
)


def trained(recipe: str) -> tuple[nn.Module, Tensor, Tensor, Facts]:
    """The network after its recipe, in eval mode, and the test images."""
    job = prepare(load_recipe(f"digits/{recipe}", ["train.threads=1"]))
    plan = job.plan(job.ingredients)
    net = job.net(plan)
    torch.manual_seed(job.train.seed)
    run = Run(job.settings, job.train.seed)
    fit = Fit(plan, net, job.optimizer(net.module), run, epochs=job.train.epochs, schedule=job.schedule())
    fit(job.batches(run.device))
    rows = torch.arange(min(len(job.data.test), IMAGES))
    test = job.data.test.at(rows)
    return net.module.eval(), test.x[rows].float().contiguous(), test.y, job.facts


def ours(module: nn.Module, x: Tensor, y: Tensor, model: Model, facts: Facts, seed: int) -> Iterator[dict[str, Any]]:
    """The standard suite of this project: who stands after each component, and its CPU seconds."""
    evaluator = Evaluator(Net(module), x, y, seed=seed)
    standing = evaluator.clean().right
    for name, attack in components("standard", norm_named(model.norm, model.eps), facts).items():
        began = time.process_time()
        standing = evaluator.under(name, attack, standing=standing).right
        yield {"right": standing.int().tolist(), "cpu": time.process_time() - began}


def reference(module: nn.Module, x: Tensor, y: Tensor, model: Model, seed: int) -> Iterator[dict[str, Any]]:
    """The same by the reference."""
    from pyautoattack import AutoAttack

    with torch.no_grad():
        standing = module(x).argmax(1) == y
    suite = AutoAttack(module, norm=REFERENCE_NORMS[model.norm], eps=model.eps, seed=seed, version="standard")
    for theirs in COMPONENTS.values():
        began = time.process_time()
        if standing.any():
            suite.attacks_to_run = [theirs]
            adversarial, _ = suite.run_standard_evaluation(x[standing], y[standing])
            with torch.no_grad():
                standing[standing.clone()] = module(adversarial).argmax(1) == y[standing]
        yield {"right": standing.int().tolist(), "cpu": time.process_time() - began}


def measured(model: Model) -> dict[str, Any]:
    """Everything about one model; the two suites take turns, component by component."""
    module, x, y, facts = trained(model.recipe)
    if model.mask is not None:
        module = model.mask(module).eval()
    with torch.no_grad():
        clean = float((module(x).argmax(1) == y).double().mean())
    record: dict[str, Any] = {"clean": clean, "n": len(y), "ours": [], "reference": []}
    for seed in SEEDS:
        turns = zip(ours(module, x, y, model, facts, seed), reference(module, x, y, model, seed), strict=True)
        mine, theirs = zip(*turns, strict=True)
        record["ours"].append(dict(zip(COMPONENTS, mine, strict=True)))
        record["reference"].append(dict(zip(COMPONENTS, theirs, strict=True)))
    return record


def standing(run: dict[str, Any]) -> Tensor:
    return torch.tensor(run["square"]["right"], dtype=torch.bool)


def seconds(run: dict[str, Any], part: str = "") -> float:
    return float(sum(value["cpu"] for name, value in run.items() if part in ("", name)))


HEAD = """# Strength and cost of the standard attacks

Written by `python -m benchmarks.strength`; every number below comes from that command.

Each network is trained after its recipe in `recipes/digits` (8x8 digits, `small_cnn`; last epoch) and attacked at
eps, in L-inf unless said otherwise, on {n} test images, by this project's standard suite and by the reference
implementation (`pyautoattack` 0.2), with {seeds} seeds each, component by component in turn, one thread. *Ours* is
the number of images that stand, for each seed; *union* is what stands after all runs of the reference together.
*Beyond* is how many images more stand after our weaker run than after that union: the aim is at most one. *CPU* is
the ratio of the mean CPU times of one run: the aim is at most 0.6.

| network | eps | clean | ours | reference | union | beyond | CPU s, ours | CPU s, reference | CPU |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""

PARTS = """
## By component

Images that stand after each component, in the suite's order, ours / the reference's, mean of the seeds; and the
ratio of their CPU times, on the images that were left to each.

| network | APGD-CE | APGD-T | FAB-T | Square |
| --- | ---: | ---: | ---: | ---: |
"""


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def row(model: Model, record: dict[str, Any]) -> str:
    mine, theirs = record["ours"], record["reference"]
    union = torch.stack([standing(run) for run in theirs]).all(0)
    counts = [int(standing(run).sum()) for run in mine]
    own, other = (mean([seconds(run) for run in runs]) for runs in (mine, theirs))
    name = model.name if model.norm == NORM else f"{model.name} (norm {model.norm})"
    return (
        f"| {name} | {model.eps:g} | {record['clean']:.3f} | {' '.join(map(str, counts))} | "
        f"{' '.join(str(int(standing(run).sum())) for run in theirs)} | {int(union.sum())} | "
        f"{max(counts) - int(union.sum()):+d} | {own:.1f} | {other:.1f} | {own / other:.2f} |"
    )


def parts_row(model: Model, record: dict[str, Any]) -> str:
    cells = []
    for part in COMPONENTS:
        left = [mean([sum(run[part]["right"]) for run in record[who]]) for who in ("ours", "reference")]
        own, other = (mean([seconds(run, part) for run in record[who]]) for who in ("ours", "reference"))
        ratio = f" ({own / other:.2f})" if other > 0.05 else ""
        cells.append(f"{left[0]:g} / {left[1]:g}{ratio}")
    return f"| {model.name} | {' | '.join(cells)} |"


def page(records: dict[str, dict[str, Any]]) -> str:
    done = [model for model in MODELS if model.name in records]
    text = HEAD.format(n=max(records[model.name]["n"] for model in done), seeds=len(SEEDS))
    text += "".join(f"{row(model, records[model.name])}\n" for model in done)
    text += PARTS + "".join(f"{parts_row(model, records[model.name])}\n" for model in done)
    left = [model.name for model in MODELS if model.name not in records]
    return text + (f"\nNot measured yet: {'; '.join(left)}.\n" if left else "")


def file_of(model: Model, folder: Path) -> Path:
    return folder / f"{''.join(c if c.isalnum() else '_' for c in model.name)}.json"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strength", description=__doc__)
    parser.add_argument("--only", action="append", choices=[model.name for model in MODELS], help="one network")
    parser.add_argument("--page", action="store_true", help="write the page from what is measured, and stop")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    RESULTS.mkdir(parents=True, exist_ok=True)
    records: dict[str, dict[str, Any]] = {}
    for model in MODELS:
        file = file_of(model, RESULTS)
        if not file.exists():
            if given.page or (given.only and model.name not in given.only):
                continue
            write_atomically(file, json.dumps(measured(model)).encode())
        records[model.name] = json.loads(file.read_text())
        print(row(model, records[model.name]), flush=True)
        write_atomically(PAGE, page(records).encode())


if __name__ == "__main__":
    main()
