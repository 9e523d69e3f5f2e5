"""Several networks that answer as one: the mean of their probabilities, as logits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_ext.errors import ModelError
from art_ext.types import offer


def log_mean_softmax(members: Tensor) -> Tensor:
    """log(1/M sum_m softmax(z_m)) of member logits (N, M, K); (N, K), in float32 at least."""
    members = members.to(torch.promote_types(members.dtype, torch.float32))
    return F.log_softmax(members, -1).logsumexp(1) - math.log(members.shape[1])


class Ensemble(nn.Module):
    """Networks (N, C, H, W) to (N, K) that predict by the mean of their probabilities.

    The answer is its logarithm, so the softmax of these logits is the mean itself: ART and attacks
    need to know nothing of the members. Whoever wants them gets their logits as the extra "members",
    (N, M, K).
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        members = torch.stack([member(x) for member in self.members], 1)
        offer("members", members)
        return log_mean_softmax(members)

    def get_classifier(self) -> nn.Module:
        """Refuses: there is a head in each member.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"an ensemble of {len(self.members)} networks has a head in each of them, so none to be replaced or read; "
            "use a single network, or name a module: model.head in a recipe"
        )


def ensemble(members: Iterable[nn.Module]) -> Ensemble:
    """Joins networks into one that is trained and attacked as a whole: `art_ext.ensemble([a, b, c])`.

    Args:
        members: two or more, each from pixels to logits (N, K), with weights of their own.

    Raises:
        ModelError: for fewer than two, for one that is listed twice, and for two with the same
            weights: they would get the same gradients, and stay the same.
    """
    nets = list(members)
    if len(nets) < 2:
        raise ModelError(f"an ensemble needs two networks or more, got {len(nets)}")
    for (i, one), (j, other) in combinations(enumerate(nets), 2):
        if one is other:
            raise ModelError(f"members {i} and {j} of the ensemble are one network; build one for each")
        if _alike(one, other):
            raise ModelError(f"members {i} and {j} of the ensemble have the same weights; build them from other seeds")
    return Ensemble(nets)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = list(one.parameters()), list(other.parameters())
    if not ours or [p.shape for p in ours] != [p.shape for p in theirs]:
        return False
    return all(torch.equal(a, b.to(a)) for a, b in zip(ours, theirs, strict=True))
