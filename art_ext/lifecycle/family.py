"""What MLflow shows of one `art-ext harden`: a run that holds one for each training and one for the evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from art_ext.border.mlflow import MLflowTracker, Registration, Tracking
from art_ext.border.mlflow_auto import choices
from art_ext.border.mlflow_evaluation import attach_evaluation, points_of, track_evaluation
from art_ext.border.mlflow_opening import command_line, commit
from art_ext.border.mlflow_outbox import Opening, Position
from art_ext.border.mlflow_registry import LONGEST_DESCRIPTION, describe_version, find_version
from art_ext.border.mlflow_runs import find_run
from art_ext.border.mlflow_where import resolve_tracking
from art_ext.engine.observe import RunInfo
from art_ext.errors import Stopped
from art_ext.evaluation.record import EXAMPLES, FILE, EvaluationRecord, read_evaluation
from art_ext.files import write_atomically
from art_ext.lifecycle.card import Card, Origin, plugin_facts

__all__ = ["CARD", "Family", "publish", "publish_beside", "publish_version", "track_called"]

CARD, CARD_DATA, REPORT = "card.md", "card.json", "report.html"
ASKED = "art_ext.evaluation"
"""The tag of a registered version with what its card's evaluation asked for."""
_NOT_YET = "# Robustness card: {name}\n\n**Not evaluated yet.** Run `art-ext evaluate` on it.\n"


class Family:
    """The parent run of a `harden`; the children name its folder as their `RunInfo.parent`.

    with Family(tracking, info, register="digits") as family:
        ...  # train
        family.trained(folder / "hardened")

    Args:
        info: of the parent, with a folder; on other ranks than 0 nothing is tracked.
        register: name of the registered model that the network becomes a version of, or None.
    """

    def __init__(
        self, tracking: Tracking, info: RunInfo, *, experiment: str | None = None, register: str | None = None
    ) -> None:
        assert info.folder is not None
        self.tracking, self.info, self.folder = tracking, info, info.folder
        self.register = register
        self.tracker = MLflowTracker(tracking, experiment)
        self._version: str | None = None
        self._metrics: dict[str, float] = {}

    def __enter__(self) -> Self:
        self.tracker.run_start(self.info)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.tracker.run_end(self._metrics)
        elif isinstance(error, Stopped):
            self.tracker.run_killed()
        else:
            self.tracker.run_failed(error)

    def trained(self, of: Path, evaluation: Path | None = None) -> None:
        """Tracks the evaluation of a run's network, and registers the network where that is asked for.

        Args:
            of: folder of the run that trained it, which is over, such as RUN_DIR/hardened.
            evaluation: folder of its evaluation; without one the version says that it was not evaluated.
        """
        if self.info.rank != 0:
            return
        if evaluation is not None:
            record = read_evaluation(evaluation)
            self._metrics = points_of(record)
            publish(record, evaluation, of, self.tracking, register=self.register)
        elif self.register is not None and (run := MLflowTracker.reopened(self.tracking, of)) is not None:
            run.register(Registration(self.register, description=_NOT_YET.format(name=self.register)))
            run.close()
        position = Position.load(of)
        self._version = None if position is None else position.version

    def links(self) -> list[str]:
        """Where to see the runs, in lines."""
        if self.info.rank != 0:
            return []
        lines = [f"see the runs: {self.tracking.ui_command()}"]
        if self.tracker.run_id and self.tracker.experiment_id:
            lines.append(f"  {self.tracking.run_url(self.tracker.experiment_id, self.tracker.run_id)}")
        if self._version is not None:
            lines.append(f"registered as models:/{self.register}/{self._version}, models:/{self.register}@challenger")
        return lines


def publish(
    record: EvaluationRecord, place: Path, of: Path, tracking: Tracking, *, register: str | None = None
) -> Card | None:
    """Tracks the evaluation of a run's network beside that run, and puts its card where the network is registered.

    The evaluation is a run of its own, a child of the same parent; its files are attached to the run
    of the network too, where the gate looks for them.

    Args:
        place: folder of evaluation.json and what else is of it; card.md and card.json go there too.
        of: folder of the run that trained the network; None comes back where it was not tracked.
        register: name to register the network under, where it is not registered.
    """
    opening, position = Opening.load(of), Position.load(of)
    trained = MLflowTracker.reopened(tracking, of)
    if opening is None or position is None or trained is None:
        return None
    if opening.registration is not None:
        register = opening.registration.name
    card, files = _track(record, place, of, tracking, opening, position, name=register or opening.name, model_of=of)
    attach_evaluation(trained, files)
    if register is not None:
        trained.register(_registration(register, card))
    trained.close()
    return card


