"""`make claims`: intervals and outcomes on made-up numbers, what is run again, the page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.claims import __main__ as command
from benchmarks.claims import intervals, page, units, workers
from benchmarks.claims.intervals import (
    ABOVE,
    BELOW,
    NOT_RUN,
    NOT_SEEN,
    OPPOSITE,
    SEEN,
    Claimed,
    Images,
    Interval,
    difference,
    interval,
    more_than,
    outcome,
    within,
)
from benchmarks.claims.papers import CLAIMS, FIRST, PAPERS
from benchmarks.claims.papers.pc_lc import PC_LC

ROOT = Path(__file__).parents[2]


def found(low: float | None, high: float | None) -> Interval:
    return Interval(0.0, low, high, (0.0,), "t")


@pytest.mark.parametrize(
    ("low", "high", "claimed", "word"),
    [
        (0.1, 0.3, ABOVE, SEEN),
        (-0.1, 0.3, ABOVE, NOT_SEEN),
        (0.0, 0.3, ABOVE, NOT_SEEN),
        (-0.3, -0.1, ABOVE, OPPOSITE),
        (-0.3, -0.1, BELOW, SEEN),
        (0.1, 0.3, BELOW, OPPOSITE),
        (0.4, 0.6, Claimed("above", 0.5), NOT_SEEN),
        (0.51, 0.6, Claimed("above", 0.5), SEEN),
        (-0.005, 0.02, Claimed("above", -0.01), SEEN),
        (-0.01, 0.015, within(0.02), SEEN),
        (-0.03, 0.01, within(0.02), NOT_SEEN),
        (0.03, 0.05, within(0.02), OPPOSITE),
        (-0.05, -0.03, within(0.02), OPPOSITE),
        (None, None, ABOVE, NOT_SEEN),
    ],
)
def test_the_outcome_follows_from_the_interval(low, high, claimed, word):
    assert outcome(found(low, high), claimed) == word


def test_without_a_finished_training_nothing_was_run():
    assert outcome(None, ABOVE) == NOT_RUN


def test_students_interval_over_three_seeds():
    got = interval([[3.0, 5.0, 4.0], [1.0, 2.0, 3.0]], difference)
    assert got.by == "t"
    assert got.per_seed == (2.0, 3.0, 1.0)
    half = 4.302652729911275 * 1.0 / np.sqrt(3)  # t quantile at 2 degrees of freedom, deviation 1
    assert (got.low, got.high) == pytest.approx((2 - half, 2 + half))


def test_one_seed_has_no_interval_over_seeds():
    got = interval([[3.0], [1.0]], difference)
    assert (got.mean, got.low, got.high) == (2.0, None, None)


def rows(generator: np.random.Generator, share: float, n: int = 400) -> Images:
    return Images(tuple((generator.random(n) < share).astype(float)))


def test_the_bootstrap_of_one_seed_is_that_of_a_paired_mean():
    generator = np.random.default_rng(1)
    a, b = rows(generator, 0.8), rows(generator, 0.6)
    got = interval([[a], [b]], difference)
    paired = np.subtract(a.num, b.num)
    half = 1.96 * paired.std() / np.sqrt(len(paired))
    assert got.by == "bootstrap"
    assert got.mean == pytest.approx(paired.mean())
    assert (got.low, got.high) == pytest.approx((got.mean - half, got.mean + half), abs=0.006)


def test_the_bootstrap_is_paired():
    a = rows(np.random.default_rng(2), 0.5)
    shifted = Images(tuple(value - 0.1 for value in a.num))
    got = interval([[a] * 3, [shifted] * 3], difference)
    assert (got.low, got.high) == pytest.approx((0.1, 0.1))


def test_a_seed_that_disagrees_widens_the_interval_over_zero():
    ones, zeros = Images((1.0,) * 50), Images((0.0,) * 50)
    got = interval([[ones, ones, zeros], [zeros, zeros, ones]], difference)
    assert got.low is not None
    assert got.low < 0
    assert outcome(got, ABOVE) == NOT_SEEN


def test_a_ratio_is_resampled_as_one():
    value = Images((1.0, 0.0, 1.0, 0.0), (1.0, 1.0, 1.0, 0.0))
    assert value.value == pytest.approx(2 / 3)
    assert Images((0.0,), (0.0,)).value == 0.0
    got = interval([[value]], intervals.itself)
    assert got.mean == pytest.approx(2 / 3)
    assert got.low is not None
    assert got.high == 1.0


def test_a_difference_of_noise_is_not_seen_beside_one_of_nothing():
    generator = np.random.default_rng(3)
    a, b = ([rows(generator, 0.8) for _ in range(3)] for _ in range(2))
    c = [rows(generator, 0.9) for _ in range(3)]
    assert outcome(interval([a, b, c, c], more_than), ABOVE) == NOT_SEEN


def test_the_table_of_claims_hangs_together():
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)
    assert set(FIRST) <= set(names)
    trainings = units.trainings_of(CLAIMS)
    assert len({training.name for training in trainings}) == len(trainings)
    for training in trainings:
        measures = [term.measure for claim in CLAIMS for term in claim.terms if term.training == training]
        by_name = {measure.name: measure.words for measure in measures}
        assert all(by_name[measure.name] == measure.words for measure in measures)
    assert all((ROOT / "plugins" / f"art_ext_{paper.method}" / "README.md").exists() for paper in PAPERS)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `--quick --only pc_lc`."""
    folder = tmp_path_factory.mktemp("claims")
    assert command.main(["--quick", "--jobs", "1", "--only", "pc_lc", "--results", str(folder)]) == 0
    return folder


