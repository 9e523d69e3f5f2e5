"""Keyed noise: what an example draws depends on its own key alone, and is distributed as promised."""

import itertools
import math

import pytest
import torch
from scipy import stats

from art_ext.parts.noise import Keys, hashed, hashed_on_cpu, lower, mix, mix_int, normals, upper
from art_ext.parts.ranges import Uniform, largest

SHAPE = (3, 4, 5)
DRAWS = {"uniform": lambda keys: keys.uniform(SHAPE), "normal": lambda keys: keys.normal(SHAPE)}


def _keys(index, seed=7, draw=2, step=0):
    return Keys(seed, draw, torch.as_tensor(index, dtype=torch.int64), step=step)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_an_example_draws_the_same_in_any_batch(draw):
    whole = draw(_keys(range(50)))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(_keys(order)), whole[order])
    assert torch.equal(draw(_keys([13])), whole[13:14])
    assert torch.equal(draw(_keys(range(50))[10:20]), whole[10:20])
    assert torch.equal(draw(_keys(range(50))[torch.tensor([4, 2])]), whole[[4, 2]])


def test_a_step_number_does_not_reach_example_noise():
    assert torch.equal(_keys([3], step=0).uniform(SHAPE), _keys([3], step=9).uniform(SHAPE))


def test_the_number_that_a_batch_shares_is_the_one_each_example_would_draw():
    for step in range(20):
        keys = _keys([3, 8], step=step).stream("kind")
        assert keys.of_batch().uniform(()).tolist() == [keys.shared_uniform()] * 2
    assert len({_keys([3], step=step).shared_uniform() for step in range(20)}) == 20


@pytest.mark.parametrize("change", [{"seed": 8}, {"draw": 3}])
def test_seed_and_draw_change_the_noise(change):
    assert not torch.equal(_keys([3], **change).uniform(SHAPE), _keys([3]).uniform(SHAPE))


def test_mix_is_splitmix64():
    """The published first outputs of SplitMix64 from the states 0 and 1234567 (Vigna's reference code)."""
    golden = -0x61C8864680B583EB
    expected = {0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4], 1234567: [6457827717110365317, 3203168211198807973]}
    for state, words in expected.items():
        z = state + torch.arange(1, 3) * golden
        assert [int(word) & (1 << 64) - 1 for word in mix(z)] == words


def test_plain_and_tensor_hashes_agree():
    golden = -0x61C8864680B583EB
    for word in (0, 5, -3, 2**62):
        assert mix_int(word) == int(mix(torch.tensor(word) + golden))


def test_the_noise_is_the_same_everywhere_and_always():
    """Fixed numbers: they keep a resumed run, another machine and another release on the same noise."""
    keys = Keys(0, 0, torch.tensor([0, 1])).stream("start")
    words = keys.words((2,))
    assert words.tolist() == _by_hand(0, 0, keys.salt, 0, [0, 1], 2)
    uniform = [[(word >> 40 & (1 << 24) - 1) / 2**24 for word in row] for row in words.tolist()]
    assert keys.uniform((2,)).tolist() == uniform


def test_two_normal_numbers_come_of_each_word():
    """Box and Muller's pair, from Python's own arithmetic; the last pixel of an odd number has no partner."""
    keys = Keys(3, 1, torch.tensor([0, 5])).stream("start")
    words = _by_hand(3, 1, keys.salt, 1, [0, 5], 3)
    found = keys.normal((5,))
    for row, of_example in zip(found.tolist(), words, strict=True):
        pairs = [_box_muller(word) for word in of_example]
        assert row == pytest.approx([a for a, _ in pairs] + [b for _, b in pairs][:2], abs=2e-6)


def _box_muller(word):
    u, v = (word >> 40 & (1 << 24) - 1) / 2**24, (word & (1 << 24) - 1) / 2**24
    radius = math.sqrt(-2 * math.log1p(-u))
    return radius * math.cos(2 * math.pi * v), radius * math.sin(2 * math.pi * v)


def test_the_bits_of_a_device_are_those_of_the_cpu():
    """What a device takes of the words gives the numbers that the CPU draws from numpy's."""
    keys = Keys(0, 4, torch.tensor([7, 2**40]))
    words = keys.words((300,))
    assert torch.equal(upper(words) * 2.0**-24, keys.uniform((300,)))
    first = mix(torch.arange(1000), 2)
    assert torch.equal(upper(first), upper(mix(torch.arange(1000)))), "the last round does not reach the upper bits"
    pair = hashed(keys.index, mix_int(0, 4, 0, 1), 150)
    radius = torch.sqrt(-2 * torch.log1p(-upper(pair) * 2.0**-24))
    angle = lower(pair) * (2 * math.pi * 2.0**-24)
    wanted = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
    torch.testing.assert_close(keys.normal((300,)), wanted, rtol=0, atol=1e-6)


def test_the_halves_of_an_image_s_normal_noise_are_independent():
    z = _keys(range(400)).normal((1000,)).double()
    a, b = z[:, :500].flatten(), z[:, 500:].flatten()
    for left, right in ((a, b), (a**2, b**2), (a.abs(), b), (a, b.abs()), (a**3, b)):
        assert _correlation(left, right) < 5 / len(a) ** 0.5
    assert stats.kstest(z[:, 500:].flatten().numpy(), "norm").pvalue > 1e-3


