"""The table: printed, and written between the markers of README.md."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.timing import CLOCKS, Contender, Ratio

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


@dataclass(frozen=True)
class Check:
    """A figure that art_ext is to reach."""

    what: str
    got: Ratio
    target: float
    at_most: bool = False
    unit: str = ""

    @property
    def reached(self) -> bool:
        return self.got.median <= self.target if self.at_most else self.got.median >= self.target

    def row(self) -> str:
        sign, reached = "<=" if self.at_most else ">=", "yes" if self.reached else "**no**"
        return f"| {self.what} | {sign} {self.target:g}{self.unit} | {self.got} | {reached} |"


def timing_table(contenders: Sequence[Contender], ours: Contender, limits: dict[str, list[float]]) -> list[str]:
    """Medians, ratios to art_ext and shares of the limit; spreads are quartiles of paired rounds."""
    lines = [
        "| | ms CPU | ms wall | art_ext is faster by, CPU | by, wall | share of the limit, CPU |",
        "| --- | ---: | ---: | --- | --- | --- |",
    ]
    for contender in contenders:
        cpu, wall = (1e3 * contender.median(clock) for clock in CLOCKS)
        if contender is ours:
            faster = ["", ""]
        else:
            faster = [str(Ratio.of(contender.times[clock], ours.times[clock])) for clock in CLOCKS]
        share = str(Ratio.of(limits["cpu"], contender.times["cpu"])) if limits else ""
        lines.append(f"| {contender.name} | {cpu:.1f} | {wall:.1f} | {faster[0]} | {faster[1]} | {share} |")
    return lines


def checks_table(checks: Sequence[Check]) -> list[str]:
    return ["| figure | target | measured | reached |", "| --- | --- | --- | --- |", *(check.row() for check in checks)]


def machine() -> str:
    """Processor, cores, threads and versions; nothing that names the machine."""
    model = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        model = found[1].strip() if found else model
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{model} ({capability}), {torch.get_num_threads()} of {os.cpu_count()} cores used, "
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"ART {version('adversarial-robustness-toolbox')}"
    )


def write(lines: Sequence[str]) -> None:
    """Replaces what stands between the markers.

    Raises:
        RuntimeError: when README.md has lost its markers.
    """
    text = README.read_text()
    if BEGIN not in text or END not in text:
        raise RuntimeError(f"{README.name} has no lines {BEGIN} and {END}; put them back")
    head, rest = text.split(BEGIN)
    README.write_text(head + "\n".join([BEGIN, "", *lines, "", END]) + rest.split(END)[1])
