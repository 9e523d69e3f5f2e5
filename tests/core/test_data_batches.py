"""Order, shares, augmentation and streams: properties that hold for any data."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset, TensorDataset
from torchvision.transforms.v2 import AutoAugment, AutoAugmentPolicy, InterpolationMode
from torchvision.transforms.v2 import functional as image_ops

from art_ext.data import augment_policy, augment_warp
from art_ext.data.augment import HorizontalFlip, RandomCrop, augmentation_from
from art_ext.data.augment_policy import CIFAR10_POLICY, LARGEST, operated
from art_ext.data.augment_warp import enlarged, rotated
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


EVERY = {
    "crop": {"pad": 2, "mode": "edge"},
    "flip": True,
    "rotate": 90,
    "resized_crop": {"scale": [0.3, 1]},
    "trim": 0.2,
    "contrast": [0.5, 1.5],
    "autoaugment": "cifar10",
    "cutout": 4,
}


@pytest.mark.parametrize(
    "settings",
    [*({name: value} for name, value in EVERY.items()), EVERY, {"share": 0.5, **EVERY}, {"one_of": EVERY}],
    ids=[*EVERY, "all", "share", "one_of"],
)
def test_each_augmentation_is_keyed_by_example_and_leaves_its_input(settings):
    x = torch.rand(60, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    before, augment = x.clone(), augmentation_from(settings)

    def made(rows, seed=1, epoch=2):
        part, keys = x[rows], Keys(seed, epoch, rows)
        for augmentation in augment:
            part = augmentation(part, keys)
        return part

    every = torch.arange(60)
    whole, turned = made(every), made(every.flip(0)).flip(0)
    assert torch.equal(x, before)
    assert torch.equal(whole, turned)
    assert torch.equal(whole[20:23], made(every[20:23]))
    assert whole.min() >= 0
    assert whole.max() <= 1 + 1e-6
    assert whole.shape == x.shape
    for seed, epoch in ((1, 3), (2, 2)):
        assert not torch.equal(whole, made(every, seed, epoch))
    varied = (whole != x).flatten(1).any(1).double().mean()
    assert varied > (0.35 if "flip" in settings or "share" in settings else 0.6)
    assert varied < (0.65 if settings == {"flip": True} or "share" in settings else 1.01)


def test_rotation_is_torchvisions_and_spans_its_range():
    # both sides even: turned by a right angle, pixels' centres meet others', and no rounding decides between two
    x, angles = torch.rand(5, 3, 16, 10), torch.tensor([-90.0, -7.0, 0.0, 3.5, 30.0])
    for image, angle, made in zip(x, angles, rotated(x, angles), strict=True):
        assert torch.equal(made, image_ops.rotate(image, float(angle)))
    seen = 2 * Keys(0, 0, torch.arange(2000)).stream("augment.rotate").uniform(()) - 1
    assert (seen.min(), seen.max(), seen.mean()) == tuple(pytest.approx(value, abs=0.03) for value in (-1, 1, 0))


def test_an_enlarged_box_is_torchvisions():
    x = torch.rand(4, 3, 16, 12)
    boxes = torch.tensor([[0, 0, 16, 12], [3, 2, 7, 5], [15, 0, 1, 12], [2, 1, 9, 11]])
    made = enlarged(x, *boxes.double().unbind(1))
    for image, (top, left, height, width), one in zip(x, boxes.tolist(), made, strict=True):
        expected = image_ops.resized_crop(image, top, left, height, width, [16, 12])
        assert torch.allclose(one, expected, atol=1e-5)


def spied(monkeypatch, name):
    """The boxes (top, left, height, width) that an augmentation asks for."""
    seen = []

    def enlarged(x, *box):
        seen.append(torch.stack(box, 1))
        return x

    monkeypatch.setattr(augment_warp, "enlarged", enlarged)
    augmentation_from(name)[0](torch.rand(4000, 1, 32, 48), Keys(0, 0, torch.arange(4000)))
    return seen[0]


def test_boxes_of_a_resized_crop_have_the_areas_and_shapes_that_were_asked_for(monkeypatch):
    top, left, height, width = spied(monkeypatch, {"resized_crop": {"scale": [0.2, 0.5], "ratio": [0.8, 1.25]}}).T
    area, ratio = height * width / (32 * 48), width / height
    assert 0.18 < area.min() < 0.22
    assert 0.48 < area.max() < 0.52
    assert area.mean() == pytest.approx(0.35, abs=0.01)
    assert 0.75 < ratio.min() < 0.85
    assert 1.2 < ratio.max() < 1.3
    assert ratio.log().mean() == pytest.approx(0, abs=0.01)
    for first, length, side in ((top, height, 32), (left, width, 48)):
        assert first.min() == 0
        assert (first + length).max() == side
        assert (first / (side - length)).mean() == pytest.approx(0.5, abs=0.02)


def test_a_trim_takes_up_to_its_share_off_each_side(monkeypatch):
    top, left, height, width = spied(monkeypatch, {"trim": 0.25}).T
    for first, length, side in ((top, height, 32), (left, width, 48)):
        for cut in (first, side - first - length):
            assert (cut.min(), cut.max()) == (0, side / 4)
            assert cut.mean() == pytest.approx(side / 8, abs=0.2)
        assert abs(float(torch.corrcoef(torch.stack([first, side - first - length]))[0, 1])) < 0.05


def test_contrast_by_hand():
    x = torch.tensor([0.0, 0.4, 0.5, 0.9]).expand(500, 1, 1, 4)
    made = augmentation_from({"contrast": [0.5, 1.5]})[0](x, Keys(0, 0, torch.arange(500)))
    factor = (made[:, 0, 0, 1] - 0.5) / -0.1
    assert 0.5 <= factor.min() < 0.51
    assert 1.49 < factor.max() <= 1.5 + 1e-5
    assert torch.allclose(made[:, 0, 0, 2], torch.tensor(0.5))
    assert torch.allclose(made[:, 0, 0, 3], (0.5 + factor * 0.4).clamp(0, 1), atol=1e-5)
    assert torch.allclose(made[:, 0, 0, 0], (0.5 - factor * 0.5).clamp(0, 1), atol=1e-5)


def test_cutout_blackens_a_square_around_any_pixel():
    made = augmentation_from({"cutout": 4})[0](torch.ones(3000, 2, 10, 12), Keys(0, 0, torch.arange(3000)))
    black = made == 0
    assert torch.equal(black[:, 0], black[:, 1])
    rows, columns = black[:, 0].any(2), black[:, 0].any(1)
    assert torch.equal(black[:, 0], rows[:, :, None] & columns[:, None, :])
    assert set(rows.sum(1).tolist()) == {2, 3, 4}  # around the first and last rows half of it is lost
    assert rows.sum(1).eq(4).double().mean() == pytest.approx(0.7, abs=0.04)  # 7 of 10 centres
    assert columns.double().mean(0)[4:8].min() > 0.28


def test_autoaugment_has_the_papers_policy_and_torchvisions_operations():
    names = {"TranslateX": "translate_x", "TranslateY": "translate_y", "ShearY": "shear_y"}
    theirs = AutoAugment(AutoAugmentPolicy.CIFAR10)
    table = theirs._get_policies(AutoAugmentPolicy.CIFAR10)
    assert len(CIFAR10_POLICY) == len(table) == 25
    x, seen = torch.rand(3, 3, 32, 32), set()
    for ours, pair in zip(CIFAR10_POLICY, table, strict=True):
        for (name, chance, magnitude), (their_name, their_chance, their_magnitude) in zip(ours, pair, strict=True):
            assert (name, chance) == (names.get(their_name, their_name.lower()), their_chance)
            assert their_magnitude in (magnitude, None)
            values, signed = theirs._AUGMENTATION_SPACE[their_name]
            size = values(10, 32, 32)
            for sign in (1, -1) if signed else (1,):
                level = 0.0 if size is None else sign * float(size[magnitude])
                expected = theirs._apply_image_or_video_transform(
                    x, their_name, level, interpolation=InterpolationMode.NEAREST, fill={}
                )
                assert torch.allclose(operated(x, name, sign * magnitude), expected, atol=1e-5), name
            seen.add(name)
    assert set(LARGEST) < seen


def test_autoaugment_draws_pairs_chances_and_signs_as_it_says(monkeypatch):
    seen = []

    def operated(x, name, magnitude):
        seen.extend([(name, magnitude)] * len(x))
        return x

    monkeypatch.setattr(augment_policy, "operated", operated)
    n = 10_000
    augmentation_from({"autoaugment": "cifar10"})[0](torch.rand(n, 1, 2, 2), Keys(0, 0, torch.arange(n)))
    counts = Counter(seen)
    for operation in {(name, magnitude) for pair in CIFAR10_POLICY for name, _, magnitude in pair}:
        chance = sum(step[1] for pair in CIFAR10_POLICY for step in pair if (step[0], step[2]) == operation)
        name, magnitude = operation
        found = [counts[name, sign * magnitude] / n for sign in ((1, -1) if magnitude else (1,))]
        assert sum(found) == pytest.approx(chance / 25, abs=0.012), operation
        if name in LARGEST and magnitude:
            assert found[0] == pytest.approx(chance / 50, abs=0.008), operation


def test_one_of_gives_each_its_share_and_nested_draws_are_their_own():
    x = torch.rand(3000, 1, 6, 6)
    keys = Keys(0, 0, torch.arange(3000))
    made = augmentation_from({"one_of": {"contrast": [0, 0], "cutout": 6, "crop": {"pad": 0}}})[0](x, keys)
    grey = (made == 0.5).flatten(1).all(1).double().mean()
    same = (made == x).flatten(1).all(1).double().mean()
    assert (grey, same) == (pytest.approx(1 / 3, abs=0.03), pytest.approx(1 / 3, abs=0.03))
    flip, one_of = augmentation_from({"flip": True, "one_of": {"flip": True, "crop": {"pad": 0}}})
    twice = one_of(flip(x, keys), keys)  # were both draws the same, the second flip would undo half of the first
    assert (twice != x).flatten(1).any(1).double().mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("mode", "torch_mode"), [("reflect", "reflect"), ("zero", "constant"), ("edge", "replicate")]
)
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
        ({"rotate": "ten"}, "rotate: a number is needed, got 'ten'"),
        ({"rotate": 0}, "above 0 and not above 180"),
        ({"resized_crop": 0.5}, "resized_crop: true or"),
        ({"resized_crop": {"scael": [0, 1]}}, "unknown option of resized_crop 'scael'; did you mean scale"),
        ({"resized_crop": {"scale": [0.5, 2]}}, "at most 1, got 2"),
        ({"resized_crop": {"ratio": [2, 1]}}, "0 < LOW <= HIGH"),
        ({"trim": 0.5}, "above 0 and below 0.5"),
        ({"contrast": 0.5}, r"two numbers, \[LOW, HIGH\], are needed, got 0.5"),
        ({"contrast": [1.5, 0.5]}, "0 <= LOW <= HIGH"),
        ({"autoaugment": "cifar"}, "unknown policy of autoaugment 'cifar'; did you mean cifar10"),
        ({"cutout": 1.5}, "number of pixels from 1, got 1.5"),
        ({"one_of": {"flip": True}}, "two augmentations or more"),
        ({"share": 0.5}, "nothing is said to vary"),
        ({"share": 2, "flip": True}, "above 0 and not above 1, got 2"),
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
