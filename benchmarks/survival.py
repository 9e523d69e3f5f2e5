"""What a run survives, counted: `python -m benchmarks.survival [PART ...] --write docs/runs.md`.

Each part does to real processes what its row says, and compares what they came to in the end with a
run that was left alone: weights, optimizer, metrics, journal and each attack's outcome, bit for bit.
It shares its helpers with the tests in tests/resume.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import random
import re
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests" / "resume"))
endings: Any = importlib.import_module("endings")

KILLS = 20
BEGIN, END = "<!-- survival: begin -->", "<!-- survival: end -->"
HEAD = "| fault | tries | outcome |\n| --- | --- | --- |\n"


class Whole:
    """A run that was left alone: what others are compared with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        endings.finish(["--version"], folder)  # what all runs import
        began = time.monotonic()
        endings.finish(endings.arguments("run"), folder, endings.Moments(folder / "moments"))
        self.seconds = time.monotonic() - began
        self.moments = int((folder / "moments").read_text())
        self.outcome = endings.outcome(folder / "run")

    def equals(self, run: Path) -> bool:
        return bool(endings.same(endings.outcome(run), self.outcome))


def resumed(folder: Path, whole: Whole) -> bool:
    """Goes on with a run, and whether it came to the same."""
    if (folder / "run" / "run.json").exists():
        endings.finish(["resume", "run"], folder)
    else:  # killed before anything was kept
        shutil.rmtree(folder / "run", ignore_errors=True)
        endings.finish(endings.arguments("run"), folder)
    return whole.equals(folder / "run")


def kill(whole: Whole, folders: Iterator[Path]) -> tuple[int, str]:
    """SIGKILL, half of the times by the clock, half at a counted moment; writes of checkpoints among them."""
    draw, same, writing, early = random.Random(0), 0, 0, 0
    for number in range(KILLS):
        exit_code = 0
        while exit_code != -signal.SIGKILL:  # by the clock it may have been over
            folder = next(folders)
            bomb = endings.Moments(None, draw.randrange(whole.moments)) if number % 2 else None
            process = endings.start(endings.arguments("run"), folder, bomb)
            if bomb is None:
                time.sleep(whole.seconds * draw.uniform(0.1, 0.9))
                process.kill()
            process.join()
            exit_code = process.exitcode
        early += not any((folder / "run").glob("*/step-*.pt"))
        writing += any((folder / "run").glob("*/*.part"))
        same += resumed(folder, whole)
        print(f"  {number + 1}: {same} the same", flush=True)
    told = f"{same} of {KILLS} bit-identical; {writing} inside a file's writing, {early} before the first checkpoint"
    return KILLS, told


class Signalled:
    """Sends its own process SIGTERM in the middle of a step, and notes when."""

    def __init__(self, step: int, noted: Path) -> None:
        self.step, self.noted, self.taken = step, noted, 0

    def __call__(self) -> None:
        from art_ext.engine.step import Step

        apply: Callable[[Any], None] = Step.apply

        def counted(step: Any) -> None:
            if self.taken == self.step:
                self.noted.write_text(str(time.monotonic()))
                signal.raise_signal(signal.SIGTERM)
            self.taken += 1
            apply(step)

        setattr(Step, "apply", counted)  # noqa: B010  (to take it from a class is what a type checker forbids)


def sigterm(whole: Whole, folders: Iterator[Path]) -> tuple[int, str]:
    draw, good, slowest, tries = random.Random(1), 0, 0.0, 5
    for _ in range(tries):
        folder = next(folders)
        halfway = Signalled(draw.randrange(2 * endings.STEPS), folder / "sent")
        process = endings.start(endings.arguments("run"), folder, halfway)
        process.join()
        slowest = max(slowest, time.monotonic() - float((folder / "sent").read_text()))
        good += process.exitcode == 143 and resumed(folder, whole)
    return tries, f"{good} of {tries} exit 143 and bit-identical after resume; at most {slowest:.1f} s to the end"


