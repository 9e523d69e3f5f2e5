"""The limits that methods are held to: what a step takes, in the order in which it takes it."""

from __future__ import annotations

import pytest

from benchmarks.limit import Limit
from benchmarks.methods import METHODS, Method
from benchmarks.nets import Task

TINY = Task("tiny", "small_cnn", (1, 8, 8), 16, 2, 0.15, 4)


def _limit(name: str) -> tuple[Method, Limit]:
    method = next(method for method in METHODS if method.name == name)
    return method, method.limit(TINY)


@pytest.mark.parametrize("name", ["fat", "early_stop_steps x pgd_at"])
def test_a_stopped_attack_is_held_to_its_own_passes_in_their_order(name: str) -> None:
    _, limit = _limit(name)
    assert [limit.order.count(number) for number in range(len(limit.pieces))] == [p.count for p in limit.pieces]
    words = [limit.pieces[number].variants[0].name.split(":")[0] for number in limit.order]
    train = [place for place, word in enumerate(words) if word == "train"]
    assert len(train) == limit.steps == TINY.batches
    assert train[-1] == len(words) - 1, "each step ends with its update"
    assert words[0] == "attack"
    assert words.count("attack") <= TINY.steps * TINY.batches


def test_a_sequence_takes_the_pieces_in_the_order_it_was_given() -> None:
    method = METHODS[0]
    limit = Limit(method.model(TINY), *TINY.data(1))
    for name, count in (("a", 2), ("b", 1)):
        limit.add(name, lambda model, x, y, name=name: lambda: said.append(name), count)  # type: ignore[misc]
    for variant in limit.contenders:
        variant.times["cpu"].append(1.0)
    said: list[str] = []
    limit.in_sequence(1).run()
    assert said == ["a", "a", "b"]
    said.clear()
    limit.order = [0, 1, 0]
    limit.in_sequence(2).run()
    assert said == ["a", "b", "a"] * 2
