"""How long the steps of TRADES, MART and FAT are when nothing is said."""

from __future__ import annotations

from art_ext.api import OfEps

REACH = 10 * 0.007 / 0.031
"""All steps together, in radii: the papers take 10 of 0.007 in a ball of 0.031."""


def paper_step(asked: float | OfEps | None, steps: int) -> float | OfEps:
    """The asked step size, else 2.26 eps / steps: the papers' 0.007 at their eps and steps, and as far at others."""
    return asked or OfEps(REACH / steps)
