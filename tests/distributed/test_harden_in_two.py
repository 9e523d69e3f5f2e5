"""`art-ext harden` in two processes: what one gives, what is left when one is killed, and how it goes on."""

import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from art_ext.evaluation.examples import read_examples
from art_ext.evaluation.record import read_evaluation

sys.path.append(str(Path(__file__).parents[1] / "resume"))
import endings

LAUNCHED = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


def under_torchrun(rank, port, world=2):
    """The environment that torchrun gives its processes."""
    values = (rank, rank, world, world, "127.0.0.1", port, "test")
    os.environ.update({name: str(value) for name, value in zip(LAUNCHED, values, strict=True)})


def under_slurm(rank, port, world=2):
    """The environment that srun gives its tasks."""
    os.environ.update(
        SLURM_JOB_ID="7",
        SLURM_JOB_NAME="harden",
        SLURM_NTASKS=str(world),
        SLURM_NTASKS_PER_NODE=str(world),
        SLURM_NNODES="1",
        SLURM_NODEID="0",
        SLURM_PROCID=str(rank),
        SLURM_LOCALID=str(rank),
        SLURM_NODELIST="localhost",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )


def before(launcher, rank, port, then=None):
    launcher(rank, port)
    if then is not None:
        then()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def both(words, folder, launcher=under_torchrun, then=(None, None)):
    """Starts both processes, each with an output of its own."""
    port, processes = free_port(), []
    for rank in range(2):
        own = folder / f"rank{rank}"
        own.mkdir(exist_ok=True)
        processes.append(endings.start(words, own, partial(before, launcher, rank, port, then[rank])))
    return processes


def finish(words, folder, **options):
    processes = both(words, folder, **options)
    for process in processes:
        process.join()
    printed = [(folder / f"rank{rank}" / "out.txt").read_text() for rank in range(2)]
    assert [process.exitcode for process in processes] == [0, 0], printed
    return printed


def arguments(folder, **changed):
    return endings.arguments(str(folder / "run"), evaluate="[{pgd: {steps: 1}}]", **changed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    printed = finish(arguments(folder), folder)
    return endings.outcome(folder / "run"), printed


@pytest.mark.slow
def test_the_first_process_alone_prints_and_writes(whole):
    outcome, (first, second) = whole
    assert "accuracy (95% interval)" in first
    assert "accuracy" not in second
    assert "epoch 1/3" not in second
    assert len(outcome["hardened", "journal"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_other_ends_soon_and_both_go_on(victim, whole, tmp_path):
    expected, _ = whole
    bomb = endings.Moments(None, 150 if victim == 0 else 40)
    processes = both(arguments(tmp_path), tmp_path, then=(bomb, None) if victim == 0 else (None, bomb))
    processes[victim].join()
    assert processes[victim].exitcode == -signal.SIGKILL
    died = time.monotonic()
    other = processes[1 - victim]
    other.join(60)
    assert other.exitcode == 1
    assert time.monotonic() - died < 60
    printed = (tmp_path / f"rank{1 - victim}" / "out.txt").read_text()
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert f"process {1 - victim} of 2 lost another one" in line
    assert "Traceback" not in printed
    finish(["resume", str(tmp_path / "run")], tmp_path)
    assert endings.same(endings.outcome(tmp_path / "run"), expected)


@pytest.mark.slow
def test_slurm_starts_it_as_well(whole, tmp_path):
    finish(arguments(tmp_path), tmp_path, launcher=under_slurm)
    assert endings.same(endings.outcome(tmp_path / "run"), whole[0])


@pytest.mark.slow
def test_both_take_part_in_the_suite_and_find_what_one_finds(tmp_path):
    finish(arguments(tmp_path, suite="quick", train__baseline="none"), tmp_path)
    run = tmp_path / "run"
    shared = run / "evaluation" / "hardened"
    assert {file.stem.rpartition(".")[2] for file in (shared / "partial").glob("*")} == {"0", "1"}
    (tmp_path / "one").mkdir()
    words = ["evaluate", str(run), "--suite", "quick", "--output", str(tmp_path / "alone")]
    assert endings.start(words, tmp_path / "one").join() is None
    one, two = (read_evaluation(place) for place in (tmp_path / "alone", shared))
    assert [(item.name, item.accuracy, item.attacked) for item in two.attacks] == [
        (item.name, item.accuracy, item.attacked) for item in one.attacks
    ]
    assert two.worst_case == one.worst_case
    mine, theirs = read_examples(tmp_path / "alone"), read_examples(shared)
    assert torch.equal(mine.right, theirs.right)