def _by_hand(seed, draw, salt, lane, index, pixels):
    """The documented hash in Python's unbounded integers."""
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def finalize(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    base = 0
    for part in (seed, draw, salt, lane):
        base = finalize((base + golden + part) & mask)

    def signed(word):
        return word - (1 << 64) if word >= 1 << 63 else word

    examples = [finalize((i * golden + base) & mask) for i in index]
    return [[signed(finalize((e + (p + 1) * golden) & mask)) for p in range(pixels)] for e in examples]


def test_uniform_numbers_are_uniform():
    u = _keys(range(200)).uniform((1000,)).double()
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 1 / 2) < 4 * (1 / 12 / u.numel()) ** 0.5
    assert abs(u.var() - 1 / 12) < 1e-3
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    # Across examples, at one pixel: the sequence that neighbouring indices give.
    assert stats.kstest(_keys(range(20_000)).uniform((2,))[:, 1].numpy(), "uniform").pvalue > 1e-3


def test_normal_numbers_are_normal():
    z = _keys(range(200)).normal((1000,)).double().flatten().numpy()
    assert abs(z.mean()) < 4 / len(z) ** 0.5
    assert abs(z.std() - 1) < 0.01
    assert abs(stats.skew(z)) < 0.03
    assert abs(stats.kurtosis(z)) < 0.06
    assert stats.kstest(z, "norm").pvalue > 1e-3


@pytest.mark.parametrize("shape", [SHAPE, (1, 8, 8), (3, 80, 80), ()])
def test_several_streams_at_once_draw_what_each_draws(shape):
    streams = [_keys([4, 0, 9]).stream("jitter", number) for number in range(3)]
    assert torch.equal(normals(streams, shape), torch.stack([keys.normal(shape) for keys in streams]))


def _correlation(a, b):
    return abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]))


def test_streams_restarts_examples_seeds_and_lanes_are_independent():
    n = 100_000
    base = _keys([0])
    fields = {
        "plain": base.uniform((n,)),
        "stream": base.stream("start").uniform((n,)),
        "other stream": base.stream("radius").uniform((n,)),
        "restart": base.stream("start", 1).uniform((n,)),
        "stream of a stream": base.stream("start").stream("start").uniform((n,)),
        "next example": _keys([1]).uniform((n,)),
        "next epoch": _keys([0], draw=3).uniform((n,)),
        "next seed": _keys([0], seed=8).uniform((n,)),
        "lane": base.uniform((n,), lane=1),
        "shifted": base.uniform((n + 1,))[:, 1:],
    }
    for (name, a), (other, b) in itertools.combinations(fields.items(), 2):
        assert _correlation(a, b) < 5 / n**0.5, (name, other)


def test_neighbouring_seeds_epochs_and_indices_do_not_collide():
    words = [Keys(s, d, torch.arange(60)).words((4,)) for s in range(12) for d in range(12)]
    flat = torch.cat(words).flatten()
    assert len(flat.unique()) == len(flat)
    uniform = torch.cat([Keys(s, d, torch.arange(60)).uniform((4,)) for s in range(12) for d in range(12)])
    assert len(uniform.unique(dim=0)) == len(uniform)


def test_seed_and_draw_are_not_interchangeable():
    assert not torch.equal(Keys(1, 2, torch.arange(3)).words((4,)), Keys(2, 1, torch.arange(3)).words((4,)))


def test_a_range_is_drawn_per_example_or_once_a_batch():
    each = Uniform(0.1, 0.3).draw(_keys(range(10_000)))
    assert each.shape == (10_000,)
    assert 0.1 <= each.min() < 0.101
    assert 0.299 < each.max() < 0.3
    assert stats.kstest(each.numpy(), stats.uniform(0.1, 0.2).cdf).pvalue > 1e-3
    assert torch.equal(each[5:9], Uniform(0.1, 0.3).draw(_keys([5, 6, 7, 8])))
    batch = Uniform(0.1, 0.3, per="batch")
    values = {float(batch.draw(_keys(range(5), step=step)).unique()) for step in range(20)}
    assert len(values) == 20
    # Neither the epoch nor the shard decides: all ranks of a step draw alike.
    assert torch.equal(batch.draw(_keys([4, 8], step=3)), batch.draw(_keys([5, 9], step=3)))


@pytest.mark.parametrize("bounds", [(0.3, 0.1), (0.2, 0.2), (-0.1, 0.2), (0.0, float("inf")), (0.0, float("nan"))])
def test_impossible_ranges_are_refused(bounds):
    with pytest.raises(ValueError, match="low < high"):
        Uniform(*bounds)


def test_a_range_has_an_upper_end():
    assert largest(Uniform(0.1, 0.3)) == 0.3
    assert largest(0.2) == 0.2
    with pytest.raises(ValueError, match="per 'example' or 'batch'"):
        Uniform(0.0, 1.0, per="epoch")


@pytest.mark.parametrize("pixels", [1, 64, 3 * 32 * 32, 40_000])
def test_the_words_of_the_cpu_are_those_of_tensor_arithmetic(pixels):
    index = torch.tensor([0, 7, 7, -3, 2**62, 12345])[::2]
    words = torch.empty(len(index), pixels, dtype=torch.int64)
    for rows, block in hashed_on_cpu(index, [-5], pixels):
        words[rows] = torch.from_numpy(block)
    assert torch.equal(words, hashed(index, -5, pixels))
