"""A claim as data: what a paper says, the trainings that are compared, what is measured, and the direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.claims.intervals import Claimed, Combine, Value, difference

if TYPE_CHECKING:
    from benchmarks.claims.trained import Trained


@dataclass(frozen=True)
class Training:
    """A recipe of recipes/digits with changes, as `art-ext harden RECIPE --set CHANGE` takes them.

    Attributes:
        follow: what is scored after each epoch on held-out images: "clean", "robust" (the best epoch's
            weights are then kept beside the last), or nothing.
        wants: extra outputs that its measures read.
    """

    name: str
    recipe: str
    changes: tuple[str, ...] = ()
    follow: str = ""
    wants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """A quantity of a trained network: one number, or one for each test image.

    Attributes:
        name: unique; part of what a unit of work is known by.
        words: as tables show it.
        percent: whether tables show it as per cent.
    """

    name: str
    words: str
    take: Callable[[Trained], Value]
    percent: bool = True


@dataclass(frozen=True)
class Term:
    """One measured quantity of one training."""

    training: Training
    measure: Measure


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is looked for.

    Attributes:
        name: unique, short.
        where: the place in the paper.
        says: the claim in a sentence.
        figure: what the paper reports, in its own setting.
        terms: what is compared; `combine` makes one number of them, the difference of two by default.
        claimed: the direction of that number, set before anything was measured.
    """

    name: str
    where: str
    says: str
    terms: tuple[Term, ...]
    claimed: Claimed
    figure: str = ""
    combine: Combine = difference

    @property
    def percent(self) -> bool:
        return all(term.measure.percent for term in self.terms)


@dataclass(frozen=True)
class Paper:
    """A paper with its claims, in the order of the page.

    Attributes:
        unseen: claims of the method's sheet that are not tried here, and why.
    """

    title: str
    method: str
    claims: tuple[Claim, ...]
    unseen: str = ""
