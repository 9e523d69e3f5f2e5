"""The robustness card: what a reader must know of a model before trusting it, as Markdown and JSON.

After "Model Cards for Model Reporting" (Mitchell et al., FAccT 2019), for adversarial robustness
alone: threat model, worst case with its interval, how it was measured, why not to trust it, what
was not measured, how to do it again.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from art_ext.evaluation.record import UNDEFENDED, AttackResult, EvaluationRecord, RejectionResult
from art_ext.evaluation.threat import Threat
from art_ext.secrets import masked, masked_data

__all__ = ["Card", "Origin", "PluginFacts", "plugin_facts"]

_FAMILIES = ("gradient", "black-box", "transfer", "informed")
_REST = "\n\nThe whole card is the artifact `card.md` of the run."


@dataclass(frozen=True)
class PluginFacts:
    """A plugin that took part.

    Attributes:
        digest: sha256 over the names and contents of its files; empty where they cannot be found.
    """

    name: str
    distribution: str
    version: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version}, files sha256:{self.digest[:16] or 'unknown'})"


def plugin_facts(names: Iterable[str] | None = None) -> tuple[PluginFacts, ...]:
    """Version and digest of the installed plugins, or of those named, by their entry points; none is imported."""
    points = {point.name: point for point in metadata.entry_points(group="art_ext")}
    found = []
    for name in sorted(points if names is None else set(names)):
        point = points.get(name)
        dist = None if point is None else point.dist
        distribution, version = ("unknown", "") if dist is None else (dist.name, dist.version)
        digest = "" if point is None else _digest_of_module(point.module)
        found.append(PluginFacts(name, distribution, version, digest))
    return tuple(found)


def _digest_of_module(module: str) -> str:
    """Of all files of the module's top package but compiled ones."""
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    if spec.submodule_search_locations:
        root = Path(next(iter(spec.submodule_search_locations)))
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    elif spec.origin:
        root, files = Path(spec.origin).parent, [Path(spec.origin)]
    else:
        return ""
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.relative_to(root).as_posix()}\n{path.stat().st_size}\n".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


@dataclass(frozen=True)
class Origin:
    """How a model came about.

    Attributes:
        command: the command line that made it.
        commit: of the working folder's repository, where there is one.
        seed: of the training.
    """

    name: str
    command: str = ""
    commit: str = ""
    seed: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    plugins: Sequence[PluginFacts] = ()


