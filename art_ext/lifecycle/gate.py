"""The gate's answer: yes or no, requirement by requirement, as lines, Markdown and JUnit XML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from art_ext.evaluation.record import EvaluationRecord
from art_ext.files import write_atomically
from art_ext.lifecycle.junit import junit
from art_ext.lifecycle.policy import Champion, Policy, Requirement, judge

__all__ = ["Decision", "decide"]

JUNIT, MARKDOWN = "gate.xml", "gate.md"


@dataclass(frozen=True)
class Decision:
    """What a gate says of a model."""

    model: str
    requirements: tuple[Requirement, ...]
    record: EvaluationRecord
    champion: Champion | None = None

    @property
    def passed(self) -> bool:
        return all(requirement.status != "fail" for requirement in self.requirements)

    def lines(self) -> list[str]:
        width = max(len(requirement.name) for requirement in self.requirements)
        shown = [f"{item.status:4}  {item.name.ljust(width)}  {item.sentence}" for item in self.requirements]
        return [*shown, self.summary()]

    def summary(self) -> str:
        failed = [requirement.name for requirement in self.requirements if requirement.status == "fail"]
        if not failed:
            return f"{self.model} passes"
        return f"{self.model} does not pass: {', '.join(failed)}"

    def markdown(self) -> str:
        mark = {"pass": "✅ pass", "fail": "❌ fail", "skip": "➖ skip"}
        models = [self.record, self.champion and self.champion.record, self.record.baseline]
        table = ["| accuracy | model | champion | undefended |", "| --- | --- | --- | --- |"]
        for name, figures in (
            ("clean", [model and model.clean for model in models]),
            (f"worst case, {self.record.threat}", [model and model.worst_case for model in models]),
        ):
            table.append(f"| {name} | {' | '.join(str(figure or '-') for figure in figures)} |")
        asked = ["| | requirement | found |", "| --- | --- | --- |"]
        for item in self.requirements:
            asked.append(f"| {mark[item.status]} | {item.name} | {item.sentence.replace('|', '/')} |")
        head = f"# Gate: {self.summary()}"
        return "\n".join([head, "", *table, "", *asked, "", self.record.verdict.sentence, ""])

    def write(self, folder: Path) -> None:
        """Writes gate.xml and gate.md."""
        write_atomically(folder / JUNIT, junit(f"gate {self.model}", self.requirements))
        write_atomically(folder / MARKDOWN, self.markdown())


def decide(
    model: str,
    policy: Policy,
    record: EvaluationRecord,
    *,
    digest: str | None = None,
    champion: Champion | None = None,
) -> Decision:
    """Holds a policy against the evaluation of a model; see `judge`."""
    found = judge(policy, record, digest=digest, champion=champion)
    return Decision(model, tuple(found), record, champion)
