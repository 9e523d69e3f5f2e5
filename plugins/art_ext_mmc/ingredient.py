"""MMC, MM-LDA and MMC with random centres, and the comparators of their table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from art_ext.api import (
    Attack,
    ConfigError,
    Count,
    Ingredient,
    NonNegative,
    Paper,
    Plan,
    Positive,
    ReplaceHead,
    ce,
)
from art_ext_mmc.centers import mm_centers, optimised_centers, random_centers
from art_ext_mmc.criteria import CenterPull, GSCELoss, LGMLoss, MMCLoss, MMLDALoss, NearestCenter, center_distance
from art_ext_mmc.heads import CenterHead, FixCenters, QuadraticHead, Shape

Form = Literal["paper", "code"]
WIDEST = 2**16
"""The largest width d that is taken: a linear layer of it has tens of millions of weights already."""
Width = Annotated[Count, Field(le=WIDEST)]
Dim = Annotated[Width, Field(description="width d of the linear layer before the centres; n_classes - 1 or more")]
CenterNorm = Annotated[Positive, Field(description="s, the L2 norm of each centre; MM-LDA's C = 100 is s squared")]

MMC_PAPER = Paper(
    "Rethinking Softmax Cross-Entropy Loss for Adversarial Robustness",
    "Pang, Xu, Dong, Du, Chen, Zhu",
    "ICLR",
    2020,
    "https://arxiv.org/abs/1905.10626",
)


def aimed_at_centers(attack: Attack) -> Attack:
    """The same attack on the centre distance where it would raise cross-entropy, whose gradient is 0 here."""
    if attack.objective is ce and is_dataclass(attack) and not isinstance(attack, type):
        changed: Any = replace(attack, objective=center_distance)
        return changed
    return attack


class _FixedCenters(Ingredient):
    """What methods with fixed centres have in common."""

    center_norm: CenterNorm = 10.0
    dim: Dim = 256
    form: Annotated[Form, Field(description="paper: the factor 1/2 before the distance; code: none")] = "paper"

    @property
    def _factor(self) -> float:
        return 0.5 if self.form == "paper" else 1.0

    def _centers(self, n_classes: int) -> Tensor:
        return mm_centers(n_classes, self.dim, self.center_norm)

    def _fix(self, plan: Plan, scale: float) -> Plan:
        if plan.facts.n_classes < 2:
            raise ConfigError(f"{self.name} needs two classes or more, got {plan.facts.n_classes}")
        try:
            self._check(plan.facts.n_classes)
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error}") from None
        centers: Callable[[int], Tensor] = self._centers
        return plan.reshape(self, FixCenters(centers, scale))

    def _check(self, n_classes: int) -> None:
        mm_centers(n_classes, self.dim, self.center_norm)


class _CenterDistance(_FixedCenters):
    def apply(self, plan: Plan) -> Plan:
        plan = self._fix(plan, 1.0)
        plan = plan.fill(self, criterion=MMCLoss(self._factor, self.center_norm))
        plan = plan.default(self, detectors=(NearestCenter(),))
        return plan.alter(self, "attack", aimed_at_centers, optional=True)


class MMC(_CenterDistance):
    """Max-Mahalanobis centre loss (Pang et al., ICLR 2020): features are pulled to fixed centres, without a softmax.

    Adversarial training under it crafts on the centre distance. Alone it is NOT robust: a re-attack
    reports accuracy near zero (Tramer et al., NeurIPS 2020).
    """

    name = "mmc"
    adaptive = (("center_pgd", {"target": "every"}),)
    trial: ClassVar[Mapping[str, object]] = {"dim": 8}
    paper = MMC_PAPER

    centers: Annotated[
        Literal["simplex", "optimised"], Field(description="optimised: also where dim is below n_classes - 1")
    ] = "simplex"

    def _centers(self, n_classes: int) -> Tensor:
        make = optimised_centers if self.centers == "optimised" else mm_centers
        return make(n_classes, self.dim, self.center_norm)

    def _check(self, n_classes: int) -> None:
        if self.centers == "optimised" and self.dim > 1:
            return  # they take their time, and exist
        try:
            self._centers(n_classes)
        except ConfigError as error:
            other = ", or centers to optimised" if self.dim > 1 else ""
            raise ConfigError(f"{error}{other}") from None


class MMCRand(_CenterDistance):
    """MMC with centres drawn once at random (Pang et al., ICLR 2020)."""

    name = "mmc_rand"
    adaptive = (("center_pgd", {"target": "every"}),)
    trial: ClassVar[Mapping[str, object]] = {"dim": 8}
    paper = MMC_PAPER

    center_seed: Annotated[
        int, Field(ge=0, lt=2**63, strict=True, description="of the centres; the run's seed does not move them")
    ] = 0

    def _centers(self, n_classes: int) -> Tensor:
        return random_centers(n_classes, self.dim, self.center_norm, self.center_seed)

    def _check(self, n_classes: int) -> None:
        self._centers(n_classes)


class MMLDA(_FixedCenters):
    """Max-Mahalanobis linear discriminant analysis (Pang et al., ICML 2018): MMC's centres under a softmax."""

    name = "mm_lda"
    trial: ClassVar[Mapping[str, object]] = {"dim": 8}
    paper = Paper(
        "Max-Mahalanobis Linear Discriminant Analysis Networks",
        "Pang, Du, Zhu",
        "ICML",
        2018,
        "https://arxiv.org/abs/1802.09308",
    )

    def apply(self, plan: Plan) -> Plan:
        return self._fix(plan, self._factor).fill(self, criterion=MMLDALoss())


