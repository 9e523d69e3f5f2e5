"""The main job: an undefended and a hardened model from one recipe, attacked, compared, tracked."""

from __future__ import annotations

import json
from pathlib import Path

from art_ext.border.mlflow import resolve_tracking
from art_ext.evaluation.record import read_evaluation
from art_ext.host.folders import default_folder, new_folder
from art_ext.host.job import prepare
from art_ext.host.outcome import Echo, report
from art_ext.host.recipe import Recipe
from art_ext.host.training import parent_info, train
from art_ext.lifecycle.family import Family

UNDEFENDED, HARDENED = "undefended", "hardened"


def harden(recipe: Recipe, *, output: Path | None, echo: Echo, trust: bool = False) -> None:
    """Trains what the recipe says, and the same network undefended; evaluates both and prints the comparison.

    Args:
        trust: whether code of what `model.from` names may run.

    Raises:
        ArtExtError: before any work for what is wrong with the recipe, the data or the folder.
    """
    job = prepare(recipe, trust=trust)
    folder = new_folder(output or recipe.output or default_folder(recipe.name))
    tracking = resolve_tracking(recipe.track.uri, Path.cwd())
    (folder / "recipe.json").write_text(json.dumps(job.resolved, indent=1) + "\n")
    for line in job.describe():
        echo(line)
    echo(f"files     {folder}")
    echo(f"tracking  {tracking.describe()}")
    methods = {} if job.baseline == "none" else {UNDEFENDED: ()}
    methods |= {HARDENED: job.ingredients} if job.ingredients else {UNDEFENDED: ()}
    track, info = recipe.track, parent_info(job, folder)
    with Family(tracking, info, experiment=track.experiment, register=track.register) as family:
        outcomes = [train(job, role, job.plan(used), folder / role, tracking) for role, used in methods.items()]
        if all(outcome.tracker is None for outcome in outcomes):
            return  # not rank 0
        report(job, outcomes, folder, echo)
        if (evaluated := folder / "evaluation" / outcomes[-1].role).is_dir():
            family.evaluated(read_evaluation(evaluated), evaluated, of=folder / outcomes[-1].role)
    for line in family.links():
        echo(line)
