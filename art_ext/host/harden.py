"""The main job: an undefended and a hardened model from one recipe, attacked, compared, tracked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from art_ext.border.mlflow import MLflowTracker, Tracking, resolve_tracking
from art_ext.border.progress import ProgressDisplay
from art_ext.border.timm import architecture
from art_ext.engine.fit import Fit, History
from art_ext.engine.journal import Journal
from art_ext.engine.net import Net
from art_ext.engine.observe import Observer, RunInfo
from art_ext.engine.run import Run
from art_ext.errors import ConfigError
from art_ext.evaluation.figures import Gallery, comparison
from art_ext.evaluation.rejection import Rejection
from art_ext.evaluation.suite import TPR, Accuracy, Evaluator, HeldOut, Threat, as_metrics, evading, worst
from art_ext.host.job import Job, prepare
from art_ext.host.recipe import Recipe, flatten
from art_ext.parts.detectors import threshold_at
from art_ext.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Echo = Callable[[str], None]
UNDEFENDED, HARDENED = "undefended", "hardened"
GALLERY = 6


@dataclass
class Outcome:
    """What one training came to.

    Attributes:
        rows: accuracies on the test set, of the best epoch's weights.
        last: the same of the last epoch's, where it is another one.
        rejection: a detector's name and what it makes of the test set, where the plan has one.
    """

    role: str
    evaluator: Evaluator
    history: History
    rows: list[Accuracy]
    last: list[Accuracy] = field(default_factory=list)
    rejection: tuple[str, Rejection] | None = None
    tracker: MLflowTracker | None = None


def harden(recipe: Recipe, *, output: Path | None, echo: Echo) -> None:
    """Trains what the recipe says, and the same network undefended; evaluates both and prints the comparison.

    Raises:
        ArtExtError: before any work for what is wrong with the recipe, the data or the folder.
    """
    job = prepare(recipe)
    folder = new_folder(output or recipe.output or default_folder(recipe.name))
    tracking = resolve_tracking(recipe.track.uri, Path.cwd())
    (folder / "recipe.json").write_text(json.dumps(job.resolved, indent=1) + "\n")
    for line in job.describe():
        echo(line)
    echo(f"files     {folder}")
    echo(f"tracking  {tracking.describe()}")
    methods = {UNDEFENDED: ()} | ({HARDENED: job.ingredients} if job.ingredients else {})
    outcomes = [train(job, role, job.plan(used), folder / role, tracking) for role, used in methods.items()]
    if all(outcome.tracker is None for outcome in outcomes):
        return  # not rank 0
    report(job, outcomes, folder, echo)
    echo(f"see the runs: {tracking.ui_command()}")
    for outcome in outcomes:
        if outcome.tracker is not None and outcome.tracker.run_id and outcome.tracker.experiment_id:
            url = tracking.run_url(outcome.tracker.experiment_id, outcome.tracker.run_id)
            echo(f"  {outcome.role}: {url}")


def train(job: Job, role: str, plan: Plan, folder: Path, tracking: Tracking) -> Outcome:
    """One training with its tracking and evaluation; the run ends as failed where anything is raised."""
    info = run_info(job, role, plan, folder)
    run = Run(job.settings, job.train.seed)
    model, net = build(job, plan, run)
    observers, tracker = watch(job, info, run, tracking)
    try:
        for observer in observers:
            observer.run_start(info)
        outcome = _fit(job, role, plan, net, run, folder, observers)
        outcome.tracker = tracker
        if tracker is not None:
            _log(job, tracker, model, outcome)
        metrics = {**as_metrics(outcome.rows), "best_epoch": float(outcome.history.best_epoch)}
        for observer in observers:
            observer.run_end(metrics)
    except BaseException as error:
        for observer in observers:
            with suppress(Exception):  # the first error is the one to show
                observer.run_failed(error)
        raise
    return outcome


def _fit(
    job: Job, role: str, plan: Plan, net: Net, run: Run, folder: Path, observers: Sequence[Observer]
) -> Outcome:
    train = job.train
    torch.manual_seed(train.seed)
    held_out = HeldOut(plan, job.held_out.x, job.held_out.y, job.threat, seed=train.seed, device=run.device)
    fit = Fit(
        plan,
        net,
        job.optimizer(net.module),
        run,
        epochs=train.epochs,
        schedule=job.schedule(),
        validate=held_out,
        observers=observers,
        folder=folder,
    )
    history = fit(job.batches(run.device))
    attacks, last = job.attacks(plan), []
    evaluator = Evaluator(net, job.data.test.x, job.data.test.y, seed=train.seed, device=run.device)
    rows = evaluator.run(attacks)
    if history.best_epoch != len(history.epochs):
        fit.restore_best()
        evaluator = Evaluator(net, job.data.test.x, job.data.test.y, seed=train.seed, device=run.device)
        rows, last = evaluator.run(attacks), rows
    calibration = Evaluator(net, job.held_out.x, job.held_out.y, seed=train.seed, device=run.device)
    return Outcome(role, evaluator, history, rows, last, rejecting(plan, job.threat, calibration, evaluator))


def rejecting(plan: Plan, threat: Threat, calibration: Evaluator, test: Evaluator) -> tuple[str, Rejection] | None:
    """A plan's detector by name, its threshold from held-out images, judged on test images under its own adversary.

    None where the plan has no detector that names one, or nothing to set a threshold by.
    """
    found = evading(plan, threat, steps=20)
    right = calibration.clean().right
    if found is None or not bool(right.any()):
        return None
    detector, attack = found
    threshold = threshold_at(detector.score(calibration.outputs())[right], TPR)
    clean, adversarial = test.outputs(), test.outputs(attack)
    wrong, fooled = (out.logits.argmax(1) != test.y for out in (clean, adversarial))
    return detector.name, Rejection.of(detector.score(clean), wrong, detector.score(adversarial), fooled, threshold)


def build(job: Job, plan: Plan, run: Run) -> tuple[nn.Module, Net]:
    """The recipe's network after surgery, and the net around it."""
    net = job.net(plan).to(run.device)
    return net.module, net


