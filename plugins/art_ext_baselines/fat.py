"""FAT: friendly adversarial training (Zhang et al., ICML 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from art_ext.api import (
    PGD,
    ConfigError,
    Count,
    Ingredient,
    Madry,
    NonNegative,
    Paper,
    Plan,
    Progress,
    Radius,
    StepSize,
    norm_named,
)
from art_ext_baselines.step_size import paper_step


@dataclass(frozen=True)
class Tau:
    """Steps that an example still takes from wrong iterates: one more from each milestone on."""

    start: int
    milestones: tuple[float, ...]

    def at(self, progress: Progress) -> int:
        return self.start + sum(progress.epoch >= milestone for milestone in self.milestones)

    def __str__(self) -> str:
        later = "".join(f", {self.start + i + 1} from epoch {m:g}" for i, m in enumerate(self.milestones))
        return f"{self.start}{later}"


@dataclass(frozen=True)
class FriendlyPGD(PGD):
    """FAT's own attack: PGD that is stopped early, told apart from the attack of another method."""


class FAT(Ingredient):
    """Friendly adversarial training: PGD stops soon after the prediction flips (algorithm 1).

    It stops the attack that another ingredient sets: `[trades, fat]` is FAT-TRADES, `[mart, fat]`
    FAT-MART. Alone, it trains on its own attack, CE PGD from a uniform start. An evaluation runs
    the same attack without the stop.
    """

    name = "fat"
    paper = Paper(
        "Attacks Which Do Not Kill Training Make Adversarial Learning Stronger",
        "Zhang, Xu, Han, Niu, Cui, Sugiyama, Kankanhalli",
        "ICML",
        2020,
        "https://arxiv.org/abs/2002.11242",
    )
    own: ClassVar = ("norm", "eps", "steps", "step_size", "jitter", "bn")
    """Options of its own attack, which mean nothing for that of another ingredient."""

    tau: Annotated[int, Field(ge=0, strict=True, description="steps taken from wrong iterates; 0: none")] = 0
    milestones: Annotated[
        tuple[NonNegative, ...],
        Field(description="epochs from which tau is one more: of 120; around trades 30, 50, 70 of 85"),
    ] = (50.0, 90.0)
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Annotated[Radius, Field(description="radius in clip-value units; 0.031 in the paper, not 8/255")] = 0.031
    steps: Count = 10
    step_size: Annotated[StepSize | None, Field(description="2.26 eps / steps when left out: the paper's 0.007")] = None
    jitter: Annotated[NonNegative, Field(description="omega: normal noise added at each step")] = 0.001
    bn: Annotated[Literal["eval", "train"], Field(description="mode of normalisation layers while crafting")] = "eval"

    def apply(self, plan: Plan) -> Plan:
        attack = FriendlyPGD(
            norm_named(self.norm, self.eps),
            self.steps,
            paper_step(self.step_size, self.steps),
            bn=self.bn,
            clip=plan.facts.clip,
            jitter=self.jitter,
        )
        plan = plan.default(self, attack=attack, risk=Madry()).alter(self, "attack", self._friendly)
        return plan.remark(self._idle)

    def _idle(self, epochs: int) -> str:
        """Which milestones a training does not reach: those that were asked for, or all of them."""
        late = [milestone for milestone in self.milestones if milestone >= epochs]
        if late and len(late) == len(self.milestones):
            return (
                f"fat: tau stays {self.tau} to the end, epoch {epochs}, since the first milestone is "
                f"{min(late):g}; set fat.milestones lower for it to rise"
            )
        if late and self.changed("milestones"):
            listed = " and ".join(f"{milestone:g}" for milestone in late)
            return f"fat.milestones: nothing happens at {listed}, after the last of {epochs} epochs"
        return ""

    def _friendly(self, attack: Any) -> PGD:
        """The attack with the early stop.

        Raises:
            ConfigError: for an attack that cannot be stopped, or options that would mean nothing.
        """
        if not isinstance(attack, PGD):
            raise ConfigError(f"fat stops PGD early, but the attack is {attack}; combine it with pgd_at or trades")
        for option in () if isinstance(attack, FriendlyPGD) else self.changed(*self.own):
            raise ConfigError(
                f"fat.{option} has no effect on the attack that another ingredient sets; set {option} there"
            )
        return replace(attack, tau=Tau(self.tau, self.milestones))
