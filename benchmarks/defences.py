"""`python -m benchmarks.defences`: hardens after each recipe, evaluates the result, and writes docs/defences.md.

Runs are kept in runs/defences and not repeated, so it can be interrupted; `rm -r runs/defences` starts afresh.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from art_ext.errors import ArtExtError
from art_ext.evaluation.record import AttackResult, Estimate, EvaluationRecord, read_evaluation
from art_ext.files import write_atomically
from art_ext.host.evaluating import Request, evaluate
from art_ext.host.folders import RunState
from art_ext.host.harden import harden
from art_ext.host.recipe import load_recipe
from art_ext.host.resume import resume

RUNS, PAGE = Path("runs/defences"), Path("docs/defences.md")
UNDEFENDED = "standard"
RECIPES = (
    UNDEFENDED,
    "guided_complement_entropy",
    "pc_lc",
    "mmc",
    "rce",
    "adp",
    "ccat",
    "fast_at",
    "free_at",
    "cat",
    "mart",
    "pgd_at",
    "trades",
    "bag",
    "dac_trades",
    "awp_trades",
    "pc_lc_pgd_at",
    "mmc_pgd_at",
    "rce_pgd_at",
)
USUAL = "pgd20"
"""The attack that papers show most: PGD on cross-entropy, 20 steps, one start."""

HEAD = """# How strong is each defence, really

Written by `python -m benchmarks.defences`; every number below comes from that command.

Each defence is trained after its recipe in `recipes/digits` (8x8 digits of scikit-learn, `small_cnn`, one seed) and
evaluated by `art-ext evaluate` with the {suite} suite: AutoAttack, the adversary that knows the method, black-box
attacks, and the trust checks. {n} test images, {threat}. The column *usual attack* is PGD with 20 steps on
cross-entropy: what most papers report. The *worst case* is what is left after everything, with its 95% interval;
*further out* is what stands at {further:g} times the radius, off the security curve; *strongest* is the single attack
that leaves least of those that ran on every image, or the one that had the last word. One seed and {n} images:
differences of a few points between neighbours mean nothing.
"""

FURTHER = 1.5


@dataclass(frozen=True)
class Found:
    """A defence, what was found, and whether its training attacks."""

    name: str
    record: EvaluationRecord
    attacks_in_training: bool


def run_of(name: str) -> Path:
    """Hardens after a recipe, without the undefended twin; goes on with a run that was interrupted."""
    folder = RUNS / name
    if (folder / "run.json").is_file():
        if not RunState.load(folder).finished:
            resume(folder, echo=_quiet)
        return folder
    settings = ["suite=none", "train.baseline=none", f"track.uri=sqlite:///{(RUNS / 'mlflow.db').resolve()}"]
    harden(load_recipe(f"digits/{name}", settings[:1] if name == UNDEFENDED else settings), output=folder, echo=_quiet)
    return folder


def evaluated(name: str, suite: str, limit: int) -> EvaluationRecord:
    """The evaluation of a recipe's network beside the undefended one; read where it was done before."""
    folder = run_of(name)
    output = RUNS / "evaluations" / f"{name}-{suite}-{limit}"
    if not (output / "evaluation.json").is_file():
        baseline = None if name == UNDEFENDED else str(run_of(UNDEFENDED))
        evaluate(Request(str(folder), suite=suite, limit=limit, baseline=baseline, output=output), _quiet, brief=True)
    return read_evaluation(output)


def attacks_in_training(name: str) -> bool:
    recipe = load_recipe(f"digits/{name}")
    return recipe.plan(recipe.assumed_facts()).compose().attack is not None


def page(found: Sequence[Found], suite: str) -> str:
    """The page, from the records alone."""
    first = found[0].record
    head = HEAD.format(suite=suite, n=first.data.n, threat=first.threat, further=FURTHER)
    lines = [head, "## Without adversarial training", ""]
    lines += table([one for one in found if not one.attacks_in_training])
    lines += ["", "## With adversarial training", "", *table([one for one in found if one.attacks_in_training])]
    lines += ["", "## Why some numbers are not to be trusted", ""]
    for one in found:
        if one.record.verdict.reasons:
            lines += [f"- **{one.name}**: {'; '.join(one.record.verdict.reasons)}."]
    rejecting = [one for one in found if one.record.rejection]
    if rejecting:
        lines += ["", "## Defences that reject", "", *rejection_table(rejecting)]
    lines += ["", "## Every attack", "", *matrix(found)]
    return "\n".join(lines) + "\n"


