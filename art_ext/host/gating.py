"""What the gate needs, gathered: a model's evaluation, its weights' digest, its version, its champion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from art_ext.border.mlflow_evaluation import FOLDER
from art_ext.border.mlflow_outbox import Opening, Position
from art_ext.border.mlflow_registry import Version, find_version, promote
from art_ext.border.mlflow_runs import artifact, evaluations_of
from art_ext.border.mlflow_where import Tracking
from art_ext.errors import ConfigError, DataError
from art_ext.evaluation.examples import Examples, read_examples
from art_ext.evaluation.record import EXAMPLES, FILE, EvaluationRecord, read_evaluation
from art_ext.host.document import read
from art_ext.host.evaluating import Echo, Request, evaluate
from art_ext.host.evaluations import best, evaluations_of_run
from art_ext.host.folders import default_folder
from art_ext.host.manager import Catalogue
from art_ext.host.models import open_model
from art_ext.lifecycle.gate import Decision, decide
from art_ext.lifecycle.policy import Champion, Pairs, Policy, is_evidence, policy_from
from art_ext.lifecycle.roles import ROLES
from art_ext.secrets import masked

__all__ = ["gate", "read_policy", "registered"]



@dataclass(frozen=True)
class Evaluated:
    """A model with its evaluation; `digest` is of its weights now."""

    shown: str
    digest: str
    record: EvaluationRecord
    examples: Examples | None


def read_policy(path: Path) -> Policy:
    """The policy in a YAML file.

    Raises:
        ConfigError: naming the file, the line and the key.
    """
    document = read(path, str(path))
    return policy_from(document.data, str(path), document.lines)


def gate(
    model: str,
    policy: Policy,
    *,
    catalogue: Catalogue,
    tracking: Tracking,
    against: str | None = None,
    evaluation: Path | None = None,
    trust: bool = False,
    echo: Echo,
) -> Decision:
    """Holds a policy against a model; one that has no evaluation is evaluated as the policy asks, which takes minutes.

    Args:
        model: whatever `open_model` takes.
        against: the champion, `models:/NAME@ALIAS`; one that is not there yet asks nothing.
        evaluation: of the model, where it is kept elsewhere.

    Raises:
        ArtExtError: where the model, its evaluation or the champion's cannot be read.
    """
    mine = _evaluated(model, policy, catalogue, tracking, evaluation, trust, echo)
    champion = None
    if against is not None and (not against.startswith("models:/") or find_version(tracking.uri, against) is not None):
        champion = _champion(_evaluated(against, policy, catalogue, tracking, None, trust, echo), mine)
    return decide(mine.shown, policy, mine.record, digest=mine.digest, champion=champion)


def registered(model: str, tracking: Tracking) -> Version:
    """The registered version that a model is: by its address, or by the run folder that registered it.

    Raises:
        ConfigError: for a model that is not registered.
    """
    found = None
    if model.startswith("models:/"):
        found = find_version(tracking.uri, model)
    else:
        for place in (Path(model), *(Path(model) / role for role in ROLES)):
            opening, position = Opening.load(place), Position.load(place)
            if opening and opening.registration and position and position.version:
                found = find_version(tracking.uri, f"models:/{opening.registration.name}/{position.version}")
    if found is None:
        raise ConfigError(
            f"{masked(model)} is no version of a registered model, so it cannot be promoted; harden with "
            "--set track.register=NAME, or name models:/NAME@ALIAS"
        )
    return found


def move_champion(version: Version, tracking: Tracking, alias: str) -> str:
    """Promotes a version, and says so in one line."""
    moved = promote(tracking.uri, version, alias, {"art_ext.gate": "passed"})
    before = f"; before it was version {moved.previous}" if moved.previous not in (None, version.version) else ""
    return f"models:/{version.name}@{alias} is version {version.version}{before}"


def _evaluated(
    model: str,
    policy: Policy,
    catalogue: Catalogue,
    tracking: Tracking,
    evaluation: Path | None,
    trust: bool,
    echo: Echo,
) -> Evaluated:
    opened = open_model(model, catalogue=catalogue, tracking_uri=tracking.uri, trust=trust)
    place = nullcontext(evaluation) if evaluation is not None else _found(model, opened.digest, policy, tracking)
    with place as found:
        folder = found or _evaluate(model, opened.digest, policy, tracking, trust, echo)
        record = read_evaluation(folder)
        examples = folder / EXAMPLES if folder.is_dir() else folder.parent / EXAMPLES
        return Evaluated(
            opened.source, opened.digest, record, read_examples(examples) if examples.is_file() else None
        )


@contextmanager
def _found(model: str, digest: str, policy: Policy, tracking: Tracking) -> Iterator[Path | None]:
    """The folder with a model's evaluation: beside its weights, in the run that made it, in the latest runs about it.

    Of several the first that the policy counts as evidence, else the first.
    """
    if Path(model).is_dir():
        yield best(evaluations_of_run(Path(model)), policy, digest)
        return
    runs = []
    if model.startswith("runs:/"):
        runs = [model.removeprefix("runs:/").split("/")[0]]
    elif model.startswith("models:/"):
        version = find_version(tracking.uri, model)
        runs = [version.run_id] if version is not None and version.run_id else []
    runs += [run.run_id for run in evaluations_of(tracking.uri, digest)] if "://" in model or ":/" in model else []
    about = []
    for run in runs:
        with artifact(tracking.uri, run, FOLDER) as folder:
            if folder is None or not (folder / FILE).is_file():
                continue
            record = read_evaluation(folder)
            if is_evidence(policy, record, digest):
                yield folder
                return
            about += [run] if record.model.digest == digest else []
    with artifact(tracking.uri, about[0], FOLDER) if about else nullcontext() as folder:
        yield folder


def _evaluate(model: str, digest: str, policy: Policy, tracking: Tracking, trust: bool, echo: Echo) -> Path:
    """Evaluates a model as a policy asks; a run folder keeps its evaluation, others get a folder of their own."""
    echo(f"{masked(model)} has no evaluation of its present weights; it is evaluated now")
    output = None if Path(model).is_dir() else default_folder("gate")
    asked = Request(
        model,
        suite=policy.suite,
        norm=policy.threat.norm,
        eps=policy.threat.eps,
        output=output,
        tracking_uri=tracking.uri,
        trust=trust,
    )
    evaluate(asked, echo)
    folder = output or best(evaluations_of_run(Path(model)), policy, digest)
    if folder is None:
        raise DataError(f"the evaluation of {masked(model)} cannot be found; name it with --evaluation")
    return folder


def _champion(champion: Evaluated, mine: Evaluated) -> Champion:
    if champion.record.model.digest != champion.digest:
        raise DataError(f"the evaluation of {champion.shown} is of other weights than it has now; evaluate it again")
    clean = robust = None
    theirs, ours = champion.examples, mine.examples
    same = champion.record.data.digest == mine.record.data.digest
    if same and theirs is not None and ours is not None and theirs.index.equal(ours.index):
        clean = Pairs.of((ours.predicted == ours.label).tolist(), (theirs.predicted == theirs.label).tolist())
        robust = Pairs.of(ours.right.tolist(), theirs.right.tolist())
    return Champion(champion.shown, champion.record, clean, robust)
