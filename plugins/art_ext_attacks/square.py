"""Square: random search with windows that shrink (Andriushchenko et al., ECCV 2020), in L-inf, L2 and L1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from art_ext.api import (
    L1,
    Adversarial,
    Best,
    ConfigError,
    Count,
    Facts,
    Family,
    Forward,
    Keys,
    Linf,
    Norm,
    Objective,
    ObjectiveName,
    Paper,
    Score,
    Share,
    cw,
)
from art_ext_attacks.ascent import TINY, Region, Rowwise, check_norm, image_shaped
from art_ext_attacks.passes import LOOKS, at_once, look
from art_ext_attacks.settings import OfThreat, OnBall, Raising, entry
from art_ext_attacks.windows import Draws, codes, double_bump, inside, placed, share_at, side

CHUNK = 100
"""Queries whose random numbers are drawn together."""
LARGEST_TABLE = 2**15
"""Proposals of one size, up to which refused ones are remembered."""


@dataclass(frozen=True)
class Square:
    """Random search that needs no gradient (algorithms 1 to 3), on the margin unless told otherwise.

    1. In L-inf vertical stripes of +-eps; in L2 and L1 a grid of small bumps.
    2. Each query proposes another window: in L-inf one of +-eps a channel; in L2 and L1 a bump whose
       mass comes from a second window and from what the ball has left.
    3. A proposal that raises the objective, or succeeds, is taken. An example drops out with its
       first success.

    A proposal that was refused since the last one taken would be refused again, and one that changes
    nothing cannot raise the objective: neither is looked at, although both count as queries.

    Attributes:
        norm: the ball; of a range of radii the largest.
        queries: proposals in each run.
        restarts: runs from other stripes, for the examples that stand.
        share: p of the first window, as a share of the image's pixels.
        rescale: whether the schedule of p, made for 10,000 queries, shrinks with fewer.
        clip: smallest and largest pixel value.

    Raises:
        ConfigError: for a norm it does not know, counts below 1, or a share outside (0, 1].
    """

    norm: Norm
    queries: int = 5000
    objective: Objective = cw
    restarts: int = 1
    share: float = 0.8
    rescale: bool = True
    clip: tuple[float, float] = (0.0, 1.0)
    bn: Literal["eval"] = "eval"
    family: ClassVar[Family] = "black-box"

    def __post_init__(self) -> None:
        check_norm("Square", self.norm)
        for name in ("queries", "restarts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.share <= 1:
            raise ConfigError(f"share must lie in (0, 1], got {self.share}")

    @property
    def cost(self) -> int:
        """Forward passes per example, at most; what is looked at ahead in vain comes on top."""
        return (self.queries + 1) * self.restarts

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        if mask is not None:
            mask = torch.as_tensor(mask, dtype=x.dtype, device=x.device).expand_as(x)
        best = Best(x, settles=True)
        for restart in range(self.restarts):
            rows = best.open_rows()
            if len(rows) == 0:
                break
            region = Region.of(self.norm, self.norm.largest, x, self.clip, mask)[rows]
            part = best.part(rows)
            self._run(net, region, score[rows], keys[rows].stream("square", restart), part)
            best.merge(rows, part)
        return Adversarial(best.x, best.x - x)

    def _run(self, net: Forward, region: Region, score: Score, keys: Keys, best: Best) -> None:
        """One run; shows `best` each example's first success, or its last point."""
        height, width = region.x.shape[2:]
        point = stripes(region, keys) if isinstance(self.norm, Linf) else grid(region, keys)
        out = look(net, point)
        best.consider(point, score.value(out), score.wrong(out))
        row = torch.arange(len(point), device=point.device)  # and, until a size is known, in place of a table
        search = Search(region, score, keys, row, point, score.value(out).to(point.dtype), row)
        search = search[best.open_rows()]
        odd, begin, last = not isinstance(self.norm, Linf), 0, 0
        while begin < self.queries and len(search.row):
            size = self._side(begin, height, width, odd)
            search = search if size == last else unrefused(search, size)
            end = begin + 1
            while end < min(begin + CHUNK, self.queries) and self._side(end, height, width, odd) == size:
                end += 1
            search = searched(net, search, size, begin, end - begin, best)
            begin, last = end, size
        if len(search.row):
            out = look(net, search.point)
            rest = best.part(search.row)
            rest.consider(search.point, search.score.value(out), search.score.wrong(out))
            best.merge(search.row, rest)

    def _side(self, query: int, height: int, width: int, odd: bool) -> int:
        return side(share_at(query, self.queries, self.share, rescale=self.rescale), height, width, odd=odd)

    def __str__(self) -> str:
        parts = [str(self.norm), f"{self.queries} queries", f"on {self.objective}"]
        if self.restarts > 1:
            parts.append(f"{self.restarts} restarts")
        if self.share != 0.8:
            parts.append(f"first windows of {self.share:g}")
        if not self.rescale:
            parts.append("windows of 10,000 queries")
        return f"Square({', '.join(parts)})"


