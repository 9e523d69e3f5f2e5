"""The report as one HTML file: a verdict, its evidence, and how to find it again."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from art_ext.evaluation.record import (
    AttackResult,
    Check,
    Estimate,
    EvaluationRecord,
    RejectionResult,
    TrainingCost,
    read_evaluation,
)
from art_ext.evaluation.report.material import FILE as MATERIAL
from art_ext.evaluation.report.material import Material, read_material
from art_ext.evaluation.report.sections import THIS, all_figures, class_names, gallery
from art_ext.files import write_atomically
from art_ext.secrets import masked_data

if TYPE_CHECKING:
    from jinja2 import Environment

REPORT = "report.html"
_URGENT = ("fail", "warn", "not_run", "pass")
_SECTIONS = {
    "glance": "At a glance",
    "attacks": "Attacks",
    "compare": "Comparison",
    "checks": "Trust",
    "rejection": "Rejection",
    "answers": "Answers",
    "around": "Around an image",
    "transfer": "Transfer",
    "gallery": "Gallery",
    "training": "Training",
    "features": "Features",
    "origin": "Origin",
}


def write_report(
    folder: Path, record: EvaluationRecord, material: Material, *, compare: Mapping[str, EvaluationRecord] | None = None
) -> Path:
    """Writes report.html and material.npz into the folder of an evaluation, each whole or not at all.

    Args:
        record: all figures in words are those of the record, as evaluation.json has them.
        compare: other evaluations by name, shown beside this one with their cost.

    Returns:
        The path of report.html, which needs no other file.

    Raises:
        StorageError: where they cannot be written.
    """
    page = render(record, material, compare or {})
    material.save(folder)
    write_atomically(folder / REPORT, page)
    return folder / REPORT


def rebuild_report(folder: Path, *, compare: Mapping[str, EvaluationRecord] | None = None) -> Path:
    """The report once more, from the evaluation.json and the material.npz of a folder; no network is run.

    Raises:
        DataError: where one of the two cannot be read; a folder without material.npz gives a report without figures.
        StorageError: where it cannot be written.
    """
    record = read_evaluation(folder)
    if (folder / MATERIAL).exists():
        material = read_material(folder)
    else:
        material = Material(missing={"adversarial examples": f"There is no {MATERIAL} beside {REPORT}."})
    path = folder / REPORT
    write_atomically(path, render(record, material, compare or {}))
    return path


def render(record: EvaluationRecord, material: Material, compare: Mapping[str, EvaluationRecord]) -> str:
    """The page as text, without secrets that addresses may hold."""
    record = EvaluationRecord.from_record(masked_data(record.as_record()))
    compared = list(_compared(record, compare))
    names, figures = class_names(record, material), all_figures(record, material, compare)
    shown = {
        **{section: bool(drawn) for section, drawn in figures.items()},
        **dict.fromkeys(("glance", "attacks", "checks", "answers", "origin"), True),
        "compare": len(compared) > 1,
        "rejection": bool(record.rejection or figures["rejection"]),
        "gallery": material.gallery is not None,
    }
    environment = _environment()
    return environment.get_template("report.html").render(
        title=title_of(record),
        record=record,
        material=material,
        drawn=figures,
        sections=[(place, name) for place, name in _SECTIONS.items() if shown.get(place)],
        undefended={one.name: one for one in record.baseline.attacks} if record.baseline else {},
        cost=Cost.of(record.attacks, record.rejection),
        baseline_cost=Cost.of(record.baseline.attacks) if record.baseline else None,
        under={peer.name: {one.name: one for one in peer.attacks} for peer in record.beside},
        compared=compared if len(compared) > 1 else [],
        checks=sorted(record.checks, key=lambda check: _URGENT.index(check.status)),
        summary=_summary(record.checks),
        gallery=gallery(material.gallery, names) if material.gallery is not None else [],
        command=command_of(record),
        recipe=json.dumps(record.model.recipe, indent=1) if record.model.recipe is not None else "",
        style=_source(environment, "style.css"),
        script="\n".join(_source(environment, name) for name in ("sort.js", "jump.js")),
    )


def title_of(record: EvaluationRecord) -> str:
    """The recipe's name where there is one, else where the model came from."""
    name = (record.model.recipe or {}).get("name")
    return f"{name}" if name and record.model.ingredients else f"{record.model.source}"


