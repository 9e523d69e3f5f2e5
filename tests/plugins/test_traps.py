"""The traps that all methods share, met by every installed ingredient: by discovery.

Two classes, a last batch of one (where a split leaves a part of the batch empty), saturated logits,
and logits that all tie. Each trains, its losses and weights finite, or is refused in one line.
"""

from __future__ import annotations

import functools

import pytest

from art_ext.errors import ConfigError
from art_ext.host.manager import default_manager
from art_ext.testing import train_tiny, trial_of

KINDS = default_manager().catalogue.ingredients
TRAPS = {
    "two classes": {"n_classes": 2},
    "a batch of one": {"images": 9},
    "a single image": {"images": 1},
    "saturated logits": {"sharpness": 1e4},
    "tied logits": {"sharpness": 0.0},
}


def refusal(ingredients, **trap):
    """Why they are not trained, or "" where they are."""
    try:
        train_tiny(ingredients, **trap)
    except ConfigError as error:
        return str(error)
    return ""


@functools.cache
def bases(name):
    """What an ingredient needs beside it: nothing, or one that attacks."""
    return [trial_of(KINDS["pgd_at"])] if refusal([trial_of(KINDS[name])]) else []


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_ingredient_survives_or_refuses(name, trap):
    why = refusal([*bases(name), trial_of(KINDS[name])], **TRAPS[trap])
    assert "\n" not in why
    assert not why or "n_classes" in TRAPS[trap], f"{trap} is no reason to refuse: {why}"
