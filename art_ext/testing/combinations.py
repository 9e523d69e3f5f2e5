"""Ingredients together: pairs trained in both orders, alone or beside a third, or refused; and the page of them all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from art_ext.engine.offers import needs_of
from art_ext.errors import ComposeError
from art_ext.ingredient import Ingredient
from art_ext.plan import Plan
from art_ext.testing.ingredients import FACTS, same_weights, train_tiny


@dataclass(frozen=True)
class Pair:
    """What became of two ingredients together.

    Attributes:
        refused: why they cannot be combined, or "" where they trained.
        idle: the one of the two without which the result is the same, or "".
        beside: the third ingredient without which neither of them trains, or "".
        order: what depends on the order in which they are listed, or "" where nothing does.
    """

    names: tuple[str, str]
    refused: str = ""
    idle: str = ""
    beside: str = ""
    order: str = ""


class Trials:
    """Trainings of combinations on the same network and images, each made once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], dict[str, Tensor] | None] = {}

    def train(self, ingredients: Sequence[Ingredient], members: bool) -> dict[str, Tensor] | None:
        """The weights after `train_tiny`, or None where the combination is refused."""
        key = (str(members), *map(repr, ingredients))
        if key not in self._known:
            try:
                self._known[key] = train_tiny(ingredients, members=members)
            except ComposeError:
                self._known[key] = None
        return self._known[key]

    def pair(self, one: Ingredient, other: Ingredient, bases: Sequence[Ingredient] = ()) -> Pair:
        """Two ingredients in both orders, each of them left out in turn.

        Args:
            bases: beside the first of these that makes them train they are tried where both lack something.

        Raises:
            AssertionError: as `train_tiny`; for a refusal that does not name both, or the one that lacks
                something; and where the order changes the result, and nothing in the plan shows it.
        """
        found, lacking = self._together(one, other, ())
        for base in bases if lacking else ():
            if base.name not in found.names:
                again, _ = self._together(one, other, (base,))
                if not again.refused:
                    return replace(again, beside=base.name)
        return found

    def triple(self, base: Ingredient, one: Ingredient, other: Ingredient) -> Pair:
        """As `pair`, with a third ingredient before the two; `idle` may be the third."""
        found, lacking = self._together(one, other, (base,))
        assert not lacking, f"{base.name}, {one.name} and {other.name}: no two of them are named in: {found.refused}"
        if found.refused or found.idle:
            return found
        works = self._working((one, other), (base,))[0]
        members = "members" in needs_of(Plan.of(works, FACTS))
        whole, without = self.train(works, members), self.train(works[1:], members)
        same = whole is not None and without is not None and same_weights(whole, without)
        return replace(found, idle=base.name) if same else found

    def _working(
        self, two: tuple[Ingredient, Ingredient], beside: tuple[Ingredient, ...]
    ) -> list[tuple[Ingredient, ...]]:
        """The orders that are not refused."""
        orders = [(*beside, *two), (*beside, *two[::-1])]
        return [order for order in orders if not isinstance(_planned(order), ComposeError)]

    def _together(self, one: Ingredient, other: Ingredient, beside: tuple[Ingredient, ...]) -> tuple[Pair, bool]:
        """What becomes of two, and whether they are refused only for what both of them lack."""
        names, orders = (one.name, other.name), [(*beside, one, other), (*beside, other, one)]
        plans = [_planned(order) for order in orders]
        errors = [plan for plan in plans if isinstance(plan, ComposeError)]
        works = [(order, plan) for order, plan in zip(orders, plans, strict=True) if isinstance(plan, Plan)]
        if not works:
            reason, lacking = _reason(errors, (*beside, one, other))
            return Pair(names, refused=reason), lacking
        members = "members" in needs_of(works[0][1])
        weights = [self._trained(order, members) for order, _ in works]
        order = ""
        if errors:
            order, lacking = _reason(errors, (one, other))
            assert not lacking, f"the order of {one.name} and {other.name} is refused without naming both: {order}"
        elif not same_weights(*weights):
            order = _difference(works[0][1], works[1][1])
            assert order, f"the order of {one.name} and {other.name} changes the result; nothing in the plan shows it"
        for left_out, kept in ((other, one), (one, other)):
            alone = self.train((*beside, kept), members)
            if alone is not None and any(same_weights(alone, found) for found in weights):
                return Pair(names, idle=left_out.name, order=order), False
        return Pair(names, order=order), False

    def _trained(self, ingredients: Sequence[Ingredient], members: bool) -> dict[str, Tensor]:
        weights = self.train(ingredients, members)
        assert weights is not None, "a plan that was accepted is refused by its training"
        return weights


def _planned(ingredients: Sequence[Ingredient]) -> Plan | ComposeError:
    try:
        return Plan.of(ingredients, FACTS)
    except ComposeError as error:
        return error