def publish_beside(record: EvaluationRecord, place: Path, of: Path, tracking: Tracking) -> None:
    """Tracks an evaluation of a run's network that asks for something else than the run's own.

    It is a run of its own, a child of the same parent, with its own files; the network's run, logged
    model and card keep theirs.
    """
    opening, position = Opening.load(of), Position.load(of)
    if opening is not None and position is not None:
        name = opening.name if opening.registration is None else opening.registration.name
        _track(record, place, of, tracking, opening, position, name=name, model_of=None)


def _track(
    record: EvaluationRecord,
    place: Path,
    of: Path,
    tracking: Tracking,
    opening: Opening,
    position: Position,
    *,
    name: str,
    model_of: Path | None,
) -> tuple[Card, dict[str, Path]]:
    """The card of an evaluation and its run beside the one in `of`; `name` is the card's."""
    commit, command = (opening.tags.get(key, "") for key in ("mlflow.source.git.commit", "art_ext.command"))
    card, files = _write_card(record, place, name, command, commit)
    track_evaluation(
        record,
        files,
        tracking,
        place,
        name=f"{opening.name} evaluation" + ("" if model_of is not None else f" {record.threat} {record.suite}"),
        experiment=position.experiment,
        parent=None if opening.parent is None else of / opening.parent,
        model_of=model_of,
    )
    return card, files


def publish_version(record: EvaluationRecord, place: Path, address: str, tracking: Tracking) -> bool:
    """Tracks an evaluation of a registered model whose run is not in a folder here; whether it became its card.

    A card is replaced by an evaluation that asks for the same alone: the same threat, suite and images.

    Raises:
        ModelError: where the registry cannot be asked.
    """
    version = find_version(tracking.uri, address)
    run = find_run(tracking.uri, version.run_id) if version is not None and version.run_id else None
    tags = {} if run is None else run.tags
    name = address if version is None else version.name
    commit, command = (tags.get(key, "") for key in ("mlflow.source.git.commit", "art_ext.command"))
    card, files = _write_card(record, place, name, command, commit)
    track_evaluation(record, files, tracking, place, name=f"{address} evaluation")
    wanted = _registration(name, card)
    if version is None or (version.tags or {}).get(ASKED, wanted.tags[ASKED]) != wanted.tags[ASKED]:
        return False
    describe_version(tracking.uri, version, wanted.description, wanted.tags)
    return True


def track_called(record: EvaluationRecord, place: Path) -> None:
    """Tracks an evaluation that was called from Python, with its card, after the choices of `autolog`.

    It goes into a run of its own; a child of the run that is open, where there is one.
    """
    wanted = choices()
    _, files = _write_card(record, place, record.model.source, command_line(), commit() or "")
    track_evaluation(record, files, resolve_tracking(wanted.uri, Path.cwd()), None, experiment=wanted.experiment)


def _write_card(
    record: EvaluationRecord, place: Path, name: str, command: str, commit: str
) -> tuple[Card, dict[str, Path]]:
    recipe = record.model.recipe or {}
    seed = recipe.get("train", {}).get("seed")
    plugins = plugin_facts(recipe.get("plugins") or None)
    card = Card(record, Origin(name, command, commit, seed, recipe, plugins))
    write_atomically(place / CARD, card.markdown())
    write_atomically(place / CARD_DATA, json.dumps(card.as_record(), indent=1) + "\n")
    files = {name: place / name for name in (FILE, EXAMPLES, REPORT, CARD, CARD_DATA)}
    return card, {name: path for name, path in files.items() if path.is_file()}


def _registration(name: str, card: Card) -> Registration:
    found = card.record
    tags = {
        "art_ext.digest": found.model.digest,
        "art_ext.threat": str(found.threat),
        ASKED: f"{found.threat}, {found.suite}, {found.data.n} images, {found.data.digest}",
        "art_ext.clean": str(found.clean),
        "art_ext.worst_case": str(found.worst_case),
        "art_ext.trusted": str(found.verdict.trusted).lower(),
    }
    return Registration(name, description=card.markdown(LONGEST_DESCRIPTION), tags=tags)
