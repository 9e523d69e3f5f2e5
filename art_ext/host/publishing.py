"""Where an evaluation is shown: beside the run that trained the network, and where the network is registered."""

from __future__ import annotations

from pathlib import Path

from art_ext.border.mlflow_outbox import OUTBOX, Position
from art_ext.border.mlflow_where import resolve_tracking
from art_ext.evaluation.record import EvaluationRecord
from art_ext.host.evaluations import own_place
from art_ext.lifecycle.family import publish, publish_beside, publish_version
from art_ext.lifecycle.roles import ROLES
from art_ext.lifecycle.sync import address_of


def publish_evaluation(model: str, record: EvaluationRecord, place: Path, uri: str | None) -> str | None:
    """Tracks an evaluation in MLflow, where the model came from there, and says so in one line; None where not.

    The run that trained the network shows its own evaluation; any other gets a run of its own beside it.

    Args:
        model: as the user named it.
        place: folder of evaluation.json.
        uri: of the server, where the user gave it.
    """
    if model.startswith("models:/") and not model.startswith("models:/m-"):
        tracking = resolve_tracking(uri, Path.cwd())
        described = publish_version(record, place, model, tracking)
        said = "says so" if described else "keeps the evaluation that it has, which asked for something else"
        return f"tracked   {tracking.describe()}; the card of {model} {said}"
    folder = Path(model).expanduser()
    runs = [place for place in (*(folder / role for role in ROLES), folder) if (place / OUTBOX).is_file()]
    if not runs:
        return None
    position = Position.load(runs[0])
    if position is None:
        return None
    tracking = resolve_tracking(address_of(position, uri), Path.cwd())
    if place.resolve() == own_place(runs[0]).resolve():
        publish(record, place, runs[0], tracking)
    else:
        publish_beside(record, place, runs[0], tracking)
    return f"tracked   {tracking.describe()}"
