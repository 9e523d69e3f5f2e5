"""The attacks of evaluations, as constructors over PGD: FGSM, BIM, MIM, PGD and the CW margin.

Each is an ingredient that sets the attack alone, so that it can be an ART attack; recipes know them
as `evaluate:` entries.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from art_ext.api import (
    PGD,
    Count,
    Ingredient,
    NonNegative,
    Objective,
    ObjectiveName,
    Paper,
    Plan,
    Positive,
    UniformStart,
    ZeroStart,
    cw,
    norm_named,
    objectives_for,
)

Clip = tuple[float, float]


class GradientAttack(Ingredient):
    """Base of the attacks: a ball, and `pgd`, which says what PGD becomes of it."""

    norm: Literal["linf", "l2", "l1", "l0"] = "linf"
    eps: Annotated[Positive, Field(description="radius in clip-value units; of l0, pixels")] = 8 / 255

    @model_validator(mode="after")
    def _whole_pixels(self) -> Self:
        norm_named(self.norm, self.eps)
        return self

    def pgd(self, clip: Clip, objective: Objective) -> PGD:
        """The attack on images in the clip range."""
        raise NotImplementedError

    def apply(self, plan: Plan) -> Plan:
        return plan.fill(self, attack=self.pgd(plan.facts.clip, self.strongest(plan)))

    def strongest(self, plan: Plan) -> Objective:
        """What is raised against a plan; the first where that is several objectives."""
        raise NotImplementedError


class Raising(GradientAttack):
    """One that raises an objective of the user's choice."""

    objective: ObjectiveName = "ce"

    def strongest(self, plan: Plan) -> Objective:
        return objectives_for(self.objective, plan)[0]


class FGSM(Raising):
    """Fast gradient sign: one step of eps from the image itself (Goodfellow et al., ICLR 2015)."""

    name = "fgsm"
    paper = Paper(
        "Explaining and Harnessing Adversarial Examples",
        "Goodfellow, Shlens, Szegedy",
        "ICLR",
        2015,
        "https://arxiv.org/abs/1412.6572",
    )

    def pgd(self, clip: Clip, objective: Objective) -> PGD:
        return PGD(norm_named(self.norm, self.eps), 1, self.eps, objective, start=ZeroStart(), clip=clip)


class BIM(Raising):
    """The basic iterative method: FGSM in small steps from the image itself (Kurakin et al., 2017)."""

    name = "bim"
    paper = Paper(
        "Adversarial examples in the physical world",
        "Kurakin, Goodfellow, Bengio",
        "ICLR workshop",
        2017,
        "https://arxiv.org/abs/1607.02533",
    )

    steps: Count = 10
    step_size: Annotated[Positive | None, Field(description="eps / steps when left out")] = None

    def pgd(self, clip: Clip, objective: Objective) -> PGD:
        size = self.step_size or self.eps / self.steps
        return PGD(norm_named(self.norm, self.eps), self.steps, size, objective, start=ZeroStart(), clip=clip)


class MIM(Raising):
    """The momentum iterative method, g <- mu g + grad / |grad|_1 (Dong et al., CVPR 2018, eq. (6))."""

    name = "mim"
    paper = Paper(
        "Boosting Adversarial Attacks with Momentum",
        "Dong, Liao, Pang, Su, Zhu, Hu, Li",
        "CVPR",
        2018,
        "https://arxiv.org/abs/1710.06081",
    )

    steps: Count = 10
    step_size: Annotated[Positive | None, Field(description="eps / steps when left out")] = None
    momentum: Annotated[NonNegative, Field(description="decay mu")] = 1.0

    def pgd(self, clip: Clip, objective: Objective) -> PGD:
        size, ball = self.step_size or self.eps / self.steps, norm_named(self.norm, self.eps)
        return PGD(ball, self.steps, size, objective, start=ZeroStart(), momentum=self.momentum, clip=clip)


class Restarted(GradientAttack):
    """PGD from random points of the ball."""

    steps: Count = 20
    step_size: Annotated[Positive | None, Field(description="2.5 eps / steps when left out")] = None
    restarts: Count = 1

    def pgd(self, clip: Clip, objective: Objective) -> PGD:
        return PGD(
            norm_named(self.norm, self.eps),
            self.steps,
            self.step_size,
            objective=objective,
            start=UniformStart(),
            restarts=self.restarts,
            clip=clip,
        )


class PlainPGD(Raising, Restarted):
    """Projected gradient descent, on CE unless told otherwise, from random points (Madry et al., ICLR 2018)."""

    name = "pgd"
    paper = Paper(
        "Towards Deep Learning Models Resistant to Adversarial Attacks",
        "Madry, Makelov, Schmidt, Tsipras, Vladu",
        "ICLR",
        2018,
        "https://arxiv.org/abs/1706.06083",
    )


class CWMargin(Restarted):
    """PGD on the logit margin max_{k != y} z_k - z_y (Carlini and Wagner, S&P 2017, f_6, without a confidence).

    Its gradient does not vanish where the softmax saturates; inside the ball, it is the "CW" of
    adversarial-training papers, not the minimal-norm attack.
    """

    name = "cw_margin"
    paper = Paper(
        "Towards Evaluating the Robustness of Neural Networks",
        "Carlini, Wagner",
        "S&P",
        2017,
        "https://arxiv.org/abs/1608.04644",
    )

    def strongest(self, plan: Plan) -> Objective:
        return cw
