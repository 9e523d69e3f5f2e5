"""Trained models side by side: from run folders, or from an experiment in MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from art_ext.border.mlflow_runs import TrackedRun, runs_of
from art_ext.errors import ConfigError, DataError
from art_ext.evaluation.examples import Examples, read_examples
from art_ext.evaluation.record import EXAMPLES, FILE, Estimate, EvaluationRecord, read_evaluation
from art_ext.lifecycle.policy import Pairs
from art_ext.lifecycle.roles import HARDENED, ROLES, UNDEFENDED

__all__ = ["HEAD", "Compared", "Difference", "differences", "find", "from_experiment", "from_folder", "pairs_of"]


@dataclass(frozen=True)
class Compared:
    """One model of a comparison.

    Attributes:
        attacked: the suite, or "training" where only the attacks at the end of the training were run.
        trusted: what the evaluation's checks say; None where there were none.
        train_seconds, evaluation_seconds: what it cost, where known.
    """

    name: str
    method: str
    threat: str
    attacked: str
    clean: Estimate | None
    worst_case: Estimate | None
    trusted: bool | None = None
    train_seconds: float | None = None
    evaluation_seconds: float | None = None
    data: str = ""
    examples: Examples | None = None

    def as_record(self) -> dict[str, Any]:
        plain = asdict(replace(self, examples=None))
        del plain["examples"]
        return plain

    def cells(self) -> tuple[str, ...]:
        verdict = {None: "not checked", True: "trusted", False: "not trusted"}[self.trusted]
        shown = (_short(self.clean), _short(self.worst_case), self.threat, self.attacked, verdict)
        return (self.name, self.method, *shown, _seconds(self.train_seconds), _seconds(self.evaluation_seconds))


HEAD = ("run", "method", "clean", "worst case", "threat", "attacked by", "verdict", "training", "evaluation")


@dataclass(frozen=True)
class Difference:
    """Two models on the same images, one by one; p is that of the two-sided exact sign test (McNemar, 1947)."""

    first: str
    second: str
    clean: Pairs
    robust: Pairs

    def line(self) -> str:
        said = [
            f"{what} {pairs.lost} to {pairs.won} (p = {_two_sided(pairs):.3g})"
            for what, pairs in (("clean", self.clean), ("worst case", self.robust))
        ]
        return f"{self.first} against {self.second}, images that only one has right: {', '.join(said)}"

    def as_record(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "second": self.second,
            **{
                what: {"only_first": pairs.lost, "only_second": pairs.won, "p": _two_sided(pairs)}
                for what, pairs in (("clean", self.clean), ("worst_case", self.robust))
            },
        }


def from_folder(folder: Path) -> list[Compared]:
    """The models of a run folder, or of a sweep's folder of such.

    Raises:
        DataError: for a folder that holds neither.
    """
    inner = [path for path in sorted(folder.glob("*/")) if (path / "result.json").is_file()]
    if inner and not (folder / "result.json").is_file():
        return [found for path in inner for found in from_folder(path)]
    result = _result(folder)
    found = []
    for role in dict.fromkeys((*ROLES, *result)):
        known, place = result.get(role), folder / "evaluation" / role
        if (place / FILE).is_file():
            found.append(_of_record(folder.name, role, read_evaluation(place), place, known))
        elif known is not None:
            found.append(_of_result(folder, role, known))
    if not found:
        raise DataError(f"{folder} holds neither an evaluation nor a result.json; name a folder of art-ext harden")
    return found


def from_experiment(uri: str, experiment: str) -> list[Compared]:
    """The evaluations in an experiment, and the trainings that have none of their own; the latest first.

    Raises:
        ConfigError: where there is none of that name.
        ModelError: where MLflow cannot be asked.
    """
    runs = runs_of(uri, experiment)
    evaluated = {run.parent for run in runs if run.role == "evaluation"}
    shown = [
        run
        for run in runs
        if run.role not in ("harden", "fit", HARDENED) or (run.role == HARDENED and run.parent not in evaluated)
    ]
    return [_of_run(run) for run in shown if "evaluate/clean/accuracy" in run.metrics]


def differences(models: Sequence[Compared]) -> list[Difference]:
    """The first model that has results image by image, against each other one on the same images."""
    known = [model for model in models if model.examples is not None]
    if not known:
        return []
    first = known[0]
    return [
        Difference(first.name, other.name, *pairs)
        for other in known[1:]
        if (other.data, other.threat) == (first.data, first.threat) and (pairs := pairs_of(other, first)) is not None
    ]


def pairs_of(mine: Compared, theirs: Compared) -> tuple[Pairs, Pairs] | None:
    """Images that only one has right: clean, and after everything; None where their images differ."""
    ours, other = mine.examples, theirs.examples
    if ours is None or other is None or not ours.index.equal(other.index):
        return None
    clean = Pairs.of((ours.predicted == ours.label).tolist(), (other.predicted == other.label).tolist())
    return clean, Pairs.of(ours.right.tolist(), other.right.tolist())


def _result(folder: Path) -> Mapping[str, Any]:
    path = folder / "result.json"
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run art-ext harden again") from None
    return known if isinstance(known, dict) else {}


def _of_record(
    run: str, role: str, record: EvaluationRecord, place: Path, known: Mapping[str, Any] | None
) -> Compared:
    return Compared(
        f"{run}/{role}",
        " + ".join(record.model.ingredients) or "none",
        str(record.threat),
        record.suite,
        record.clean,
        record.worst_case,
        record.verdict.trusted,
        None if known is None else known.get("train_seconds"),
        record.seconds,
        record.data.digest,
        read_examples(place) if (place / EXAMPLES).is_file() else None,
    )


def _of_result(folder: Path, role: str, known: Mapping[str, Any]) -> Compared:
    recipe = _recipe(folder)
    try:
        rows = {row["attack"]: row for row in known["best"]}
        clean, n = rows["clean"], int(rows["clean"]["n"])
        worst = Estimate.of(round(float(known["worst_case"]) * n), n)
        uses = {UNDEFENDED: [], HARDENED: recipe.get("use", []), **recipe.get("beside", {})}
        used = [next(iter(item)) if isinstance(item, dict) else str(item) for item in uses[role]]
        threat = recipe.get("threat") or {}
        return Compared(
            f"{folder.name}/{role}",
            " + ".join(used) or "none",
            f"{threat['norm']} {threat['eps']:g}" if threat else "",
            "training",
            Estimate(clean["accuracy"], clean["low"], clean["high"], n),
            worst,
            train_seconds=known.get("train_seconds"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / 'result.json'} lacks something ({error}); run art-ext harden again") from None


def _recipe(folder: Path) -> Mapping[str, Any]:
    try:
        known = json.loads((folder / "recipe.json").read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _of_run(run: TrackedRun) -> Compared:
    trusted = run.metrics.get("evaluate/trusted")
    return Compared(
        run.name,
        run.tags.get("art_ext.method", "") if run.role == "evaluation" else run.params.get("use") or "none",
        f"{run.params.get('norm') or run.params.get('threat.norm', '')} "
        f"{run.params.get('eps') or run.params.get('threat.eps', '')}".strip(),
        run.params.get("suite", "training"),
        _estimate(run, "clean"),
        _estimate(run, "worst_case"),
        None if trusted is None else bool(trusted),
        evaluation_seconds=run.metrics.get("evaluate/seconds"),
    )


def _estimate(run: TrackedRun, name: str) -> Estimate | None:
    accuracy, low, high = (run.metrics.get(f"evaluate/{name}/{part}") for part in ("accuracy", "low", "high"))
    if accuracy is None or low is None or high is None:
        return None
    return Estimate(accuracy, low, high, int(run.metrics.get("evaluate/n", 0)))


def _short(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.accuracy:.3f} ({found.low:.3f}-{found.high:.3f})"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"


def _two_sided(pairs: Pairs) -> float:
    more = max(pairs.won, pairs.lost)
    return min(1.0, 2 * Pairs(won=pairs.won + pairs.lost - more, lost=more).p_worse)


def find(sources: Sequence[str], uri: str) -> list[Compared]:
    """The models of all sources, each a folder or the name of an experiment.

    Raises:
        ConfigError, DataError, ModelError: for a source that is none.
    """
    found: list[Compared] = []
    for source in sources:
        found += from_folder(Path(source)) if Path(source).is_dir() else from_experiment(uri, source)
    if not found:
        raise ConfigError(f"nothing was evaluated in {', '.join(sources)}; run art-ext evaluate first")
    return found
