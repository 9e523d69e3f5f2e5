"""`python -m benchmarks`: every figure, in one process and interleaved; see README.md."""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

os.environ.setdefault("TQDM_DISABLE", "1")  # before ART is imported: its trainers draw bars

import torch

from art_ext.types import Outputs
from art_ext_baselines import PGDAT, TRADES
from art_ext_pc_lc import PCLC
from art_ext_pc_lc.ingredient import PCLCLoss
from benchmarks import contenders as who
from benchmarks import memory, report
from benchmarks.faithful import same_pixels
from benchmarks.limit import Limit, inner_kl, outer_trades
from benchmarks.methods import FIXED, METHODS
from benchmarks.nets import PHOTOS, RESNET, SMALL, Task
from benchmarks.report import Check
from benchmarks.timing import CLOCKS, Clock, Contender, Ratio, interleave


@dataclass
class Section:
    """One part of the report."""

    title: str
    lines: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)


Make = Callable[[bool], Section]


def timed(title: str, ours: Contender, others: list[Contender], limit: Limit | None, rounds: int) -> Section:
    """Runs the rounds; the limit's pieces take part in them."""
    pieces = [] if limit is None else limit.contenders
    interleave([ours, *others, *pieces], rounds, warm_up=1 if rounds < 5 else 2)
    limits: dict[Clock, list[float]] = {} if limit is None else {clock: limit.times(clock) for clock in CLOCKS}
    section = Section(title, report.timing_table([ours, *others], ours, limits))
    if limit is not None:
        section.lines += [
            "",
            f"Limit {1e3 * median(limits['cpu']):.1f} ms CPU, of the fastest variants of its pieces:",
            "",
        ]
        section.lines += ["| piece | ms CPU | ms wall |", "| --- | ---: | ---: |"]
        section.lines += [f"| {p.name} | {1e3 * p.median('cpu'):.2f} | {1e3 * p.median('wall'):.2f} |" for p in pieces]
    return section


def share(ours: Contender, limit: Limit) -> Ratio:
    return Ratio.of(limit.times("cpu"), ours.times["cpu"])


def faster(other: Contender, ours: Contender) -> Ratio:
    return Ratio.of(other.times["cpu"], ours.times["cpu"])


def limit_of(task: Task) -> Limit:
    x, y = (part[: task.batch_size] for part in task.data())
    return Limit(task.model(), x, y, repeat=10 if task is SMALL else 1)


def pgd_at_of(task: Task, **options: object) -> PGDAT:
    return PGDAT(eps=task.eps, steps=task.steps, step_size=task.step_size, **options)  # type: ignore[arg-type]


def pgd_at(quick: bool) -> Section:
    task, rounds = SMALL, 3 if quick else 11
    ours = who.art_ext_fit(task, "art_ext", [pgd_at_of(task)])
    limit = limit_of(task).attack(task.steps).train()
    madry, adversarial = who.art_madry(task), who.art_adversarial(task)
    backward, grad = (who.research_loop(task, grad=g) for g in (False, True))
    section = timed(f"PGD training step: {task.name}", ours, [madry, adversarial, backward, grad], limit, rounds)
    section.checks = [
        Check("PGD-10 step, small_cnn: times MadryPGD", faster(madry, ours), 2.8, unit="x"),
        Check("PGD-10 step, small_cnn: times AdversarialTrainer", faster(adversarial, ours), 1.5, unit="x"),
        Check("PGD-10 step, small_cnn: share of the limit", share(ours, limit), 0.90),
    ]
    return section


def resnet(quick: bool) -> Section:
    task, rounds = RESNET, 1 if quick else 5
    ours = who.art_ext_fit(task, "art_ext", [pgd_at_of(task)])
    limit = limit_of(task).attack(task.steps).train()
    madry, backward = who.art_madry(task), who.research_loop(task, grad=False)
    section = timed(f"PGD training step: {task.name}", ours, [madry, backward], limit, rounds)
    section.checks = [
        Check("PGD-3 step, ResNet-18: times MadryPGD", faster(madry, ours), 1.6, unit="x"),
        Check("PGD-3 step, ResNet-18: share of the limit", share(ours, limit), 0.90),
    ]
    return section


def trades(quick: bool) -> Section:
    task, rounds = SMALL, 3 if quick else 11
    ingredient = TRADES(eps=task.eps, steps=task.steps, step_size=task.step_size)
    ours = who.art_ext_fit(task, "art_ext", [ingredient])
    limit = limit_of(task).attack(task.steps, inner_kl).look(1).train(outer_trades)
    arts = who.art_trades(task)
    section = timed(f"TRADES training step: {task.name}", ours, [arts], limit, rounds)
    section.checks = [
        Check("TRADES step, small_cnn: times ART's", faster(arts, ours), 1.6, unit="x"),
        Check("TRADES step, small_cnn: share of the limit", share(ours, limit), 0.85),
    ]
    return section


