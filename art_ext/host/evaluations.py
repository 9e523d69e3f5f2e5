"""Where the evaluations of a run's networks lie: the run's own, and others beside it.

    RUN_DIR/evaluation/ROLE                      the run's own: the recipe's threat, suite and test images
    RUN_DIR/evaluation/ROLE-l2-0.5-quick-20      another threat, suite or images, in a folder of its own
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

from art_ext.errors import DataError
from art_ext.evaluation.record import FILE, EvaluationRecord, read_evaluation
from art_ext.lifecycle.policy import Policy, is_evidence
from art_ext.lifecycle.roles import RESERVED, ROLES, is_role

__all__ = ["Asked", "best", "evaluations_of_run", "own_place", "place_for"]

FOLDER = "evaluation"


@dataclass(frozen=True)
class Asked:
    """What tells one evaluation of a network from another.

    Attributes:
        data, source, split: of the images. n: how many.
        end: what may end it early, "" for nothing.
    """

    norm: str
    eps: float
    suite: str
    n: int
    data: str
    source: str
    split: str
    seed: int = 0
    end: str = ""

    @classmethod
    def of(cls, record: EvaluationRecord) -> Asked:
        """What an evaluation was asked for."""
        threat, data = record.threat, record.data
        return cls(threat.norm, threat.eps, record.suite, data.n, data.name, data.source, data.split, record.seed)

    def beside(self, own: Asked) -> str:
        """The last part of its folder's name, beside the run's own."""
        parts = [self.norm, f"{self.eps:g}", self.suite, str(self.n)]
        if (self.data, self.source) != (own.data, own.source):
            parts.append(self.data)
        if self.seed != own.seed:
            parts.append(f"seed{self.seed}")
        if self.end:
            parts.append(self.end)
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(parts))


def own_place(role: Path) -> Path:
    """The folder of the run's own evaluation of a role."""
    return role.parent / FOLDER / role.name


def place_for(role: Path, asked: Asked, usual: Asked) -> Path:
    """The folder of an evaluation of a role: the run's own where it asks for the same, else one of its own.

    Args:
        usual: what the run's own evaluation would ask for, where there is none yet.
    """
    place, own = own_place(role), usual
    try:
        if (place / FILE).is_file():
            record = read_evaluation(place)
            own = Asked.of(record)
            own = own if record.complete else replace(own, n=usual.n, end=asked.end)
    except DataError:  # it is written again
        pass
    if all(getattr(asked, part.name) == getattr(own, part.name) for part in fields(Asked)):
        return place
    return place.with_name(f"{role.name}-{asked.beside(own)}")


def evaluations_of_run(run: Path) -> list[Path]:
    """The folders of all evaluations of a run's network, its own first.

    Args:
        run: folder of `art-ext harden`, of one of its roles, or of an evaluation.
    """
    roles = [run / name for name in ROLES] if (run / FOLDER).is_dir() else []
    if is_role(run) or (run.parent / FOLDER / run.name).is_dir():
        roles.append(run)
    for role in roles:
        others = {folder.name for folder in role.parent.glob("*/")} | RESERVED
        beside = [
            place
            for place in sorted((role.parent / FOLDER).glob(f"{role.name}-*/"))
            if place.name not in others
        ]
        places = [place for place in (own_place(role), *beside) if (place / FILE).is_file()]
        if places:
            return places
    return [place for place in (run / FOLDER, run) if (place / FILE).is_file()]


def best(places: list[Path], policy: Policy, digest: str) -> Path | None:
    """The first evaluation that a policy counts as evidence about the weights of a digest, else the first."""
    for place in places:
        if is_evidence(policy, read_evaluation(place), digest):
            return place
    return places[0] if places else None