def run_info(job: Job, role: str, plan: Plan, folder: Path) -> RunInfo:
    recipe = job.resolved | {"use": job.resolved["use"] if plan.used else []}
    return RunInfo(
        name=f"{job.recipe.name} {role}",
        role=role,
        folder=folder,
        params=flatten(recipe),
        recipe=recipe,
        plan=plan.describe(),
        data=job.data_facts(),
        tags=job.catalogue.versions(plan.used),
    )


def watch(job: Job, info: RunInfo, run: Run, tracking: Tracking) -> tuple[list[Observer], MLflowTracker | None]:
    """The observers of a run: none of the built-in ones except on rank 0."""
    if run.rank != 0:
        return [], None
    assert info.folder is not None
    journal = Journal(info.folder)
    tracker = MLflowTracker(tracking, job.recipe.track.experiment, journal=journal, device=str(run.device))
    return [journal, tracker, ProgressDisplay(), *job.catalogue.manager.observers(info)], tracker


def _log(job: Job, tracker: MLflowTracker, model: nn.Module, outcome: Outcome) -> None:
    records = [row.as_record() for row in outcome.rows]
    tracker.attach_table("evaluation.json", {key: [record[key] for record in records] for key in records[0]})
    example = job.data.test.x[torch.arange(2)].cpu().numpy()
    tracker.log_model(model, architecture(model), example, job.resolved)


def report(job: Job, outcomes: Sequence[Outcome], folder: Path, echo: Echo) -> None:
    """The table, result.json and result.png."""
    for line in table({outcome.role: outcome.rows for outcome in outcomes}):
        echo(line)
    for outcome in outcomes:
        epoch, epochs = outcome.history.best_epoch, len(outcome.history.epochs)
        shown = "; the last epoch: " + ", ".join(f"{row.name} {row.value:.3f}" for row in outcome.last)
        echo(f"{outcome.role}: epoch {epoch} of {epochs} is the best on held-out data{shown if outcome.last else ''}")
        if outcome.rejection is not None:
            name, found = outcome.rejection
            echo(
                f"{outcome.role}, rejecting below {name} {found.threshold:.3f}: keeps {found.tpr:.1%} of what is "
                f"right; under its own adversary {found.robust_error:.1%} of what it keeps is wrong, "
                f"and {found.unthresholded:.1%} with nothing rejected"
            )
    result = {
        outcome.role: {
            "best_epoch": outcome.history.best_epoch,
            "epochs": len(outcome.history.epochs),
            "train_seconds": round(outcome.history.seconds, 2),
            "best": [row.as_record() for row in outcome.rows],
            "last": [row.as_record() for row in outcome.last or outcome.rows],
            "worst_case": float(worst(outcome.rows).double().mean()),
            "rejection": outcome.rejection and {"detector": outcome.rejection[0], **outcome.rejection[1].as_record()},
            "mlflow_run": outcome.tracker.run_id if outcome.tracker else None,
        }
        for outcome in outcomes
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    figure = picture(job, outcomes)
    figure.savefig(folder / "result.png")
    for outcome in outcomes[-1:]:
        if outcome.tracker is not None:
            outcome.tracker.attach_figure("result.png", figure)


def table(models: Mapping[str, Sequence[Accuracy]]) -> list[str]:
    """Plain aligned lines: a row a model, a column an attack, each accuracy with its 95% interval."""
    names = list(dict.fromkeys(row.name for rows in models.values() for row in rows))
    n = next(row.n for rows in models.values() for row in rows)
    head = ["accuracy (95% interval)", *names]
    lines = [head]
    for model, rows in models.items():
        found = {row.name: row for row in rows}
        lines.append([model, *(_cell(found[name]) if name in found else "-" for name in names)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    rule = "  ".join("-" * width for width in widths)
    return ["", shown[0], rule, *shown[1:], f"n = {n} test images", ""]


def _cell(row: Accuracy) -> str:
    low, high = row.interval
    return f"{row.value:.3f} ({low:.3f}-{high:.3f})"


def picture(job: Job, outcomes: Sequence[Outcome]) -> Figure:
    """The comparison with a few images that each model got right when clean, under the last attack."""
    plan = job.plan(job.ingredients)
    _, attack = job.attacks(plan)[-1]
    right = torch.stack([outcome.evaluator.clean().right for outcome in outcomes]).all(0)
    index = right.nonzero().squeeze(1)[:GALLERY]
    rows = {}
    for outcome in outcomes:
        adversarial, _ = outcome.evaluator.craft(attack, index)
        rows[outcome.role] = (adversarial.cpu(), outcome.evaluator.predict(adversarial).cpu())
    gallery = Gallery(job.data.test.x[index].cpu(), rows, job.data.test.y[index], job.data.class_names)
    title = f"{job.recipe.name}: accuracy on {len(job.data.test)} test images, {job.threat}"
    return comparison({outcome.role: outcome.rows for outcome in outcomes}, gallery if len(index) else None, title)


def default_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def new_folder(folder: Path) -> Path:
    """Makes the folder of a run.

    Raises:
        ConfigError: when it holds something already, or cannot be written.
    """
    folder = folder.expanduser().resolve()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"the output folder {folder} exists already; name a new one with --output, or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"the output folder {folder} cannot be written ({error.strerror}); choose another with --output"
        ) from None
    return folder
