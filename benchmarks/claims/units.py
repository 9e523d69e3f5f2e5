"""Units of work - one training with one seed and all its measures - and the file that keeps them.

A unit is known by its training's name, the seed, and the digest of all that decides its numbers: the
resolved recipe and the names of its measures. So an interrupted run goes on where it was, and a
changed recipe is trained again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims.claim import Claim, Measure, Training
from benchmarks.claims.intervals import Images, Value
from benchmarks.claims.papers import CLAIMS, FIRST
from benchmarks.claims.trained import Trained, recipe_of

Key = tuple[str, int]
"""A training's name and a seed."""


@dataclass(frozen=True)
class Unit:
    """One training with one seed."""

    training: Training
    seed: int
    digest: str

    @property
    def key(self) -> Key:
        return self.training.name, self.seed


def trainings_of(claims: Iterable[Claim]) -> list[Training]:
    """Each once, those of the main claims first."""
    ordered = sorted(claims, key=lambda claim: claim.name not in FIRST)
    return list(dict.fromkeys(term.training for claim in ordered for term in claim.terms))


def measures_of(training: Training) -> list[Measure]:
    """All that any claim asks of a training, so that it does not depend on which claims are run now."""
    terms = (term for claim in CLAIMS for term in claim.terms if term.training == training)
    return list({term.measure.name: term.measure for term in terms}.values())


def digest_of(training: Training, quick: bool) -> str:
    """Of what decides the numbers in the recipe, with every default spelled out, and of the measures."""
    resolved = recipe_of(training, 0, quick).resolved()
    recipe = {section: resolved[section] for section in ("use", "model", "threat")}
    recipe |= {name: resolved["train"][name] for name in ("epochs", "batch_size", "optimizer", "schedule", "held_out")}
    names = sorted(measure.name for measure in measures_of(training))
    text = json.dumps([_set(recipe), training.follow, names, quick], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _set(section: Any) -> Any:
    """Without the options that are None, so that a new one that is left alone changes nothing."""
    if isinstance(section, dict):
        return {name: _set(value) for name, value in section.items() if value is not None}
    return [_set(value) for value in section] if isinstance(section, list) else section


def units_of(claims: Sequence[Claim], seeds: Sequence[int], quick: bool) -> list[Unit]:
    """What the claims need; the trainings of the main claims come first, each with all its seeds."""
    found = [(training, digest_of(training, quick)) for training in trainings_of(claims)]
    return [Unit(training, seed, digest) for training, digest in found for seed in seeds]


def work(unit: Unit, quick: bool) -> dict[str, Any]:
    """Trains and measures; returns the record."""
    began = time.process_time()
    trained = Trained(unit.training, unit.seed, quick)
    seconds = time.process_time() - began
    values = {measure.name: _plain(measure.take(trained)) for measure in measures_of(unit.training)}
    return {
        "training": unit.training.name,
        "seed": unit.seed,
        "digest": unit.digest,
        "train_seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time() - began, 1),
        "values": values,
    }


def _plain(value: Value) -> Any:
    return {"num": value.num, "den": value.den} if isinstance(value, Images) else value


def _value(plain: Any) -> Value:
    if not isinstance(plain, dict):
        return float(plain)
    den = plain["den"]
    return Images(tuple(plain["num"]), None if den is None else tuple(den))


@dataclass(frozen=True)
class Record:
    """What a unit came to."""

    cpu_seconds: float
    values: dict[str, Value]


class Store:
    """Finished units, one JSON line each, appended as they end."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self, units: Iterable[Unit]) -> dict[Key, Record]:
        """The units that are done, with the present digest; a torn last line is passed over."""
        wanted = {(*unit.key, unit.digest) for unit in units}
        found: dict[Key, Record] = {}
        for line in self.file.read_text().splitlines() if self.file.exists() else ():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            key = (record["training"], record["seed"])
            if (*key, record["digest"]) in wanted:
                values = {name: _value(plain) for name, plain in record["values"].items()}
                found[key] = Record(record["cpu_seconds"], values)
        return found

    def append(self, record: dict[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = self.file.read_text() if self.file.exists() else ""
        gap = "\n" if text and not text.endswith("\n") else ""  # after a line that was cut off
        with self.file.open("a") as file:
            file.write(gap + json.dumps(record) + "\n")
