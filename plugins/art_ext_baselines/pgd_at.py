"""PGD adversarial training (Madry et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from art_ext.api import (
    PGD,
    Augment,
    Count,
    GaussianStart,
    Ingredient,
    Madry,
    Mixed,
    NonNegative,
    Number,
    Paper,
    Plan,
    Radius,
    RandomTarget,
    Risk,
    Start,
    StepSize,
    UniformStart,
    ZeroStart,
    norm_named,
    objective_named,
    stuck,
)

NormName = Literal["linf", "l2", "l1"]
ObjectiveName = Literal["ce", "margin", "dlr", "kl_to_clean", "criterion"]
StartName = Literal["uniform", "gaussian", "zero"]
STARTS: dict[StartName, Start] = {"uniform": UniformStart(), "gaussian": GaussianStart(), "zero": ZeroStart()}


class PGDAT(Ingredient):
    """PGD adversarial training (Madry et al., ICLR 2018; recipe of Rice et al., ICML 2020).

    Minimises the criterion on PGD examples alone, on a batch that is partly clean
    (`clean_fraction`), or on every clean row and its adversarial twin (`augment`).
    """

    name = "pgd_at"
    trial: ClassVar[Mapping[str, object]] = {"eps": 0.1, "steps": 2}
    paper = Paper(
        "Towards Deep Learning Models Resistant to Adversarial Attacks",
        "Madry, Makelov, Schmidt, Tsipras, Vladu",
        "ICLR",
        2018,
        "https://arxiv.org/abs/1706.06083",
    )

    norm: NormName = "linf"
    eps: Annotated[Radius, Field(description="in clip-value units: a number, 8/255, or {uniform: [a, b]}")] = 8 / 255
    steps: Count = 10
    step_size: Annotated[StepSize | None, Field(description="2.5 eps / steps when left out")] = None
    restarts: Count = 1
    momentum: NonNegative = 0.0
    start: StartName = "uniform"
    objective: Annotated[ObjectiveName, Field(description="criterion: the adversary it declares")] = "ce"
    random_target: Annotated[bool, Field(description="towards one random wrong class per example")] = False
    clean_fraction: Annotated[Number, Field(ge=0, lt=1, description="share of each batch left clean")] = 0.0
    augment: Annotated[bool, Field(description="all rows clean, and their adversarial twins beside them")] = False
    bn: Annotated[Literal["eval", "train"], Field(description="mode of normalisation layers while crafting")] = "eval"

    @model_validator(mode="after")
    def _one_kind_of_clean_rows(self) -> Self:
        if self.augment and self.clean_fraction:
            raise ValueError("augment keeps every row clean, so clean_fraction has no meaning; set one of them")
        return self

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if why := stuck(objective_named(self.objective), STARTS[self.start]):
            raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _can_be_aimed(self) -> Self:
        if self.random_target and not objective_named(self.objective).targetable:
            raise ValueError(
                f"the objective {self.objective} has no targeted form, so it goes with no random_target; "
                "leave that out, or raise ce, margin or dlr"
            )
        return self

    def apply(self, plan: Plan) -> Plan:
        attack = PGD(
            norm_named(self.norm, self.eps),
            self.steps,
            self.step_size,
            objective=objective_named(self.objective),
            start=STARTS[self.start],
            restarts=self.restarts,
            momentum=self.momentum,
            bn=self.bn,
            clip=plan.facts.clip,
        )
        if self.random_target:
            attack = RandomTarget(**vars(attack), n_classes=plan.facts.n_classes)
        return plan.fill(self, attack=attack, risk=self._risk())

    def _risk(self) -> Risk:
        if self.augment:
            return Augment()
        return Mixed(self.clean_fraction) if self.clean_fraction else Madry()