def damage(whole: Whole, folders: Iterator[Path]) -> tuple[int, str]:
    """A run's own last state, cut short and with one bit flipped; then one damaged run goes on."""
    from art_ext.engine.checkpoint import Shelf

    draw, folder, noticed = random.Random(2), next(folders), 0
    process = endings.start(endings.arguments("run"), folder, Signalled(endings.STEPS + 8, folder / "sent"))
    process.join()
    shelf = Shelf(folder / "run" / "hardened")
    before, last = shelf.paths()
    content, epoch = last.read_bytes(), int(before.name[5:-3])
    for number in range(200):
        broken = bytearray(content)
        if number % 2:
            broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
        else:
            del broken[draw.randrange(len(broken)) :]
        last.write_bytes(bytes(broken))
        state = shelf.newest()
        noticed += state is not None and state["run"]["step"] == epoch
    last.write_bytes(content[: len(content) // 2])
    same = "bit-identical" if resumed(folder, whole) else "NOT the same"
    return 200, f"{noticed} of 200 noticed, the one before used each time; a run with one resumed {same}"


class Full:
    """The disk takes no more than so many bytes a file, from a step on.

    Args:
        pipe: where the process prints, since no file takes it then.
    """

    def __init__(self, step: int, size: int, pipe: Path) -> None:
        self.step, self.size, self.pipe, self.taken = step, size, pipe, 0

    def __call__(self) -> None:
        from art_ext.engine.step import Step

        with self.pipe.open("w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)

        apply: Callable[[Any], None] = Step.apply
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

        def counted(step: Any) -> None:
            if self.taken == self.step:
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))
            self.taken += 1
            apply(step)

        setattr(Step, "apply", counted)  # noqa: B010  (to take it from a class is what a type checker forbids)


def disk(whole: Whole, folders: Iterator[Path]) -> tuple[int, str]:
    """Sizes that stop a checkpoint, the journal, or a report; then there is room again."""
    draw, good, tries = random.Random(3), 0, 20
    for _ in range(tries):
        folder = next(folders)
        size = draw.choice((0, 200, 700, 2_000, 20_000, 100_000))
        pipe = folder / "said"
        os.mkfifo(pipe)
        process = endings.start(endings.arguments("run"), folder, Full(draw.randrange(2 * endings.STEPS), size, pipe))
        said = pipe.read_text()
        process.join()
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        one_line = len(lines) == 1 and "could not be written" in lines[0] and "Traceback" not in said
        good += process.exitcode == 1 and one_line and resumed(folder, whole)
    return tries, f"{good} of {tries} one line, and bit-identical after resume"


class Poisoned:
    """Makes the loss NaN at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self) -> None:
        from art_ext.engine.step import Step

        total: Callable[..., Any] = Step.total

        def poisoned(step: Any, terms: dict[str, Any]) -> Any:
            if step.run.step == self.step:
                terms = {name: value * float("nan") for name, value in terms.items()}
            return total(step, terms)

        setattr(Step, "total", poisoned)  # noqa: B010  (to take it from a class is what a type checker forbids)


def nan(whole: Whole, folders: Iterator[Path]) -> tuple[int, str]:
    draw, good, tries = random.Random(4), 0, 5
    for _ in range(tries):
        folder, step = next(folders), draw.randrange(endings.STEPS)
        process = endings.start(endings.arguments("run"), folder, Poisoned(step))
        process.join()
        said = (folder / "out.txt").read_text()
        named = f"became NaN or infinite at step {step}, in the part 'clean'" in said
        good += process.exitcode == 1 and named and not (folder / "run" / "result.json").exists()
    return tries, f"{good} of {tries} stopped, step and part named, nothing evaluated or registered"


def two(whole: Whole, folders: Iterator[Path]) -> tuple[int, str]:
    """One of two processes killed at a counted moment; both start again."""
    draw, good, slowest, tries = random.Random(5), 0, 0.0, 4

    def both(words: list[str], folder: Path, then: tuple[Any, Any] = (None, None)) -> list[Any]:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        for rank in range(2):
            (folder / str(rank)).mkdir(exist_ok=True)
        return [endings.start(words, folder / str(rank), partial(_ranked, rank, port, then[rank])) for rank in range(2)]

    def carried_out(words: list[str], folder: Path) -> None:
        for process in both(words, folder):
            process.join()
            assert process.exitcode == 0, folder

    alone = next(folders)
    carried_out(endings.arguments(str(alone / "run")), alone)
    expected = endings.outcome(alone / "run")
    for number in range(tries):
        folder, victim = next(folders), number % 2
        bomb = endings.Moments(None, draw.randrange(20, 60))
        processes = both(endings.arguments(str(folder / "run")), folder, (None, bomb) if victim else (bomb, None))
        processes[victim].join()
        died = time.monotonic()
        processes[1 - victim].join()
        slowest = max(slowest, time.monotonic() - died)
        said = (folder / str(1 - victim) / "out.txt").read_text()
        one_line = sum(line.startswith("error: ") for line in said.splitlines()) == 1
        if (folder / "run" / "run.json").exists():
            carried_out(["resume", str(folder / "run")], folder)
            good += one_line and endings.same(endings.outcome(folder / "run"), expected)
    return tries, f"{good} of {tries} bit-identical after resume; the other ended within {slowest:.1f} s, in one line"


def _ranked(rank: int, port: int, then: Callable[[], None] | None) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="survival",
    )
    if then is not None:
        then()


PARTS: dict[str, tuple[str, Callable[[Whole, Iterator[Path]], tuple[int, str]]]] = {
    "kill": ("kill -9 at random moments", kill),
    "sigterm": ("SIGTERM in the middle of a step", sigterm),
    "damage": ("checkpoints truncated or with a bit flipped", damage),
    "disk": ("disk full: checkpoint, journal, report", disk),
    "nan": ("NaN in the loss", nan),
    "two": ("one of two processes killed", two),
}


def write(path: Path, rows: dict[str, str]) -> None:
    """Puts rows into the table between the marks of a page; other rows stay."""
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    inside, _, after = rest.partition(END)
    known = {line.split(" | ")[0].removeprefix("| "): line for line in re.findall(r"^\| .*\|$", inside, re.MULTILINE)}
    known |= rows
    lines = [known[title] for title, _ in PARTS.values() if title in known]
    path.write_text(before + BEGIN + "\n" + HEAD + "\n".join(lines) + "\n" + END + after)


def main() -> None:
    parser = argparse.ArgumentParser(description="Counts what a run survives.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--write", type=Path, default=None, metavar="PAGE", help="put the rows into this page's table")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    with contextlib.ExitStack() as held:
        place = Path(held.enter_context(tempfile.TemporaryDirectory()))

        def folders() -> Iterator[Path]:
            number = 0
            while True:
                number += 1
                folder = place / str(number)
                folder.mkdir()
                yield folder

        fresh = folders()
        whole = Whole(next(fresh))
        print(f"a whole run: {whole.seconds:.0f} s, {whole.moments} moments", flush=True)
        for name in options.parts or PARTS:
            title, part = PARTS[name]
            tries, told = part(whole, fresh)
            row = f"| {title} | {tries} | {told} |"
            print(row, flush=True)
            if options.write is not None:
                write(options.write, {title: row})


if __name__ == "__main__":
    main()
