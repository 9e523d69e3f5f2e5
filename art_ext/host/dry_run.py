"""What a recipe would do, and about what it would cost: a few probe steps on a copy, nothing trained."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.run import Run
from art_ext.engine.step import COST
from art_ext.entries import EvaluationContext
from art_ext.evaluation.asked import asked_attacks
from art_ext.evaluation.evaluation import FALLS_EARLY
from art_ext.evaluation.lineup import Planned, build_lineup, effort
from art_ext.evaluation.subject import adaptive_of
from art_ext.evaluation.suite import Evaluator, informed
from art_ext.evaluation.suites import suite_named
from art_ext.host.job import Job, prepare
from art_ext.host.recipe import Recipe
from art_ext.host.roles import Role, remarks, roles_of
from art_ext.host.training import build
from art_ext.lifecycle.roles import UNDEFENDED
from art_ext.parts.attacks import PGD, Attack
from art_ext.parts.detectors import Confidence
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
    roles = roles_of(job)
    paces = [_pace(role, echo) for role in roles]
    training = sum(pace.training for pace in paces)
    works = [_work(role, roles) for role in roles]
    evaluation = sum(work * pace.pass_seconds for work, pace in zip(works, paces, strict=True))
    passes = sum(works) / len(job.data.test)
    echo(f"evaluate  up to {passes:,.0f} passes a test image in all, a backward one counted as two")
    echo(
        f"time      about {_duration(training)} of training and up to {_duration(evaluation)} of evaluation, from "
        f"{PROBES} probe steps each"
    )
    echo(f"memory    {_peak(Run(job.settings, job.train.seed).device):,.0f} MiB at the peak of these steps")
    echo("nothing was trained or written")


@dataclass(frozen=True)
class _Pace:
    """What probe steps of a role say.

    Attributes:
        training: seconds that it would train, with its looks at held-out images.
        pass_seconds: of one image's forward pass; a backward one counts as two.
    """

    training: float
    pass_seconds: float


def _pace(role: Role, echo: Callable[[str], None]) -> _Pace:
    """Takes probe steps; prints the passes of one."""
    job, plan = role.job, role.plan
    run = Run(job.settings, job.train.seed)
    _, net = build(job, plan, run)
    fit = Fit(plan, net, job.optimizer(net.module), run, epochs=job.train.epochs)
    fit.parts = plan.compose().at(Progress(job.train.epochs / 2, job.train.epochs))
    batches = job.batches(run.device)
    adversary = informed(plan, job.threat)[0][1]
    if isinstance(adversary, PGD):  # the probe's network has learnt nothing, and its images would fall at once
        adversary = replace(adversary, stop_when_wrong=False)
    each = _attack_seconds(job, net, adversary)
    pass_seconds = each / Planned("", adversary, "gradient").work
    if role.as_it_is:
        return _Pace(0.0, pass_seconds)
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
    return _Pace(role.epochs * (batches.per_epoch * step + len(job.held_out) * each), pass_seconds)


def _work(role: Role, roles: Sequence[Role]) -> float:
    """Passes of single images, a backward one as two, that a role's evaluation takes where every image stands to the
    end: the recipe's attacks, and its suite on all roles but the undefended one, which falls early."""
    job, plan, n = role.job, role.plan, len(role.job.data.test)
    listed = sum(Planned(name, attack, "gradient").work for name, attack in job.attacks(plan))
    bare = role.name == UNDEFENDED
    if job.recipe.suite == "none" or (bare and len(roles) > 1):
        return n * listed * (FALLS_EARLY if bare else 1)
    suite, threat = suite_named(job.recipe.suite), job.threat
    detectors = plan.compose().detectors
    context = EvaluationContext(plan, threat.norm, threat.eps, threat.clip, detectors=detectors)
    lineup = build_lineup(
        plan,
        threat,
        suite,
        job.catalogue.attacks,
        context,
        extra=asked_attacks(job.recipe.attacks(job.catalogue), context, []),
        adaptive=adaptive_of(role.ingredients),
        confidence=None if detectors else Confidence(),
    )
    rounds, steps = suite.curve
    own = sum(one.work for one in [*lineup.planned, *effort(threat, *suite.effort)]) + 3 * rounds * steps
    other = sum(one.work for one in lineup.planned if one.family != "informed" and one.bounded(threat))
    return n * (listed + own + (FALLS_EARLY * other if any(one.name == UNDEFENDED for one in roles) else 0))


def _attack_seconds(job: Job, net: Net, attack: Attack) -> float:
    """Seconds an image takes under an attack."""
    evaluator = Evaluator(net, job.held_out.x, job.held_out.y, device=next(net.parameters()).device)
    index = torch.arange(min(PROBE_IMAGES, len(job.held_out)))
    evaluator.craft(attack, index)
    began = time.perf_counter()
    evaluator.craft(attack, index)
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
