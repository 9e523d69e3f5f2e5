"""FAB, the fast adaptive boundary attack (Croce and Hein, ICML 2020), and its targeted form, in L-inf, L2 and L1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from art_ext.api import (
    Adversarial,
    ConfigError,
    Count,
    Facts,
    Forward,
    Keys,
    Norm,
    Objective,
    Outputs,
    Paper,
    Score,
    cw,
    margin,
)
from art_ext_attacks.apgd import TARGETS, likely_classes
from art_ext_attacks.ascent import TINY, Region, Rowwise, check_norm, image_shaped
from art_ext_attacks.passes import joined, look, runs_at_once, slopes
from art_ext_attacks.projections import onto_hyperplane
from art_ext_attacks.settings import AttackSettings, OfThreat, OnBall, entry

ALPHA_MAX, ETA, BETA = 0.1, 1.05, 0.9
"""Largest share of the step from the clean image; overshooting; backward step (section 5)."""
SEARCHES = 3
"""Points of the final search."""
BEYOND = 1.0001
"""How far behind the boundary, as interpolated, they lie: on it, rounding would decide."""
SHORTEST = 1e-8

@dataclass(frozen=True)
class FAB:
    """Minimises the perturbation, along decision boundaries that are linear at the present point (algorithm 1).

    1. Of the linearised boundaries z_s - z_y = 0 the nearest in the dual norm; with targets, that of
       the one target class.
    2. The present point and the clean image are projected onto it inside the box; x becomes their
       mixture, overshot by 1.05, the clean image's share growing with its nearness, at most 0.1.
    3. Where x is misclassified, it is kept if it is the nearest so far, and drawn back by 0.9.
    4. At last three points of the segment between clean image and nearest success, placed by linear
       interpolation of the margin (final search).

    An example drops out with its first success inside the ball; with `minimal` it goes on to the
    smallest perturbation, which is given whether or not it lies in the ball.

    Attributes:
        norm: the ball; of a range of radii the largest.
        restarts: the first from the image itself, the others from random points at eps / 2.
        targets: how many of the most likely wrong classes are aimed at, one after the other; 0 looks
            at all of them at each step, for K - 1 gradients.
        minimal: search on for the smallest perturbation.
        clip: smallest and largest pixel value.

    Raises:
        ConfigError: for a norm it does not know, or counts below 1.
    """

    norm: Norm
    steps: int = 100
    restarts: int = 1
    targets: int = TARGETS
    minimal: bool = False
    clip: tuple[float, float] = (0.0, 1.0)
    objective: Objective = cw
    bn: Literal["eval"] = "eval"

    def __post_init__(self) -> None:
        check_norm("FAB", self.norm)
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.targets < 0:
            raise ConfigError(f"targets must not be negative, got {self.targets}; 0 attacks without a target")

    @property
    def cost(self) -> int:
        """Forward passes per example, at most; half of them go back, K - 1 times without targets."""
        return 2 * self.steps * self.restarts * max(self.targets, 1)

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        if mask is not None:
            mask = torch.as_tensor(mask, dtype=x.dtype, device=x.device).expand_as(x)
        found = Nearest(x.clone(), torch.full((len(x),), float("inf"), dtype=x.dtype, device=x.device))
        runs, done = list(self._runs(net, x, score, keys)), 0
        while done < len(runs):
            rows = (found.distance > self._enough).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            some = runs[done : done + runs_at_once(x, len(rows), done)]
            own = None if mask is None else mask[rows]
            hunts = [self._start(x[rows], score[rows], aim[rows], noise, keys[rows], own) for aim, noise in some]
            run = self._run(net, together(hunts))
            for point, distance in zip(run.point.chunk(len(some)), run.distance.chunk(len(some)), strict=True):
                stands = found.distance[rows] > self._enough  # in their order: the first success stays
                found.take(rows[stands], Nearest(point[stands], distance[stands]))
            done += len(some)
        kept = found.distance < float("inf") if self.minimal else found.distance <= self.norm.largest
        adv = torch.where(image_shaped(kept), found.point, x)
        return Adversarial(adv, adv - x)

    @property
    def _enough(self) -> float:
        """The distance that ends the work on an example."""
        return 0.0 if self.minimal else self.norm.largest

    def _runs(self, net: Forward, x: Tensor, score: Score, keys: Keys) -> Iterator[tuple[Boundary, str]]:
        """The boundary that each run crosses, and the name of its noise: "" starts at the image."""
        if score.targeted:
            aims = [Boundary(score.y, None)]
        elif self.targets:
            classes = likely_classes(look(net, x).logits, score.y, self.targets)
            aims = [Boundary(score.y, target[:, None]) for target in classes.unbind(1)]
        else:
            n_classes = look(net, x).logits.shape[1]
            others = (score.y[:, None] + torch.arange(1, n_classes, device=x.device)) % n_classes
            aims = [Boundary(score.y, others)]
        for rank, aim in enumerate(aims):
            for restart in range(self.restarts):
                yield aim, f"fab {rank} {restart}" if restart else ""

    def _start(
        self, x: Tensor, score: Score, boundary: Boundary, noise: str, keys: Keys, mask: Tensor | None
    ) -> Hunt:
        region, eps = Region.of(self.norm, self.norm.largest / 2, x, self.clip, mask), self.norm.largest
        low, high = (torch.full_like(x, bound) for bound in self.clip)
        if mask is not None:  # a pixel that may move in part moves by that part of eps
            reach = torch.where(mask < 1, mask * eps, torch.full_like(x, float("inf")))
            low, high = torch.maximum(low, x - reach), torch.minimum(high, x + reach)
        point = region.start(keys.stream(noise)) if noise else x
        far = torch.full((len(x),), float("inf"), dtype=x.dtype, device=x.device)
        row = torch.arange(len(x), device=x.device)
        return Hunt(self.norm, row, x, low, high, boundary, score, point, x, far)

    def _run(self, net: Forward, hunt: Hunt) -> Nearest:
        """The nearest successes of one run."""
        found = Nearest(hunt.clean.clone(), hunt.distance.clone())
        for _ in range(self.steps):
            hunt, idle = stepped(net, hunt)
            done = (hunt.distance <= self._enough) | (idle & hunt.distance.isinf())
            if bool(done.any()):
                found.take(hunt.row[done], hunt[done].nearest)
                hunt = hunt[~done]
            if len(hunt.row) == 0:
                return found
        found.take(hunt.row, searched(net, hunt).nearest)
        return found

    def __str__(self) -> str:
        parts = [str(self.norm), f"{self.steps} steps"]
        parts.append(f"towards {self.targets} classes" if self.targets else "towards the nearest class")
        if self.restarts > 1:
            parts.append(f"{self.restarts} restarts")
        if self.minimal:
            parts.append("for the smallest perturbation")
        return f"FAB({', '.join(parts)})"


@dataclass(frozen=True)
class Boundary(Rowwise):
    """Differences of logits that are 0 where the prediction changes.

    Attributes:
        y: (N,) the true classes, or, without `others`, those to reach.
        others: (N, M) classes that y is compared with.
    """

    y: Tensor
    others: Tensor | None

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(n, M) z_s - z_y, or z_y minus the largest other logit (n, 1), of the examples at `rows` (n,)."""
        y = self.y[rows]
        if self.others is None:
            return -margin(logits, y)[:, None]
        return logits.gather(1, self.others[rows]) - logits.gather(1, y[:, None])