def command_of(record: EvaluationRecord) -> str:
    """What finds these figures again: on the command line, or in Python for images that were given there."""
    data, threat = record.data, record.threat
    if data.source == "given":
        what = f"norm={threat.norm!r}, eps={threat.eps:.10g}, suite={record.suite!r}, seed={record.seed}"
        return f"art_ext.evaluate(classifier, x, y, {what})"
    known = (record.model.recipe or {}).get("data", {}).get("name") == data.name  # the recipe says where it is
    words = ["art-ext", "evaluate", record.model.source, *([] if known else ["--data", data.name])]
    words += ["--norm", threat.norm, "--eps", f"{threat.eps:.10g}", "--suite", record.suite]
    return shlex.join([*words, "--seed", str(record.seed)])


@dataclass(frozen=True)
class Cost:
    """Passes of single images in all attacks of an evaluation."""

    forwards: int
    backwards: int

    @classmethod
    def of(cls, attacks: Iterable[AttackResult], rejection: Iterable[RejectionResult] = ()) -> Cost:
        passes = [(one.forwards, one.backwards) for one in attacks]
        # of the other aims the passes are those of the attacks
        own = {(one.detector, one.attack): one for one in rejection if one.aim in ("deny", "distal")}
        passes += [(one.forwards, one.backwards) for one in own.values()]
        return cls(sum(forwards for forwards, _ in passes), sum(backwards for _, backwards in passes))


@dataclass(frozen=True)
class Compared:
    """A line of the comparison; `differs` names what makes it another experiment."""

    name: str
    clean: Estimate
    worst_case: Estimate
    trusted: str
    cost: Cost
    training: TrainingCost | None = None
    differs: tuple[str, ...] = ()


def _compared(record: EvaluationRecord, compare: Mapping[str, EvaluationRecord]) -> Iterator[Compared]:
    for name, other in ({THIS: record} | dict(compare)).items():
        parts = {
            "data": (record.data.digest, other.data.digest),
            "images": (record.data.n, other.data.n),
            "threat": (record.threat, other.threat),
            "suite": (record.suite, other.suite),
            "seed": (record.seed, other.seed),
        }
        differs = tuple(part for part, (ours, theirs) in parts.items() if ours != theirs)
        trusted = "yes" if other.verdict.trusted else "no"
        cost = Cost.of(other.attacks, other.rejection)
        yield Compared(name, other.clean, other.worst_case, trusted, cost, other.model.training, differs)
        for peer in other.beside if other is record else ():
            trusted = "yes" if peer.trusted else "no"
            yield Compared(peer.name, peer.clean, peer.worst_case, trusted, Cost.of(peer.attacks), peer.training)


def _summary(checks: tuple[Check, ...]) -> str:
    counts = {status: sum(check.status == status for check in checks) for status in _URGENT}
    words = {"fail": "failed", "warn": "gave a warning", "not_run": "could not be run", "pass": "passed"}
    parts = [f"{counts[status]} {words[status]}" for status in _URGENT if counts[status]]
    return f"Of {len(checks)} checks, {', '.join(parts)}." if checks else ""


@functools.cache
def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("art_ext.evaluation.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "count": lambda value: f"{value:,}",
        "seconds": lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.1f}",
        "plain": _plain,
        "sentence": _sentence,
        "words": lambda text: str(text).replace("_", " "),
        "compact": lambda value: json.dumps(value, default=str),
    }
    return environment


def _percent(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}%}"


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a name such as pgd_20, and a full stop."""
    first = text.split(" ", 1)[0]
    start = text[:1].upper() + text[1:] if first.replace("-", "").isalpha() else text
    return start if start.endswith((".", "!", "?", ":")) else f"{start}."


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _source(environment: Environment, name: str) -> str:
    """A file that goes into the page as it is."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
