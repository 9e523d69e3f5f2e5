"""The page: a head, a summary, each claim with its numbers, and the trainings behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from benchmarks.claims.claim import Claim, Paper, Training
from benchmarks.claims.intervals import (
    DRAWS,
    NOT_RUN,
    NOT_SEEN,
    OPPOSITE,
    SEEN,
    Interval,
    as_number,
    difference,
    interval,
    itself,
    more_than,
    outcome,
)
from benchmarks.claims.trained import recipe_of
from benchmarks.claims.units import Key, Record, Unit, trainings_of

OUTCOMES = (SEEN, NOT_SEEN, OPPOSITE, NOT_RUN)
COMBINED = {
    difference: "A - B",
    itself: "A",
    more_than: "(A - B) - (C - D)",
}

HEAD = """# What the papers claim, and what was seen here

Written by `make claims` (`python -m benchmarks.claims`); every number and every outcome below comes from that command.

Each method's paper makes claims; each is tried here in its direction, on the data and the network that are on board:
the 1,797 digits of scikit-learn (8x8 pixels, 360 of them to test on) and `small_cnn` (30,000 weights), trained from a
recipe of `recipes/digits` in seconds. That is a long way from the papers' data: a claim that is not seen here is not
refuted, and one that is seen is not proven. Claims are in our words, after the sources that the method pages name; some
are no paper's claim but a known weakness, and say so.

- **Compared** are trainings with the same seed, weights, split and order of batches, on the same test images. Unless
  a claim says otherwise, eps is 0.15 in L-inf, and networks are taken after their last epoch. Nothing is chosen on test
  images: thresholds and best epochs come from training images that are held out, a fifth of them (half in the long
  runs).
- **Intervals** are at 95%. Where every quantity is a mean or a ratio over test images, they are from a paired bootstrap
  ({draws:,} draws) that resamples seeds and images together, the same for both sides ("bootstrap"); else Student's t
  over the seeds' paired differences ("t"), which is wide with three seeds.
- **Outcomes** follow from the interval by rule: "seen" if all of it lies on the claimed side of the bound (0 unless
  stated), "the opposite was seen" if all of it lies on the other side, "not seen at this scale" if it covers the bound,
  "not run" without a finished training. Directions and bounds were set beforehand, with these exceptions: two radii
  (L2 and L1 of CCAT) and the large weight decay were chosen after a look at a seed that is not on this page, and the
  claims on weight decay compare signed differences where absolute ones, tried first, counted noise as seen. With {n}
  claims, chance alone puts a few on a wrong side.
- **To reproduce**: `make claims`. Finished trainings are kept in `runs/claims` and not run again, so it can be
  interrupted; `rm -r runs/claims` starts afresh. `python -m benchmarks.claims --only rce` runs one method.
"""


def write(
    papers: Sequence[Paper], seeds: Sequence[int], units: Sequence[Unit], done: Mapping[Key, Record], *, quick: bool
) -> str:
    """The page as Markdown, from the finished units alone."""
    found = {claim.name: found_of(claim, seeds, done) for paper in papers for claim in paper.claims}
    n = len(found)
    lines = ["**A trial with one seed and two epochs: its outcomes mean nothing.**\n"] if quick else []
    lines.append(HEAD.format(draws=DRAWS, n=n))
    lines += _run(units, done, seeds)
    lines += ["", "## Summary", "", *_counts(papers, found), ""]
    lines += ["| claim | what is said | difference | outcome |", "| --- | --- | --- | --- |"]
    for paper in papers:
        for claim in paper.claims:
            lines.append(
                f"| [{claim.name}](#{_anchor(claim.name)}) | {claim.says} | {_interval(claim, found[claim.name])} "
                f"| {outcome(found[claim.name], claim.claimed)} |"
            )
    for paper in papers:
        lines += ["", f"## {paper.title}", "", f"Plugin and options: `plugins/art_ext_{paper.method}/README.md`."]
        for claim in paper.claims:
            lines += ["", *_section(claim, found[claim.name], seeds, done)]
        if paper.unseen:
            lines += ["", f"Not here: {paper.unseen}"]
    lines += ["", *_trainings(papers, seeds, done)]
    return "\n".join(lines) + "\n"


def seeds_of(claim: Claim, seeds: Sequence[int], done: Mapping[Key, Record]) -> list[int]:
    """The seeds of which every training that a claim compares is finished."""
    return [seed for seed in seeds if all((term.training.name, seed) in done for term in claim.terms)]


def found_of(claim: Claim, seeds: Sequence[int], done: Mapping[Key, Record]) -> Interval | None:
    """The claim's number with its interval, of the seeds that are finished; None without any."""
    finished = seeds_of(claim, seeds, done)
    if not finished:
        return None
    values = [
        [done[term.training.name, seed].values[term.measure.name] for seed in finished] for term in claim.terms
    ]
    return interval(values, claim.combine)


