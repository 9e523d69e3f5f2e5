"""Setting rows aside: stratified by class, and the same for the same seed."""

from __future__ import annotations

import torch
from torch import Tensor

from art_ext.errors import ConfigError, DataError
from art_ext.parts.noise import Keys

__all__ = ["split_off", "stratified"]


def split_off(n: int, y: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """(train_index, held_out_index), both (.,) int64 and ascending: `share` of each class is held out.

    Raises:
        ConfigError: if `share` is not in [0, 1).
        DataError: if `y`, (n,) class indices, has another length.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"the held-out share is from 0 to below 1, got {share:g}")
    if len(y) != n:
        raise DataError(f"there are {len(y)} labels for {n} images; give one label for each image")
    return stratified(y, round(share * n), seed)


def stratified(y: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(the rest, `count` rows), where each class has its share of both to within one row.

    A class keeps at least one row in the rest, so `count` may not be reached when classes are tiny.
    """
    y = y.cpu()
    classes, sizes = torch.unique(y, return_counts=True)
    exact = sizes.double() * (count / max(len(y), 1))
    quota = exact.floor().long()
    # the rows that flooring lost go to the largest remainders; a stable sort settles ties by class
    order = torch.argsort(exact - quota, descending=True, stable=True)
    quota[order[: count - int(quota.sum())]] += 1
    quota = quota.minimum(sizes - 1)
    # hashes instead of a generator: the split stays the same in every torch version
    lots = Keys(seed, 0, torch.arange(len(y))).stream("holdout").words(())
    held = torch.zeros(len(y), dtype=torch.bool)
    for label, take in zip(classes.tolist(), quota.tolist(), strict=True):
        members = torch.nonzero(y == label).squeeze(1)
        held[members[torch.argsort(lots[members], stable=True)[:take]]] = True
    return torch.nonzero(~held).squeeze(1), torch.nonzero(held).squeeze(1)
