"""How far adversarial examples of one network carry over to others: the transferability matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from art_ext.errors import ConfigError
from art_ext.evaluation.suite import Evaluator
from art_ext.parts.attacks import Attack


def transferability_matrix(clean_correct: Tensor, adv_correct: Tensor) -> Tensor:
    """(M, M) error rates: row i, images crafted on network i; column j, network j.

    Only images count that i and j both classify correctly when clean, so the diagonal is the attack's
    own success; where there is none, the entry is NaN.

    Args:
        clean_correct: (M, N) bool.
        adv_correct: (M, M, N) bool: network j on the images crafted on network i.
    """
    eligible = (clean_correct[:, None] & clean_correct[None]).double()
    fooled = (eligible * (~adv_correct).double()).sum(2)
    return fooled / eligible.sum(2)  # 0 / 0 is NaN


def mean_off_diagonal(matrix: Tensor) -> float:
    """The mean transfer to another network, over the entries that are not missing; NaN where all are."""
    others = ~torch.eye(len(matrix), dtype=torch.bool)
    return float(matrix[others].nanmean())


def transferability(networks: Sequence[Evaluator], attack: Attack) -> Tensor:
    """The matrix of networks on the same images: each crafts on all of them with the whole budget.

    Raises:
        ConfigError: for fewer than two networks, or for other images.
    """
    if len(networks) < 2 or any(len(net.y) != len(networks[0].y) for net in networks):
        raise ConfigError("a transferability matrix needs two networks or more, on the same images")
    every = torch.arange(len(networks[0].y))
    rows = []
    for source in networks:
        adversarial = [source.craft(attack, index) for index in torch.split(every, 256)]
        rows.append([torch.cat([net.predict(x).eq(y).cpu() for x, y in adversarial]) for net in networks])
    clean = torch.stack([net.clean().right for net in networks])
    return transferability_matrix(clean, torch.stack([torch.stack(row) for row in rows]))
