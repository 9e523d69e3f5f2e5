"""The detectors of the paper's tables: confidence, non-ME, K-density; LID as the comparator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor

from art_ext.api import ConfigError, Count, Detector, Objective, Outputs, Positive, at_least_float32, checked, fooling
from art_ext_rce.formulas import (
    CHUNK,
    density_penalty,
    local_intrinsic_dimension,
    log_k_density,
    log_odds,
    median_gap,
    median_log_density,
    non_max_entropy,
)

RCE_SIGMA2, CE_SIGMA2 = 0.1 / 0.26, 1 / 0.26
"""sigma^2 in the authors' code, for networks trained with RCE and with cross-entropy."""


class _Fooled(Detector):
    """A detector whose adversary reaches a wrong label and then raises the score."""

    @property
    def adversaries(self) -> tuple[Objective, ...]:  # type: ignore[override]
        return (fooling(self),)


class LogOdds(_Fooled):
    """The confidence of the prediction, as log odds: the same order, but float32 does not tie it at 1."""

    name = "confidence_odds"

    def score(self, out: Outputs) -> Tensor:
        return log_odds(out.logits)


class NonMaxEntropy(_Fooled):
    """Non-ME: the entropy of the classes that are not predicted."""

    name = "non_me"

    def score(self, out: Outputs) -> Tensor:
        return non_max_entropy(out.logits)


def features_of(out: Outputs, asked_by: str) -> Tensor:
    """(N, d) what enters the last linear layer, in float32 at least.

    Raises:
        ConfigError: where they were not collected, or are maps.
    """
    features = out.extras.get("features")
    if features is None:
        raise ConfigError(f"{asked_by} reads features, which this pass did not collect; ask Net for 'features'")
    return at_least_float32(features).flatten(1)


Sigma2 = Annotated[
    Literal["median"] | Positive,
    Field(description="of K-density: 0.1/0.26 in the code; median: nearest-neighbour distance of the bank"),
]
PerClass = Annotated[Count, Field(ge=2, description="training features kept of each class")]


