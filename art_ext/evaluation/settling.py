"""Questions that an evaluation may stop at, such as "robust>=0.40", and when it may answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from art_ext.errors import ConfigError
from art_ext.evaluation.statistics import CONFIDENCE, binomial_interval
from art_ext.parts.noise import Keys

GROUP = 64
"""Images that are evaluated between two looks."""
_FORM = re.compile(r"\s*robust\s*(>=|<)\s*([0-9.]+)\s*(%?)\s*")


@dataclass(frozen=True)
class Question:
    """Whether the worst case is at least (or below) a share."""

    share: float
    at_least: bool = True

    @classmethod
    def parse(cls, text: str) -> Question:
        """Reads "robust>=0.40", "robust >= 40%" or "robust<0.1".

        Raises:
            ConfigError: for anything else.
        """
        form = _FORM.fullmatch(text)
        try:
            share = float(form[2]) / (100 if form[3] else 1) if form else -1.0
        except ValueError:
            share = -1.0
        if form is None or not 0 < share < 1:
            raise ConfigError(f"{text!r} is no question; write robust>=0.40, with a share between 0 and 1")
        return cls(share, form[1] == ">=")

    def __str__(self) -> str:
        return f"robust{'>=' if self.at_least else '<'}{self.share:g}"

    def answer(self, right: int, n: int, looks: int) -> bool | None:
        """Yes, no, or not settled yet, from `right` of n images that stood everything.

        The exact interval's level is shared out over all `looks` (Bonferroni), so that stopping at any
        of them keeps the confidence of 95%.
        """
        low, high = binomial_interval(right, n, 1 - (1 - CONFIDENCE) / looks)
        if low >= self.share:
            return self.at_least
        return (not self.at_least) if high < self.share else None

    def surely_below(self, standing: int, n: int, looks: int) -> bool:
        """Whether it is settled that the share is not reached, though attacks that are still to come may lower it."""
        return binomial_interval(standing, n, 1 - (1 - CONFIDENCE) / looks)[1] < self.share


def groups(n: int, seed: int) -> tuple[Tensor, ...]:
    """The n images in an order drawn by the seed, in groups of `GROUP`: one for each look."""
    lots = Keys(seed, 0, torch.arange(n)).stream("settling").words(())
    return torch.split(torch.argsort(lots, stable=True), GROUP)
