"""Batches for training: from arrays in memory or on disk, from a DataLoader, from ART's generators.

The order of an epoch is a function of (seed, epoch) alone, so a run that resumes at epoch 7 sees
what it would have seen; augmentation is keyed by example, so batch size and ranks do not change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, pairwise
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_ext.data.augment import Augmentation, HorizontalFlip, RandomCrop, augmentation_from
from art_ext.data.checks import check_labels
from art_ext.data.holdout import split_off
from art_ext.data.images import Images, as_images, decodes_files, device_of, on_device
from art_ext.errors import ConfigError, DataError
from art_ext.parts.noise import Keys, mix_int

__all__ = [
    "ArrayBatches",
    "Augmentation",
    "Batch",
    "Batches",
    "GeneratorBatches",
    "HorizontalFlip",
    "RandomCrop",
    "StreamBatches",
    "augmentation_from",
    "cuts",
    "split_off",
]

T = TypeVar("T")


class Batch(NamedTuple):
    """What one step of training sees of the data, all on the device."""

    x: Tensor
    """(n, C, H, W) float32, in the clip range."""
    y: Tensor
    """(n,) int64 class indices."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no one needs of a batch
    """(n,) int64: the examples' numbers in the data set, or their positions in an epoch's stream."""


class Batches(Protocol):
    """Anything that gives epochs of batches."""

    @property
    def n(self) -> int | None:
        """Examples in an epoch, over all ranks; None where a stream does not tell."""

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch; the same on every rank and for every number of ranks."""

    def epoch(self, number: int, rank: int = 0, world: int = 1, first: int = 0) -> Iterator[Batch]:
        """This rank's rows of the batches of epoch `number`, from batch `first` on; both count from 0."""

    def weight(self, batch: int, rank: int, world: int) -> float:
        """A rank's rows of a batch, over the mean of all ranks' rows of it: 1 where all have as many."""


def cuts(n: int, batch_size: int, world: int = 1) -> list[int]:
    """Where to cut n rows into batches: batch b is rows cuts[b] to cuts[b + 1]; no row is dropped.

    BatchNorm cannot train on one row. So a last batch of one row joins the batch before it; and with
    several ranks a last batch below two rows a rank borrows the rest from the batch before it, which
    leaves the number of batches as it is.
    """
    edges = [*range(0, n, batch_size), n]
    left = edges[-1] - edges[-2] if len(edges) > 2 else batch_size
    if left == 1 and batch_size > 1:
        del edges[-2]
    elif left < 2 * world and batch_size >= 4 * world:
        edges[-2] = n - 2 * world
    return edges


class ArrayBatches:
    """Shuffled batches of images that can be reached by row.

    Args:
        images: (N, C, H, W), anything that `as_images` takes; never modified, never copied whole
            except to another device, and there only if it is a small tensor.
        y: (N,) class indices.
        batch_size: rows in a batch, over all ranks together.
        seed: of the order and of the augmentation.
        device: where batches are put.
        augment: run on the device, in this order.

    Raises:
        ConfigError: on a batch size that cannot be used.
        DataError: if images and labels differ in number, or there are none.
    """

    def __init__(
        self,
        images: Images | Tensor | npt.NDArray[Any],
        y: Tensor | npt.NDArray[Any],
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        augment: Sequence[Augmentation] = (),
    ) -> None:
        if isinstance(batch_size, bool) or batch_size < 1:
            raise ConfigError(f"batch_size is a whole number from 1, got {batch_size!r}")
        self.device = torch.device(device)
        self.images = as_images(images)
        self.y = check_labels(y, None, len(self.images)).to(self.device)
        self.n: int = len(self.images)
        self.batch_size = batch_size
        self.per_epoch: int = len(cuts(self.n, batch_size)) - 1
        self.seed = seed
        self.augment = tuple(augment)
        if self.device.type != "cpu":
            self.images = on_device(self.images, self.device)
        self._source = device_of(self.images)

    def order(self, number: int) -> Tensor:
        """The order of the rows in epoch `number`, (N,) int64 on the CPU."""
        generator = torch.Generator().manual_seed(mix_int(self.seed, number))
        return torch.randperm(self.n, generator=generator)

    def epoch(self, number: int, rank: int = 0, world: int = 1, first: int = 0) -> Iterator[Batch]:
        """This rank's rows, rank::world, of each batch from batch `first` on.

        Raises:
            ConfigError: if a batch, or the whole set, has fewer rows than there are ranks.
        """
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} does not exist among {world}")
        if min(self.batch_size, self.n) < world:
            raise ConfigError(
                f"{min(self.batch_size, self.n)} rows in a batch cannot be shared by {world} ranks; "
                "raise batch_size or use fewer ranks"
            )
        edges = pairwise(cuts(self.n, self.batch_size, world))
        shares = [slice(a + rank, b, world) for a, b in edges][first:]
        order = self.order(number)
        there, here = order.to(self.device), order.to(self._source)

        def read(share: slice) -> Tensor:
            return self.images[here[share]].to(self.device)

        pixels = _one_ahead(read, shares) if decodes_files(self.images) else map(read, shares)
        for x, share in zip(pixels, shares, strict=True):
            index = there[share]
            keys = Keys(self.seed, number, index)
            for augmentation in self.augment:
                x = augmentation(x, keys)
            yield Batch(x, self.y[index], index)

    def weight(self, batch: int, rank: int, world: int) -> float:
        """A rank's rows of a batch, over the mean of all ranks' rows of it."""
        edges = cuts(self.n, self.batch_size, world)
        rows = edges[batch + 1] - edges[batch]
        return len(range(rank, rows, world)) * world / rows