def pc_lc(quick: bool) -> Section:
    task, rounds = SMALL, 3 if quick else 11
    ingredients = [pgd_at_of(task, clean_fraction=0.5), PCLC(warmup_epochs=0)]
    ours, criterion = who.art_ext_fit(task, "art_ext", ingredients), PCLCLoss()
    half = slice(task.batch_size // 2, None)
    limit = limit_of(task).attack(task.steps, rows=half)
    limit.train(lambda model, x, y: criterion(Outputs(model(x)), y).mean())
    section = timed(f"PC-LC x PGD training step, half of the rows clean: {task.name}", ours, [], limit, rounds)
    section.checks = [Check("PC-LC x PGD-10 step, small_cnn: share of the limit", share(ours, limit), 0.90)]
    return section


def methods(quick: bool) -> Section:
    section = Section(
        "Every method's training step beside its own limit",
        [
            "The limit's passes are timed each by itself, repeated, and in sequence, as a step takes them, where the "
            "activations of one pass do not find those of the one before in the cache; the share is of the latter. "
            "On the small images what a step needs besides its passes shows; methods where it shows most are timed "
            "on larger ones too.",
        ],
    )
    for task, chosen in ((SMALL, METHODS), (PHOTOS, [method for method in METHODS if method.name in FIXED])):
        section.lines += [
            "",
            f"{task.name}:",
            "",
            "| method | ms CPU | limit by itself, ms CPU | in sequence, ms CPU | share | passes of the limit |",
            "| --- | ---: | ---: | ---: | --- | --- |",
        ]
        for method in chosen:
            ours, limit = method.contender(task), method.limit(task)
            interleave(limit.contenders, 3 if task is SMALL else 1, warm_up=1)
            sequence = limit.in_sequence(task.batches)
            pieces = limit.contenders if task is SMALL else []
            interleave([ours, sequence, *pieces], 3 if quick else 7, warm_up=1)
            interleave([ours, sequence], 0 if quick or task is not SMALL else 14, warm_up=0)  # of a few ms, and noisy
            got = faster(sequence, ours)
            times = [ours.median("cpu"), median(limit.times("cpu")), sequence.median("cpu")]
            shown = " | ".join(f"{1e3 * time:.1f}" for time in times)
            section.lines.append(f"| {method.name} | {shown} | {got} | {limit.counts()} |")
            where = "" if task is SMALL else ", 3x32x32"
            section.checks.append(Check(f"{method.name}{where}: share of its limit", got, 0.85))
    return section


def attack(quick: bool) -> Section:
    n, steps = 256, 20
    task = Task(f"small_cnn, {n} images, PGD-{steps}", "small_cnn", (1, 8, 8), 128, 8, 0.1, steps)
    counted = who.CountedGradients(who.trained(task, 30)).eval()
    ours, arts = who.attacks(task, counted, n)
    passes = {}
    for contender in (ours, arts):
        contender.run()  # the first call makes the twin, which looks at gradients too
        who.CountedGradients.passes = 0
        contender.run()
        passes[contender.name] = who.CountedGradients.passes
    section = timed(f"PGD through ART's interface: {task.name}", ours, [arts], None, 3 if quick else 11)
    counts = ", ".join(f"{name} {count}" for name, count in passes.items())
    section.lines += ["", f"Gradient steps counted: {counts}."]
    section.lines += ["art_ext also keeps each image's best iterate and looks at the last one: a 21st forward pass."]
    section.checks = [Check("PGD-20 through ART's interface: times ART's", faster(arts, ours), 1.6, unit="x")]
    return section


def faithful(quick: bool) -> Section:
    tasks = [SMALL] if quick else [SMALL, RESNET]
    checks = []
    for task in tasks:
        same = same_pixels(task)
        checks.append(Check(f"same adversarial pixels as the plain loop, {task.make}", Ratio(same, same, same), 0.999))
    return Section("Faithfulness", [], checks)


def in_memory(quick: bool) -> Section:
    section = Section(
        "Memory: peak above what was resident, in copies of x (0.4 GB)", ["| | generate | fit |", "| --- | --- | --- |"]
    )
    for subject in memory.SUBJECTS[:1] if quick else memory.SUBJECTS:
        copies = {call: memory.extra_copies(subject, call) for call in memory.CALLS}
        section.lines.append(f"| {subject} | {copies['generate']:.2f} | {copies['fit']:.2f} |")
        if subject == "art_ext":
            for call, target in (("generate", 1.1), ("fit", 0.2)):
                got = Ratio(*[copies[call]] * 3)
                section.checks.append(Check(f"extra copies of x in {call}", got, target, at_most=True))
    return section


SECTIONS: dict[str, Make] = {
    "pgd_at": pgd_at,
    "resnet": resnet,
    "trades": trades,
    "pc_lc": pc_lc,
    "methods": methods,
    "attack": attack,
    "faithful": faithful,
    "memory": in_memory,
}
SLOW = ("resnet", "methods", "memory")
"""Left out of `--quick`, unless asked for by name."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds; no ResNet, methods, memory")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="one section; may be repeated")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    names = arguments.only or [name for name in SECTIONS if not (arguments.quick and name in SLOW)]
    began, sections = time.perf_counter(), []
    for name in names:
        sections.append(SECTIONS[name](arguments.quick))
        print("\n".join(["", f"### {sections[-1].title}", "", *sections[-1].lines]), flush=True)
    checks = [check for section in sections for check in section.checks]
    summary = ["### Summary", "", *report.checks_table(checks)]
    print("\n".join(["", *summary, "", report.machine(), f"{time.perf_counter() - began:.0f} s"]))
    if arguments.only or arguments.quick:
        print("benchmarks/README.md is left as it is: only a full run writes it")
        return
    lines = [f"Measured on: {report.machine()}.", "", *summary]
    for section in sections:
        if section.lines:
            lines += ["", f"### {section.title}", "", *section.lines]
    report.write(lines)


if __name__ == "__main__":
    main()
