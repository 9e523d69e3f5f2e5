"""What a run's folder has for the report of its model: the last epoch's weights, helper networks, journals."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from art_ext.engine import checkpoint
from art_ext.engine.helpers import draw_weights
from art_ext.engine.journal import FILE as JOURNAL
from art_ext.engine.net import Net
from art_ext.errors import ArtExtError
from art_ext.evaluation.evaluation import Evaluation
from art_ext.evaluation.subject import first_images, net_for
from art_ext.host.manager import Catalogue
from art_ext.host.models import OpenedModel, open_model
from art_ext.host.recipe import Recipe
from art_ext.plan import Plan

_ROLES = ("undefended", "hardened")
_BEST, _LAST = "best.pt", "last.pt"


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        last: the network after the last epoch; None where that is the best one, or it was not kept.
        journals: "undefended" and "hardened" to their metrics.jsonl, as far as they are there.
    """

    last: Net | None = None
    journals: dict[str, Path] = field(default_factory=dict)


def trained(
    source: str, opened: OpenedModel, catalogue: Catalogue, recipe: Recipe | None, evaluation: Evaluation
) -> Trained:
    """What the run has whose folder a model was opened from; nothing for any other source.

    Helper networks of the plan get their trained weights, so that its attack is the training's.
    """
    role = _role_of(source)
    if role is None:
        return Trained()
    journals = {name: role.parent / name / JOURNAL for name in _ROLES}
    _fill_helpers(evaluation.subject.plan, role / _BEST)
    last: Net | None = None
    if (role / _LAST).is_file() and checkpoint.load(role / _LAST)["epoch"] != checkpoint.load(role / _BEST)["epoch"]:
        subject, device = evaluation.subject, evaluation.evaluator.device
        other = open_model(str(role / _LAST), catalogue=catalogue, recipe=recipe, facts=opened.facts)
        head = None if recipe is None else recipe.model.head
        last, _ = net_for(other.module.to(device), subject.plan, first_images(evaluation.data, device), head=head)
    return Trained(last, {name: path for name, path in journals.items() if path.is_file()})


def _role_of(source: str) -> Path | None:
    """The folder of the weights that `open_model` takes from a run's folder."""
    folder = Path(source).expanduser()
    for role in (folder / "hardened", folder / "undefended", folder):
        if role.name in _ROLES and (role / _BEST).is_file():
            return role
    return None


def _fill_helpers(plan: Plan, best: Path) -> None:
    """Gives the plan's helpers the weights of a checkpoint; those that it lacks stay as they are."""
    if not plan.helpers:
        return
    try:
        saved = checkpoint.load(best).get("helpers", {})
        for helper in plan.helpers:
            if helper.name in saved:
                draw_weights(helper.module, 0)
                helper.module.load_state_dict(saved[helper.name]["module"])
    except (ArtExtError, RuntimeError, KeyError, TypeError):  # the report then says what it could not show
        return
