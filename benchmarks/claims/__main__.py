"""`python -m benchmarks.claims`: trains and measures what is missing, then writes docs/claims.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: each worker has one core
os.environ.setdefault("TQDM_DISABLE", "1")

from benchmarks.claims import page
from benchmarks.claims.papers import PAPERS
from benchmarks.claims.units import Key, Record, Store, Unit, units_of
from benchmarks.claims.workers import attempts

SEEDS = (0, 1, 2)
RESULTS, PAGE = Path("runs/claims"), Path("docs/claims.md")


def left(pending: Sequence[Unit], done: dict[Key, Record], elapsed: float, spent: float) -> str:
    """The time that pending units will take, by what other seeds of theirs took, or the mean."""
    known: dict[str, float] = {name: record.cpu_seconds for (name, _), record in done.items()}
    mean = sum(known.values()) / max(len(known), 1)
    expected = sum(known.get(unit.training.name, mean) for unit in pending)
    return f"about {expected * elapsed / max(spent, 1e-9) / 60:.0f} min left"


def measure(units: Sequence[Unit], store: Store, jobs: int, quick: bool) -> list[str]:
    """Runs what is missing; returns what failed, a line each."""
    done = store.read(units)
    pending = [unit for unit in units if unit.key not in done]
    print(f"{len(units)} units, {len(units) - len(pending)} done before; results in {store.file}", flush=True)
    failed: list[str] = []
    began, spent = time.perf_counter(), 0.0
    with attempts(pending, jobs, quick) as results:
        waiting = {unit.key: unit for unit in pending}
        for unit, result in results:
            del waiting[unit.key]
            if isinstance(result, str):
                failed.append(f"{unit.training.name}, seed {unit.seed}: {result.splitlines()[0]}")
                print(f"{unit.training.name}, seed {unit.seed} failed:\n{result}", file=sys.stderr, flush=True)
                continue
            store.append(result)
            spent += result["cpu_seconds"]
            done[unit.key] = Record(result["cpu_seconds"], {})
            time_left = left(list(waiting.values()), done, time.perf_counter() - began, spent)
            print(
                f"[{len(units) - len(waiting)}/{len(units)}] {unit.training.name}, seed {unit.seed}: "
                f"{result['cpu_seconds']:.1f} s of CPU; {time_left}",
                flush=True,
            )
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes, one core each (2)")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs: a trial of the machinery alone")
    parser.add_argument("--only", action="append", choices=[paper.method for paper in PAPERS], help="one method")
    parser.add_argument("--page", action="store_true", help="write the page from what is measured, and stop")
    parser.add_argument("--pending", action="store_true", help="say what is missing, and stop")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder of finished units ({RESULTS})")
    parser.add_argument("--output", type=Path, help=f"the page ({PAGE}, or quick.md beside the results)")
    given = parser.parse_args(arguments)
    papers = [paper for paper in PAPERS if not given.only or paper.method in given.only]
    claims = [claim for paper in papers for claim in paper.claims]
    seeds = SEEDS[:1] if given.quick else SEEDS
    units = units_of(claims, seeds, given.quick)
    store = Store(given.results / ("quick.jsonl" if given.quick else "units.jsonl"))
    partial = given.quick or given.only
    output = given.output or (given.results / f"{'quick' if given.quick else 'part'}.md" if partial else PAGE)
    failed: list[str] = []
    if given.pending:
        done = store.read(units)
        missing = [unit for unit in units if unit.key not in done]
        print(f"{len(units)} units, {len(done)} done, {len(missing)} missing; results in {store.file}")
        for unit in missing:
            print(f"{unit.training.name}, seed {unit.seed}")
        return 0
    if given.page and not store.read(units):
        print(f"nothing of this is measured in {store.file}, so {output} stays; leave --page out", file=sys.stderr)
        return 1
    if not given.page:
        try:
            failed = measure(units, store, given.jobs, given.quick)
        except KeyboardInterrupt:
            print("\ninterrupted; finished units are kept, run the same again to go on", file=sys.stderr)
            return 130
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page.write(papers, seeds, units, store.read(units), quick=given.quick))
    print(f"wrote {output}")
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
