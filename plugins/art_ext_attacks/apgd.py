"""APGD: projected gradient descent without a step size (Croce and Hein, ICML 2020), in L-inf, L2 and L1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from art_ext.api import (
    Adversarial,
    Attack,
    AttackEntry,
    Best,
    ConfigError,
    Count,
    Detector,
    EvaluationContext,
    Facts,
    Forward,
    Keys,
    Norm,
    Objective,
    Outputs,
    Paper,
    Plan,
    Score,
    ce,
    dlr_ratio,
    objectives_for,
)
from art_ext_attacks.ascent import TINY, Region, ascend, check_norm
from art_ext_attacks.passes import joined, look, runs_at_once
from art_ext_attacks.settings import Named, OfThreat, OnBall, Raising

TARGETS = 9
"""Wrong classes that the standard attacks aim at."""
LARGER = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""Radii, as multiples of eps, and shares of the steps (Croce and Hein, ICML 2021, section 3.3)."""
PAPER = Paper(
    "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    "Croce, Hein",
    "ICML",
    2020,
    "https://arxiv.org/abs/2003.01690",
)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), eq. (8); (N, K), (N,), (N,) to (N,).

    With fewer than four classes there is no z_(4): z_t - z_y is returned.
    """
    gap = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    if logits.shape[1] < 4:
        return gap
    top = logits.topk(4, dim=1).values
    return gap / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + TINY)


def likely_classes(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """(N, min(count, K - 1)) the wrong classes with the largest logits, largest first."""
    wrong = logits.scatter(1, y[:, None], float("-inf"))
    return wrong.sort(dim=1, descending=True, stable=True).indices[:, : min(count, logits.shape[1] - 1)]


def _towards(out: Outputs, y: Tensor, target: Tensor) -> Tensor:
    return targeted_dlr(out.logits, y, target)


@dataclass(frozen=True)
class APGD:
    """Auto-PGD, algorithm 1 of the paper; in L1 the sparse steps of Croce and Hein, ICML 2021, algorithm 1.

    1. x from a random point on the ball.
    2. z = P(x + size direction(grad)), x <- P(x + 0.75 (z - x) + 0.25 (x - x_before)); sizes start at 2 eps.
    3. At each checkpoint, an example's size is halved, and it goes back to its best point, when at most
       75% of its steps since the last one raised the objective, or neither size nor best value changed.

    An example drops out of the work with its first success; one that holds out gives its point of
    the highest objective. With `targets`, one run for each of the most likely wrong classes raises
    the targeted DLR; a score that is targeted already keeps its target.

    Attributes:
        norm: the ball; of a range of radii the largest.
        restarts: runs from other random points, for the examples that stand.
        targets: how many wrong classes to aim at, 0 for none.
        larger: starts in balls of three and two times eps (algorithm 2 of 2021; standard in L1).
        eot: passes whose gradients are averaged, for networks with random numbers of their own.
        clip: smallest and largest pixel value.

    Raises:
        ConfigError: for a norm it does not know, counts below 1, or targets with another objective than dlr.
    """

    norm: Norm
    steps: int = 100
    objective: Objective = ce
    restarts: int = 1
    targets: int = 0
    larger: bool = False
    eot: int = 1
    clip: tuple[float, float] = (0.0, 1.0)
    bn: Literal["eval"] = "eval"

    def __post_init__(self) -> None:
        check_norm("APGD", self.norm)
        for name in ("steps", "restarts", "eot"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.targets < 0:
            raise ConfigError(f"targets must not be negative, got {self.targets}; 0 attacks without a target")
        if self.targets and self.objective is not dlr_ratio:
            raise ConfigError(f"targets go with the objective dlr, got {self.objective}; leave one of the two out")

    @property
    def cost(self) -> int:
        """Forward passes per example, at most; one less goes back in each run."""
        return (self.steps + 1) * self.restarts * max(self.targets, 1) * self.eot

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        if mask is not None:
            mask = torch.as_tensor(mask, dtype=x.dtype, device=x.device).expand_as(x)
        best = Best(x, settles=True)
        runs, done = list(self._runs(net, x, score, keys)), 0
        while done < len(runs):
            rows = best.open_rows()
            if len(rows) == 0:
                break
            some = runs[done : done + runs_at_once(x, len(rows), done)]
            clean, own_mask = x[rows], None if mask is None else mask[rows]
            starts = torch.cat([self._start(clean, noise[rows], own_mask) for _, noise in some])
            aims = joined([aim[rows] for aim, _ in some])
            whole_mask = None if own_mask is None else torch.cat([own_mask] * len(some))
            points = self._run(net, torch.cat([clean] * len(some)), aims, starts, whole_mask)
            part, own = best.part(rows), score[rows]
            for made in points.chunk(len(some)):  # in their order: the first success stays
                out = look(net, made)
                part.consider(made, own.value(out), own.wrong(out))
            best.merge(rows, part)
            done += len(some)
        return Adversarial(best.x, best.x - x)

    def _runs(self, net: Forward, x: Tensor, score: Score, keys: Keys) -> Iterator[tuple[Score, Keys]]:
        """What each run raises, and its noise, for all examples."""
        aims = [(score, keys)]
        if self.targets and not score.targeted:
            classes = likely_classes(look(net, x).logits, score.y, self.targets)
            aims = [
                (Score(_towards, score.y, False, (target,)), keys.stream("target", rank))
                for rank, target in enumerate(classes.unbind(1))
            ]
        for aim, noise in aims:
            for restart in range(self.restarts):
                yield aim, noise.stream("start", restart)

    def _start(self, x: Tensor, keys: Keys, mask: Tensor | None) -> Tensor:
        eps = self.norm.largest * (LARGER[0][0] if self.larger else 1)
        return Region.of(self.norm, eps, x, self.clip, mask).start(keys)

    def _run(self, net: Forward, x: Tensor, score: Score, start: Tensor, mask: Tensor | None) -> Tensor:
        eps = self.norm.largest
        if not self.larger:
            region = Region.of(self.norm, eps, x, self.clip, mask)
            return ascend(net, region, score, start, self.steps, eot=self.eot)
        counts = [math.ceil(share * self.steps) for _, share in LARGER[:-1]]
        counts.append(self.steps - sum(counts))
        for (factor, _), steps in zip(LARGER, counts, strict=True):
            region, last = Region.of(self.norm, eps * factor, x, self.clip, mask), factor == 1
            inside = region.inside(start)
            start = ascend(net, region, score, inside, max(steps, 1), warm=True, settles=last, eot=self.eot)
        return start

    def __str__(self) -> str:
        aim = f"on targeted {self.objective} towards {self.targets} classes" if self.targets else f"on {self.objective}"
        parts = [str(self.norm), f"{self.steps} steps", aim]
        if self.larger:
            parts.append("from larger balls")
        if self.restarts > 1:
            parts.append(f"{self.restarts} restarts")
        if self.eot > 1:
            parts.append(f"gradients of {self.eot} passes")
        return f"APGD({', '.join(parts)})"


class APGDSettings(Raising):
    """Options of APGD; the defaults are the paper's."""

    steps: Count = 100
    restarts: Count = 1
    targets: Annotated[Count, Field(description="most likely wrong classes that targeted_dlr aims at")] = TARGETS
    larger: Annotated[
        bool | None, Field(description="start in balls of 3 and 2 eps; in l1 only, and there when left out")
    ] = None
    eot: Annotated[Count, Field(description="passes whose gradients are averaged, for random networks")] = 1

    def attacks(self, ball: Norm, facts: Facts, plan: Plan, detectors: Sequence[Detector] = ()) -> Named:
        """As the base's; targeted_dlr is an objective of this attack alone."""
        own = "targeted_dlr"
        if self.objective == own:
            return [("_t", self.on(dlr_ratio, ball, facts, targets=min(self.targets, facts.n_classes - 1)))]
        found = objectives_for(self.objective, plan, detectors, also=(own,))
        return [(f"_{objective.name}", self.on(objective, ball, facts)) for objective in found]

    def on(self, objective: Objective, ball: Norm, facts: Facts, targets: int = 0) -> APGD:
        if self.larger and ball.name != "l1":
            raise ConfigError(f"larger balls are l1's alone, and the norm is {ball.name}; leave larger out")
        larger = ball.name == "l1" if self.larger is None else self.larger
        return APGD(ball, self.steps, objective, self.restarts, targets, larger, self.eot, facts.clip)


class APGDOptions(OfThreat, APGDSettings):
    """APGD in a recipe's `evaluate:`."""


class APGDIngredient(OnBall, APGDSettings):
    """APGD alone, as an ART attack."""

    name = "apgd"
    paper = PAPER


def build(options: APGDOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    times = f"x{options.restarts}" if options.restarts > 1 else ""
    found = options.attacks(options.ball(context), context.facts, context.plan, context.detectors)
    return [(f"apgd{word}{times}", attack) for word, attack in found]


ENTRY = AttackEntry("apgd", "PGD that chooses its step sizes (Croce and Hein, ICML 2020)", APGDOptions, build)
