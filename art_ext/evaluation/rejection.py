"""What a classifier that may answer "not sure" is worth: pure functions of scores and answers.

N examples; `wrong` and `kept` are (N,) bool: misclassified, and accepted because the score reaches
the threshold. Thresholds come from held-out clean examples that are classified correctly, never
from adversarial ones: see `art_ext.parts.detectors.threshold_at`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from art_ext.errors import ConfigError


def thresholded_error(wrong: Tensor, kept: Tensor) -> float:
    """Err(tau): the share of misclassified examples among those kept; 0 where none is kept."""
    return _ratio((wrong & kept).sum(), kept.sum())


def thresholded_robust_error(wrong: Tensor, kept: Tensor, adv_wrong: Tensor, adv_kept: Tensor) -> float:
    """RErr(tau) (Stutz, Hein, Schiele, ICML 2020), with one adversarial twin per example.

    sum_i max(wrong_i kept_i, adv_wrong_i adv_kept_i) / sum_i max(kept_i, adv_kept_i); 0 where
    nothing is kept. With everything kept it is the ordinary robust error.
    """
    return _ratio(((wrong & kept) | (adv_wrong & adv_kept)).sum(), (kept | adv_kept).sum())


def keep_rate(kept: Tensor) -> float:
    """The share of examples that are kept: of correct clean ones the TPR, of distal ones the FPR; 0 for none."""
    return _ratio(kept.sum(), kept.new_full((), len(kept), dtype=torch.int64))


def false_positive_rate(wrong: Tensor, adv_wrong: Tensor, adv_kept: Tensor, *, of_all: bool = True) -> float:
    """The share of successful adversarial twins that are kept; only of examples that are right when clean.

    Of ALL examples, as the authors of confidence calibration count it, or of the successful twins alone.
    """
    success = adv_wrong & ~wrong
    total = torch.full_like(success, True) if of_all else success
    return _ratio((success & adv_kept).sum(), total.sum())


def eligible(wrong: Tensor, adv_wrong: Tensor) -> Tensor:
    """(N,) bool: right when clean and misclassified when attacked (Pang et al., NeurIPS 2018).

    An AUC over both versions of just these examples says how well a score tells them apart.
    """
    return adv_wrong & ~wrong


def roc_auc(positive: Tensor, negative: Tensor) -> float | None:
    """P(positive > negative) + P(tie) / 2 over all pairs, by average ranks; None where either is empty.

    Args:
        positive: (P,) scores of what should be kept.
        negative: (M,) scores of what should be rejected.

    Raises:
        ConfigError: for scores that are NaN, which have no rank.
    """
    if len(positive) == 0 or len(negative) == 0:
        return None
    scores = torch.cat([positive, negative]).double()
    if bool(scores.isnan().any()):
        raise ConfigError("an AUC needs scores that can be compared, but some are NaN; mend the detector's score")
    _, group, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks = (ends - (counts - 1) / 2)[group]  # a tie shares the mean of its ranks
    p, m = len(positive), len(negative)
    return float((ranks[:p].sum() - p * (p + 1) / 2) / (p * m))


def strongest(values: Tensor) -> Tensor:
    """(N,) index of each example's strongest attempt, from (A, N) values of A attempts; the first of equals.

    The value is what the attacker raises: for a rejection by confidence the best wrong probability.
    """
    return values.argmax(0)


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part) / float(whole) if bool(whole > 0) else 0.0


@dataclass(frozen=True)
class Rejection:
    """A classifier with a rejecting detector on N examples and the adversarial twin of each.

    Attributes:
        threshold: examples with a score of at least this are kept.
        tpr: share of correct clean examples that are kept, as found here.
        error: Err(tau). robust_error: RErr(tau). unthresholded: RErr with everything kept.
        fpr: of all examples; fpr_of_successful: of the successful twins.
        auc: over the `n_eligible` eligible examples, None where there are none.
        auc_all_clean: the same against ALL clean scores, 1 without successful twins (Stutz et al.).
    """

    threshold: float
    tpr: float
    error: float
    robust_error: float
    unthresholded: float
    fpr: float
    fpr_of_successful: float
    auc: float | None
    auc_all_clean: float
    n_eligible: int
    n: int

    @classmethod
    def of(cls, score: Tensor, wrong: Tensor, adv_score: Tensor, adv_wrong: Tensor, threshold: float) -> Rejection:
        """From (N,) scores and (N,) bool answers, clean and adversarial, in the same order.

        Raises:
            ConfigError: when their lengths differ.
        """
        if not len(score) == len(wrong) == len(adv_score) == len(adv_wrong):
            raise ConfigError("a rejection is judged on pairs; give one adversarial twin for each clean example")
        kept, adv_kept = score >= threshold, adv_score >= threshold
        pairs = eligible(wrong, adv_wrong)
        against_all = roc_auc(score, adv_score[pairs])
        return cls(
            threshold,
            keep_rate(kept[~wrong]),
            thresholded_error(wrong, kept),
            thresholded_robust_error(wrong, kept, adv_wrong, adv_kept),
            keep_rate(wrong | adv_wrong),
            false_positive_rate(wrong, adv_wrong, adv_kept),
            false_positive_rate(wrong, adv_wrong, adv_kept, of_all=False),
            roc_auc(score[pairs], adv_score[pairs]),
            1.0 if against_all is None else against_all,
            int(pairs.sum()),
            len(score),
        )

    def as_record(self) -> dict[str, object]:
        return asdict(self)
