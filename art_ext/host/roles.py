"""The trainings of a run: the undefended model, the methods beside, and the recipe's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from art_ext.engine.optim import Schedule
from art_ext.host.job import Job
from art_ext.host.plain import as_use
from art_ext.ingredient import Ingredient
from art_ext.lifecycle.roles import HARDENED, UNDEFENDED
from art_ext.plan import Plan
from art_ext.secrets import masked_data

__all__ = ["Role", "remarks", "roles_of"]


@dataclass(frozen=True)
class Role:
    """One training of a run.

    Attributes:
        name: of the role, and of its folder.
        ingredients: what it is trained with.
        stretch: epochs, as a multiple of the recipe's: a method beside makes as many updates as the recipe's own.
    """

    name: str
    job: Job
    ingredients: tuple[Ingredient, ...] = ()
    stretch: float = 1.0

    @property
    def plan(self) -> Plan:
        return self.job.plan(self.ingredients)

    @property
    def as_it_is(self) -> bool:
        """Whether this is the given network, evaluated without training."""
        return self.job.takes_as_it_is(self.plan)

    @property
    def epochs(self) -> int:
        return 0 if self.as_it_is else max(1, round(self.job.train.epochs * self.stretch))

    def schedule(self) -> Schedule:
        """The recipe's schedule, drawn out over this role's epochs."""
        usual, share = self.job.schedule(), self.job.train.epochs / max(1, self.epochs)
        return usual if share == 1 else lambda done, epochs: usual(done * share, epochs * share)

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe of this training alone, without secrets."""
        whole = self.job.resolved
        train = whole["train"] if self.stretch == 1 else {**whole["train"], "epochs": self.epochs}
        alone: dict[str, Any] = masked_data(whole | {"use": as_use(self.ingredients), "beside": {}, "train": train})
        return alone


def roles_of(job: Job) -> list[Role]:
    """In the order in which they are trained; the one that the run is about comes last.

    Raises:
        ConfigError: where a method beside would not get out of its warm-up.
        ModelError: where it cannot train the given network further.
    """
    if not job.ingredients:
        return [Role(UNDEFENDED, job)]
    bare = [] if job.baseline == "none" else [Role(UNDEFENDED, job)]
    updates = job.plan(job.ingredients).compose().updates
    beside = [
        Role(name, job, used, updates / job.plan(used).compose().updates)
        for name, used in job.recipe.peers(job.catalogue).items()
    ]
    for role in beside:
        role.plan.check_epochs(role.epochs, f"train.epochs of {role.name}")
        job.check_start(role.ingredients)
    return [*bare, *beside, Role(HARDENED, job, job.ingredients)]


def remarks(roles: Sequence[Role]) -> list[str]:
    """What a user should know about these trainings before they start, each line once.

    Of settings that the recipe overrules, those of the optimizer: how long it trains, in which batches, is its own.
    """
    found = []
    for role in roles:
        overruled = role.job.train.overruled(role.plan.settings)
        found += [str(one) for one in overruled if one.of_optimizer]
        found += role.plan.remarks(role.epochs)
    return list(dict.fromkeys(f"note      {line}" for line in found))
