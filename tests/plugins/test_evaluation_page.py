"""docs/evaluation.md names every attack that is installed, with each of its options, and every check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from art_ext.evaluation import trust
from art_ext.host.manager import default_manager

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*)$", PAGE, re.MULTILINE))
ATTACKS = default_manager().catalogue.attacks
LIKE = {"mim": "bim", "criterion_pgd": "cw_margin"}
"""Rows that refer to the options of another."""


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_each_attack_has_a_row_with_its_options(name):
    told = ROWS[name] + (ROWS[LIKE[name]] if name in LIKE else "")
    for option in ATTACKS[name].options.model_fields:
        assert f"`{option}" in told, f"{name}.{option}"


def test_no_attack_is_named_that_is_not_there():
    table = PAGE.split("## Every attack")[1].split("## ART's own attacks")[0]
    assert set(re.findall(r"^\| `(\w+)` ", table, re.MULTILINE)) == set(ATTACKS)


def test_every_check_is_explained():
    checks = PAGE.split("## The checks")[1].split("## Rejection")[0]
    for name in (*trust.BY_GRADIENTS, "random_answers", "batch", "labels", "seen_data", "adaptive", "clean"):
        assert f"`{name}`" in checks
