"""The main job: an undefended and a hardened model from one recipe, attacked, compared, tracked."""

from __future__ import annotations

import json
from pathlib import Path

from art_ext.border.mlflow import resolve_tracking
from art_ext.host.folders import default_folder, new_folder
from art_ext.host.job import prepare
from art_ext.host.outcome import Echo, report
from art_ext.host.recipe import Recipe
from art_ext.host.training import train

UNDEFENDED, HARDENED = "undefended", "hardened"


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
