"""Whole runs of the command line for the tests here: quick ones, in processes that can be killed."""

import multiprocessing
import os
import signal
from pathlib import Path

import torch

from art_ext.engine.observe import Observer

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "recipes" / "digits" / "pc_lc_pgd_at.yaml")
QUICK = {
    "train.epochs": "3",
    "train.batch_size": "230",
    "pc_lc.warmup_epochs": "1",
    "pgd_at.steps": "1",
    "train.checkpoint_every": "2",
    "evaluate": "[{pgd: {steps: 1}}]",
    "suite": "none",
    "beside": "{}",
}
STEPS = 15
"""Of each of the two trainings: five batches an epoch."""


def arguments(folder, **changed):
    """Of `art-ext harden`, for a run in a folder."""
    given = QUICK | {name.replace("__", "."): value for name, value in changed.items()}
    settings = [word for pair in given.items() for word in ("--set", "=".join(pair))]
    return ["harden", RECIPE, *settings, "--output", folder]


class Untracked(Observer):
    """In place of MLflow's tracker, which is not what these tests are about and takes seconds."""

    run_id = experiment_id = version = None

    def __getattr__(self, name):
        if "state_dict" in name:
            raise AttributeError(name)
        return lambda *args, **kwargs: None


def without_tracking(replace=setattr):
    """Puts `Untracked` into its place, by a function like `setattr`."""
    import art_ext.host.training as training
    import art_ext.lifecycle.family as family

    class Tracker:
        def __new__(cls, *args, **kwargs):
            return Untracked()

        reopened = staticmethod(lambda *args: Untracked())

    replace(training, "MLflowTracker", Tracker)
    replace(family, "MLflowTracker", Tracker)


def command(words, folder, before=None):
    """`art-ext WORDS` in this process, which had better be one of its own."""
    os.chdir(folder)
    torch.set_num_threads(1)
    without_tracking()
    with open(folder / "out.txt", "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    if before is not None:
        before()
    from art_ext.host.cli import main

    main(words)


PRELOADED = [
    "art_ext.host.harden",
    "art_ext.host.resume",
    "art_ext.host.cli",
    *(f"art_ext_{name}" for name in ("adp", "attacks", "baselines", "cat", "ccat", "dac", "mmc", "pc_lc", "rce")),
    "art_ext_tricks",
    "timm",
    "sklearn.datasets",
    "scipy.stats",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
]
"""What a run would import, which takes longer than the run."""


def start(words, folder, before=None):
    """The same in a process of its own, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=command, args=(words, folder, before))
    process.start()
    return process


def finish(words, folder, before=None):
    """Runs it to its end; what it printed."""
    process = start(words, folder, before)
    process.join()
    printed = (folder / "out.txt").read_text()
    assert process.exitcode == 0, printed[-2000:]
    return printed


class Moments:
    """Counts what happens in a process, and kills it with SIGKILL at one of these moments.

    Counted are: the begin and the end of each step, its weights moved and not yet booked; each file half
    written, written, and renamed; each attack of an evaluation; each line of the journal.

    Args:
        at: the number of the moment, or None to count alone; the number is then in `counted`, a file.
    """

    def __init__(self, counted, at=None):
        self.counted, self.at, self.number = counted, at, 0

    def __call__(self):
        from art_ext.engine.fit import Fit
        from art_ext.engine.journal import Journal
        from art_ext.engine.step import Step
        from art_ext.evaluation.suite import Evaluator

        for owner, name in ((Fit, "take"), (Step, "apply"), (os, "replace"), (Evaluator, "under"), (Journal, "_write")):
            setattr(owner, name, self.around(getattr(owner, name)))
        whole = Path.write_bytes

        def in_two_parts(path, data):
            with path.open("wb") as file:
                file.write(bytes(data)[: len(data) // 2])
            self.passes()
            return whole(path, data)

        Path.write_bytes = in_two_parts

    def around(self, call):
        def counted(*args, **kwargs):
            self.passes()
            result = call(*args, **kwargs)
            self.passes()
            return result

        return counted

    def passes(self):
        if self.number == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.number += 1
        if self.at is None:
            self.counted.write_text(str(self.number))


def outcome(run):
    """Everything that a run in a folder came to, as far as it may be compared."""
    from art_ext.engine import checkpoint
    from art_ext.engine.checkpoint import Shelf
    from art_ext.engine.journal import read_journal

    found = {}
    for role in ("undefended", "hardened"):
        folder = run / role
        for name in ("best.pt", "last.pt"):
            found[role, name] = checkpoint.load(folder / name)
        state = Shelf(folder).newest()
        found[role, "optimizer"] = state["optimizer"]
        found[role, "history"] = [
            {**report, "metrics": {k: v for k, v in report["metrics"].items() if k != "images_per_second"}}
            for report in state["history"]["epochs"]
        ]
        entries = read_journal(folder / "metrics.jsonl")
        found[role, "journal"] = [
            (entry.epoch, {k: v for k, v in entry.metrics.items() if k != "images_per_second"})
            for entry in entries
            if entry.event == "epoch"
        ]
        found[role, "rows"] = {
            name: (row["right"], row["budget"]) for name, row in checkpoint.load(folder / "rows.pt").items()
        }
    return found


def same(one, other):
    """Whether two nested values are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
