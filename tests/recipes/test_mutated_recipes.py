"""500 recipes with one thing wrong, in one process: no traceback, and each complaint one line that names its field."""

from __future__ import annotations

import mutations
import pytest

from art_ext.errors import ArtExtError
from art_ext.host.manager import default_manager
from art_ext.host.recipe import load_recipe

HOW_MANY = 500
LONGEST = 700


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What loading and resolving each mutation raised (None: nothing), with the words it must name."""
    catalogue, file = default_manager().catalogue, tmp_path_factory.mktemp("mutated") / "r.yaml"
    found = []
    for number in range(HOW_MANY):
        text, words = mutations.mutated(number)
        file.write_text(text, encoding="utf-8")
        try:
            load_recipe(file, catalogue=catalogue).resolved(catalogue)
            found.append((number, words, None))
        except Exception as error:
            found.append((number, words, error))
    return found


def test_nothing_but_errors_of_ours_is_raised(outcomes):
    raised = [(number, error) for number, _, error in outcomes if error is not None]
    assert [(number, repr(error)) for number, error in raised if not isinstance(error, ArtExtError)] == []


def test_most_mutations_are_mistakes(outcomes):
    """A reader that took everything would pass the other tests."""
    assert sum(error is not None for _, _, error in outcomes) > 0.7 * HOW_MANY


def test_each_complaint_is_one_line_that_names_its_field(outcomes):
    for number, words, error in outcomes:
        if error is None:
            continue
        lines = list(getattr(error, "lines", [str(error)]))
        assert lines, number
        assert all(line.isprintable() and len(line) < LONGEST for line in lines), (number, lines)
        assert not words or any(word in line for word in words for line in lines), (number, words, lines)
        assert "Traceback" not in str(error)


def test_the_same_mutations_each_time():
    assert mutations.mutated(7) == mutations.mutated(7)
    assert len({mutations.mutated(number)[0] for number in range(100)}) > 95
