"""What trainings came to: the table, the picture and result.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from art_ext.border.mlflow import MLflowTracker
from art_ext.engine.fit import History
from art_ext.engine.journal import FILE as JOURNAL
from art_ext.engine.run import Run
from art_ext.evaluation.figures import Gallery, comparison
from art_ext.evaluation.record import EvaluationRecord
from art_ext.evaluation.suite import Accuracy, Evaluator, worst
from art_ext.evaluation.verdict import two_lines
from art_ext.files import replacing, write_atomically
from art_ext.host.job import Job
from art_ext.host.roles import Role
from art_ext.host.run_evaluation import evaluate_run
from art_ext.lifecycle.roles import UNDEFENDED
from art_ext.parts.attacks import Attack
from art_ext.parts.objectives import ce, kl_to_clean
from art_ext.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Echo = Callable[[str], None]
GALLERY = 6


@dataclass
class Outcome:
    """What one training came to.

    Attributes:
        rows: accuracies on the test set, of the best epoch's weights.
        last: the same of the last epoch's, where it is another one.
        overstates: why the rows are no measure of robustness, or "".
    """

    role: Role
    evaluator: Evaluator
    history: History
    rows: list[Accuracy]
    last: list[Accuracy] = field(default_factory=list)
    overstates: str = ""
    tracker: MLflowTracker | None = None


def overstates(plan: Plan, attacks: Sequence[tuple[str, Attack]]) -> str:
    """Why accuracies under these attacks are no measure of a plan's robustness, or "".

    Logits that saturate the softmax leave cross-entropy without a gradient; an attack on anything else is needed.
    """
    blind = all(attack.objective in (ce, kl_to_clean) for _, attack in attacks)
    if not blind or not plan.compose().criterion.saturates_softmax:
        return ""
    return (
        "these accuracies overstate: every attack follows cross-entropy, which has no gradient at the logits of "
        f"{plan.owner('criterion')}; add criterion_pgd to evaluate:"
    )


def report(job: Job, outcomes: Sequence[Outcome], folder: Path, echo: Echo) -> None:
    """The table, result.json and result.png."""
    for line in table({outcome.role.name: outcome.rows for outcome in outcomes}):
        echo(line)
    for outcome in outcomes:
        for line in _told(outcome):
            echo(line)
    result = {
        outcome.role.name: {
            "best_epoch": outcome.history.best_epoch,
            "epochs": len(outcome.history.epochs),
            "train_seconds": round(outcome.history.seconds, 2),
            "best": [row.as_record() for row in outcome.rows],
            "last": [row.as_record() for row in outcome.last or outcome.rows],
            "worst_case": float(worst(outcome.rows).double().mean()),
            "overstates": outcome.overstates or None,
            "mlflow_run": outcome.tracker.run_id if outcome.tracker else None,
        }
        for outcome in outcomes
    }
    write_atomically(folder / "result.json", json.dumps(result, indent=1) + "\n")
    figure = picture(job, outcomes)
    with replacing(folder / "result.png") as part:
        figure.savefig(part, format="png")
    for outcome in outcomes[-1:]:
        if outcome.tracker is not None:
            outcome.tracker.attach_figure("result.png", figure)


def _told(outcome: Outcome) -> Iterator[str]:
    name, epoch, epochs = outcome.role.name, outcome.history.best_epoch, len(outcome.history.epochs)
    if epochs == 0:
        yield f"{name}: the given model as it is"
        return
    shown = "; the last epoch: " + ", ".join(f"{row.name} {row.value:.3f}" for row in outcome.last)
    yield f"{name}: epoch {epoch} of {epochs} is the best on held-out data{shown if outcome.last else ''}"
    if outcome.overstates:
        yield f"{name}: {outcome.overstates}"


def evaluate_all(job: Job, outcomes: Sequence[Outcome], folder: Path, run: Run, echo: Echo) -> None:
    """The recipe's suite on the methods beside and on the last role, with the undefended twin; its verdict in two
    lines. All processes take part.
    """
    if job.recipe.suite == "none":
        return
    *before, last = outcomes
    bare = next((outcome.evaluator.net for outcome in before if outcome.role.name == UNDEFENDED), None)
    journals = {outcome.role.name: folder / outcome.role.name / JOURNAL for outcome in outcomes}
    beside = {outcome.role.name: outcome for outcome in before if outcome.role.name != UNDEFENDED}
    peers: dict[str, EvaluationRecord] = {}
    for name, outcome in beside.items():
        found = evaluate_run(outcome.role, outcome.evaluator.net, bare, {}, {}, folder, run)
        peers |= {} if found is None else {name: found[0]}
    others = {name: outcome.evaluator.net for name, outcome in beside.items()}
    found = evaluate_run(last.role, last.evaluator.net, bare, others, peers, folder, run, journals)
    if found is not None:
        record, page = found
        for line in two_lines(record):
            echo(line)
        echo(f"report    {page}")


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
        rows[outcome.role.name] = (adversarial.cpu(), outcome.evaluator.predict(adversarial).cpu())
    gallery = Gallery(job.data.test.x[index].cpu(), rows, job.data.test.y[index], job.data.class_names)
    title = f"{job.recipe.name}: accuracy on {len(job.data.test)} test images, {job.threat}"
    return comparison({outcome.role.name: outcome.rows for outcome in outcomes}, gallery if len(index) else None, title)
