"""`art_ext.autolog`: how trainers and evaluations that are called from Python are tracked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from art_ext.border.mlflow_where import resolve_tracking
from art_ext.errors import ConfigError

__all__ = ["Choices", "autolog", "choices", "evaluation_folder"]


@dataclass(frozen=True)
class Choices:
    """What is tracked, and where.

    Attributes:
        trainings: of trainers with `track=True`.
        evaluations: of `art_ext.evaluate` and `art_ext.audit`.
        uri, experiment: None takes MLflow's environment variables, else a store in the working folder.
        models: log the trained network.
        register: the registered model that it becomes a version of.
    """

    trainings: bool = True
    evaluations: bool = False
    uri: str | None = None
    experiment: str | None = None
    models: bool = True
    register: str | None = None


_present = Choices()


def choices() -> Choices:
    """The present ones; without a call of `autolog`, trainings are tracked and evaluations are not."""
    return _present


def autolog(
    *,
    uri: str | None = None,
    experiment: str | None = None,
    log_models: bool = True,
    log_evaluations: bool = True,
    register: str | None = None,
    disable: bool = False,
) -> None:
    """Tracks what is called from Python in MLflow from now on: each `fit` of a trainer, each `art_ext.evaluate`.

    Nothing is patched: trainers log anyway unless they were made with `track=False`, into the run
    that is open or into one of their own; this says where and what, and has evaluations logged too.

    `art_ext.autolog(experiment="digits", register="digits")`

    Args:
        uri: of the server or store; default MLFLOW_TRACKING_URI, else a store in the working folder. A run that
            is open in MLflow is joined wherever it is.
        log_models: log the trained network, with its weights, so that `load_model` and ART can have it back.
        register: name of the registered model that each trained network becomes a version of, alias challenger.
        disable: track nothing, also for trainers with `track=True`; another call turns it on again.

    Raises:
        ConfigError: for an address that cannot be tracked to, or a model to register that is not logged.
    """
    global _present
    if uri is not None:
        resolve_tracking(uri, Path.cwd())
    if register is not None and not log_models:
        raise ConfigError(f"register={register!r} needs the network: leave log_models on")
    on = not disable
    _present = Choices(on, on and log_evaluations, uri, experiment, log_models, register)


@contextmanager
def evaluation_folder(given: Path | None) -> Iterator[Path]:
    """Where an evaluation that is tracked writes its files: the folder given, or one for a while."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="art_ext-evaluation-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