class _BankOptions(BaseModel):
    """What a detector with a bank takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_class: PerClass
    seed: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]


class _Banked(_Fooled):
    """A detector that compares features with those of training images, drawn once."""

    needs = frozenset({"features"})

    def __init__(self, options: _BankOptions) -> None:
        self.per_class, self.seed = options.per_class, options.seed
        self.bank: tuple[Tensor, ...] = ()

    def fit(self, out: Outputs, y: Tensor) -> None:
        """Keeps up to `per_class` training features of each true class, drawn by `seed`."""
        z = features_of(out, self.name).detach()
        generator = torch.Generator().manual_seed(self.seed)
        classes = [z[y == label] for label in range(out.logits.shape[1])]
        chosen = [torch.randperm(len(own), generator=generator)[: self.per_class].to(z.device) for own in classes]
        if not any(len(own) for own in classes):
            raise ConfigError(f"{self.name} has nothing to fit: no training images were given")
        self.bank = tuple(own[rows].clone() for own, rows in zip(classes, chosen, strict=True))
        self._settle(classes, chosen)

    def _settle(self, classes: Sequence[Tensor], chosen: Sequence[Tensor]) -> None:
        """What else follows from the features (n_c, d) of each class and the rows of them that are in the bank."""

    def score(self, out: Outputs) -> Tensor:
        if not self.bank:
            raise ConfigError(f"the detector {self.name} is not fitted yet; fit it on clean training images")
        z, predicted = features_of(out, self.name), out.logits.argmax(1)
        bank = [members.to(z) for members in self.bank]
        parts = zip(torch.split(z, CHUNK), torch.split(predicted, CHUNK), strict=True)
        return torch.cat([self._compare(part, own, bank) for part, own in parts])

    def _compare(self, z: Tensor, predicted: Tensor, bank: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError

    def state_dict(self) -> Mapping[str, Tensor]:
        state = dict(super().state_dict())
        if self.bank:
            state["bank"] = torch.cat(self.bank)
            state["counts"] = torch.tensor([len(members) for members in self.bank])
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.bank = tuple(torch.split(state["bank"], state["counts"].tolist())) if "bank" in state else ()


class _KDensityOptions(_BankOptions):
    sigma2: Sigma2


class KDensity(_Banked):
    """Log kernel density of the features among training features of the PREDICTED class.

    Args:
        sigma2: of the Gaussian kernel; 0.1 / 0.26 for a network trained with RCE, 1 / 0.26 with
            cross-entropy, as in the authors' code; "median" follows the features' scale.
        per_class: features kept of each class; 1000 in the paper.
        seed: of that draw.

    Raises:
        ConfigError: for values that these cannot have.
    """

    name = "k_density"

    def __init__(
        self, sigma2: float | Literal["median"] = RCE_SIGMA2, per_class: int = 1000, seed: int = 0
    ) -> None:
        options = checked(_KDensityOptions, self.name, sigma2=sigma2, per_class=per_class, seed=seed)
        super().__init__(options)
        self.choice = options.sigma2
        self.sigma2 = 0.0 if options.sigma2 == "median" else options.sigma2
        self.log_medians: Tensor | None = None

    def _settle(self, classes: Sequence[Tensor], chosen: Sequence[Tensor]) -> None:
        self.sigma2 = median_gap(self.bank) if self.choice == "median" else self.choice
        medians = [
            median_log_density(own, rows, self.sigma2) for own, rows in zip(classes, chosen, strict=True)
        ]
        self.log_medians = torch.stack(medians)

    def _compare(self, z: Tensor, predicted: Tensor, bank: Sequence[Tensor]) -> Tensor:
        return log_k_density(z, predicted, bank, self.sigma2)

    def penalty(self, out: Outputs, target: Tensor) -> Tensor:
        """What C&W-wb drives to 0: max(0, log median KD of the training points of class t - log KD_t(z)); (N,)."""
        if self.log_medians is None:
            raise ConfigError("the detector k_density is not fitted yet; fit it on clean training images")
        z = features_of(out, self.name)
        density = self._compare(z, target, [members.to(z) for members in self.bank])
        return density_penalty(density, self.log_medians.to(z)[target])

    def state_dict(self) -> Mapping[str, Tensor]:
        state = {**super().state_dict(), "sigma2": torch.tensor(self.sigma2, dtype=torch.float64)}
        return state if self.log_medians is None else {**state, "log_medians": self.log_medians}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.sigma2, self.log_medians = float(state["sigma2"]), state.get("log_medians")


class _LIDOptions(_BankOptions):
    k: Annotated[Count, Field(ge=2)]


class LID(_Banked):
    """Minus the local intrinsic dimension of the features among training features (Ma et al., ICLR 2018).

    Of the last hidden layer alone, without the regression over layers of its paper: a comparator.
    """

    name = "lid"

    def __init__(self, k: int = 20, per_class: int = 100, seed: int = 0) -> None:
        options = checked(_LIDOptions, self.name, k=k, per_class=per_class, seed=seed)
        super().__init__(options)
        self.k = options.k

    def fit(self, out: Outputs, y: Tensor) -> None:
        super().fit(out, y)
        members = sum(len(part) for part in self.bank)
        if members <= self.k:
            raise ConfigError(f"lid needs more than k = {self.k} training images, got {members}; lower k")

    def _compare(self, z: Tensor, predicted: Tensor, bank: Sequence[Tensor]) -> Tensor:
        return -local_intrinsic_dimension(z, torch.cat(list(bank)), self.k)


DetectorName = Literal["confidence", "non_me", "k_density", "lid"]


def once(names: tuple[DetectorName, ...]) -> tuple[DetectorName, ...]:
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is named twice; name each score once")
    return names


DetectorNames = Annotated[tuple[DetectorName, ...], AfterValidator(once), Field(description="scores to reject by")]
MAKERS: dict[str, Callable[[], Detector]] = {"confidence": LogOdds, "non_me": NonMaxEntropy, "lid": LID}
