"""Exact intervals and tests on counts: what a number of images can say."""

from __future__ import annotations

from collections.abc import Sequence

CONFIDENCE = 0.95


def binomial_interval(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact binomial interval (Clopper and Pearson, 1934) of a share, from n >= 1 trials."""
    from scipy.stats import binomtest

    found = binomtest(successes, n).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def mcnemar(only_first: int, only_second: int) -> float:
    """The one-sided exact p-value that `only_first` of the discordant pairs is no more than chance (McNemar, 1947).

    Of pairs where the two differ, P(Bin(only_first + only_second, 1/2) >= only_first); 1 without such pairs.
    """
    from scipy.stats import binom

    n = only_first + only_second
    return float(binom.sf(only_first - 1, n, 0.5)) if n else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that hold for all tests at once (Holm, 1979), in the order given.

    The i-th smallest is multiplied by m - i + 1, made monotone, and capped at 1.
    """
    m, highest = len(p_values), 0.0
    adjusted = [0.0] * m
    for rank, place in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (m - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
