"""Goes on with a run of `art-ext harden` that was interrupted."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from art_ext.engine.run import Run
from art_ext.engine.signals import Signals
from art_ext.errors import CheckpointError, ConfigError
from art_ext.host.folders import RECIPE, RunState, held
from art_ext.host.harden import carry_out
from art_ext.host.job import prepare
from art_ext.host.outcome import Echo
from art_ext.host.recipe import Recipe, recipe_from


def resume(folder: Path, *, echo: Echo, tracking_uri: str | None = None, trust: bool = False) -> None:
    """Does what is left of a run, from its last checkpoint on; the result is that of an uninterrupted one.

    Args:
        tracking_uri: in full, where the folder's record hides a password.
        trust: see `harden`.

    Raises:
        ConfigError: where the folder holds no run, or another process is at work in it.
        CheckpointError: where the data changed, or all checkpoints are damaged.
        Stopped: as `harden`.
    """
    folder = folder.expanduser().resolve()
    state = RunState.load(folder)
    if state.finished:
        echo(f"the run in {folder} is finished; its result is in {folder / 'result.json'}")
        return
    if not Path(state.started_in).is_dir():
        raise ConfigError(
            f"the run in {folder} was started in {state.started_in}, which is gone; make that folder again, "
            "since paths in the recipe start from it"
        )
    with contextlib.chdir(state.started_in), Signals().heard() as signals:
        job = prepare(_recipe(folder, tracking_uri), trust=trust)
        if job.data.digest != state.data:
            raise CheckpointError(
                f"the data {job.data.name} are not those that the run in {folder} began with; "
                "bring these back, or start harden again in another folder"
            )
        first = Run(job.settings, job.train.seed, signals=signals)
        with held(folder) if first.rank == 0 else contextlib.nullcontext():
            if first.rank == 0:
                echo(f"resumes   {folder}" + (f": {' and '.join(state.done)} done" if state.done else ""))
            carry_out(job, state, first, echo, resume=True)


def _recipe(folder: Path, tracking_uri: str | None) -> Recipe:
    path = folder / RECIPE
    try:
        data = json.loads(path.read_text())
        if tracking_uri is not None:
            data["track"]["uri"] = tracking_uri
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); start harden again in another folder") from None
    return recipe_from(data, str(path))