def test_a_second_call_trains_nothing(trial, monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(workers, "attempt", never)
    before = (trial / "quick.jsonl").read_text()
    assert command.main(["--quick", "--jobs", "1", "--only", "pc_lc", "--results", str(trial)]) == 0
    assert (trial / "quick.jsonl").read_text() == before


@pytest.mark.slow
def test_two_workers_of_the_command_give_the_same(trial, tmp_path):
    """The command itself, as `make claims` calls it: its workers are processes that import what they run."""
    lines = (trial / "quick.jsonl").read_text().splitlines()
    (tmp_path / "quick.jsonl").write_text("\n".join(lines[:-2]) + "\n")
    command_line = [sys.executable, "-m", "benchmarks.claims", "--quick", "--jobs", "2", "--only", "pc_lc"]
    subprocess.run([*command_line, "--results", str(tmp_path)], cwd=ROOT, check=True, timeout=600)
    found = [json.loads(line) for line in (tmp_path / "quick.jsonl").read_text().splitlines()]
    wanted = [json.loads(line) for line in lines]
    assert {record["training"]: record["values"] for record in found} == {
        record["training"]: record["values"] for record in wanted
    }


def test_what_is_missing_can_be_asked_for(trial, tmp_path, capsys):
    first, *others = (trial / "quick.jsonl").read_text().splitlines()
    changed = json.loads(others[0]) | {"digest": "of another recipe"}
    (tmp_path / "quick.jsonl").write_text("\n".join([first, json.dumps(changed), *others[1:]]) + "\n")
    assert command.main(["--quick", "--only", "pc_lc", "--results", str(tmp_path), "--pending"]) == 0
    said, *missing = capsys.readouterr().out.splitlines()
    assert f"{len(others)} done, 1 missing" in said
    assert missing == [f"{changed['training']}, seed 0"]
    assert not (tmp_path / "quick.md").exists()


def test_a_page_is_not_written_over_where_nothing_is_measured(tmp_path, capsys):
    page_before = tmp_path / "claims.md"
    page_before.write_text("measured before")
    assert command.main(["--page", "--results", str(tmp_path), "--output", str(page_before)]) == 1
    assert "nothing of this is measured" in capsys.readouterr().err
    assert page_before.read_text() == "measured before"


def test_an_interrupted_call_keeps_what_is_finished(trial, tmp_path, monkeypatch, capsys):
    lines = (trial / "quick.jsonl").read_text().splitlines()
    (tmp_path / "quick.jsonl").write_text("\n".join(lines[:2]) + "\n" + lines[2][:50])  # the third was cut off
    tried = []

    def interrupted(unit: units.Unit, quick: bool) -> None:
        tried.append(unit.training.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "attempt", interrupted)
    assert command.main(["--quick", "--jobs", "1", "--only", "pc_lc", "--results", str(tmp_path)]) == 130
    assert "finished units are kept" in capsys.readouterr().err
    assert tried == [json.loads(lines[2])["training"]]
    assert not (tmp_path / "quick.md").exists()


def test_a_failed_unit_is_named_and_the_others_are_kept(trial, tmp_path, monkeypatch, capsys):
    lines = map(json.loads, (trial / "quick.jsonl").read_text().splitlines())
    records = {record["training"]: record for record in lines}

    def one_fails(unit: units.Unit, quick: bool) -> tuple[units.Unit, object]:
        return unit, "ConfigError: no such thing" if unit.training.name == "pc_lc" else records[unit.training.name]

    monkeypatch.setattr(workers, "attempt", one_fails)
    assert command.main(["--quick", "--jobs", "1", "--only", "pc_lc", "--results", str(tmp_path)]) == 1
    assert "failed: pc_lc, seed 0: ConfigError: no such thing" in capsys.readouterr().err
    text = (tmp_path / "quick.md").read_text()
    assert "Not finished with every seed: pc_lc." in text
    assert NOT_RUN in text


def test_the_page_shows_each_claim_with_its_numbers(trial):
    text = (trial / "quick.md").read_text()
    assert text.startswith("**A trial")
    for claim in PC_LC.claims:
        assert f"\n### {claim.name}\n" in text
        assert claim.says in text
    section = text.split("### pc-lc-clean\n")[1].split("###")[0]
    a, b, gap = (re.findall(r"([+-]?[0-9.]+) \|$", line, re.M)[-1] for line in section.strip().splitlines()[-3:])
    assert float(gap) == pytest.approx(float(a) - float(b), abs=0.11)
    word = re.search(r"Outcome: \*\*(.*)\*\*", section)
    assert word is not None
    assert f"| {word[1]} |" in next(line for line in text.splitlines() if line.startswith("| [pc-lc-clean]"))


def test_outcomes_are_made_from_the_numbers_alone(trial):
    needed = units.units_of(PC_LC.claims, [0], quick=True)
    done = units.Store(trial / "quick.jsonl").read(needed)
    worse = {
        key: units.Record(
            record.cpu_seconds,
            {
                name: Images((float(key[0] == "standard"),) * 40) if name == "probability_gap" else value
                for name, value in record.values.items()
            },
        )
        for key, record in done.items()
    }
    text = page.write([PC_LC], [0], needed, worse, quick=True)
    assert "-100.0 points [-100.0, -100.0] (bootstrap, 1 seed). Outcome: **the opposite was seen**" in text
