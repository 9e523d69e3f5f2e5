"""Projected gradient descent, once, for every norm, start, momentum and objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from art_ext.errors import ConfigError
from art_ext.parts.noise import Keys, normals
from art_ext.parts.norms import Eps, Linf, Norm, per_example, unit
from art_ext.parts.objectives import Objective, Score, ce
from art_ext.parts.ranges import OfEps
from art_ext.types import Adversarial, Forward, Progress

BNMode = Literal["eval", "train"]
Keep = Literal["last", "best"]
STANDING = 0.75
"""Share of a batch that still stands, down to which those that fell are carried along: cutting costs time too."""
SIZES = 8
"""Sizes of the passes of an attack that examples leave: each new size costs the libraries for convolutions more than a
few rows that are carried along."""

AHEAD = 1 << 17
"""Numbers up to which the noise of several steps is drawn at once: fewer take about as long."""


class Attack(Protocol):
    """Finds a perturbation by raising a score.

    `bn` is the mode of the network's normalisation layers while crafting; `objective` is None for
    an attack that brings its own (an ART attack behind an adapter).
    """

    @property
    def objective(self) -> Objective | None: ...

    @property
    def bn(self) -> BNMode: ...

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        """Attacks x (N, C, H, W); `mask` (broadcastable to x, in [0, 1]) says where it may change."""
        ...


class Start(Protocol):
    """Where an attack starts."""

    @property
    def clamped(self) -> bool:
        """Whether the start is put into the ball and the box before the first pass."""
        ...

    def __call__(self, norm: Norm, keys: Keys, x: Tensor, eps: Eps) -> Tensor:
        """The first perturbation, shaped as x."""
        ...


@dataclass(frozen=True)
class UniformStart:
    """A random point of the ball (Madry et al., ICLR 2018)."""

    clamped = True

    def __call__(self, norm: Norm, keys: Keys, x: Tensor, eps: Eps) -> Tensor:
        return norm.uniform(keys, x, eps)

    def __str__(self) -> str:
        return "uniform"


@dataclass(frozen=True)
class GaussianStart:
    """x + sigma N(0, 1), not clamped before the first pass (TRADES, Zhang et al., ICML 2019)."""

    sigma: float = 0.001
    clamped = False

    def __call__(self, norm: Norm, keys: Keys, x: Tensor, eps: Eps) -> Tensor:
        return self.sigma * keys.normal(tuple(x.shape[1:])).to(x.dtype)

    def __str__(self) -> str:
        return f"{self.sigma:g} N(0, 1)"


@dataclass(frozen=True)
class ZeroStart:
    """The clean image itself."""

    clamped = True

    def __call__(self, norm: Norm, keys: Keys, x: Tensor, eps: Eps) -> Tensor:
        return torch.zeros_like(x)

    def __str__(self) -> str:
        return "zero"


def stuck(objective: Objective, start: Start) -> str:
    """Why an attack from this start would never move: the reason and the way out; "" where it does."""
    if isinstance(start, ZeroStart) and objective.flat_at_clean:
        return (
            f"the objective {objective} has no gradient at the image itself, where the start zero is, so nothing would "
            "move; start at a random point, or raise another objective"
        )
    return ""


class Scheduled(Protocol):
    """An option that depends on progress, as a growing radius does; `PGD.at` puts its present value in its place."""

    def at(self, progress: Progress) -> int: ...


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent (Madry et al., ICLR 2018), with the options of its descendants.

    1. delta from `start`, projected onto the ball, then the box.
    2. `steps` times: a step of `step_size` along the steepest ascent of the score in the norm,
       then the ball, then the box.
    3. keep the last iterate (training), or per example the best one (evaluation): one that
       achieves the attack's aim before one that does not, then the highest score.
    With `restarts` above 1, steps 1 to 3 repeat with other noise and each example keeps its best.

    Attributes:
        norm: the ball; its eps may be drawn per example or batch.
        step_size: in clip-value units, a share of each example's own eps, or None for 2.5 eps / steps of it.
        momentum: decay mu of MI-FGSM: g <- mu g + grad / |grad|_1 (Dong et al., CVPR 2018, eq. (6)).
        clip: smallest and largest pixel value.
        stop_when_wrong: with keep="best", an example keeps the first iterate that achieves the aim and
            drops out of the work; faster, and the same examples succeed.
        tau: steps that an example takes from wrong iterates before it stays where it is and (in eval mode) drops
            out of the work, or None for all `steps` (Zhang et al., ICML 2020, algorithm 1). At 0 it stays
            at its first wrong iterate, which may be the start; at `steps` it is ordinary PGD.
        jitter: deviation of normal noise that is added at every step, before ball and box.
        judge: whose score last iterates of several restarts are compared by; None for the objective's own.
    """

    norm: Norm
    steps: int = 10
    step_size: float | OfEps | None = None
    objective: Objective = ce
    start: Start = field(default_factory=UniformStart)
    restarts: int = 1
    momentum: float = 0.0
    keep: Keep = "last"
    bn: BNMode = "eval"
    clip: tuple[float, float] = (0.0, 1.0)
    stop_when_wrong: bool = False
    tau: int | Scheduled | None = None
    jitter: float = 0.0
    judge: Objective | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if isinstance(self.step_size, int | float) and self.step_size <= 0:
            raise ConfigError(f"step_size must be above 0, got {self.step_size}")
        for name in ("momentum", "jitter"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.jitter and (why := stuck(self.objective, self.start)):
            raise ConfigError(why)
        if self.stop_when_wrong and self.keep != "best":
            raise ConfigError("stop_when_wrong needs keep='best', since the last iterate is not looked at otherwise")

        if isinstance(self.tau, int) and self.tau < 0:
            raise ConfigError(f"tau must not be negative, got {self.tau}")
        if self.tau is not None and (self.keep != "last" or self.restarts > 1 or self.momentum):
            raise ConfigError("tau ends a single plain run early; it goes with keep='last', 1 restart and no momentum")

    def at(self, progress: Progress) -> Self:
        """The attack at a moment: each option that has `at(progress)` gives way to its present value."""
        options: dict[str, Any] = vars(self)
        present = {name: value.at(progress) for name, value in options.items() if hasattr(value, "at")}
        changed = {name: value for name, value in present.items() if value is not options[name]}
        return replace(self, **changed) if changed else self

    def raising(self, objective: Objective) -> Self:
        """The same attack on another objective."""
        return replace(self, objective=objective)

    @property
    def cost(self) -> int:
        """Forward and backward passes per example, at most."""
        return self.steps * self.restarts

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        eps = self.norm.radius(keys, x)
        if mask is not None:
            mask = torch.as_tensor(mask, dtype=x.dtype, device=x.device).expand_as(x)
        if self.tau is not None:
            adv = self._early(net, x, score, keys.stream("start", 0), eps, mask)
            return Adversarial(adv, adv - x)
        if self.restarts == 1 and self.keep == "last":
            adv = self._once(net, x, score, keys.stream("start", 0), eps, mask, None)
            return Adversarial(adv, adv - x)
        best = Best(x, settles=self.stop_when_wrong)
        for restart in range(self.restarts):
            rows = best.open_rows() if self.stop_when_wrong else None
            if rows is not None and len(rows) == 0:
                break
            self._restart(net, x, score, keys.stream("start", restart), eps, mask, best, rows)
        return Adversarial(best.x, best.x - x)

    def _restart(
        self,
        net: Forward,
        x: Tensor,
        score: Score,
        keys: Keys,
        eps: Eps,
        mask: Tensor | None,
        best: Best,
        rows: Tensor | None,
    ) -> None:
        if rows is not None and len(rows) < len(x):
            part = best.part(rows)
            own_eps = eps[rows] if isinstance(eps, Tensor) else eps
            self._once(net, x[rows], score[rows], keys[rows], own_eps, None if mask is None else mask[rows], part)
            best.merge(rows, part)
            return
        last = self._once(net, x, score, keys, eps, mask, best if self.keep == "best" else None)
        if self.keep == "last":
            judge = score if self.judge is None else self.judge.bind(net, x, score.y, targeted=score.targeted)
            with torch.no_grad():
                out = net(last)
            best.consider(last, judge.value(out), judge.wrong(out), aim_first=False)

    def _once(
        self, net: Forward, x: Tensor, score: Score, keys: Keys, eps: Eps, mask: Tensor | None, best: Best | None
    ) -> Tensor:
        """One run from one start; returns the last iterate and shows every iterate to `best`.

        Where `best` settles, examples that did leave the work, as soon as they are a quarter of it;
        the last iterate is that of the others then.
        """
        walk = Walk.of(self, x, eps, mask)
        adv = walk.begin(self.start(self.norm, keys, x, eps), clamped=self.start.clamped or best is not None)
        velocity = torch.zeros_like(x) if self.momentum else None
        ones: Tensor | None = None
        rows, part, jitter = torch.arange(len(x), device=x.device), best, Jitter(self, keys, x)
        for step in range(self.steps):
            if best is not None and part is not None and part.settles:
                going = part.open_rows()
                if len(going) <= STANDING * len(adv):
                    rows = best.leave(rows, part, going)
                    if len(rows) == 0:
                        return adv
                    part, ones = best.part(rows), None
                    adv, walk, score = adv[going], walk[going], score[going]
                    velocity = None if velocity is None else velocity[going]
            adv.requires_grad_()
            out = net(adv)
            value = score.value(out)
            ones = torch.ones_like(value) if ones is None else ones  # as the gradient of a sum, without the sum
            (grad,) = torch.autograd.grad(value, adv, ones)
            adv = adv.detach()
            if part is not None:
                part.consider(adv, value.detach(), score.wrong(out))
            if velocity is not None:
                velocity.mul_(self.momentum).add_(unit(grad, 1))
                grad = velocity
            adv = walk.step(adv, grad, jitter(step, rows))
        if best is not None and part is not None:
            with torch.no_grad():
                out = net(adv)
            part.consider(adv, score.value(out), score.wrong(out))
            if part is not best:
                best.merge(rows, part)
        return adv

    def _early(
        self, net: Forward, x: Tensor, score: Score, keys: Keys, eps: Eps, mask: Tensor | None
    ) -> Tensor:
        """One run that each example leaves once it took `tau` steps from wrong iterates and is wrong again.

        One that leaves at a start that was not clamped is clamped then. With normalisation layers in train mode all
        stay in the passes until the last is done: without those that left, the others would be normalised otherwise.
        """
        walk = whole = Walk.of(self, x, eps, mask)
        done = walk.begin(self.start(self.norm, keys, x, eps), clamped=self.start.clamped)
        adv, rows, jitter = done.clone(), torch.arange(len(x), device=x.device), Jitter(self, keys, x)
        left = torch.full_like(rows, self.tau)  # type: ignore[arg-type]  # `at` made it a number
        ones: Tensor | None = None
        height = len(x) if self.bn == "train" else -(-len(x) // SIZES)
        for step in range(self.steps):
            adv.requires_grad_()
            out = net(adv)
            value = score.value(out)
            ones = torch.ones_like(value) if ones is None else ones  # as the gradient of a sum, without the sum
            (grad,) = torch.autograd.grad(value, adv, ones)
            adv = adv.detach()
            left.add_(score.wrong(out), alpha=-1)  # of those that left it stays below 0
            going = left >= 0
            count = int(going.count_nonzero())
            size = -(-count // height) * height
            if size < len(adv):
                done[rows] = adv
                if count == 0:
                    return whole.inside(done)
                kept = going.argsort(descending=True, stable=True)[:size]
                adv, grad, rows, left, going = adv[kept], grad[kept], rows[kept], left[kept], going[kept]
                walk, score, ones = walk[kept], score[kept], ones[:size]
            stays = adv.clone() if count < size else None
            adv = walk.step(adv, grad, jitter(step, rows))
            if stays is not None:
                adv = torch.where(per_example(going), adv, stays, out=stays)
        done[rows] = adv
        return whole.inside(done)

    def __str__(self) -> str:
        size = f"{self.step_size:g}" if isinstance(self.step_size, int | float) else self.step_size or "2.5 eps / steps"
        parts = [str(self.norm), f"{self.steps} steps of {size}", f"on {self.objective}", f"start {self.start}"]
        if self.restarts > 1:
            parts.append(f"{self.restarts} restarts")
        if self.momentum:
            parts.append(f"momentum {self.momentum:g}")
        if self.jitter:
            parts.append(f"jitter {self.jitter:g}")
        if self.tau is not None:
            parts.append(f"stops once wrong, after tau {self.tau}")
        return f"PGD({', '.join(parts)}, keeps {self.keep}, bn {self.bn})"


class Jitter:
    """Normal noise for each step of a run, keyed by example; of small images drawn for several steps at once."""

    def __init__(self, attack: PGD, keys: Keys, x: Tensor) -> None:
        self.attack, self.keys, self.x = attack, keys, x
        self.ahead = max(1, AHEAD // max(1, x.numel()))
        self._drawn: Tensor | None = None

    def __call__(self, step: int, rows: Tensor) -> Tensor | None:
        """(len(rows), C, H, W) for the rows that still go on, or None without jitter. Steps come in their order."""
        if not self.attack.jitter:
            return None
        if self.ahead == 1:
            return self._draw(self.keys[rows], [step])[0]
        if step % self.ahead == 0:
            self._drawn = self._draw(self.keys, range(step, min(step + self.ahead, self.attack.steps)))
        assert self._drawn is not None
        noise = self._drawn[step % self.ahead]
        return noise if len(rows) == len(self.x) else noise[rows]

    def _draw(self, keys: Keys, steps: Sequence[int]) -> Tensor:
        drawn = normals([keys.stream("jitter", step) for step in steps], tuple(self.x.shape[1:]))
        return drawn.to(self.x.dtype).mul_(self.attack.jitter)


@dataclass
class Walk:
    """The geometry of one run: bounds that are computed once, and the step."""

    attack: PGD
    x: Tensor
    eps: Eps
    mask: Tensor | None
    low: Tensor
    high: Tensor
    size: Eps

    @classmethod
    def of(cls, attack: PGD, x: Tensor, eps: Eps, mask: Tensor | None) -> Walk:
        asked = attack.step_size
        size: Eps = attack.norm.usual_step(eps, attack.steps) if asked is None else asked  # type: ignore[assignment]
        if isinstance(asked, OfEps):
            size = asked.share * eps
        low, high = attack.clip
        if isinstance(attack.norm, Linf):  # ball and box are one box a pixel; a mask narrows it
            reach = eps if mask is None else mask * eps
            return cls(attack, x, eps, mask, (x - reach).clamp_(min=low), (x + reach).clamp_(max=high), size)
        bounds = [torch.tensor(bound, dtype=x.dtype, device=x.device) for bound in (low, high)]
        return cls(attack, x, eps, mask, bounds[0], bounds[1], size)

    def begin(self, delta: Tensor, *, clamped: bool) -> Tensor:
        if self.mask is not None:
            delta = delta * self.mask
        adv = self.x.clone().add_(delta)  # strides of x: `x + delta` may not keep channels-last order
        return self.inside(adv) if clamped else adv

    def __getitem__(self, rows: Tensor) -> Walk:
        """The same geometry for some of the examples. In L-inf the bounds know where the images are."""

        def cut(part: Any) -> Any:
            return part[rows] if isinstance(part, Tensor) and part.ndim > 0 else part

        x = self.x if isinstance(self.attack.norm, Linf) else self.x[rows]
        low, high = cut(self.low), cut(self.high)
        return Walk(self.attack, x, cut(self.eps), cut(self.mask), low, high, cut(self.size))

    def step(self, adv: Tensor, grad: Tensor, noise: Tensor | None = None) -> Tensor:
        """Owns `adv`, which is overwritten in L-inf."""
        norm = self.attack.norm
        if noise is not None and self.mask is not None:
            noise = noise * self.mask
        if isinstance(norm, Linf):
            direction = grad.sign()
            if isinstance(self.size, Tensor):
                adv.addcmul_(direction, self.size)
            else:
                adv.add_(direction, alpha=self.size)
            if noise is not None:
                adv.add_(noise)
            return torch.clamp(adv, self.low, self.high, out=adv)
        if self.mask is not None:
            grad = grad * self.mask
        if norm.skips_saturated:
            grad = grad.masked_fill(((adv >= self.high) & (grad > 0)) | ((adv <= self.low) & (grad < 0)), 0)
        adv = adv + norm.steepest(grad) * self.size
        return self.inside(adv if noise is None else adv + noise)

    def inside(self, adv: Tensor) -> Tensor:
        """Owns `adv`, which is overwritten in L-inf."""
        if isinstance(self.attack.norm, Linf):
            return torch.clamp(adv, self.low, self.high, out=adv)
        return self.attack.norm.inside(self.x, adv, self.eps, self.low, self.high)


class Best:
    """Per example, the best adversarial example so far.

    With `settles`, an example keeps the first that achieves the aim: when the work on it ends would
    depend on the others in its batch otherwise.
    """

    def __init__(self, x: Tensor, *, settles: bool = False) -> None:
        self.x, self.settles = x.clone(), settles
        self.value = torch.full((len(x),), float("-inf"), device=x.device, dtype=x.dtype)
        self.wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def consider(self, x: Tensor, value: Tensor, wrong: Tensor, *, aim_first: bool = True) -> None:
        """Keeps x where it achieves the aim and the best does not, or is alike and scores higher."""
        better = value > self.value
        if aim_first:
            better = (wrong & ~self.wrong) | ((wrong == self.wrong) & better)
        if self.settles:
            better = better & ~self.wrong
        torch.where(per_example(better), x, self.x, out=self.x)
        self.value = torch.where(better, value.to(self.value.dtype), self.value)
        self.wrong = torch.where(better, wrong, self.wrong)

    def open_rows(self) -> Tensor:
        """Indices of the examples whose aim is not achieved yet."""
        return (~self.wrong).nonzero().squeeze(1)

    def part(self, rows: Tensor) -> Best:
        part = Best(self.x[rows], settles=self.settles)
        part.value, part.wrong = self.value[rows], self.wrong[rows]
        return part

    def merge(self, rows: Tensor, part: Best) -> None:
        self.x[rows], self.value[rows], self.wrong[rows] = part.x, part.value, part.wrong

    def leave(self, rows: Tensor, part: Best, going: Tensor) -> Tensor:
        """Takes back a part that was cut out at `rows`; the rows of those of its examples that go on."""
        if part is not self:
            self.merge(rows, part)
        return rows[going]


def for_evaluation(attack: PGD, **changes: object) -> PGD:
    """The same attack as an evaluation runs it: best iterate per example, all its steps, no jitter,
    eval-mode normalisation, the largest eps of a range."""
    norm = replace(attack.norm, eps=attack.norm.largest)
    settings: dict[str, object] = {"norm": norm, "keep": "best", "bn": "eval", "stop_when_wrong": True}
    settings |= {"tau": None, "jitter": 0.0, **changes}
    return replace(attack, **settings)  # type: ignore[arg-type]