@dataclass
class Nearest:
    """Per example the nearest success, and how far it is; infinity where there is none."""

    point: Tensor
    distance: Tensor

    def take(self, rows: Tensor, other: Nearest) -> None:
        """Keeps what is nearer at `rows`."""
        nearer = other.distance < self.distance[rows]
        self.point[rows[nearer]] = other.point[nearer]
        self.distance[rows[nearer]] = other.distance[nearer]


@dataclass(frozen=True)
class Hunt(Rowwise):
    """The state of the examples of a run that still move.

    Attributes:
        row: (N,) which of the run's examples they are.
        low, high: the box.
        point: the present point.
        best, distance: the nearest success and how far it is.
    """

    norm: Norm
    row: Tensor
    clean: Tensor
    low: Tensor
    high: Tensor
    boundary: Boundary
    score: Score
    point: Tensor
    best: Tensor
    distance: Tensor

    @property
    def nearest(self) -> Nearest:
        return Nearest(self.best, self.distance)

    def seen(self, point: Tensor, out: Outputs) -> tuple[Hunt, Tensor]:
        """The state after a look at a point, and where (N,) it is a success."""
        wrong = self.score.wrong(out)
        distance = self.norm.of(point - self.clean)
        nearer = wrong & (distance < self.distance)
        best = torch.where(image_shaped(nearer), point, self.best)
        return replace(self, best=best, distance=torch.where(nearer, distance, self.distance)), wrong


def together(hunts: Sequence[Hunt]) -> Hunt:
    """Several runs over the same examples as one, run by run."""
    first, *others = hunts
    if not others:
        return first
    parts = ("clean", "low", "high", "point", "best", "distance")
    tensors: dict[str, Any] = {name: torch.cat([getattr(hunt, name) for hunt in hunts]) for name in parts}
    boundaries = [hunt.boundary for hunt in hunts]
    compared = [boundary.others for boundary in boundaries if boundary.others is not None]
    boundary = Boundary(torch.cat([b.y for b in boundaries]), torch.cat(compared) if compared else None)
    row = torch.arange(len(boundary.y), device=first.row.device)
    score = joined([hunt.score for hunt in hunts])
    return replace(first, row=row, boundary=boundary, score=score, **tensors)


def dual(norm: Norm, grads: Tensor) -> Tensor:
    """(N, M) the dual norms of gradients (N, M, C, H, W)."""
    order = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}[norm.name]
    sizes: Tensor = torch.linalg.vector_norm(grads.flatten(2), order, dim=2)
    return sizes