@dataclass(frozen=True)
class Card:
    """The card of one evaluated model."""

    record: EvaluationRecord
    origin: Origin

    def as_record(self) -> dict[str, Any]:
        """Plain data, for card.json."""
        found = self.record
        data: dict[str, Any] = masked_data(
            {
                "schema": 1,
                "name": self.origin.name,
                "model": {"source": found.model.source, "digest": found.model.digest},
                "threat": asdict(found.threat),
                "worst_case": asdict(found.worst_case),
                "clean": asdict(found.clean),
                "undefended": None
                if found.baseline is None
                else {"clean": asdict(found.baseline.clean), "worst_case": asdict(found.baseline.worst_case)},
                "attacks": [asdict(item) for item in found.attacks],
                "rejection": [asdict(item) for item in found.rejection],
                "trusted": found.verdict.trusted,
                "verdict": found.verdict.sentence,
                "reasons": list(found.verdict.reasons),
                "checks": [{"name": c.name, "status": c.status, "sentence": c.sentence} for c in found.checks],
                "limits": self.limits(),
                "data": asdict(found.data),
                "suite": found.suite,
                "plugins": [asdict(item) for item in self.origin.plugins],
                "versions": dict(found.versions),
                "reproduce": {
                    "command": self.origin.command,
                    "commit": self.origin.commit,
                    "seed": self.origin.seed,
                    "evaluation_seed": found.seed,
                    "recipe": dict(self.origin.recipe),
                },
            }
        )
        return data

    def limits(self) -> list[str]:
        """What the evaluation does not say, a sentence each."""
        found = self.record
        threat, tried = found.threat, {item.family for item in found.attacks if not item.error}
        limits = [
            f"Nothing is claimed for norms other than {threat.norm}, for radii above {threat.eps:g}, or for other "
            f"images than the {found.data.n} of {found.data.name} ({found.data.split})."
        ]
        missing = [family for family in _FAMILIES if family not in tried]
        if missing:
            limits.append(f"No attack was run of these kinds: {', '.join(missing)}.")
        failed = [item.name for item in found.attacks if item.error]
        if failed:
            limits.append(f"These attacks failed and have no figure: {', '.join(failed)}.")
        beside = [item.name for item in found.attacks if not item.bounded and not item.error]
        if beside:
            limits.append(f"Outside of the threat model, so not in the worst case: {', '.join(beside)}.")
        idle = [check.name for check in found.checks if check.status == "not_run"]
        if idle:
            limits.append(f"These checks were not run: {', '.join(idle)}.")
        if found.baseline is None:
            limits.append("No undefended model was evaluated beside it.")
        if not found.complete:
            limits.append("The evaluation did not come to its end.")
        return limits + [note if note.endswith(".") else f"{note}." for note in found.notes]

    def markdown(self, longest: int | None = None) -> str:
        """The card as Markdown.

        Args:
            longest: characters; sections are left out from the end on until it fits.
        """
        sections = [masked(section) for section in self._sections()]
        text = "\n\n".join(sections) + "\n"
        if longest is None or len(text) <= longest:
            return text
        while len(sections) > 1 and len("\n\n".join(sections)) + len(_REST) > longest:
            sections.pop()
        return "\n\n".join(sections)[: longest - len(_REST)] + _REST

    def _sections(self) -> list[str]:
        parts = [self._head(), self._checks(), self._limits(), self._attacks(), self._rejection()]
        return [part for part in [*parts, self._data(), self._origin(), self._reproduce()] if part]

    def _head(self) -> str:
        found, threat = self.record, self.record.threat
        rows = [("clean images", found.clean, found.baseline and found.baseline.clean)]
        rows.append((f"worst case, {threat}", found.worst_case, found.baseline and found.baseline.worst_case))
        table = [f"| {name} | {mine} | {theirs or 'not evaluated'} |" for name, mine, theirs in rows]
        return "\n".join(
            [
                f"# Robustness card: {self.origin.name}",
                "",
                f"**{'Trusted' if found.verdict.trusted else 'Not trusted'}.** {_capital(found.verdict.sentence)}",
                "",
                f"| accuracy (95% interval) | this model | {self._other()} |",
                "| --- | --- | --- |",
                *table,
                "",
                f"Threat model: {_words(threat)} Suite: {found.suite}, {len(found.attacks)} attacks.",
            ]
        )

    def _other(self) -> str:
        return UNDEFENDED if self.record.baseline is None else self.record.baseline.name

    def _checks(self) -> str:
        found = [check for check in self.record.checks if check.status in ("fail", "warn")]
        passed = sum(check.status == "pass" for check in self.record.checks)
        lines = [f"- **{check.status}** {check.name}: {check.sentence}" for check in found]
        return "\n".join(["## Trust checks", "", f"{passed} of {len(self.record.checks)} passed.", *lines])

    def _limits(self) -> str:
        return "\n".join(["## Limits", "", *(f"- {line}" for line in self.limits())])

    def _attacks(self) -> str:
        base = {} if self.record.baseline is None else {item.name: item for item in self.record.baseline.attacks}
        rows = [_attack_row(item, base.get(item.name)) for item in sorted(self.record.attacks, key=_strength)]
        head = f"| attack | kind | budget | accuracy | {self._other()} |\n| --- | --- | --- | --- | --- |"
        return "\n".join(["## Attacks", "", head, *rows])

    def _rejection(self) -> str:
        if not self.record.rejection:
            return ""
        return "\n".join(["## Rejection", "", *map(_rejection_line, self.record.rejection)])

    def _data(self) -> str:
        data = self.record.data
        names = f", classes {', '.join(data.class_names)}" if 0 < len(data.class_names) <= 20 else ""
        what = f"{data.name} ({data.source}), split {data.split}, {data.n} images{names}; digest {data.digest}."
        return f"## Data\n\n{what}"

    def _origin(self) -> str:
        method = " + ".join(self.record.model.ingredients) or "none (undefended)"
        plugins = [f"- {item}" for item in self.origin.plugins]
        versions = ", ".join(f"{name} {version}" for name, version in self.record.versions.items())
        model = f"Model {self.record.model.source}, weights {self.record.model.digest}. Method: {method}."
        return "\n".join(["## Made by", "", model, *plugins, *([f"- {versions}"] if versions else [])])

    def _reproduce(self) -> str:
        origin = self.origin
        lines = [f"    {origin.command}"] if origin.command else []
        facts = ["" if origin.seed is None else f"training seed {origin.seed}", f"evaluation seed {self.record.seed}"]
        facts += [f"commit {origin.commit}" if origin.commit else "", "resolved recipe in `card.json`"]
        return "\n".join(["## Reproduce", "", *lines, "", "; ".join(filter(None, facts)).capitalize() + "."])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _words(threat: Threat) -> str:
    low, high = threat.clip
    return f"perturbations of {threat.norm} norm up to {threat.eps:g}, of pixels in {low:g} to {high:g}."


def _strength(item: AttackResult) -> tuple[bool, float]:
    return not item.bounded, item.accuracy


def _attack_row(item: AttackResult, base: AttackResult | None) -> str:
    figure = f"failed: {item.error}" if item.error else str(item.estimate)
    kind = item.family if item.bounded else f"{item.family}, outside of the threat"
    beside = "" if base is None or base.error else f"{base.accuracy:.1%}"
    return f"| {item.name} | {kind} | {item.budget.replace('|', '/')} | {figure} | {beside} |"


def _rejection_line(item: RejectionResult) -> str:
    said = f"- {item.detector} under {item.attack}: keeps {item.tpr:.1%} of what is right; "
    if item.robust_error is None or item.unthresholded is None:
        return f"{said}FPR {item.fpr:.1%}, of noise that was made to look normal"
    return (
        f"{said}{item.robust_error:.1%} of what it keeps is wrong, {item.unthresholded:.1%} with nothing rejected; "
        f"FPR {item.fpr:.1%}"
    )