def _reason(errors: Sequence[ComposeError], ingredients: Sequence[Ingredient]) -> tuple[str, bool]:
    """Why a combination is refused, and whether that is only for what some of it lack.

    A refusal names two of the ingredients, in words as well; or it is that of one that is refused by
    itself, since none of the others brings what it lacks.
    """
    names = {ingredient.name for ingredient in ingredients}
    named = []
    for error in errors:
        both = [problem for problem in error.problems if len(names & set(problem.names)) > 1]
        for problem in error.problems:
            silent = [name for name in problem.names if name in names and name not in problem.message]
            assert not silent, f"a refusal is about {silent[0]} and does not say so: {problem.message}"
            assert "; " in problem.message, f"a refusal does not say what to do: {problem.message}"
        named.append(both)
    if all(named):
        return named[0][0].message, False
    lone = {ingredient.name for ingredient in ingredients if isinstance(_planned([ingredient]), ComposeError)}
    first = next(error for error, both in zip(errors, named, strict=True) if not both).problems[0]
    assert lone & set(first.names), f"the refusal names none of {', '.join(sorted(names))}: {first.message}"
    return first.message, True


def _difference(one: Plan, other: Plan) -> str:
    """The first line in which two plans of the same ingredients in other orders describe themselves differently."""
    first, second = (f"[{', '.join(plan.used)}]" for plan in (one, other))
    for (slot, part, owner), (_, changed, changer) in zip(one.describe(), other.describe(), strict=True):
        by, other_by = (who.partition(",")[0] for who in (owner, changer))
        if by != other_by:
            return f"in {first} the {slot} is that of {by}, in {second} that of {other_by}"
        if part != changed:
            return f"in {first} the {slot} is {part}, in {second} {changed}"
    return ""


def try_pair(one: Ingredient, other: Ingredient, bases: Sequence[Ingredient] = ()) -> Pair:
    """Trains two ingredients together in both orders, and each alone on the same network; see `Trials.pair`."""
    return Trials().pair(one, other, bases)


def try_all(ingredients: Sequence[Ingredient], bases: Sequence[Ingredient] = ()) -> list[Pair]:
    """Every pair, as `Trials.pair`."""
    trials = Trials()
    return [trials.pair(one, other, bases) for one, other in itertools.combinations(ingredients, 2)]


def as_markdown(ingredients: Sequence[Ingredient], pairs: Sequence[Pair]) -> str:
    """The table of all pairs; which of them depend on the order; and every refusal with its reason."""
    names = [ingredient.name for ingredient in ingredients]
    found = {frozenset(pair.names): pair for pair in pairs}
    beside = sorted({pair.beside for pair in pairs if pair.beside})
    lines = [
        "# Which ingredients go together",
        "",
        "Written by `make docs`: every pair is trained for two steps on a tiny network, in both orders, or refused",
        "before. `+` trains, and differs from either alone; `b` does so beside an ingredient that trains on an attack",
        f"({', '.join(beside) or 'none was tried'}), without which both lack one; `.` is refused (reasons below);",
        "`=` trains, but one of the two changes nothing beside the other; `*` marks pairs whose order matters.",
        "",
        "| | " + " | ".join(str(i + 1) for i in range(len(names))) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for i, one in enumerate(names):
        marks = [_mark(found.get(frozenset((one, other)))) for other in names]
        lines.append(f"| {i + 1} `{one}` | " + " | ".join(marks) + " |")
    lines += [
        "",
        "## Order",
        "",
        "The order of `use:` (and of a list in Python) matters in three ways. What goes around the step goes around",
        "what is listed before it; an order that would be wrong is refused. Of two ingredients that bring an attack",
        "where nobody else sets one, the first does. Changes of the network are made in order. All pairs but these",
        "give the same weights bit for bit in both orders.",
        "",
    ]
    lines += [f"- {_title(pair)}: {pair.order}" for pair in pairs if pair.order]
    lines += ["", "## Refused", ""]
    lines += [f"- {_title(pair)}: {pair.refused}" for pair in pairs if pair.refused]
    idle = {name: [one for pair in pairs if pair.idle == name for one in pair.names if one != name] for name in names}
    if any(idle.values()):
        lines += ["", "## One changes nothing", ""]
        lines += [f"- `{name}` beside {', '.join(others)}" for name, others in idle.items() if others]
    return "\n".join(lines) + "\n"


def _title(pair: Pair) -> str:
    return f"`{pair.names[0]}` x `{pair.names[1]}`" + (f" (beside `{pair.beside}`)" if pair.beside else "")


def _mark(pair: Pair | None) -> str:
    if pair is None:
        return ""
    mark = "." if pair.refused else "=" if pair.idle else "b" if pair.beside else "+"
    return f"{mark}*" if pair.order else mark
