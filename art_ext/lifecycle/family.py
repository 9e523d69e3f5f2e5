"""What MLflow shows of one `art-ext harden`: a run that holds one for each training and one for the evaluation."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from art_ext.border.mlflow import MLflowTracker, Registration, Tracking
from art_ext.border.mlflow_evaluation import attach_evaluation, points_of, track_evaluation
from art_ext.border.mlflow_opening import commit
from art_ext.border.mlflow_registry import LONGEST_DESCRIPTION
from art_ext.engine.observe import RunInfo
from art_ext.errors import Stopped
from art_ext.evaluation.record import EXAMPLES, FILE, EvaluationRecord
from art_ext.files import write_atomically
from art_ext.lifecycle.card import Card, Origin, plugin_facts
from art_ext.secrets import masked

__all__ = ["CARD", "Family", "command_line"]

CARD, CARD_DATA = "card.md", "card.json"
REPORT = "report.html"


def command_line() -> str:
    """How this process was called, for somebody who wants to do it again."""
    words = [Path(sys.argv[0]).name or "python", *sys.argv[1:]]
    return masked(shlex.join(words))


class Family:
    """The parent run of a `harden`; the children name its folder as their `RunInfo.parent`.

    with Family(tracking, info, register="digits") as family:
        ...  # train
        family.evaluated(record, folder / "evaluation" / "hardened", of=folder / "hardened")

    Args:
        info: of the parent, with a folder; on other ranks than 0 nothing is tracked.
        register: name of the registered model that evaluated networks become versions of, or None.
    """

    def __init__(
        self, tracking: Tracking, info: RunInfo, *, experiment: str | None = None, register: str | None = None
    ) -> None:
        assert info.folder is not None
        self.tracking, self.info, self.folder = tracking, info, info.folder
        self.experiment, self.register = experiment, register
        self.tracker = MLflowTracker(tracking, experiment)
        self.version: str | None = None
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

    def evaluated(self, record: EvaluationRecord, place: Path, *, of: Path) -> None:
        """Tracks an evaluation as a child, writes its card, and registers the network where that is asked for.

        Args:
            place: folder of evaluation.json and what else is of it; the card goes there too.
            of: folder of the run that trained the network.
        """
        if self.info.rank != 0:
            return
        card = Card(record, self._origin(record))
        write_atomically(place / CARD, card.markdown())
        write_atomically(place / CARD_DATA, json.dumps(card.as_record(), indent=1) + "\n")
        files = {name: place / name for name in (FILE, EXAMPLES, REPORT, CARD, CARD_DATA) if (place / name).is_file()}
        self._metrics = points_of(record)
        track_evaluation(
            record,
            files,
            self.tracking,
            place,
            name=f"{self.info.name} evaluation",
            experiment=self.experiment,
            parent=self.folder,
            model_of=of,
        )
        trained = MLflowTracker.reopened(self.tracking, of)
        if trained is None:
            return
        attach_evaluation(trained, files)
        if self.register is not None:
            trained.register(self._registration(card))
        trained.close()
        self.version = trained.version

    def links(self) -> list[str]:
        """Where to see the runs, in lines."""
        if self.info.rank != 0:
            return []
        lines = [f"see the runs: {self.tracking.ui_command()}"]
        if self.tracker.run_id and self.tracker.experiment_id:
            lines.append(f"  {self.tracking.run_url(self.tracker.experiment_id, self.tracker.run_id)}")
        if self.version is not None:
            lines.append(f"registered: models:/{self.register}/{self.version}, alias challenger")
        return lines

    def _origin(self, record: EvaluationRecord) -> Origin:
        recipe = record.model.recipe or self.info.recipe
        return Origin(
            self.register or self.info.name,
            command_line(),
            commit() or "",
            recipe.get("train", {}).get("seed"),
            recipe,
            plugin_facts(record.model.plugins),
        )

    def _registration(self, card: Card) -> Registration:
        assert self.register is not None
        return Registration(
            self.register, description=card.markdown(LONGEST_DESCRIPTION), tags=version_tags(card.record)
        )


def version_tags(record: EvaluationRecord) -> Mapping[str, str]:
    """What a list of versions should show of each."""
    return {
        "art_ext.digest": record.model.digest,
        "art_ext.threat": str(record.threat),
        "art_ext.clean": str(record.clean),
        "art_ext.worst_case": str(record.worst_case),
        "art_ext.trusted": str(record.verdict.trusted).lower(),
    }