class CenterLoss(Ingredient):
    """Cross-entropy with a pull of the features to trained centres (Wen et al., ECCV 2016).

    The centres' step delta c goes through the optimizer, as a gradient.
    """

    name = "center_loss"
    paper = Paper(
        "A Discriminative Feature Learning Approach for Deep Face Recognition",
        "Wen, Zhang, Li, Qiao",
        "ECCV",
        2016,
        "https://doi.org/10.1007/978-3-319-46478-7_31",
    )

    lam: Annotated[NonNegative, Field(description="weight of the pull; 0.003 in the paper")] = 0.003
    alpha: Annotated[NonNegative, Field(description="step of the centres, times the learning rate")] = 0.5

    def apply(self, plan: Plan) -> Plan:
        plan = plan.reshape(self, ReplaceHead(CenterHead, CenterHead))
        return plan.fill(self, criterion=CenterPull(self.lam, self.alpha))


class _Quadratic(Ingredient):
    dim: Annotated[Width | None, Field(description="of a linear layer before the distances; none when left out")] = None
    log_determinant: ClassVar[bool] = False

    def _head(self, shape: Shape) -> ReplaceHead:
        wanted = (self.dim, shape, self.log_determinant)
        return ReplaceHead(
            partial(_quadratic_head, dim=self.dim, shape=shape, log_determinant=self.log_determinant),
            QuadraticHead,
            same=lambda head: (head.dim, head.shape, head.log_determinant) == wanted,
        )


def _quadratic_head(
    old: nn.Module, width: int, n_classes: int, *, dim: int | None, shape: Shape, log_determinant: bool
) -> QuadraticHead:
    return QuadraticHead(width, n_classes, dim, shape, log_determinant=log_determinant)


class LGM(_Quadratic):
    """Large-margin Gaussian mixture loss (Wan et al., CVPR 2018): trained means, a margin, a likelihood term."""

    name = "l_gm"
    paper = Paper(
        "Rethinking Feature Distribution for Loss Functions in Image Classification",
        "Wan, Zhong, Li, Chen",
        "CVPR",
        2018,
        "https://arxiv.org/abs/1803.02988",
    )
    log_determinant = True

    alpha: Annotated[NonNegative, Field(description="margin on the true class's distance")] = 1.0
    lam: Annotated[NonNegative, Field(description="weight of the likelihood term")] = 0.1
    covariance: Annotated[Literal["identity", "diagonal"], Field(description="Lambda; diagonal ones are trained")] = (
        "identity"
    )

    def apply(self, plan: Plan) -> Plan:
        plan = plan.reshape(self, self._head(self.covariance))
        return plan.fill(self, criterion=LGMLoss(self.alpha, self.lam))


class GSCE(_Quadratic):
    """Generalised softmax cross-entropy with trained quadratic logits (Pang et al., ICLR 2020)."""

    name = "g_sce"
    paper = MMC_PAPER

    shape: Annotated[Shape, Field(description="S of each class: I / 2, a trained diagonal, or trained in full")] = (
        "identity"
    )

    def apply(self, plan: Plan) -> Plan:
        return plan.reshape(self, self._head(self.shape)).fill(self, criterion=GSCELoss())