@dataclass(frozen=True)
class Search(Rowwise):
    """The state of the examples that still stand.

    Attributes:
        row: (N,) which of the run's examples they are.
        value: (N,) the objective at `point`.
        refused: (N, P) bool, by code: proposals of the present size that failed since the last one
            taken; without columns where there are too many.
    """

    region: Region
    score: Score
    keys: Keys
    row: Tensor
    point: Tensor
    value: Tensor
    refused: Tensor


def unrefused(search: Search, size: int) -> Search:
    """With an empty table for windows of a new size; in L2 and L1 a proposal never comes twice."""
    shape = search.point.shape
    count = codes(size, shape) if isinstance(search.region.norm, Linf) else LARGEST_TABLE + 1
    count = count if count <= LARGEST_TABLE else 0
    return replace(search, refused=torch.zeros(shape[0], count, dtype=torch.bool, device=search.point.device))


def searched(net: Forward, search: Search, size: int, begin: int, count: int, best: Best) -> Search:
    """The state after `count` queries with windows of one size; successes go to `best` and leave.

    Each example moves on to its own next proposals that are not known to fail. A pass looks at several
    of each where they fit, as if all but the last were refused; what follows the first that is taken is
    looked at again.
    """
    draws = Draws.of(search.keys.stream("windows", begin), count, size, search.point)
    following = torch.zeros_like(search.row)
    while True:
        row, at = upcoming(search, draws, following)
        if len(row) == 0:
            return search
        point, drawn = search.point[row], draws.at(row, at)
        proposal = proposed(search.region[row], point, drawn, size)
        value, wrong = judged(net, search.score[row], point, proposal)
        better = wrong | (value > search.value[row])
        first = torch.full_like(following, count).scatter_reduce(0, row[better], at[better], "amin")
        following = torch.where(first < count, first, following.scatter_reduce(0, row, at, "amax")) + 1
        taken = better & (at == first[row])
        rows = row[taken]
        search.point[rows], search.value[rows] = proposal[taken], value[taken]
        if search.refused.shape[1]:
            search.refused[row, drawn.code] = True
            search.refused[rows] = False
        fell = taken & wrong
        if bool(fell.any()):
            rows = row[fell]
            part = best.part(search.row[rows])
            part.consider(proposal[fell], value[fell], wrong[fell])
            best.merge(search.row[rows], part)
            stays = torch.ones_like(search.row, dtype=torch.bool)
            stays[rows] = False
            search, draws, following = search[stays], draws[stays], following[stays]


def upcoming(search: Search, draws: Draws, following: Tensor) -> tuple[Tensor, Tensor]:
    """Examples (M,) and the queries (M,) that a pass looks at: each example's next ones, from `following` (N,) on."""
    count = draws.numbers.shape[1]
    if search.refused.shape[1] == 0:
        ahead = at_once(search.point, max(int((following < count).sum()), 1), LOOKS)
        at = following[:, None] + torch.arange(ahead, device=following.device)
        row, _ = (at < count).nonzero().unbind(1)
        return row, at[at < count]
    untried = torch.arange(count, device=following.device) >= following[:, None]
    untried &= ~search.refused.gather(1, draws.code)
    ahead = at_once(search.point, max(int(untried.any(1).sum()), 1), LOOKS)
    row, at = (untried & (untried.cumsum(1) <= ahead)).nonzero().unbind(1)
    return row, at


def judged(net: Forward, score: Score, point: Tensor, proposal: Tensor) -> tuple[Tensor, Tensor]:
    """The objective (N,) of proposals, and whether they succeed (N,); one that changes nothing is not looked at."""
    new = (proposal != point).flatten(1).any(1)
    if bool(new.all()):
        out = look(net, proposal)
        return score.value(out).to(point.dtype), score.wrong(out)
    value = torch.full((len(point),), float("-inf"), dtype=point.dtype, device=point.device)
    wrong = torch.zeros_like(new)
    if bool(new.any()):
        value[new], wrong[new] = judged(net, score[new], point[new], proposal[new])
    return value, wrong


