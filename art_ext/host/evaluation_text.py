"""An evaluation as lines of text, and its progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from art_ext.evaluation.record import UNDEFENDED, AttackResult, EvaluationRecord
from art_ext.evaluation.trials import Tick

TOGETHER = "+"
"""Marks what an attack left of the images that stood when its turn came."""
_TOGETHER = "together with the attacks before it, which left fewer images to run it on"
EVERY = 15.0
"""Seconds between two lines of progress where there is no terminal."""


def lines_of(record: EvaluationRecord) -> list[str]:
    """The record as plain lines: attacks, checks, detectors, verdict."""
    beside = {} if record.baseline is None else {result.name: result for result in record.baseline.attacks}
    peers = [(peer, {result.name: result for result in peer.attacks}) for peer in record.beside]
    names = [peer.name for peer, _ in peers]
    other = UNDEFENDED if record.baseline is None else record.baseline.name
    rows = [("attack", "accuracy (95% interval)", other, *names, "images", "forwards", "backwards", "seconds")]
    clean, clean_of = record.clean, [f"{peer.clean.accuracy:.3f}" for peer in record.beside]
    rows.append(("clean", _share(clean.accuracy, clean.low, clean.high), _bare(record), *clean_of, "", "", "", ""))
    for item in record.attacks:
        rows.append(
            (
                item.name + ("" if item.bounded else " (outside the ball)"),
                "failed" if item.error else _share(item.accuracy, item.low, item.high) + _mark(item),
                *(_other(known, item.name) for known in (beside, *(found for _, found in peers))),
                str(item.attacked),
                f"{item.forwards:,}",
                f"{item.backwards:,}",
                f"{item.seconds:.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    checks = [f"  {_MARKS[check.status]} {check.title}: {check.sentence}" for check in record.checks]
    return [
        "",
        *table,
        *([] if all(item.everywhere for item in record.attacks) else [f"{TOGETHER} {_TOGETHER}"]),
        "",
        "trust checks",
        *checks,
        *_rejections(record),
        *(f"note: {note}" for note in record.notes),
        "",
        record.verdict.sentence,
    ]


_MARKS = {"pass": "ok      ", "fail": "FAIL    ", "warn": "warn    ", "not_run": "not run "}


def _other(known: Mapping[str, AttackResult], name: str) -> str:
    return f"{known[name].accuracy:.3f}{_mark(known[name])}" if name in known else "-"


def _mark(result: AttackResult) -> str:
    return "" if result.everywhere else TOGETHER


def _rejections(record: EvaluationRecord) -> list[str]:
    lines = []
    for item in record.rejection:
        at = f"{item.detector} at {item.asked_tpr:.0%} TPR"
        if item.aim == "listed" and item.asked_tpr != record.rejection[0].asked_tpr:
            continue
        if item.aim == "distal":
            lines.append(f"  {at}: {item.fpr:.1%} of noise images that were made to look normal are kept")
        elif item.robust_error is not None and item.unthresholded is not None and item.aim != "deny":
            auc = "none" if item.auc is None else f"{item.auc:.3f}"
            under = f" under {item.attack}" if item.aim == "listed" else ""
            lines.append(
                f"  {at}{under}: robust error {item.robust_error:.1%} of what is kept ({item.unthresholded:.1%} with "
                f"nothing rejected), FPR {item.fpr:.1%}, AUC {auc}"
            )
        elif item.denied is not None:
            lines.append(f"  {at}: an attacker gets {item.denied:.1%} of good inputs rejected or wrong")
    return ["", "rejection", *lines] if lines else []


def _share(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f}-{high:.3f})"


def _bare(record: EvaluationRecord) -> str:
    return "-" if record.baseline is None else f"{record.baseline.clean.accuracy:.3f}"


class Progress:
    """Where an evaluation stands, on stderr: one line that changes on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self.tty, self.last, self.open = sys.stderr.isatty(), time.monotonic(), False

    def __call__(self, tick: Tick) -> None:
        now = time.monotonic()
        if now - self.last < (0.1 if self.tty else EVERY):
            return
        self.last = now
        left = "" if tick.seconds_left is None else f", about {_duration(tick.seconds_left)} left"
        line = f"attack {tick.number} of {tick.of}, {tick.name}: {tick.done} of {tick.total} images{left}"
        if self.tty:
            sys.stderr.write(f"\r\x1b[K{line}")
            self.open = True
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Clears the line."""
        if self.open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