class StreamBatches:
    """The batches of a torch `DataLoader`, or of anything else that iterates over (x, y).

    Order and augmentation are the loader's own; a sampler with `set_epoch` is told the epoch. Pixels
    are not scaled. A last batch of one row borrows a row from the batch before it.

    Args:
        loader: gives (x, y): x (n, C, H, W), y indices or one-hot rows.
        device: where batches are put.
        n_classes: checks the labels, where known.
        per_epoch: batches in an epoch, for a loader without a length; an epoch then ends there.

    Raises:
        ConfigError: for a loader whose length is unknown, without `per_epoch`.
        DataError: from `epoch`, on a batch that is no (x, y), does not fit together, or on no batch at all.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        device: torch.device | str = "cpu",
        n_classes: int | None = None,
        per_epoch: int | None = None,
    ) -> None:
        length = per_epoch if per_epoch is not None else _length(loader)
        if length is None:
            raise ConfigError(
                f"{type(loader).__name__} does not know its length; say how many batches make an epoch: per_epoch=100"
            )
        if length < 1:
            raise ConfigError(f"{type(loader).__name__} gives {length} batches an epoch; at least one is needed")
        self.loader = loader
        self.device = torch.device(device)
        self.n_classes = n_classes
        self.per_epoch: int = length
        self.n: int | None = _examples(loader, length)

    def epoch(self, number: int, rank: int = 0, world: int = 1, first: int = 0) -> Iterator[Batch]:
        """This rank's batches; with several ranks the loader's sampler has to divide the data.

        Those before `first` are read, and left out: only the loader knows its order.

        Raises:
            ConfigError: if there are several ranks and the sampler does not divide by rank.
        """
        sampler: Any = getattr(self.loader, "sampler", None)
        if world > 1 and getattr(sampler, "num_replicas", 1) != world:
            raise ConfigError(
                f"{type(self.loader).__name__} would give each of {world} ranks the whole data; "
                "give it a torch DistributedSampler, or pass arrays"
            )
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(number)
        return islice(_spare_single(self._batches(rank, world)), first, None)

    def weight(self, batch: int, rank: int, world: int) -> float:
        """1: a DistributedSampler gives all ranks as many rows."""
        return 1.0

    def _batches(self, rank: int, world: int) -> Iterator[Batch]:
        position = 0
        for count, item in enumerate(self.loader):
            if count == self.per_epoch:
                return
            batch = _batch_of(item, type(self.loader).__name__, position, self.n_classes, self.device)
            position += len(batch.y)
            yield batch._replace(index=batch.index * world + rank)
        if position == 0:
            raise DataError(
                f"{type(self.loader).__name__} gave no batches; a plain iterator is used up after one epoch, "
                "so pass a DataLoader or a list"
            )


class DataGenerator(Protocol):
    """What is used of ART's `DataGenerator`."""

    @property
    def size(self) -> int | None: ...

    @property
    def batch_size(self) -> int | None: ...

    def get_batch(self) -> Any: ...


