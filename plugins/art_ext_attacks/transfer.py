"""Transfer: adversarial examples of another network (Papernot et al., 2016), with momentum (Dong et al., 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from art_ext.api import (
    PGD,
    Adversarial,
    Attack,
    AttackEntry,
    ConfigError,
    Count,
    EvaluationContext,
    Facts,
    Forward,
    Keys,
    NonNegative,
    Norm,
    Objective,
    Paper,
    Score,
    cw,
    frozen,
    objective_named,
)
from art_ext_attacks.settings import AttackSettings, OfThreat, OnBall


@dataclass(frozen=True)
class Transfer:
    """Attacks the surrogate and hands over what it made; the network under attack is asked nothing.

    Attributes:
        label: the surrogate in words.
    """

    attack: PGD
    surrogate: Forward
    label: str
    objective: Objective = cw  # of the aim; the surrogate's score is bound in `craft`
    bn: Literal["eval"] = "eval"

    @property
    def norm(self) -> Norm:
        return self.attack.norm

    @property
    def cost(self) -> int:
        return self.attack.cost

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        held = frozen(self.surrogate) if isinstance(self.surrogate, nn.Module) else nullcontext()
        with held:
            own = self.attack.objective.bind(self.surrogate, x, score.y, targeted=score.targeted)
            return self.attack.craft(self.surrogate, x, own, keys, mask)

    def __str__(self) -> str:
        return f"transfer from {self.label} of {self.attack}"


class TransferSettings(AttackSettings):
    """Options of the attack on the surrogate."""

    steps: Count = 50
    objective: Annotated[
        Literal["ce", "margin", "dlr"], Field(description="raised on the surrogate, which has no defence to know")
    ] = "ce"
    momentum: Annotated[NonNegative, Field(description="decay mu of MI-FGSM")] = 1.0
    restarts: Count = 1

    def on_surrogate(self, ball: Norm, clip: tuple[float, float]) -> PGD:
        """PGD with momentum, whose best iterate is best for the surrogate."""
        return PGD(
            ball,
            self.steps,
            objective=objective_named(self.objective),
            momentum=self.momentum,
            restarts=self.restarts,
            clip=clip,
            keep="best",
        )


class TransferOptions(OfThreat, TransferSettings):
    """Transfer in a recipe's `evaluate:`, from every surrogate that the evaluation knows."""


class Transferred(OnBall, TransferSettings):
    """Transfer as an attack of its own."""

    name = "transfer"
    paper = Paper(
        "Boosting Adversarial Attacks with Momentum",
        "Dong, Liao, Pang, Su, Zhu, Hu, Li",
        "CVPR",
        2018,
        "https://arxiv.org/abs/1710.06081",
    )

    surrogate: Annotated[Any, Field(description="the network that is attacked in the other's place")]

    def attack(self, ball: Norm, facts: Facts) -> Attack:
        return Transfer(self.on_surrogate(ball, facts.clip), self.surrogate, "the surrogate")


def build(options: TransferOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    """One attack a surrogate.

    Raises:
        ConfigError: where the evaluation knows none.
    """
    if not context.surrogates:
        raise ConfigError("transfer needs another network to craft on; name one, such as --baseline MODEL, or drop it")
    pgd = options.on_surrogate(options.ball(context), context.clip)
    word = "" if options.objective == "ce" else f"_{options.objective}"
    return [(f"transfer_{name}{word}", Transfer(pgd, net, name)) for name, net in context.surrogates.items()]


ENTRY = AttackEntry(
    "transfer", "adversarial examples of another network, with momentum", TransferOptions, build, family="transfer"
)
