"""What an attack raises: pure formulas first, then the objectives that bind them to labels.

Every formula maps (N, K) logits and (N,) class indices to (N,) values, larger for a stronger
adversarial example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.errors import ConfigError, unknown
from art_ext.types import Forward, Outputs


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y."""
    return F.cross_entropy(logits, y, reduction="none")


def largest_other(values: Tensor, y: Tensor) -> Tensor:
    """max over j != y of values_j; (N, K), (N,) to (N,)."""
    return values.scatter(1, y[:, None], float("-inf")).amax(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y: above zero exactly when misclassified (Carlini and Wagner, S&P 2017, f_6)."""
    return largest_other(logits, y) - logits.gather(1, y[:, None]).squeeze(1)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio (Croce and Hein, ICML 2020, eq. (5)), shift and scale free.

    -(z_y - max_{j != y} z_j) / (z_(1) - z_(3)), with z_(i) the i-th largest logit. With two
    classes there is no z_(3): the margin is returned.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def best_other_probability(logits: Tensor, y: Tensor) -> Tensor:
    """max over k != y of softmax(z)_k: above 0.5 it is misclassified with that confidence.

    (N, K), (N,) to (N,); what PGD-Conf raises (Stutz et al., ICML 2020).
    """
    return largest_other(F.softmax(logits, 1), y)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum_k p_k (log p_k - log q_k) from log probabilities; (N, K) twice to (N,).

    The difference of two log-softmaxes keeps the gradient finite where p_k underflows.
    """
    return (log_p.exp() * (log_p - log_q)).sum(1)


Measure = Callable[..., Tensor]


@dataclass(frozen=True)
class Score:
    """An objective bound to the labels (and, where it has one, the clean reference) of a batch."""

    measure: Measure
    y: Tensor
    targeted: bool = False
    reference: tuple[Tensor, ...] = ()

    def value(self, out: Outputs) -> Tensor:
        """(N,), to be raised."""
        value = self.measure(out, self.y, *self.reference)
        return -value if self.targeted else value

    def wrong(self, out: Outputs) -> Tensor:
        """(N,) bool: the attack has what it wants."""
        predicted = out.logits.argmax(1)
        return predicted == self.y if self.targeted else predicted != self.y

    def __getitem__(self, rows: Tensor | slice) -> Score:
        return replace(self, y=self.y[rows], reference=tuple(part[rows] for part in self.reference))


@dataclass(frozen=True)
class Objective:
    """What an attack raises, before it is bound to labels.

    Attributes:
        name: as recipes spell it.
        measure: (outputs, y, *reference) to (N,), larger for a stronger adversarial example;
            lowered instead, at the target class, by a targeted attack.
        reference: what is computed once per craft on the clean input, from its outputs.
        needs: extra outputs that the measure reads.
        targetable: whether lowering the measure at a target class makes a targeted attack.
        flat_at_clean: its gradient at the clean input is 0, so no attack that begins there moves.
    """

    name: str
    measure: Measure
    reference: Callable[[Outputs], tuple[Tensor, ...]] | None = None
    needs: frozenset[str] = frozenset()
    targetable: bool = True
    flat_at_clean: bool = False

    def bind(self, net: Forward, x: Tensor, y: Tensor, *, targeted: bool = False) -> Score:
        """Binds to the labels y (N,) of x, or to target classes y when targeted.

        Raises:
            ConfigError: when targeted, and this objective has no targeted form.
        """
        if targeted and not self.targetable:
            raise ConfigError(
                f"the objective {self.name} has no targeted form; use ce, margin or dlr, or leave targeted out"
            )
        if self.reference is None:
            return Score(self.measure, y, targeted)
        with torch.no_grad():
            return Score(self.measure, y, targeted, self.reference(net(x)))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class _Unending(Score):
    def wrong(self, out: Outputs) -> Tensor:
        return torch.zeros(len(out.logits), dtype=torch.bool, device=out.logits.device)


@dataclass(frozen=True)
class _Highest(Objective):
    def bind(self, net: Forward, x: Tensor, y: Tensor, *, targeted: bool = False) -> Score:
        score = super().bind(net, x, y, targeted=targeted)
        return _Unending(score.measure, score.y, score.targeted, score.reference)


def unending(objective: Objective) -> Objective:
    """The same objective, which nothing reaches: an attack goes on after success and gives the highest value."""
    return _Highest(**vars(objective))


def _cross_entropy(out: Outputs, y: Tensor) -> Tensor:
    return cross_entropy(out.logits, y)


def _margin(out: Outputs, y: Tensor) -> Tensor:
    return margin(out.logits, y)


def _dlr(out: Outputs, y: Tensor) -> Tensor:
    return dlr(out.logits, y)


def _other_confidence(out: Outputs, y: Tensor) -> Tensor:
    return best_other_probability(out.logits, y)


def _clean_log_probabilities(out: Outputs) -> tuple[Tensor, ...]:
    return (F.log_softmax(out.logits, 1),)


def _kl_to_clean(out: Outputs, y: Tensor, clean: Tensor) -> Tensor:
    return kl_divergence(clean, F.log_softmax(out.logits, 1))


ce = Objective("ce", _cross_entropy)
cw = Objective("margin", _margin)
dlr_ratio = Objective("dlr", _dlr)
kl_to_clean = Objective(
    "kl_to_clean", _kl_to_clean, reference=_clean_log_probabilities, targetable=False, flat_at_clean=True
)
other_confidence = Objective("other_confidence", _other_confidence)
"""The adversary of a rejection by confidence: a wrong class, as sure as can be."""
of_criterion = Objective("criterion", _cross_entropy)
"""Stands for the first adversary that the plan's criterion declares; replaced when the plan is composed."""

OBJECTIVES: dict[str, Objective] = {
    o.name: o for o in (ce, cw, dlr_ratio, kl_to_clean, unending(other_confidence), of_criterion)
}
"""By the names that recipes use; the confidence of a wrong class is raised as far as it goes."""


def objective_named(name: str) -> Objective:
    """The objective that recipes call `name`."""
    if name not in OBJECTIVES:
        raise ConfigError(unknown("objective", name, OBJECTIVES))
    return OBJECTIVES[name]
