"""Every registered ingredient alone, every pair, and triples with an attack and a trick: by discovery."""

from __future__ import annotations

import itertools
import random

import pytest

from art_ext.errors import ComposeError
from art_ext.host.manager import default_manager
from art_ext.testing import as_markdown, check_ingredient, same_weights, train_tiny, trial_of, try_pair

KINDS = default_manager().catalogue.ingredients
ALL = {name: trial_of(KINDS[name]) for name in sorted(KINDS)}
BASE = ALL["pgd_at"]
SPELT_OUT_DEFAULTS: dict[str, str] = {
    "eval_bn": "crafting in eval mode is the default",
}
"""Ingredients that change nothing beside others, each with why that is right."""


@pytest.mark.parametrize("name", ALL)
def test_each_ingredient_keeps_the_contract(name):
    if name in SPELT_OUT_DEFAULTS:
        train_tiny([BASE, ALL[name]])
        return
    try:
        check_ingredient(KINDS[name])
    except ComposeError:  # it works on the attack of another one
        check_ingredient(KINDS[name], [BASE])


@pytest.mark.parametrize("first", ALL)
def test_each_pair_trains_and_differs_from_either_alone_or_is_refused_with_both_names(first):
    for second in list(ALL)[list(ALL).index(first) + 1 :]:
        pair = try_pair(ALL[first], ALL[second])
        assert pair.idle in ("", *SPELT_OUT_DEFAULTS), f"{first} x {second}: {pair.idle} changes nothing"
        if pair.refused:
            assert "\n" not in pair.refused


@pytest.mark.slow
def test_triples_with_an_attack_and_a_trick_train_or_are_refused():
    generator = random.Random(0)
    tricks = [name for name in ALL if KINDS[name].__module__.startswith("art_ext_tricks")]
    triples = [
        (base, other, trick)
        for base, trick in itertools.product(("pgd_at", "trades"), tricks)
        for other in ALL
        if len({base, other, trick}) == 3
    ]
    trained = 0
    for names in generator.sample(triples, min(300, len(triples))):
        try:
            weights = train_tiny([ALL[name] for name in names])
        except ComposeError:
            continue
        trained += 1
        assert same_weights(weights, train_tiny([ALL[name] for name in names])), names
    assert trained > 0


def test_the_table_has_a_row_for_each_and_names_every_refusal():
    some = [ALL[name] for name in ("pgd_at", "trades", "pc_lc")]
    pairs = [try_pair(one, other) for one, other in itertools.combinations(some, 2)]
    text = as_markdown(some, pairs)
    assert "| 1 `pgd_at` |  | . | + |" in text
    assert "`pgd_at` x `trades`: pgd_at and trades both set the attack" in text
