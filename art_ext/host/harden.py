"""The main job: an undefended and a hardened model from one recipe, attacked, compared, tracked."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

from art_ext.border.mlflow import resolve_tracking
from art_ext.engine.run import Run
from art_ext.engine.signals import Signals
from art_ext.errors import Stopped
from art_ext.evaluation.record import FILE
from art_ext.files import write_atomically
from art_ext.host.folders import DAMAGED, RECIPE, RunState, default_folder, held, new_folder
from art_ext.host.job import Job, prepare
from art_ext.host.outcome import Echo, evaluate_all, report
from art_ext.host.recipe import Recipe
from art_ext.host.roles import remarks, roles_of
from art_ext.host.training import parent_info, train
from art_ext.lifecycle.family import Family
from art_ext.secrets import masked_data


def harden(
    recipe: Recipe, *, output: Path | None, echo: Echo, trust: bool = False, parent: Path | None = None
) -> None:
    """Trains what the recipe says, and the same network undefended; evaluates both and prints the comparison.

    Args:
        trust: whether code of what `model.from` names may run.
        parent: folder of the sweep that this is a part of.

    Raises:
        ArtExtError: before any work for what is wrong with the recipe, the data or the folder.
        Stopped: after SIGTERM or the first SIGINT; what was done is kept.
    """
    job = prepare(recipe, trust=trust)
    roles_of(job)  # refuses before there is a folder
    with Signals().heard() as signals:
        first = Run(job.settings, job.train.seed, signals=signals)  # starts the other processes, if there are to be any
        folder = first.from_first(lambda: new_folder(output or recipe.output or default_folder(recipe.name)))
        above = None if parent is None else str(parent)
        state = RunState(folder, str(Path.cwd()), job.data.digest, parent=above)
        with held(folder) if first.rank == 0 else nullcontext():
            if first.rank == 0:
                write_atomically(folder / RECIPE, json.dumps(masked_data(job.resolved), indent=1) + "\n")
                if job.data.damaged:
                    write_atomically(folder / DAMAGED, "\n".join(job.data.damaged) + "\n")
                state.save()
            carry_out(job, state, first, echo)


def carry_out(job: Job, state: RunState, first: Run, echo: Echo, *, resume: bool = False) -> None:
    """Everything that is left to do of a run; only the first of several processes writes and prints.

    Raises:
        Stopped: with what goes on from here.
    """
    folder, leads = state.folder, first.rank == 0
    say: Echo = echo if leads else _nothing
    tracking = resolve_tracking(job.recipe.track.uri, Path.cwd())
    roles = roles_of(job)
    for line in (*job.describe(), *remarks(roles)):
        say(line)
    say(f"files     {folder}")
    say(f"tracking  {tracking.describe()}")
    above = None if state.parent is None else Path(state.parent)
    track, info = job.recipe.track, parent_info(job, folder, first.rank, above)
    outcomes = []
    try:
        with Family(tracking, info, experiment=track.experiment, register=track.registered_as) as family:
            for role in roles:
                done = role.name in state.done
                found = train(
                    role, folder / role.name, tracking, signals=first.signals, resume=resume, done=done
                )
                outcomes.append(found)
                if leads:
                    state.mark(role.name)
            if leads:
                report(job, outcomes, folder, say)
            evaluate_all(job, outcomes, folder, first, say)
            if not leads:
                return
            name = outcomes[-1].role.name
            evaluated = folder / "evaluation" / name
            family.trained(folder / name, evaluated if (evaluated / FILE).is_file() else None)
            state.finished = True
            state.save()
    except Stopped as stop:
        raise Stopped(stop.signal, f"{stop}; go on with: art-ext resume {folder}") from None
    for line in family.links():
        say(line)


def _nothing(line: str) -> None:
    """What the other processes say."""
