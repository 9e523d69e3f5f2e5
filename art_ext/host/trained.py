"""What a run's folder has for the report of its model: the last epoch's weights, helper networks, journals."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from art_ext.engine import checkpoint
from art_ext.engine.helpers import draw_weights
from art_ext.engine.journal import FILE as JOURNAL
from art_ext.engine.journal import read_journal
from art_ext.engine.net import Net
from art_ext.errors import ArtExtError, DataError
from art_ext.evaluation.evaluation import Evaluation
from art_ext.evaluation.record import FILE as EVALUATION
from art_ext.evaluation.record import EvaluationRecord, TrainingCost, read_evaluation
from art_ext.evaluation.subject import first_images, net_for
from art_ext.lifecycle.roles import BEST, RESERVED, ROLES, UNDEFENDED, is_role
from art_ext.plan import Plan

_LAST = "last.pt"


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        last: the network after the last epoch; None where that is the best one, or it was not kept.
        journals: a role's name to its metrics.jsonl, as far as they are there.
    """

    last: Net | None = None
    journals: dict[str, Path] = field(default_factory=dict)


def role_of(source: str) -> Path | None:
    """The folder of the weights that `open_model` takes from a run's folder; None for any other source."""
    folder = Path(source).expanduser()
    return next((role for role in (*(folder / name for name in ROLES), folder) if is_role(role)), None)


def folders_beside(role: Path | None) -> list[Path]:
    """The folders of the methods that were trained beside that of a role's folder."""
    if role is None:
        return []
    others = (folder for folder in sorted(role.parent.glob("*/")) if folder.name not in (role.name, *RESERVED))
    return [folder for folder in others if is_role(folder)]


def beside_of(role: Path | None) -> dict[str, EvaluationRecord]:
    """The evaluations of the methods that were trained beside that of a role's folder, as far as there are any."""
    places = {folder.name: folder.parent / "evaluation" / folder.name for folder in folders_beside(role)}
    return {name: read_evaluation(place) for name, place in places.items() if (place / EVALUATION).is_file()}


def cost_of(role: Path | None) -> TrainingCost | None:
    """What the training of a role's folder took; None where its journal does not say."""
    try:
        entries = [] if role is None else read_journal(role / JOURNAL)
    except DataError:
        return None
    epochs = {entry.epoch: entry.metrics for entry in entries if entry.event == "epoch"}
    if not epochs or not all("train/updates" in metrics for metrics in epochs.values()):
        return None
    updates, forwards, backwards = (
        round(sum(metrics[f"train/{name}"] for metrics in epochs.values()))
        for name in ("updates", "forwards", "backwards")
    )
    return TrainingCost(len(epochs), updates, forwards, backwards)


def trained(role: Path | None, module: nn.Module, evaluation: Evaluation, head: str | None = None) -> Trained:
    """What the run of a role's folder left for the report of its evaluation.

    Helper networks of the evaluation's plan get their trained weights, so that its attack is the
    training's. Whatever cannot be read is left out: the report says so.

    Args:
        module: the network with its best weights; a copy gets those of the last epoch.
        head: path of its last layer, where it is not found by itself.
    """
    if role is None:
        return Trained()
    names = dict.fromkeys((UNDEFENDED, role.name))
    paths = {name: role.parent / name / JOURNAL for name in names}
    journals = {name: path for name, path in paths.items() if path.is_file()}
    best, last = _read(role / BEST), _read(role / _LAST)
    _fill_helpers(evaluation.subject.plan, best.get("helpers", {}))
    if not last or last.get("epoch") == best.get("epoch"):
        return Trained(None, journals)
    twin = copy.deepcopy(module)
    try:
        twin.load_state_dict(last["net"])
    except (RuntimeError, KeyError):
        return Trained(None, journals)
    sample = first_images(evaluation.data, evaluation.evaluator.device)
    return Trained(net_for(twin, evaluation.subject.plan, sample, head=head)[0], journals)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return checkpoint.load(path)
    except ArtExtError:
        return {}


def _fill_helpers(plan: Plan, saved: Mapping[str, Any]) -> None:
    """Gives the plan's helpers their saved weights; those without keep what they have."""
    for helper in plan.helpers:
        if helper.name in saved:
            draw_weights(helper.module, 0)
            helper.module.load_state_dict(saved[helper.name]["module"])