def nearest(norm: Norm, values: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """Value (N,) and normal (N, D) of the linearised boundary that is nearest in the dual norm, of M.

    Args:
        values: (N, M).
        grads: (N, M, C, H, W).
    """
    if values.shape[1] == 1:
        return values[:, 0], grads[:, 0].flatten(1)
    pick = (values.abs() / (dual(norm, grads) + TINY)).argmin(1)
    every = torch.arange(len(pick), device=pick.device)
    return values[every, pick], grads[every, pick].flatten(1)


def stepped(net: Forward, hunt: Hunt) -> tuple[Hunt, Tensor]:
    """One step of algorithm 1, and which examples (N,) all further steps would leave where they are.

    Those have no gradient, and their point came back with the same logits.
    """
    values, grads = slopes(net, hunt.point, hunt.boundary)
    value, normal = nearest(hunt.norm, values, grads)
    point, clean, low, high = (part.flatten(1) for part in (hunt.point, hunt.clean, hunt.low, hunt.high))
    to_plane = -value
    from_clean = to_plane + (normal * (point - clean)).sum(1)
    both = onto_hyperplane(
        hunt.norm.order,
        torch.cat([normal, normal]),
        torch.cat([to_plane, from_clean]),
        torch.cat([point - low, clean - low]),
        torch.cat([high - point, high - clean]),
    )
    steps = both.reshape(2 * len(value), *hunt.point.shape[1:])
    of_point, of_clean = hunt.norm.of(steps).clamp(min=SHORTEST).chunk(2)
    alpha = image_shaped((of_point / (of_point + of_clean)).clamp(max=ALPHA_MAX))
    step, clean_step = steps.chunk(2)
    moved = (hunt.point + ETA * step) * (1 - alpha) + (hunt.clean + ETA * clean_step) * alpha
    moved = torch.clamp(moved, hunt.low, hunt.high)
    out = look(net, moved)
    idle = ~grads.flatten(1).any(1)
    if bool(idle.any()):
        again = hunt.boundary(out.logits, torch.arange(len(value), device=value.device))
        idle &= (again == values).all(1) & (moved == hunt.point).flatten(1).all(1)
    hunt, wrong = hunt.seen(moved, out)
    back = hunt.clean + BETA * (moved - hunt.clean)
    return replace(hunt, point=torch.where(image_shaped(wrong), back, moved)), idle & ~wrong


def searched(net: Forward, hunt: Hunt) -> Hunt:
    """The final search, on the segment between clean image and nearest success, for the examples that have one."""
    rows = (hunt.distance < float("inf")).nonzero().squeeze(1)
    if len(rows) == 0:
        return hunt
    part = hunt[rows]
    reach = part.best - part.clean
    inner, outer = torch.zeros_like(part.distance), torch.ones_like(part.distance)  # shares of the segment
    inner_value, outer_value = (lead(part, look(net, point)) for point in (part.clean, part.best))
    for _ in range(SEARCHES):
        crossing = inner + (outer - inner) * inner_value / (inner_value - outer_value).clamp(max=-TINY)
        middle = torch.minimum(crossing * BEYOND, outer)
        point = part.clean + image_shaped(middle) * reach
        out = look(net, point)
        part, wrong = part.seen(point, out)
        value = lead(part, out)
        inner, inner_value = torch.where(wrong, inner, middle), torch.where(wrong, inner_value, value)
        outer, outer_value = torch.where(wrong, middle, outer), torch.where(wrong, value, outer_value)
    best, distance = hunt.best.clone(), hunt.distance.clone()
    best[rows], distance[rows] = part.best, part.distance
    return replace(hunt, best=best, distance=distance)


def lead(hunt: Hunt, out: Outputs) -> Tensor:
    """(N,) the margin: above 0 where the aim is achieved."""
    value = margin(out.logits, hunt.score.y)
    return -value if hunt.score.targeted else value


class FABSettings(AttackSettings):
    """Options of FAB; the defaults are those of the standard suite."""

    steps: Count = 100
    restarts: Count = 1
    targets: Annotated[
        int, Field(ge=0, description="most likely wrong classes to aim at; 0 looks at all of them at each step")
    ] = TARGETS
    minimal: Annotated[
        bool, Field(description="the smallest perturbation, within eps or not; else the first within eps")
    ] = False

    def attack(self, ball: Norm, facts: Facts) -> FAB:
        return FAB(ball, self.steps, self.restarts, min(self.targets, facts.n_classes - 1), self.minimal, facts.clip)


class FABOptions(OfThreat, FABSettings):
    """FAB in a recipe's `evaluate:`."""


class FABIngredient(OnBall, FABSettings):
    """FAB alone, as an ART attack."""

    name = "fab"
    paper = Paper(
        "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack",
        "Croce, Hein",
        "ICML",
        2020,
        "https://arxiv.org/abs/1907.02044",
    )
    trial = MappingProxyType({"eps": 0.5, "steps": 20})


def named(options: FABOptions) -> str:
    times = f"x{options.restarts}" if options.restarts > 1 else ""
    return f"fab{'_t' if options.targets else ''}{times}"


ENTRY = entry("fab", "small perturbations across linearised boundaries (Croce and Hein, ICML 2020)", FABOptions, named)
