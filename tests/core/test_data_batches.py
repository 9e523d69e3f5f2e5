"""Order, shares, augmentation and streams: properties that hold for any data."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset, TensorDataset

from art_ext.data.augment import HorizontalFlip, RandomCrop, augmentation_from
from art_ext.data.batches import ArrayBatches, Batch, GeneratorBatches, StreamBatches, cuts, split_off
from art_ext.data.entry import split_from
from art_ext.data.images import ArrayRows, Bytes, Picked, as_images, labels_of, load_all
from art_ext.errors import ConfigError, DataError
from art_ext.parts.noise import Keys

N = 33


def _array(n=N):
    """Image i is full of the number i, so a batch tells which rows it holds."""
    return np.ones((n, 1, 6, 6), dtype=np.float32) * np.arange(n, dtype=np.float32)[:, None, None, None]


def _labels(n=N):
    return torch.arange(n) % 3


def _by_example(batches, epoch=0, world=1):
    rows = {}
    for rank in range(world):
        for batch in batches.epoch(epoch, rank, world):
            for x, y, index in zip(*batch, strict=True):
                assert int(index) not in rows
                rows[int(index)] = (x, int(y))
    return rows


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("n", [17, 32, 33, 35, 37])
def test_every_example_is_seen_exactly_once(n, world):
    batches = ArrayBatches(_array(n), _labels(n), 16, seed=1)
    rows = _by_example(batches, world=world)
    assert sorted(rows) == list(range(n))
    for index, (x, y) in rows.items():
        assert (x == index).all()
        assert y == index % 3


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("n", range(16, 60))
def test_no_rank_gets_a_single_row_and_all_have_as_many_batches(n, world):
    batches = ArrayBatches(_array(n), _labels(n), 16, seed=1)
    for rank in range(world):
        sizes = [len(batch.y) for batch in batches.epoch(0, rank, world)]
        assert len(sizes) == batches.per_epoch
        assert min(sizes) > 1


def test_a_remainder_of_one_joins_the_batch_before():
    assert cuts(33, 16) == [0, 16, 33]
    assert cuts(34, 16) == [0, 16, 32, 34]
    assert cuts(35, 16, world=2) == [0, 16, 31, 35]
    assert cuts(3, 1) == [0, 1, 2, 3]
    assert cuts(1, 16) == [0, 1]


def test_the_order_is_a_function_of_seed_and_epoch():
    batches = ArrayBatches(_array(), _labels(), 8, seed=5)
    first = [batch.index.tolist() for batch in batches.epoch(3)]
    list(batches.epoch(0))
    again = ArrayBatches(_array(), _labels(), 8, seed=5)
    assert [batch.index.tolist() for batch in again.epoch(3)] == first
    assert [batch.index.tolist() for batch in again.epoch(4)] != first
    assert [batch.index.tolist() for batch in ArrayBatches(_array(), _labels(), 8, seed=6).epoch(3)] != first


def test_a_float32_array_is_not_copied():
    x = _array()
    batches = ArrayBatches(x, _labels(), 8, seed=0)
    assert np.shares_memory(batches.images.numpy(), x)


@pytest.mark.filterwarnings("error")
def test_other_arrays_are_converted_row_by_row_and_never_scaled():
    x = _array()
    frozen = x.copy()
    frozen.flags.writeable = False
    for array in (frozen, x.astype(np.float64), x.astype(np.uint8), x.astype(">f4"), x[::-1][::-1], x[:, :, ::-1]):
        images = as_images(array)
        if isinstance(images, ArrayRows):
            assert np.shares_memory(images.array, array)
        rows = images[torch.tensor([32, 5])]
        assert rows.dtype == torch.float32
        assert rows[:, 0, 0, 0].tolist() == [32, 5]
        rows.zero_()
    assert (frozen == x).all()
    assert as_images(torch.from_numpy(x).double())[torch.tensor([7])].dtype == torch.float32


def test_bytes_come_out_between_0_and_1_and_stay_bytes():
    nhwc = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).reshape(2, 4, 4, 3)
    images = Bytes(nhwc.permute(0, 3, 1, 2))
    rows = images[torch.tensor([1, 0])]
    assert images.shape == (2, 3, 4, 4)
    assert rows.is_contiguous()
    assert torch.equal(rows[1], nhwc[0].permute(2, 0, 1) / 255)
    picked = Picked(images, torch.tensor([1]))
    assert picked.shape == (1, 3, 4, 4)
    assert torch.equal(load_all(picked), rows[:1])


@pytest.mark.parametrize("world", [1, 2])
def test_augmentation_does_not_depend_on_the_batch_size_or_ranks(world):
    x = torch.rand(N, 3, 8, 8)
    augment = augmentation_from({"crop": 2, "flip": True})
    small = _by_example(ArrayBatches(x, _labels(), 4, seed=2, augment=augment), epoch=7)
    large = _by_example(ArrayBatches(x, _labels(), 20, seed=2, augment=augment), epoch=7, world=world)
    later = _by_example(ArrayBatches(x, _labels(), 20, seed=2, augment=augment), epoch=8)
    assert all(torch.equal(small[i][0], large[i][0]) for i in range(N))
    assert not all(torch.equal(small[i][0], later[i][0]) for i in range(N))


@pytest.mark.parametrize(("mode", "torch_mode"), [("reflect", "reflect"), ("zero", "constant")])
def test_a_crop_is_a_window_of_the_padded_image(mode, torch_mode):
    x = torch.rand(60, 2, 5, 7)
    before = x.clone()
    out = RandomCrop(3, mode)(x, Keys(0, 0, torch.arange(60)))
    assert torch.equal(x, before)
    padded = torch.nn.functional.pad(x, (3, 3, 3, 3), mode=torch_mode)
    seen = set()
    for i in range(60):
        fits = [
            (top, left)
            for top, left in itertools.product(range(7), range(7))
            if torch.equal(out[i], padded[i, :, top : top + 5, left : left + 7])
        ]
        assert fits
        seen.add(fits[0])
    assert {top for top, _ in seen} == {left for _, left in seen} == set(range(7))


def test_a_flip_mirrors_about_half():
    x = torch.rand(400, 1, 2, 3)
    out = HorizontalFlip()(x, Keys(0, 0, torch.arange(400)))
    mirrored = (out == x.flip(-1)).flatten(1).all(1)
    assert (mirrored | (out == x).flatten(1).all(1)).all()
    assert 150 < int(mirrored.sum()) < 250


def test_augmentation_is_read_from_a_recipe():
    assert augmentation_from(None) == ()
    assert augmentation_from({"flip": True, "crop": {"pad": 4, "mode": "zero"}}) == (
        RandomCrop(4, "zero"),
        HorizontalFlip(),
    )
    for settings, says in [
        ({"flop": True}, "unknown augmentation 'flop'; did you mean flip"),
        ({"crop": {"pda": 4}}, "unknown option of crop 'pda'; did you mean pad"),
        ({"crop": {"pad": 4, "mode": "reflct"}}, "did you mean reflect"),
        ({"crop": {"mode": "zero"}}, "pad is missing"),
        ({"crop": -1}, "0 or more, got -1"),
        ({"crop": "four"}, "got 'four'"),
        ({"flip": 1}, "true or false"),
    ]:
        with pytest.raises(ConfigError, match=says):
            augmentation_from(settings)
    with pytest.raises(ConfigError, match="pad 8 needs images larger"):
        RandomCrop(8)(torch.rand(2, 1, 8, 8), Keys(0, 0, torch.arange(2)))


def test_bad_batches_are_refused():
    with pytest.raises(ConfigError, match="batch_size"):
        ArrayBatches(_array(), _labels(), 0, seed=0)
    with pytest.raises(DataError, match="y has 3 labels, but there are 33 images"):
        ArrayBatches(_array(), _labels(3), 4, seed=0)
    with pytest.raises(ConfigError, match="cannot be shared by 4 ranks"):
        next(ArrayBatches(_array(), _labels(), 3, seed=0).epoch(0, 0, 4))


def _loader(**options):
    return DataLoader(TensorDataset(torch.from_numpy(_array()), _labels()), **options)


def test_a_loader_is_a_stream():
    batches = StreamBatches(_loader(batch_size=10))
    assert (batches.n, batches.per_epoch) == (33, 4)
    got = list(batches.epoch(0))
    assert torch.cat([batch.index for batch in got]).tolist() == list(range(33))
    assert all(isinstance(batch, Batch) for batch in got)
    assert [len(batch.y) for batch in got] == [10, 10, 10, 3]
    assert StreamBatches(_loader(batch_size=10, drop_last=True)).n == 30


def test_a_single_row_at_the_end_of_a_stream_gets_another():
    batches = StreamBatches(_loader(batch_size=16))
    got = list(batches.epoch(0))
    assert [len(batch.y) for batch in got] == [16, 15, 2]
    assert len(got) == batches.per_epoch
    assert torch.cat([batch.x for batch in got])[:, 0, 0, 0].tolist() == list(range(33))


def test_ranks_need_a_sampler_that_divides():
    with pytest.raises(ConfigError, match="DistributedSampler"):
        StreamBatches(_loader(batch_size=8)).epoch(0, 0, 2)
    dataset = TensorDataset(torch.from_numpy(_array(32)), _labels(32))
    seen, numbers = [], []
    for rank in range(2):
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank)
        batches = StreamBatches(DataLoader(dataset, batch_size=8, sampler=sampler))
        assert batches.n == 32
        for batch in batches.epoch(1, rank, 2):
            seen += batch.x[:, 0, 0, 0].int().tolist()
            numbers += batch.index.tolist()
        assert sampler.epoch == 1
    assert sorted(seen) == sorted(numbers) == list(range(32))


class _Endless(IterableDataset):
    def __iter__(self):
        return ((torch.zeros(1, 4, 4), i % 2) for i in itertools.count())


def test_an_endless_stream_needs_an_epoch():
    loader = DataLoader(_Endless(), batch_size=4)
    with pytest.raises(ConfigError, match="per_epoch=100"):
        StreamBatches(loader)
    batches = StreamBatches(loader, per_epoch=3)
    assert batches.n is None
    assert len(list(batches.epoch(0))) == 3


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (torch.zeros(2, 1, 4, 4), "gave a Tensor; each batch has to be a pair"),
        ((torch.zeros(2, 1, 4, 4),), "gave a tuple of 1"),
        (([0.0], [0]), "x of type list"),
        ((torch.zeros(2, 4), [0, 1]), r"shape \(2, 4\)"),
        ((torch.zeros(2, 1, 4, 4), [0, 1, 1]), "y of list has 3 labels, but there are 2 images"),
        ((torch.zeros(2, 1, 4, 4), [0, 9]), "the label 9 in row 1"),
    ],
)
def test_bad_items_of_a_stream_are_named(item, says):
    with pytest.raises(DataError, match=says):
        list(StreamBatches([item], n_classes=2).epoch(0))


class _Generator:
    """As ART's: it never ends, and it fills one array again and again."""

    size, batch_size = 9, 4

    def __init__(self):
        self.x, self.at = np.zeros((4, 1, 4, 4), dtype=np.float32), 0

    def get_batch(self):
        rows = np.arange(self.at, min(self.at + 4, 9))
        self.at = (self.at + 4) % 12
        self.x[: len(rows)] = rows[:, None, None, None]
        return self.x[: len(rows)], np.eye(3)[rows % 3]


