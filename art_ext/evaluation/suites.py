"""Which attacks a suite runs, as data. Names are looked up among what the plugins offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from art_ext.errors import ConfigError, unknown


@dataclass(frozen=True)
class Wanted:
    """One attack by name.

    Attributes:
        options: of its entry; those that the entry does not have are left out.
        everywhere: on every image that is right when clean, so that it can be compared with others; else on
            what still stands.
        optional: it needs something that not every evaluation has (another network, a pixel range), and is left
            out without a word where that is missing.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    everywhere: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Suite:
    """The attacks of an evaluation, besides those that every one runs (see `lineup.core`).

    Attributes:
        tries: random points of the ball that each image is tried at.
        caps: largest values of options of informed attacks; they run at their own where they have fewer.
        effort: steps and restarts of the attack that asks whether more effort would have found more.
        curve: rounds of bisection, and steps in each.
        answers: what is wanted of a classifier that gives answers and no gradients.
        evasion: wrong classes, steps and restarts of the attack on a detector.
        confidence: the same of the attack on the confidence of a network that rejects nothing itself.
        dearest: passes an image that an informed attack may take, at most; dearer ones are left out with a note.
    """

    name: str
    summary: str
    wanted: tuple[Wanted, ...]
    tries: int
    caps: Mapping[str, int]
    effort: tuple[int, int]
    curve: tuple[int, int]
    evasion: tuple[int, int, int] = (9, 20, 1)
    confidence: tuple[int, int, int] = (3, 10, 1)
    dearest: float = float("inf")
    other_norms: bool = False
    answers: tuple[Wanted, ...] = ()


QUICK = Suite(
    "quick",
    "short attacks of every kind and all trust checks; minutes on small networks",
    (
        Wanted("transfer", {"steps": 20}, everywhere=True, optional=True),
        Wanted("apgd", {"objective": "ce", "steps": 30}),
        Wanted("apgd", {"objective": "targeted_dlr", "steps": 20, "targets": 4}),
        Wanted("square", {"queries": 400}, everywhere=True),
    ),
    tries=60,
    caps={"steps": 40, "restarts": 1, "search_steps": 3, "queries": 400},
    effort=(40, 1),
    curve=(5, 8),
    dearest=100,
    answers=(
        Wanted("transfer", {"steps": 20}, everywhere=True, optional=True),
        Wanted("square", {"queries": 1000}, everywhere=True),
        Wanted("rays", {"queries": 500}, optional=True),
        Wanted("spsa", {"steps": 20, "samples": 16}),
    ),
)
STANDARD = Suite(
    "standard",
    "AutoAttack, informed and black-box attacks, and all trust checks: the figure to publish",
    (
        Wanted("transfer", {"steps": 50}, everywhere=True, optional=True),
        Wanted("square", {"queries": 1000}, everywhere=True),
        Wanted("autoattack"),
    ),
    tries=200,
    caps={"steps": 200, "restarts": 5, "search_steps": 5, "queries": 5000},
    effort=(200, 2),
    curve=(7, 20),
    answers=(
        Wanted("transfer", {"steps": 50}, everywhere=True, optional=True),
        Wanted("square", {"queries": 5000}, everywhere=True),
        Wanted("rays", {"queries": 5000}, optional=True),
        Wanted("spsa", {"steps": 50, "samples": 64}),
    ),
    evasion=(9, 100, 2),
    confidence=(3, 40, 1),
    dearest=20_000,
)
FULL = Suite(
    "full",
    "everything: long PGD with restarts, other black-box attacks, other norms, corruptions",
    (
        Wanted("transfer", {"steps": 100, "restarts": 3}, everywhere=True, optional=True),
        Wanted("square", {"queries": 2000}, everywhere=True),
        Wanted("autoattack"),
        Wanted("pgd", {"steps": 1000, "objective": "margin"}),
        Wanted("pgd", {"steps": 100, "restarts": 10, "objective": "margin"}),
        Wanted("pgd", {"steps": 100, "restarts": 10, "objective": "ce"}),
        Wanted("mim", {"steps": 50}),
        Wanted("spsa", {}),
        Wanted("rays", {}),
        Wanted("frames", {}, optional=True),
        Wanted("corruptions", {}, everywhere=True, optional=True),
    ),
    tries=1000,
    caps={"steps": 1000, "restarts": 10, "search_steps": 9, "queries": 10_000},
    effort=(500, 5),
    curve=(8, 40),
    answers=(
        Wanted("transfer", {"steps": 100, "restarts": 3}, everywhere=True, optional=True),
        Wanted("square", {"queries": 10_000, "restarts": 3}, everywhere=True),
        Wanted("rays", {"queries": 10_000}, optional=True),
        Wanted("spsa", {}),
        Wanted("corruptions", {}, everywhere=True, optional=True),
    ),
    evasion=(99, 200, 5),
    confidence=(9, 100, 1),
    other_norms=True,
)
SUITES: dict[str, Suite] = {suite.name: suite for suite in (QUICK, STANDARD, FULL)}


def suite_named(name: str) -> Suite:
    """The suite called `name`.

    Raises:
        ConfigError: where there is none.
    """
    if name not in SUITES:
        raise ConfigError(unknown("suite", name, SUITES))
    return SUITES[name]