class GeneratorBatches:
    """The batches of an ART `DataGenerator`, whose `get_batch` never ends.

    An epoch is ceil(size / batch_size) batches, as in ART's own trainers. Labels may be indices or
    one-hot rows; pixels are not scaled. A last batch of one row borrows a row from the one before.

    Raises:
        ConfigError: if the generator does not tell its size and batch size.
        DataError: from `epoch`, on a batch that is no (x, y) or does not fit together.
    """

    def __init__(
        self, generator: DataGenerator, device: torch.device | str = "cpu", n_classes: int | None = None
    ) -> None:
        size, batch_size = generator.size, generator.batch_size
        if not size or not batch_size:
            raise ConfigError(
                f"{type(generator).__name__} has size {size} and batch_size {batch_size}; "
                "set both, since an epoch is size / batch_size batches"
            )
        self.generator = generator
        self.device = torch.device(device)
        self.n_classes = n_classes
        self.n: int | None = size
        self.per_epoch: int = math.ceil(size / batch_size)

    def epoch(self, number: int, rank: int = 0, world: int = 1, first: int = 0) -> Iterator[Batch]:
        """The next `per_epoch` batches of the generator.

        Raises:
            ConfigError: with several ranks, since a generator cannot be divided, and inside of an epoch, since
                it cannot be told to go back.
        """
        if first > 0:
            raise ConfigError(
                f"{type(self.generator).__name__} cannot be told where to go on inside of an epoch; "
                "train on arrays or a DataLoader to resume"
            )
        if world > 1:
            raise ConfigError(
                f"{type(self.generator).__name__} cannot be divided among {world} ranks; train on one, or pass arrays"
            )
        return _spare_single(self._batches())

    def weight(self, batch: int, rank: int, world: int) -> float:
        """1: there is one rank."""
        return 1.0

    def _batches(self) -> Iterator[Batch]:
        position, name = 0, type(self.generator).__name__
        for count in range(self.per_epoch):
            try:
                item = self.generator.get_batch()
            except StopIteration:
                raise DataError(
                    f"{name} ended after {count} of {self.per_epoch} batches; its get_batch has to start over, "
                    "or its size is too large"
                ) from None
            batch = _batch_of(item, name, position, self.n_classes, self.device)
            position += len(batch.y)
            yield batch


def _one_ahead(read: Callable[[slice], T], shares: Iterable[slice]) -> Iterator[T]:
    """`map`, with the next value being read while the last one is used: one batch extra in memory."""
    with ThreadPoolExecutor(1) as pool:
        coming: Future[T] | None = None
        for share in shares:
            ready, coming = coming, pool.submit(read, share)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def _spare_single(batches: Iterator[Batch]) -> Iterator[Batch]:
    """A last batch of one row gets a row of the batch before it, which BatchNorm needs; the number stays."""
    before: Batch | None = None
    for batch in batches:
        if before is not None:
            if len(batch.y) == 1 and len(before.y) > 2:
                moved = Batch(*(torch.cat([a[-1:], b]) for a, b in zip(before, batch, strict=True)))
                before, batch = Batch(*(a[:-1] for a in before)), moved
            yield before
        before = batch
    if before is not None:
        yield before


def _batch_of(item: Any, source: str, position: int, n_classes: int | None, device: torch.device) -> Batch:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"{source} gave {_named(item)}; each batch has to be a pair (x, y)")
    x, y = item
    if not isinstance(x, Tensor | np.ndarray):
        raise DataError(f"{source} gave an x of type {type(x).__name__}; a tensor or array (n, C, H, W) is needed")
    # an array is copied, since its owner may fill it again for the next batch
    pixels = x.to(device, torch.float32) if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float32).to(device)
    if pixels.ndim != 4 or len(pixels) == 0:
        raise DataError(f"{source} gave an x of shape {tuple(pixels.shape)}; images (n, C, H, W) are needed")
    labels = check_labels(y, n_classes, len(pixels), what=f"y of {source}")
    index = torch.arange(position, position + len(labels), device=device)
    return Batch(pixels, labels.to(device), index)


def _named(item: Any) -> str:
    kind = type(item).__name__
    return f"a {kind} of {len(item)}" if isinstance(item, tuple | list) else f"a {kind}"


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _examples(loader: Any, per_epoch: int) -> int | None:
    """Rows in an epoch over all ranks, where the loader's data set has a length and nothing hides it."""
    batch_size, sampler = getattr(loader, "batch_size", None), getattr(loader, "sampler", None)
    if batch_size is None or sampler is None or _length(loader.dataset) is None or _length(sampler) is None:
        return None
    return min(len(sampler), per_epoch * int(batch_size)) * int(getattr(sampler, "num_replicas", 1))
