"""Evaluations made by hand, and no tracking settings but the tests' own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from art_ext.evaluation.record import (
    AttackResult,
    Baseline,
    Check,
    DataInfo,
    Estimate,
    EvaluationRecord,
    ModelInfo,
    RejectionResult,
    Verdict,
)
from art_ext.evaluation.threat import Threat


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DO_NOT_TRACK", "true")


def attack(name: str, right: int, n: int = 400, **changes: Any) -> AttackResult:
    found = Estimate.of(right, n)
    known = AttackResult(
        name, "gradient", "linf 0.15, 40 steps", found.accuracy, found.low, found.high, n, n, 40 * n, 40 * n, 1.0, 0
    )
    return replace(known, **changes)


@pytest.fixture
def record() -> Callable[..., EvaluationRecord]:
    """`record(clean=380, robust=200, n=400, ...)`: right answers, and any field of EvaluationRecord."""

    def made(clean: int = 380, robust: int = 200, n: int = 400, **changes: Any) -> EvaluationRecord:
        worst = Estimate.of(robust, n)
        known = EvaluationRecord(
            model=ModelInfo("runs/mine", "sha256:" + "a" * 64, ("pgd_at", "pc_lc"), {"train": {"seed": 3}}),
            data=DataInfo("digits", "sklearn", "0123abcd", n, tuple("0123456789")),
            threat=Threat("linf", 0.15),
            suite="standard",
            seed=0,
            clean=Estimate.of(clean, n),
            attacks=(attack("pgd40", robust + 4, n), attack("square", robust, n, family="black-box")),
            worst_case=worst,
            verdict=Verdict(worst.accuracy, worst.low, worst.high, True, "No check speaks against the figures."),
            checks=(
                Check("black_box", "Black-box attacks", "pass", "no black-box attack beats the gradients"),
                Check("steps", "More steps", "warn", "more steps find 1 more image"),
            ),
            baseline=Baseline(Estimate.of(n - 8, n), (attack("pgd40", 12, n),), Estimate.of(10, n)),
            versions={"torch": "2.10.0"},
            notes=("transfer attacks are not installed",),
        )
        return replace(known, **changes)

    return made


@pytest.fixture
def rejecting() -> RejectionResult:
    return RejectionResult(
        "confidence", "pgd_confidence", "evade", 0.99, 0.4, 0.99, 0.02, 0.2, 0.5, 0.3, 0.4, 0.9, 0.9, 380, 400
    )