def proposed(region: Region, point: Tensor, drawn: Draws, size: int) -> Tensor:
    """The proposals (N, C, H, W) of one query each."""
    window = inside(drawn.corner, size, point)
    if isinstance(region.norm, Linf):
        up = drawn.sign[:, :, None, None] > 0
        return torch.where(window > 0, torch.where(up, region.high, region.low), point)
    order, delta = region.norm.order, point - region.x
    both = torch.maximum(window, inside(drawn.other_corner, size, point))
    held = delta * window
    room = mass_left(region, delta, norms(delta * both, order))
    shape = placed(drawn, size, order, point) * drawn.sign[:, :, None, None].to(point.dtype)
    shape = (shape + held / (norms(held, order) + TINY)) * window
    return within(region, shape / (norms(shape, order) + TINY) * room + delta * (1 - both))


def mass_left(region: Region, delta: Tensor, held: Tensor) -> Tensor:
    """(N, C, 1, 1) the norm that a channel's window may have: `held` in its two, and its share of the ball's rest.

    Args:
        delta: (N, C, H, W).
        held: (N, C, 1, 1).
    """
    channels, eps, whole = delta.shape[1], region.eps, image_shaped(region.norm.of(delta))
    if region.norm.order == 2:
        return ((eps**2 - whole**2).clamp(min=0) / channels + held**2).sqrt()
    return (eps - whole).clamp(min=0) + held * channels


def norms(delta: Tensor, order: float) -> Tensor:
    """(N, C, 1, 1) the norm of each channel."""
    if order == 1:  # on the CPU, vector_norm takes ten times as long
        return delta.abs().sum((2, 3), keepdim=True)
    sizes: Tensor = torch.linalg.vector_norm(delta, order, dim=(2, 3), keepdim=True)
    return sizes


def within(region: Region, delta: Tensor) -> Tensor:
    """x + delta in ball and box: in L2 delta out to the surface of the ball, then the box; in L1 the nearest point."""
    if region.mask is not None:
        delta = delta * region.mask
    if isinstance(region.norm, L1):
        return region.inside(region.x + delta)
    length = image_shaped(region.norm.of(delta)).clamp(min=TINY)
    return torch.clamp(region.x + delta / length * region.eps, region.low, region.high)


def stripes(region: Region, keys: Keys) -> Tensor:
    """Vertical stripes of +-eps: the first point in L-inf."""
    _, channels, _, width = region.x.shape
    up = keys.stream("stripes").uniform((channels, 1, width)) < 0.5
    return torch.where(up, region.high, region.low)


def grid(region: Region, keys: Keys) -> Tensor:
    """Bumps of random signs, a fifth of the image wide: the first point in L2 and L1."""
    x = region.x
    channels, height, width = x.shape[1:]
    size = max(min(height, width) // 5, 1)
    rows, columns = height // size, width // size
    up = keys.stream("grid").uniform((channels, rows, columns)) < 0.5
    turned = keys.stream("turned").uniform((rows, columns)) < 0.5
    sign = torch.where(up, 1.0, -1.0).to(x.dtype)
    shapes = double_bump(size, region.norm.order).to(x)[turned.long()]  # (N, rows, columns, size, size)
    tiles = sign[..., None, None] * shapes[:, None]
    patch = tiles.permute(0, 1, 2, 4, 3, 5).reshape(len(x), channels, rows * size, columns * size)
    top, left = (height - rows * size) // 2, (width - columns * size) // 2
    delta = torch.zeros_like(x)
    delta[:, :, top : top + rows * size, left : left + columns * size] = patch
    return within(region, delta)


class SquareSettings(Raising):
    """Options of Square; the defaults are the standard suite's, but for the schedule, which is the paper's."""

    queries: Count = 5000
    restarts: Count = 1
    objective: ObjectiveName = "margin"
    share: Annotated[Share, Field(gt=0, description="p: the share of the image's pixels in the first windows")] = 0.8
    rescale: Annotated[
        bool, Field(description="shrink the schedule of window sizes, made for 10,000 queries, with fewer")
    ] = True

    def on(self, objective: Objective, ball: Norm, facts: Facts) -> Square:
        return Square(ball, self.queries, objective, self.restarts, self.share, self.rescale, facts.clip)


class SquareOptions(OfThreat, SquareSettings):
    """Square in a recipe's `evaluate:`."""


class SquareIngredient(OnBall, SquareSettings):
    """Square alone, as an ART attack."""

    name = "square"
    paper = Paper(
        "Square Attack: a query-efficient black-box adversarial attack via random search",
        "Andriushchenko, Croce, Flammarion, Hein",
        "ECCV",
        2020,
        "https://arxiv.org/abs/1912.00049",
    )


def named(options: SquareOptions) -> str:
    times = f"x{options.restarts}" if options.restarts > 1 else ""
    return f"square{times}"


ENTRY = entry(
    "square",
    "answers alone: random search with shrinking windows (Andriushchenko et al., ECCV 2020)",
    SquareOptions,
    named,
    family="black-box",
)
