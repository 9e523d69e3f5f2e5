"""One training of a recipe: its run, its observers, its evaluation, its model logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from art_ext.border.mlflow import MLflowTracker, Tracking
from art_ext.border.progress import ProgressDisplay
from art_ext.border.weights import Network
from art_ext.engine import checkpoint
from art_ext.engine.fit import Fit
from art_ext.engine.journal import Journal
from art_ext.engine.net import Net
from art_ext.engine.observe import Observer, RunInfo
from art_ext.engine.run import Run
from art_ext.engine.signals import Signals
from art_ext.errors import Stopped
from art_ext.evaluation.suite import Evaluator, HeldOut, as_metrics
from art_ext.host.beside import describe_network, fit_detectors, keep_detectors, keep_network
from art_ext.host.job import Job
from art_ext.host.outcome import Outcome, overstates
from art_ext.host.plain import flatten
from art_ext.host.roles import Role
from art_ext.host.rows import Rows
from art_ext.plan import Plan


def train(
    role: Role,
    folder: Path,
    tracking: Tracking,
    *,
    signals: Signals | None = None,
    resume: bool = False,
    done: bool = False,
) -> Outcome:
    """One training with its tracking and evaluation; the run ends as failed where anything is raised.

    The undefended role of a given model (`train.baseline: given`) takes no step: it is evaluated as it is.

    Args:
        signals: what asks the training to stop.
        resume: goes on with what is in the folder.
        done: the role has come to its end before: what it came to is read back, and nothing is tracked.
    """
    job, plan = role.job, role.plan
    info = run_info(role, folder)
    run = Run(job.settings, job.train.seed, signals=signals)
    model, net = build(job, plan, run)
    if done:
        outcome = _fit(role, net, run, folder, (), resume=True)
        outcome.tracker = MLflowTracker.reopened(tracking, folder) if run.rank == 0 else None
        return outcome
    network = describe_network(model, job.facts, info.recipe, () if job.given is None else job.given.earlier)
    observers, tracker = watch(job, info, run, tracking)
    try:
        for observer in observers:
            observer.run_start(info)
        with run.together():
            outcome = _fit(role, net, run, folder, observers, resume=resume)
        outcome.tracker = tracker
        detectors = fit_detectors(plan, net, job.training, job.held_out, run.device)
        if tracker is not None:
            keep_network(folder, network)
            keep_detectors(folder, detectors)
            _log(job, tracker, model, network, detectors, outcome)
        metrics = {**as_metrics(outcome.rows), "best_epoch": float(outcome.history.best_epoch)}
        for observer in observers:
            observer.run_end(metrics)
    except BaseException as error:
        for observer in observers:
            with suppress(Exception):  # the first error is the one to show
                if isinstance(error, Stopped):
                    observer.run_killed()
                else:
                    observer.run_failed(error)
        raise
    return outcome


def _fit(
    role: Role,
    net: Net,
    run: Run,
    folder: Path,
    observers: Sequence[Observer],
    *,
    resume: bool,
) -> Outcome:
    job, plan, train = role.job, role.plan, role.job.train
    torch.manual_seed(train.seed)
    held_out = HeldOut(plan, job.held_out.x, job.held_out.y, job.threat, seed=train.seed, device=run.device, run=run)
    fit = Fit(
        plan,
        net,
        job.optimizer(net.module),
        run,
        epochs=role.epochs,
        schedule=role.schedule(),
        validate=held_out,
        observers=observers,
        folder=folder,
        checkpoint_every=train.checkpoint_every,
        resume=resume,
    )
    history = fit(job.batches(run.device))
    fit.give_back()
    if not history.epochs and run.rank == 0:
        checkpoint.save(folder / "best.pt", {"net": net.module.state_dict(), "epoch": 0, "step": 0})
    attacks, last = job.attacks(plan), []
    kept = Rows(folder / "rows.pt", run)
    evaluator = Evaluator(net, job.data.test.x, job.data.test.y, seed=train.seed, device=run.device)
    rows = kept.run(f"epoch {len(history.epochs)}", evaluator, attacks)
    if history.best_epoch != len(history.epochs):
        fit.restore_best()
        evaluator = Evaluator(net, job.data.test.x, job.data.test.y, seed=train.seed, device=run.device)
        rows, last = kept.run(f"epoch {history.best_epoch}", evaluator, attacks), rows
    return Outcome(role, evaluator, history, rows, last, overstates(plan, attacks))


def build(job: Job, plan: Plan, run: Run) -> tuple[nn.Module, Net]:
    """The recipe's network after surgery, and the net around it."""
    net = job.net(plan).to(run.device)
    return net.module, net


def run_info(role: Role, folder: Path) -> RunInfo:
    job, plan = role.job, role.plan
    return RunInfo(
        name=f"{job.recipe.name} {role.name}",
        role=role.name,
        folder=folder,
        params=flatten(role.recipe),
        recipe=role.recipe,
        plan=plan.describe(),
        parent=folder.parent,
        data=job.data_facts(),
        tags=job.catalogue.versions(plan.used),
    )


def parent_info(job: Job, folder: Path, rank: int, parent: Path | None = None) -> RunInfo:
    """The run that holds those of the roles and of the evaluation."""
    return RunInfo(
        name=job.recipe.track.run_name or job.recipe.name,
        role="harden",
        folder=folder,
        params=flatten(job.resolved),
        recipe=job.resolved,
        plan=job.plan(job.ingredients).describe(),
        data=job.data_facts(),
        tags=job.catalogue.versions(ingredient.name for ingredient in job.ingredients),
        parent=parent,
        rank=rank,
    )


def watch(job: Job, info: RunInfo, run: Run, tracking: Tracking) -> tuple[list[Observer], MLflowTracker | None]:
    """The observers of a run: none of the built-in ones except on rank 0."""
    if run.rank != 0:
        return [], None
    assert info.folder is not None
    journal = Journal(info.folder)
    tracker = MLflowTracker(tracking, job.recipe.track.experiment, journal=journal, device=str(run.device))
    return [journal, tracker, ProgressDisplay(), *job.catalogue.manager.observers(info)], tracker


def _log(
    job: Job,
    tracker: MLflowTracker,
    model: nn.Module,
    network: Network,
    detectors: Mapping[str, torch.Tensor],
    outcome: Outcome,
) -> None:
    records = [row.as_record() for row in outcome.rows]
    tracker.attach_table("evaluation.json", {key: [record[key] for record in records] for key in records[0]})
    example = job.data.test.x[torch.arange(2)].cpu().numpy()
    tracker.log_model(model, network.architecture, example, network.recipe, detectors, network.earlier)
