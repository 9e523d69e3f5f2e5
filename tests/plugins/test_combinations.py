"""Every registered ingredient alone, every pair in both orders, and triples with an attack: by discovery."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from art_ext.api import PGD, ComposeError, Ingredient, Linf, Madry, Paper, Problem
from art_ext.host.manager import default_manager
from art_ext.testing import Pair, Trials, as_markdown, check_ingredient, train_tiny, trial_of

pytestmark = pytest.mark.usefixtures("nobody_sends")

PAGE = Path(__file__).parents[2] / "docs" / "combinations.md"
KINDS = default_manager().catalogue.ingredients
ALL = {name: trial_of(KINDS[name]) for name in sorted(KINDS)}
BASE = ALL["pgd_at"]
SPELT_OUT_DEFAULTS: dict[str, str] = {
    "eval_bn": "crafting in eval mode is the default",
}
"""Ingredients that change nothing beside others, each with why that is right."""
BOTH_ORDERS: dict[tuple[str, str], str] = {
    ("bag", "fat"): "each brings an attack where nobody else sets one: the first does, and the other changes it",
}
"""Pairs that train in both orders and do not come to the same, each with why that is right."""
TRIALS = Trials()


@functools.cache
def pair_of(first: str, second: str) -> Pair:
    return TRIALS.pair(ALL[first], ALL[second], [BASE])


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
        pair = pair_of(first, second)
        assert pair.idle in ("", *SPELT_OUT_DEFAULTS), f"{first} x {second}: {pair.idle} changes nothing"
        for said in (pair.refused, pair.order):
            assert "\n" not in said
        if pair.refused:
            assert first in pair.refused, f"{first} x {second}: {pair.refused}"
            assert second in pair.refused, f"{first} x {second}: {pair.refused}"
        known = (first, second) in BOTH_ORDERS
        assert not pair.order or known or "so that it goes around" in pair.order, f"{first} x {second}: {pair.order}"


def test_the_page_is_what_the_command_writes():
    pairs = [pair_of(first, second) for first, second in itertools.combinations(ALL, 2)]
    assert PAGE.read_text() == as_markdown(list(ALL.values()), pairs), "run make docs"
    assert {pair.names for pair in pairs if pair.order and "goes around" not in pair.order} == set(BOTH_ORDERS)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["pgd_at", "trades"])
def test_all_triples_with_an_attack_train_and_need_each_of_the_three_or_are_refused(base):
    trained = 0
    for one, other in itertools.combinations([name for name in ALL if name != base], 2):
        found = TRIALS.triple(ALL[base], ALL[one], ALL[other])
        assert found.idle in ("", *SPELT_OUT_DEFAULTS), f"{base} x {one} x {other}: {found.idle} changes nothing"
        if found.refused:
            named = [name for name in (base, one, other) if name in found.refused]
            assert len(named) > 1, f"{base} x {one} x {other}: {found.refused}"
        known = (one, other) in BOTH_ORDERS
        assert not found.order or known or "so that it goes around" in found.order, f"{base}, {found}"
        trained += not found.refused
    assert trained > 300


def test_the_table_has_a_row_for_each_and_names_every_refusal():
    some = [ALL[name] for name in ("pgd_at", "trades", "pc_lc")]
    pairs = [TRIALS.pair(one, other) for one, other in itertools.combinations(some, 2)]
    text = as_markdown(some, pairs)
    assert "| 1 `pgd_at` |  | . | + |" in text
    assert "`pgd_at` x `trades`: pgd_at and trades both set the attack" in text


def no_gradient(step):
    for parameter in step.net.module[4].parameters():
        parameter.grad = None
    step.apply()


FAULTS = {
    "another mode": lambda step: step.net.module[1].eval(),
    "requires_grad": lambda step: step.net.module[0].requires_grad_(False),
    "global generator": lambda step: torch.rand(()),
    "0.fixed is not trained, but has moved": lambda step: step.net.module[0].fixed.add_(1),
}


class Fault(Ingredient):
    """An ingredient that does something wrong at each step."""

    name = "fault"
    paper = Paper("-", "-", "-", 2020)
    fault: ClassVar = staticmethod(lambda step: None)

    def apply(self, plan):
        def make(then):
            def update(step):
                then(step)
                self.fault(step)

            return update

        def add(module, facts):
            module[0].register_buffer("fixed", torch.zeros(1))
            return module

        return plan.reshape(self, add).wrap(self, make)


@pytest.mark.parametrize("said", FAULTS)
def test_the_contract_sees_what_is_not_as_it_was(said, monkeypatch):
    train_tiny([BASE, Fault()])
    monkeypatch.setattr(Fault, "fault", staticmethod(FAULTS[said]))
    with pytest.raises(AssertionError, match=said):
        train_tiny([BASE, Fault()])


class Idle(Ingredient):
    """Keeps the gradient from all layers before the last norm."""

    name = "idle"
    paper = Paper("-", "-", "-", 2020)

    def apply(self, plan):
        def cut(module, facts):
            module[4].register_forward_pre_hook(lambda norm, args: (args[0].detach(),))
            return module

        return plan.reshape(self, cut)


def test_the_contract_sees_parameters_that_stay():
    with pytest.raises(AssertionError, match=r"0\.weight is trained, but has not moved"):
        train_tiny([Idle()])


class First(Ingredient):
    """Doubles the first layer's weights before training, and `Second` adds 1 to them."""

    name = "first"
    paper = Paper("-", "-", "-", 2020)

    def apply(self, plan):
        return plan.arrange(self, change_weights(lambda weight: weight.mul_(2)))


class Second(Ingredient):
    name = "second"
    paper = Paper("-", "-", "-", 2020)

    def apply(self, plan):
        return plan.arrange(self, change_weights(lambda weight: weight.add_(1)))


def change_weights(change):
    def arrange(optimizer, net):
        with torch.no_grad():
            change(net.module[0].weight)
        return lambda: None

    return arrange


def test_an_order_that_matters_is_seen():
    pair = Trials().pair(First(), Second())
    assert pair.order.startswith("in [first, second] the optimizer is that of first, in [second, first] that of second")
    assert "`first` x `second`: in [first, second]" in as_markdown([First(), Second()], [pair])


class Unsaid(Ingredient):
    name = "unsaid"
    paper = Paper("-", "-", "-", 2020)

    def apply(self, plan):
        if "pgd_at" in plan.used:
            return plan.object_to(Problem("unsaid does not go; remove it", ("unsaid", "pgd_at")))
        return plan.fill(self, attack=PGD(Linf(0.1)), risk=Madry())


def test_a_refusal_that_does_not_say_both_names_is_seen():
    with pytest.raises(AssertionError, match="a refusal is about pgd_at and does not say so"):
        Trials().pair(BASE, Unsaid())