def _run(units: Sequence[Unit], done: Mapping[Key, Record], seeds: Sequence[int]) -> list[str]:
    minutes = sum(record.cpu_seconds for record in done.values()) / 60
    missing = sorted({unit.training.name for unit in units if unit.key not in done})
    lines = [
        f"Run: {len(done)} of {len(units)} trainings ({len(units) // len(seeds)} recipes with {len(seeds)} "
        f"seed{'s' if len(seeds) > 1 else ''}), {minutes:.1f} minutes of CPU in all, on one core each."
    ]
    if missing:
        lines.append(f"**Not finished with every seed: {', '.join(missing)}.**")
    return lines


def _counts(papers: Sequence[Paper], found: Mapping[str, Interval | None]) -> list[str]:
    lines = ["| method | claims | " + " | ".join(OUTCOMES) + " |", "| --- |" + " ---: |" * (len(OUTCOMES) + 1)]
    total: Counter[str] = Counter()
    for paper in papers:
        counts = Counter(outcome(found[claim.name], claim.claimed) for claim in paper.claims)
        total += counts
        cells = " | ".join(str(counts[word]) for word in OUTCOMES)
        lines.append(f"| {paper.method} | {len(paper.claims)} | {cells} |")
    cells = " | ".join(str(total[word]) for word in OUTCOMES)
    lines.append(f"| all | {sum(total.values())} | {cells} |")
    return lines


def _anchor(name: str) -> str:
    """A heading's anchor, as Markdown renderers make them: without dots."""
    return name.replace(".", "")


def _number(value: float, percent: bool, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if percent and 0 < abs(value) < 0.0005:
        return f"{100 * value:{sign}.1g}"
    return f"{100 * value:{sign}.1f}" if percent else f"{value:{sign}.3g}"


def _interval(claim: Claim, found: Interval | None) -> str:
    if found is None:
        return ""
    signed = claim.combine is not itself
    unit = "" if not claim.percent else " points" if signed else "%"
    mean = _number(found.mean, claim.percent, signed=signed)
    if found.low is None or found.high is None:
        return f"{mean}{unit}"
    low, high = (_number(value, claim.percent, signed=signed) for value in (found.low, found.high))
    return f"{mean}{unit} [{low}, {high}]"


def _claimed(claim: Claim) -> str:
    said, bound = COMBINED[claim.combine], claim.claimed.bound
    shown = f"{_number(bound, claim.percent)}{' points' if claim.percent else ''}" if bound else "0"
    if claim.claimed.side == "within":
        return f"|{said}| below {shown}"
    return f"{said} {claim.claimed.side} {shown}"


def _section(claim: Claim, found: Interval | None, seeds: Sequence[int], done: Mapping[Key, Record]) -> list[str]:
    lines = [f"### {claim.name}", "", f"{claim.says} ({claim.where})", ""]
    if claim.figure:
        lines.append(f"- Reported: {claim.figure}.")
    lines.append(f"- Looked for: {_claimed(claim)}.")
    if found is None:
        return [*lines, f"- Outcome: **{NOT_RUN}**."]
    finished = seeds_of(claim, seeds, done)
    by = f"{found.by}, {len(finished)} seed{'s' if len(finished) > 1 else ''}"
    lines.append(f"- Found: {_interval(claim, found)} ({by}). Outcome: **{outcome(found, claim.claimed)}**.")
    lines += ["", "| | training | measured | " + " | ".join(f"seed {seed}" for seed in finished) + " |"]
    lines.append("| --- | --- | --- |" + " ---: |" * len(finished))
    for letter, term in zip("ABCD", claim.terms, strict=False):
        values = [as_number(done[term.training.name, seed].values[term.measure.name]) for seed in finished]
        cells = " | ".join(_number(value, term.measure.percent) for value in values)
        unit = ", %" if term.measure.percent else ""
        words = term.measure.words.replace("|", "\\|")
        lines.append(f"| {letter} | {term.training.name} | {words}{unit} | {cells} |")
    if claim.combine is not itself:
        cells = " | ".join(_number(value, claim.percent, signed=True) for value in found.per_seed)
        lines.append(f"| | | {COMBINED[claim.combine]} | {cells} |")
    return lines


def _trainings(papers: Sequence[Paper], seeds: Sequence[int], done: Mapping[Key, Record]) -> list[str]:
    lines = [
        "## Trainings",
        "",
        "`art-ext harden RECIPE --set CHANGE ...` trains each of them. Seconds are of CPU, measures included, the mean "
        "of the seeds.",
        "",
        "| training | recipe | changes | epochs | seconds | seeds |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for training in trainings_of([claim for paper in papers for claim in paper.claims]):
        spent = [done[training.name, seed].cpu_seconds for seed in seeds if (training.name, seed) in done]
        mean = f"{sum(spent) / len(spent):.0f}" if spent else ""
        changes = "; ".join(f"`{change}`" for change in training.changes)
        recipe, epochs = f"`digits/{training.recipe}`", _epochs(training)
        lines.append(f"| {training.name} | {recipe} | {changes} | {epochs} | {mean} | {len(spent)} |")
    return lines


def _epochs(training: Training) -> int:
    return recipe_of(training, 0, quick=False).train.epochs