def test_an_art_generator_gives_epochs():
    batches = GeneratorBatches(_Generator(), n_classes=3)
    assert (batches.n, batches.per_epoch) == (9, 3)
    for epoch in range(2):
        got = list(batches.epoch(epoch))
        assert torch.cat([batch.x for batch in got])[:, 0, 0, 0].tolist() == list(range(9))
        assert torch.cat([batch.y for batch in got]).tolist() == [0, 1, 2] * 3
        assert [len(batch.y) for batch in got] == [4, 3, 2]


def test_generators_that_cannot_be_used_say_why():
    class Ended(_Generator):
        def get_batch(self):
            raise StopIteration

    class Sizeless(_Generator):
        size = None

    with pytest.raises(DataError, match="Ended ended after 0 of 3 batches"):
        list(GeneratorBatches(Ended()).epoch(0))
    with pytest.raises(ConfigError, match="Sizeless has size None"):
        GeneratorBatches(Sizeless())
    with pytest.raises(ConfigError, match="cannot be divided among 2"):
        GeneratorBatches(_Generator()).epoch(0, 0, 2)


class _Pairs(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, row):
        return np.full((3, 4, 4), row * 51, dtype=np.uint8), row % 2


def test_a_torch_dataset_is_read_by_row():
    split = split_from(_Pairs())
    assert split.x.shape == (5, 3, 4, 4)
    assert split.y.tolist() == [0, 1, 0, 1, 0]
    assert split.x[torch.tensor([5 - 1, 1])][:, 0, 0, 0].tolist() == pytest.approx([0.8, 0.2])
    assert len(list(ArrayBatches(split.x, split.y, 2, seed=0).epoch(0))) == 2
    part = Subset(TensorDataset(torch.from_numpy(_array()), _labels()), [4, 2])
    assert labels_of(part).tolist() == [1, 2]
    with pytest.raises(DataError, match="wrap an iterable data set in a DataLoader"):
        split_from(_Endless())


def test_held_out_rows_are_stratified_and_the_same_each_time():
    y = torch.tensor([0] * 50 + [1] * 30 + [2] * 20 + [3])
    train, held = split_off(101, y, 0.2, seed=3)
    assert sorted(torch.cat([train, held]).tolist()) == list(range(101))
    assert y[held].bincount(minlength=4).tolist() == [10, 6, 4, 0]
    assert torch.equal(held, split_off(101, y, 0.2, seed=3)[1])
    assert not torch.equal(held, split_off(101, y, 0.2, seed=4)[1])
    assert len(split_off(101, y, 0.0, seed=3)[1]) == 0
    with pytest.raises(ConfigError, match=r"below 1, got 1\b"):
        split_off(101, y, 1.0, seed=3)
    with pytest.raises(DataError, match="101 labels for 100 images"):
        split_off(100, y, 0.2, seed=3)
