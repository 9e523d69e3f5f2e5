"""Paired 95% intervals over seeds and images, and the rule that makes an outcome of one.

A value is one number per seed, or per-image numerators (and denominators) per seed. Where all terms
of a claim have a number for each of the same images, seeds and images are resampled together (a
crossed, paired bootstrap): all trainings see the same draw, and all seeds the same images. A
percentile interval over three seeds hardly leaves out 0 unless every seed points the same way: a
draw is one and the same seed three times with probability 1/27, which is more than 2.5%. Other
values get Student's t interval over the seeds' paired differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Combine = Callable[..., Any]
DRAWS = 4000
SEEN, NOT_SEEN, OPPOSITE, NOT_RUN = "seen", "not seen at this scale", "the opposite was seen", "not run"


@dataclass(frozen=True)
class Images:
    """A mean over test images, or a ratio of two sums over them.

    Attributes:
        num: a number for each image.
        den: what their sum is divided by the sum of; None for the number of images.
    """

    num: tuple[float, ...]
    den: tuple[float, ...] | None = None

    @property
    def value(self) -> float:
        whole = len(self.num) if self.den is None else sum(self.den)
        return sum(self.num) / whole if whole else 0.0


Value = Images | float


def as_number(value: Value) -> float:
    return value.value if isinstance(value, Images) else float(value)


@dataclass(frozen=True)
class Claimed:
    """What a claim says of its number: above or below a bound, or within the bound of 0."""

    side: Literal["above", "below", "within"] = "above"
    bound: float = 0.0


ABOVE, BELOW = Claimed("above"), Claimed("below")


def within(bound: float) -> Claimed:
    return Claimed("within", bound)


def difference(a: Any, b: Any) -> Any:
    return a - b


def itself(a: Any) -> Any:
    return a


def more_than(a: Any, b: Any, c: Any, d: Any) -> Any:
    """(a - b) - (c - d): how much more a is above b than c is above d.

    Signed on purpose: |a - b| - |c - d| is above 0 by noise alone where c is d.
    """
    return (a - b) - (c - d)


@dataclass(frozen=True)
class Interval:
    """A number with its 95% interval.

    Attributes:
        per_seed: the number of each seed.
        by: "bootstrap" or "t".
        low, high: None where one seed alone leaves nothing to go by.
    """

    mean: float
    low: float | None
    high: float | None
    per_seed: tuple[float, ...]
    by: Literal["bootstrap", "t"]


def interval(terms: Sequence[Sequence[Value]], combine: Combine) -> Interval:
    """Of the combined terms; terms[i][s] is term i of seed s, in the same order of seeds."""
    per_seed = tuple(float(combine(*map(as_number, values))) for values in zip(*terms, strict=True))
    mean = float(np.mean(per_seed))
    sizes = {len(value.num) if isinstance(value, Images) else 0 for values in terms for value in values}
    if len(sizes) == 1 and 0 not in sizes:
        low, high = _bootstrap(terms, combine, sizes.pop())
        return Interval(mean, low, high, per_seed, "bootstrap")
    if len(per_seed) < 2:
        return Interval(mean, None, None, per_seed, "t")
    from scipy.stats import t

    half = float(t.ppf(0.975, len(per_seed) - 1) * np.std(per_seed, ddof=1) / np.sqrt(len(per_seed)))
    return Interval(mean, mean - half, mean + half, per_seed, "t")


def _bootstrap(terms: Sequence[Sequence[Value]], combine: Combine, n: int) -> tuple[float, float]:
    generator = np.random.default_rng(2020)
    images = generator.multinomial(n, [1 / n] * n, size=DRAWS).astype(np.float64)
    seeds = len(terms[0])
    drawn = generator.integers(seeds, size=(DRAWS, seeds))
    means = [np.stack([_resampled(value, images) for value in values], axis=1) for values in terms]
    combined = np.take_along_axis(np.asarray(combine(*means)), drawn, axis=1).mean(1)
    low, high = np.quantile(combined, [0.025, 0.975])
    return float(low), float(high)


def _resampled(value: Value, images: Floats) -> Floats:
    """(DRAWS,) the value of each draw of images."""
    assert isinstance(value, Images)
    num = images @ np.asarray(value.num, dtype=np.float64)
    if value.den is None:
        return num / len(value.num)
    den = images @ np.asarray(value.den, dtype=np.float64)
    return np.divide(num, den, out=np.zeros_like(num), where=den > 0)


def outcome(found: Interval | None, claimed: Claimed) -> str:
    """One of the four words, from the interval alone."""
    if found is None:
        return NOT_RUN
    if found.low is None or found.high is None:
        return NOT_SEEN
    low, high, bound = found.low, found.high, claimed.bound
    if claimed.side == "within":
        inside, outside = -bound < low and high < bound, low > bound or high < -bound
    elif claimed.side == "above":
        inside, outside = low > bound, high < bound
    else:
        inside, outside = high < bound, low > bound
    return SEEN if inside else OPPOSITE if outside else NOT_SEEN
