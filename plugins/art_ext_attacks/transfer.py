"""Transfer: adversarial examples of another network (Papernot et al., 2016), with momentum (Dong et al., 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal

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
    Forward,
    Keys,
    NonNegative,
    Norm,
    Objective,
    Score,
    cw,
    frozen,
)
from art_ext_attacks.settings import OfThreat


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


class TransferOptions(OfThreat):
    """Transfer in a recipe's `evaluate:`, from every surrogate that the evaluation knows."""

    steps: Count = 50
    momentum: Annotated[NonNegative, Field(description="decay mu of MI-FGSM")] = 1.0
    restarts: Count = 1


def build(options: TransferOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    """One attack a surrogate.

    Raises:
        ConfigError: where the evaluation knows none.
    """
    if not context.surrogates:
        raise ConfigError("transfer needs another network to craft on; name one, such as --baseline MODEL, or drop it")
    ball = options.ball(context)
    pgd = PGD(ball, options.steps, momentum=options.momentum, restarts=options.restarts, clip=context.clip, keep="best")
    return [(f"transfer_{name}", Transfer(pgd, net, name)) for name, net in context.surrogates.items()]


ENTRY = AttackEntry(
    "transfer", "adversarial examples of another network, with momentum", TransferOptions, build, family="transfer"
)
