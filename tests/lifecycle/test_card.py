"""The robustness card."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from art_ext.evaluation.record import Check, EvaluationRecord, RejectionResult, Verdict
from art_ext.lifecycle import card as cards
from art_ext.lifecycle.card import Card, Origin, plugin_facts

Record = Callable[..., EvaluationRecord]


def made(record: EvaluationRecord) -> Card:
    plugins = plugin_facts(["pc_lc", "baselines"])
    command = "art-ext harden digits/pc_lc_pgd_at --set track.register=digits"
    return Card(record, Origin("digits", command, "c" * 40, 3, {"use": ["pgd_at"]}, plugins))


def test_it_says_what_a_reader_must_know(record: Record, rejecting: RejectionResult) -> None:
    checks = (
        Check("masking", "", "fail", "gradients are masked"),
        Check("steps", "", "warn", "more steps find 1 more image"),
        Check("restarts", "", "pass", "restarts find nothing"),
        Check("eot", "", "not_run", "nothing is random"),
    )
    reasons = Verdict(0.5, 0.45, 0.55, False, "Do not trust the figures: gradients are masked.", ("masking",))
    noise = replace(rejecting, aim="distal", attack="noise", robust_error=None, unthresholded=None, fpr=0.25)
    text = made(record(checks=checks, verdict=reasons, rejection=(rejecting, noise))).markdown()
    for words in (
        "# Robustness card: digits",
        "**Not trusted.** Do not trust the figures: gradients are masked.",
        "| worst case, linf 0.15 | 50.0% (45.0% to 55.0%, n = 400) | 2.5% (1.2% to 4.5%, n = 400) |",
        "| clean images | 95.0% (92.4% to 96.9%, n = 400) | 98.0%",
        "perturbations of linf norm up to 0.15, of pixels in 0 to 1.",
        "- **fail** masking: gradients are masked",
        "- **warn** steps",
        "1 of 4 passed.",
        "No attack was run of these kinds: transfer, informed.",
        "These checks were not run: eot.",
        "transfer attacks are not installed.",
        "| square | black-box | linf 0.15, 40 steps | 50.0%",
        "confidence under pgd_confidence: keeps 99.0%",
        "confidence under noise: keeps 99.0% of what is right; FPR 25.0%, of noise that was made to look normal",
        "digest 0123abcd",
        "weights sha256:aaaa",
        "Method: pgd_at + pc_lc.",
        "- pc_lc (art_ext",
        "torch 2.10.0",
        "    art-ext harden digits/pc_lc_pgd_at --set track.register=digits",
        "raining seed 3; evaluation seed 0; commit cccc",
    ):
        assert words in text, words
    assert "restarts find nothing" not in text


def test_an_evaluation_without_a_baseline_or_an_end_says_so(record: Record) -> None:
    text = made(record(baseline=None, complete=False)).markdown()
    assert "not evaluated |" in text
    assert "No undefended model was evaluated beside it." in text
    assert "did not come to its end" in text


def test_it_fits_where_a_registry_puts_it(record: Record) -> None:
    mine = record()
    many = tuple(replace(mine.attacks[0], name=f"attack {i}") for i in range(300))
    card = made(record(attacks=many))
    assert len(card.markdown()) > 20000
    for longest in (5000, 1200, 600):
        short = card.markdown(longest)
        assert len(short) <= longest
        assert short.startswith("# Robustness card: digits\n\n**Trusted.**")
        assert short.endswith("artifact `card.md` of the run.")
    assert "## Limits" in card.markdown(5000)
    assert made(mine).markdown(50000) == made(mine).markdown()


def test_its_data_are_plain_and_without_secrets(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = record()
    hidden = replace(mine, data=replace(mine.data, source="https://ann:hunter2@host/digits"))
    card = Card(hidden, Origin("digits", "art-ext harden x --set track.uri=http://ann:hunter2@host"))
    data = json.loads(json.dumps(card.as_record(), allow_nan=False))
    assert data["worst_case"]["accuracy"] == 0.5
    assert data["undefended"]["worst_case"]["n"] == 400
    assert data["limits"] == card.limits()
    assert "hunter2" not in json.dumps(data) + card.markdown()


def test_the_digest_of_a_plugin_changes_with_any_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = plugin_facts(["pc_lc"])
    assert (found.name, found.distribution) == ("pc_lc", "art_ext")
    assert len(found.digest) == 64
    (unknown,) = plugin_facts(["nobody"])
    assert (unknown.distribution, unknown.digest) == ("unknown", "")
    package = Path(sys.modules["art_ext_pc_lc"].__file__ or "").parent if "art_ext_pc_lc" in sys.modules else None
    source = package or Path(__file__).parents[2] / "plugins" / "art_ext_pc_lc"
    shutil.copytree(source, tmp_path / "copied_plugin", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cards._digest_of_module("copied_plugin") == found.digest
    (tmp_path / "copied_plugin" / "__pycache__").mkdir()
    (tmp_path / "copied_plugin" / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert cards._digest_of_module("copied_plugin") == found.digest
    (tmp_path / "copied_plugin" / "README.md").write_text("changed")
    assert cards._digest_of_module("copied_plugin") != found.digest
    assert cards._digest_of_module("there_is_no_such_module") == ""
