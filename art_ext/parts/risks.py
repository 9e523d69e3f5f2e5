"""Which rows of a batch are attacked, and how criterion values make one scalar.

A risk gives its terms by name; they sum to the loss, and each is logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from art_ext.errors import ConfigError
from art_ext.parts.criteria import Criterion
from art_ext.types import Rows, View, Views

Terms = Mapping[str, Tensor]


class Risk:
    """Base of risks.

    Attributes:
        joint: clean and adversarial rows share one pass, and so one batch of normalisation statistics.
        compares_outputs: it compares whole output distributions, which logits of a saturated softmax forbid.
        uses_criterion: False for a risk that brings a loss of its own.
        needs: extra outputs that it reads.
    """

    joint: ClassVar[bool] = True
    compares_outputs: ClassVar[bool] = False
    uses_criterion: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()

    def rows(self, n: int) -> Rows:
        """Which of n rows are used clean, and which are attacked."""
        raise NotImplementedError

    @property
    def needs_adversarial(self) -> bool:
        return self.rows(2).adv is not None

    def __call__(self, views: Views, criterion: Criterion) -> Terms:
        """The terms of the loss: scalars that sum to it."""
        raise NotImplementedError


def shares(views: Views, criterion: Criterion) -> Terms:
    """Each part's mean criterion, weighted by its own share of the rows; an empty part is skipped."""
    parts = {"clean": views.clean, "adversarial": views.adv}
    present = {name: view for name, view in parts.items() if view is not None and len(view.y)}
    total = sum(len(view.y) for view in present.values())
    return {name: criterion(view.out, view.target).sum() / total for name, view in present.items()}


@dataclass(frozen=True)
class Clean(Risk):
    """The mean criterion on clean rows: ordinary training."""

    def rows(self, n: int) -> Rows:
        return Rows(slice(0, n), None)

    def __call__(self, views: Views, criterion: Criterion) -> Terms:
        return shares(views, criterion)

    def __str__(self) -> str:
        return "clean rows"


@dataclass(frozen=True)
class Madry(Risk):
    """The mean criterion on adversarial rows alone (Madry et al., ICLR 2018, eq. (2.1))."""

    def rows(self, n: int) -> Rows:
        return Rows(None, slice(0, n))

    def __call__(self, views: Views, criterion: Criterion) -> Terms:
        return shares(views, criterion)

    def __str__(self) -> str:
        return "adversarial rows"


@dataclass(frozen=True)
class Mixed(Risk):
    """The first int(clean_fraction N) rows clean, the others attacked.

    Raises:
        ConfigError: unless 0 < clean_fraction < 1.
    """

    clean_fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.clean_fraction < 1:
            raise ConfigError(f"clean_fraction must lie between 0 and 1, got {self.clean_fraction}")

    def rows(self, n: int) -> Rows:
        clean = int(self.clean_fraction * n)
        return Rows(slice(0, clean), slice(clean, n))

    def __call__(self, views: Views, criterion: Criterion) -> Terms:
        return shares(views, criterion)

    def __str__(self) -> str:
        return f"{self.clean_fraction:.0%} clean, the others adversarial"


@dataclass(frozen=True)
class Augment(Risk):
    """All rows clean, and the adversarial twin of each beside it."""

    def rows(self, n: int) -> Rows:
        return Rows(slice(0, n), slice(0, n))

    def __call__(self, views: Views, criterion: Criterion) -> Terms:
        return shares(views, criterion)

    def __str__(self) -> str:
        return "all rows clean and their adversarial twins"


def both(views: Views) -> tuple[View, View]:
    """Both views, for a risk whose `rows` asked for both."""
    if views.clean is None or views.adv is None:
        raise ConfigError("this risk compares clean and adversarial rows, but one of them is missing")
    return views.clean, views.adv
