"""What a recipe would do, and about what it would cost: a few probe steps on a copy, nothing trained."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch

from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.run import Run
from art_ext.engine.step import COST
from art_ext.evaluation.suite import Evaluator, informed
from art_ext.host.job import Job, prepare
from art_ext.host.recipe import Recipe
from art_ext.host.roles import remarks, roles_of
from art_ext.host.training import build
from art_ext.plan import Plan
from art_ext.types import Progress

PROBES = 5
PROBE_IMAGES = 64
MIB = 1024**2


def dry_run(recipe: Recipe, echo: Callable[[str], None], *, trust: bool = False) -> None:
    """Prints data, network, plan, passes of a step, and estimates of time and memory.

    Raises:
        ArtExtError: as the run itself would, before its first step.
    """
    job = prepare(recipe, trust=trust)
    for line in (*job.describe(), *remarks(roles_of(job))):
        echo(line)
    plan = job.plan(job.ingredients)
    lines = job.train.lines(plan)
    width = max(len(slot) for slot, _, _ in lines)
    for slot, part, owner in lines:
        echo(f"  {slot.ljust(width)}  {part}  [{owner}]")
    for name, attack in job.attacks(plan):
        echo(f"evaluate  {name}: {attack}")
    total = sum(_cost(job, job.plan(used), echo) for used in ([(), job.ingredients] if job.ingredients else [()]))
    echo(f"time      about {_duration(total)} in all, from {PROBES} probe steps each")
    echo(f"memory    {_peak(Run(job.settings, job.train.seed).device):,.0f} MiB at the peak of these steps")
    echo("nothing was trained or written")


def _cost(job: Job, plan: Plan, echo: Callable[[str], None]) -> float:
    """Seconds that one training with its evaluation would take; prints the passes of a step."""
    train = job.train
    run = Run(job.settings, train.seed)
    _, net = build(job, plan, run)
    fit = Fit(plan, net, job.optimizer(net.module), run, epochs=train.epochs)
    fit.parts = plan.compose().at(Progress(train.epochs / 2, train.epochs))
    batches = job.batches(run.device)
    times = []
    for batch in islice(_forever(batches), PROBES):
        began = time.perf_counter()
        logs = fit.take(batch)
        times.append(time.perf_counter() - began)
    step = sorted(times)[len(times) // 2]
    name = " + ".join(plan.used) or "undefended"
    echo(
        f"step      {name}: {logs[COST + 'forwards'] / len(batch.x):.1f} forward and "
        f"{logs[COST + 'backwards'] / len(batch.x):.1f} backward passes an image, "
        f"{step * 1000:.0f} ms for {len(batch.x)} images"
    )
    each = _attack_seconds(job, plan, net)
    looks = train.epochs * len(job.held_out) + len(job.data.test) * len(job.attacks(plan)) * 2
    return train.epochs * batches.per_epoch * step + looks * each


def _attack_seconds(job: Job, plan: Plan, net: Net) -> float:
    """Seconds an image takes under the held-out adversary."""
    evaluator = Evaluator(net, job.held_out.x, job.held_out.y, device=next(net.parameters()).device)
    index = torch.arange(min(PROBE_IMAGES, len(job.held_out)))
    evaluator.craft(informed(plan, job.threat)[0][1], index)
    began = time.perf_counter()
    evaluator.craft(informed(plan, job.threat)[0][1], index)
    return (time.perf_counter() - began) / len(index)


def _forever(batches: Any) -> Any:
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _peak(device: torch.device) -> float:
    """MiB: of the device where it keeps count, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
