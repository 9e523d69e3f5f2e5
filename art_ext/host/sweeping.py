"""`art-ext harden RECIPE --sweep`: one harden for each combination of values, compared at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from art_ext.border.mlflow_where import resolve_tracking
from art_ext.engine.observe import RunInfo
from art_ext.errors import ArtExtError
from art_ext.host.folders import default_folder, new_folder
from art_ext.host.harden import harden
from art_ext.host.outcome import Echo
from art_ext.host.recipe import load_recipe
from art_ext.lifecycle.family import Family
from art_ext.lifecycle.sweep import label_of, parse, points

__all__ = ["SweepError", "sweep"]


class SweepError(ArtExtError):
    """Some runs of a sweep did not come to their end."""


def sweep(
    recipe: str,
    overrides: Sequence[str],
    sweeps: Sequence[str],
    *,
    output: Path | None,
    echo: Echo,
    trust: bool = False,
) -> Path:
    """Hardens after a recipe with every combination of values; the runs are children of one run in MLflow.

    A run that fails does not end the others.

    Returns:
        The folder that holds the runs' folders.

    Raises:
        ConfigError: before any work, for a combination that is no recipe.
        SweepError: at the end, naming the runs that failed.
    """
    settings = parse(sweeps)
    chosen = points(settings)
    recipes = [
        load_recipe(recipe, [*overrides, *point, f"track.run_name={label_of(point)}"]) for point in chosen
    ]  # all of them before the first is run
    first = recipes[0]
    folder = new_folder(output or default_folder(f"{first.name}-sweep"))
    tracking = resolve_tracking(first.track.uri, Path.cwd())
    info = RunInfo(f"{first.name} sweep", role="sweep", folder=folder, params=dict(settings))
    failed: list[str] = []
    with Family(tracking, info, experiment=first.track.experiment):
        for number, (point, made) in enumerate(zip(chosen, recipes, strict=True), 1):
            echo(f"sweep     {number} of {len(chosen)}: {', '.join(point)}")
            try:
                harden(made, output=folder / label_of(point), echo=echo, trust=trust, parent=folder)
            except ArtExtError as error:
                echo(f"failed    {error}")
                failed.append(label_of(point))
    if failed:
        raise SweepError(f"{len(failed)} of {len(chosen)} runs failed: {', '.join(failed)}; the others are in {folder}")
    return folder
