"""AutoAttack: APGD, FAB and Square one after the other, each on what still stands (Croce and Hein, ICML 2020)."""

from __future__ import annotations

from collections.abc import Sequence
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
    EvaluationContext,
    Facts,
    Forward,
    Keys,
    Norm,
    Objective,
    Score,
    ce,
    cw,
    dlr_ratio,
)
from art_ext_attacks.apgd import APGD, PAPER, TARGETS
from art_ext_attacks.ascent import check_norm
from art_ext_attacks.fab import FAB
from art_ext_attacks.passes import look
from art_ext_attacks.settings import AttackSettings, OfThreat, OnBall
from art_ext_attacks.square import Square

Version = Literal["standard", "plus", "rand"]
RESTARTS, SPARSE_TARGETS, PASSES = 5, 5, 20
"""Of `plus`; classes that targeted APGD aims at in L1; passes of `rand`."""
ON_CE = {"linf": 1, "l2": 5, "l1": 10}
"""Restarts of APGD on CE in `standard`; the reference has 1, 1 and 5."""


def components(version: Version, ball: Norm, facts: Facts) -> dict[str, Attack]:
    """The attacks of a version, in order, by name.

    standard: APGD on CE, APGD on the targeted DLR (9 classes), targeted FAB (9 classes), Square (5,000
        queries). APGD on CE has 5 restarts in L2 and 10 in L1; in L1 APGD has 5 classes and larger balls.
    plus: APGD on CE and on DLR, FAB and Square, with 5 restarts each but Square's one, then targeted
        APGD and targeted FAB.
    rand: APGD on CE and on DLR with gradients of 20 passes, for networks with random numbers of their own.

    With fewer classes, all wrong ones are aimed at. DLR needs three classes and its targeted form
    four; below, both are differences of two logits, whose steps are the same in L-inf.

    Raises:
        ConfigError: for a ball that APGD, FAB and Square do not know, or a single class.
    """
    check_norm("AutoAttack", ball)
    if facts.n_classes < 2:
        raise ConfigError(f"AutoAttack needs two classes or more, got {facts.n_classes}")
    sparse, clip, wrong = ball.name == "l1", facts.clip, facts.n_classes - 1
    many = RESTARTS if version == "plus" else ON_CE[ball.name]
    if version == "rand":
        return {
            "apgd_ce": APGD(ball, eot=PASSES, larger=sparse, clip=clip),
            "apgd_dlr": APGD(ball, objective=dlr_ratio, eot=PASSES, larger=sparse, clip=clip),
        }
    targets = min(SPARSE_TARGETS if sparse and version == "standard" else TARGETS, wrong)
    on_ce = APGD(ball, objective=ce, restarts=many, larger=sparse, clip=clip)
    aimed = APGD(ball, objective=dlr_ratio, targets=targets, larger=sparse, clip=clip)
    fab = FAB(ball, targets=min(TARGETS, wrong), clip=clip)
    square = Square(ball, rescale=False, clip=clip)
    if version == "standard":
        return {"apgd_ce": on_ce, "apgd_t": aimed, "fab_t": fab, "square": square}
    on_dlr = APGD(ball, objective=dlr_ratio, restarts=many, larger=sparse, clip=clip)
    nearest = FAB(ball, restarts=RESTARTS, targets=0, clip=clip)
    return {
        "apgd_ce": on_ce,
        "apgd_dlr": on_dlr,
        "fab": nearest,
        "square": square,
        "apgd_t": aimed,
        "fab_t": fab,
    }


@dataclass(frozen=True)
class AutoAttack:
    """The components one after the other; each attacks the examples that still stand.

    `craft` gives, beside the examples, which component felled each: extras["felled_by"] (N,), its
    index in `names`, or -1.

    Attributes:
        attacks: the components by name, in order.
        objective: what the best point of an example that stands is chosen by.
    """

    attacks: dict[str, Attack]
    objective: Objective = cw
    bn: Literal["eval"] = "eval"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.attacks)

    @property
    def norm(self) -> Norm | None:
        """The ball of all components."""
        return getattr(next(iter(self.attacks.values())), "norm", None)

    @property
    def cost(self) -> int:
        """Passes of an example that stands to the end."""
        return sum(int(getattr(attack, "cost", 0)) for attack in self.attacks.values())

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        if mask is not None:
            mask = torch.as_tensor(mask, dtype=x.dtype, device=x.device).expand_as(x)
        best = Best(x, settles=True)
        felled_by = torch.full((len(x),), -1, device=x.device)
        for number, attack in enumerate(self.attacks.values()):
            rows = best.open_rows()
            if len(rows) == 0:
                break
            part, own = best.part(rows), score[rows]
            aim = (attack.objective or cw).bind(net, x[rows], own.y, targeted=own.targeted)
            made = attack.craft(net, x[rows], aim, keys[rows], None if mask is None else mask[rows])
            out = look(net, made.x)
            part.consider(made.x, own.value(out), own.wrong(out))
            best.merge(rows, part)
            felled_by[rows[part.wrong]] = number
        return Adversarial(best.x, best.x - x, {"felled_by": felled_by})

    def __str__(self) -> str:
        return f"AutoAttack({', then '.join(str(attack) for attack in self.attacks.values())})"


class AutoAttackSettings(AttackSettings):
    """Options of AutoAttack; the components' are the paper's and stay so."""

    version: Annotated[
        Version,
        Field(description="standard; plus: more restarts; rand: for networks with random numbers of their own"),
    ] = "standard"

    def attack(self, ball: Norm, facts: Facts) -> AutoAttack:
        return AutoAttack(components(self.version, ball, facts))


class AutoAttackOptions(OfThreat, AutoAttackSettings):
    """AutoAttack in a recipe's `evaluate:`: its components, each under its own name, or as one."""

    as_one: Annotated[
        bool, Field(description="one figure, of each component on what those before it left: the published one")
    ] = False


class AutoAttackIngredient(OnBall, AutoAttackSettings):
    """AutoAttack as an ART attack."""

    name = "autoattack"
    paper = PAPER


def build(options: AutoAttackOptions, context: EvaluationContext) -> Sequence[tuple[str, Attack]]:
    found = components(options.version, options.ball(context), context.facts)
    if not options.as_one:
        return list(found.items())
    word = "" if options.version == "standard" else f"_{options.version}"
    return [(f"autoattack{word}", AutoAttack(found))]


ENTRY = AttackEntry(
    "autoattack",
    "APGD, targeted APGD, targeted FAB and Square (Croce and Hein, ICML 2020)",
    AutoAttackOptions,
    build,
)