def table(found: Sequence[Found]) -> list[str]:
    lines = [
        "| defence | clean | usual attack | worst case | further out | strongest | trusted |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for one in found:
        record = one.record
        usual = record.attack(USUAL)
        shown = "-" if usual is None else f"{usual.accuracy:.1%}"
        trusted = "yes" if record.verdict.trusted else "no"
        lines.append(
            f"| {one.name} | {record.clean.accuracy:.1%} | {shown} | {_cell(record.worst_case)} | "
            f"{further(record):.1%} | {strongest(record)} | {trusted} |"
        )
    return lines


def further(record: EvaluationRecord) -> float:
    """Of the security curve, nearest to `FURTHER` times the threat's radius."""
    return min(record.curve, key=lambda point: abs(point.eps - FURTHER * record.threat.eps)).accuracy


def strongest(record: EvaluationRecord) -> str:
    """The attack of the ball that leaves least, the first of equals."""
    inside = [attack for attack in record.attacks if attack.bounded and attack.error is None]
    return min(inside, key=lambda attack: attack.accuracy).name if inside else "-"


def rejection_table(found: Sequence[Found]) -> list[str]:
    lines = [
        "*keeps* is the share of correct held-out images that the threshold keeps; *wrong* is the share of what is "
        "kept that is wrong under the worst of all attacks, image by image; *AUC* tells clean from adversarial; "
        "*denied* is the share of good images that an attacker gets rejected.",
        "",
        "| defence | detector | keeps | wrong, nothing rejected | wrong of what is kept | AUC | denied |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        denied = {(row.detector, row.asked_tpr): row.denied for row in one.record.rejection if row.aim == "deny"}
        for row in one.record.rejection:
            if row.aim == "evade":
                auc = "-" if row.auc is None else f"{row.auc:.3f}"
                lost = denied.get((row.detector, row.asked_tpr))
                lines.append(
                    f"| {one.name} | {row.detector} | {row.asked_tpr:.0%} | {row.unthresholded:.1%} | "
                    f"{row.robust_error:.1%} | {auc} | {'-' if lost is None else f'{lost:.1%}'} |"
                )
    return lines


def matrix(found: Sequence[Found]) -> list[str]:
    """Each defence's own attacks with what they leave; those on fewer images say on how many."""
    lines = ["What is right after each attack; in brackets, how many images it ran on where that is not all.", ""]
    for one in found:
        inside = [attack for attack in one.record.attacks if attack.bounded and attack.error is None]
        right = round(one.record.clean.accuracy * one.record.clean.n)
        lines.append(f"- **{one.name}**: " + ", ".join(_attack(attack, right) for attack in inside) + ".")
    return lines


def _attack(attack: AttackResult, right: int) -> str:
    of = "" if attack.of is None else f" of {attack.of}"
    return f"{attack.name}{of} {attack.accuracy:.1%}" + ("" if attack.attacked >= right else f" ({attack.attacked})")


def _cell(estimate: Estimate) -> str:
    return f"{estimate.accuracy:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def _quiet(line: str) -> None:
    """What a training or an evaluation finds is not shown, its progress is; the page is what counts."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.defences", description=__doc__)
    parser.add_argument("--suite", choices=("quick", "standard", "full"), default="standard")
    parser.add_argument("--limit", type=int, default=120, help="test images")
    parser.add_argument("--only", nargs="*", choices=RECIPES, default=None, help="run these; the page needs all")
    options = parser.parse_args(arguments)
    found, failed = [], []
    for name in options.only or RECIPES:
        try:
            record = evaluated(name, options.suite, options.limit)
        except ArtExtError as error:
            failed.append(f"{name}: {error}")
            continue
        found.append(Found(name, record, attacks_in_training(name)))
        print(f"{name}: {record.verdict.sentence}", flush=True)
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    if options.only is None and not failed:
        write_atomically(PAGE, page(found, options.suite))
        print(f"written: {PAGE}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
