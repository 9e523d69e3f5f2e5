"""Random numbers that are keyed, not streamed.

Each value is a hash of (seed, draw, stream, EXAMPLE INDEX, pixel), so an example meets the same
noise whatever the batch size, the shard, the rank, the device, or where a run was resumed.
The hash is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), written in int64 tensor arithmetic; on the CPU
in numpy's uint64, a few rows at a time, which is two to five times as fast and the same to the last bit.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >= 1 << 63 else value


_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
"""Of SplitMix64's finalizer: each the word xor itself shifted by so much, times the factor. The last leaves the upper
31 bits as they are, so who needs no others leaves it out."""
_FOR_ALL, _FOR_TOP = len(_ROUNDS), len(_ROUNDS) - 1


def mix(z: Tensor, rounds: int = _FOR_ALL) -> Tensor:
    """SplitMix64's finalizer on int64 words: a bijection that scatters neighbouring words."""
    for shift, factor in _ROUNDS[:rounds]:
        z = (z >> shift).bitwise_and_((1 << 64 - shift) - 1).bitwise_xor_(z)
        if factor > 1:
            z.mul_(_signed(factor))
    return z


def hashed(index: Tensor, base: int, pixels: int, rounds: int = _FOR_ALL) -> Tensor:
    """(N, pixels) int64 words, keyed by example and pixel."""
    example = mix(index * _signed(_GOLDEN) + base)
    pixel = torch.arange(1, pixels + 1, device=index.device) * _signed(_GOLDEN)
    return mix(example[:, None] + pixel, rounds)


_BLOCK = 1 << 14
"""Words that are hashed at once on the CPU: they stay in its cache."""


def hashed_on_cpu(
    index: Tensor, bases: Sequence[int], pixels: int, rounds: int = _FOR_ALL
) -> Iterator[tuple[slice, npt.NDArray[np.uint64]]]:
    """The words of `hashed`, of one base after another, a few rows at a time: (their slice, the words, in a buffer that
    is used again)."""
    example = index.numpy().view(np.uint64) * _STRIDE
    example = np.add.outer(np.array([base & _MASK for base in bases], np.uint64), example).reshape(-1)
    _mix_on_cpu(example, np.empty_like(example))
    height = max(1, _BLOCK // max(1, pixels))
    buffer, spare = np.empty((2, min(height, len(example)), pixels), np.uint64)
    for first in range(0, len(example), height):
        part = example[first : first + height]
        words = np.add(part[:, None], _strides(pixels), out=buffer[: len(part)])
        _mix_on_cpu(words, spare[: len(part)], rounds)
        yield slice(first, first + height), words


_STRIDE = np.uint64(_GOLDEN)
_ROUNDS_ON_CPU = [(np.uint64(shift), np.uint64(factor)) for shift, factor in _ROUNDS]


@lru_cache(maxsize=16)
def _strides(pixels: int) -> npt.NDArray[np.uint64]:
    """(pixels,) words that are added to that of an example."""
    return np.arange(1, pixels + 1, dtype=np.uint64) * _STRIDE


def _mix_on_cpu(z: npt.NDArray[np.uint64], spare: npt.NDArray[np.uint64], rounds: int = _FOR_ALL) -> None:
    """`mix` in place, with a buffer of the same shape."""
    for shift, factor in _ROUNDS_ON_CPU[:rounds]:
        np.bitwise_xor(z, np.right_shift(z, shift, out=spare), out=z)
        if factor > 1:
            np.multiply(z, factor, out=z)


def mix_int(*parts: int) -> int:
    """The same hash over plain integers, folded from left to right: one signed 64-bit word."""
    word = 0
    for part in parts:
        word = (word + _GOLDEN + part) & _MASK
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
        word ^= word >> 31
    return _signed(word)


@dataclass(frozen=True)
class Keys:
    """The keys of one batch's noise.

    Attributes:
        seed: the run's seed.
        draw: what makes two visits of one example differ: the epoch, in training.
        index: (N,) int64, the examples' indices in their data set.
        salt: the streams folded in so far.
        step: the batch's number, for draws that are shared by a batch.
    """

    seed: int
    draw: int
    index: Tensor
    salt: int = 0
    step: int = 0

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | Tensor) -> Keys:
        return replace(self, index=self.index[rows])

    def stream(self, name: str, number: int = 0) -> Keys:
        """An independent set of keys: one for each use ("start", "radius") and restart."""
        salt = mix_int(self.salt, zlib.crc32(name.encode()), number)
        return Keys(self.seed, self.draw, self.index, salt, self.step)

    def of_batch(self) -> Keys:
        """Keys by (seed, step): every example of the batch draws the same number."""
        return replace(self, draw=self.step, index=torch.zeros_like(self.index))

    def shared_uniform(self) -> float:
        """The one number in [0, 1) that `of_batch().uniform(())` draws for all; known without waiting for a device."""
        one = replace(self, draw=self.step, index=torch.zeros(1, dtype=torch.int64))
        return float(one.uniform(()))

    def words(self, shape: tuple[int, ...], lane: int = 0) -> Tensor:
        """(N, *shape) hashed int64 words."""
        pixels, base = math.prod(shape), self._base(lane)
        if self.index.device.type != "cpu":
            return hashed(self.index, base, pixels).reshape(len(self), *shape)
        out = np.empty((len(self), pixels), np.int64)
        for rows, block in hashed_on_cpu(self.index, [base], pixels):
            out[rows] = block.view(np.int64)
        return torch.from_numpy(out).reshape(len(self), *shape)

    def uniform(self, shape: tuple[int, ...], lane: int = 0) -> Tensor:
        """(N, *shape) float32 in [0, 1), with 24 random bits each."""
        return _uniforms(self.index, self._base(lane), math.prod(shape)).reshape(len(self), *shape)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """(N, *shape) float32 standard normal numbers (Box and Muller, 1958)."""
        return normals([self], shape)[0]

    def _base(self, lane: int) -> int:
        return mix_int(self.seed, self.draw, self.salt, lane)


def normals(streams: Sequence[Keys], shape: tuple[int, ...]) -> Tensor:
    """(S, N, *shape) float32 standard normal numbers of several streams of the same examples.

    Two come of each hashed word (Box and Muller, 1958): R cos A for the first half of an image's pixels, R sin A for
    the other, with 24 random bits for each of R and A. The same numbers as of one stream after another; of small
    images in little more time than those of one.
    """
    pixels = math.prod(shape)
    half = (pixels + 1) // 2
    radius, angle = _pairs(streams[0].index, [keys._base(1) for keys in streams], half)
    radius.mul_(-(2.0**-_BITS)).log1p_().mul_(-2).sqrt_()
    angle.mul_(2 * math.pi * 2.0**-_BITS)
    both = torch.cat([radius * angle.cos(), angle.sin_().mul_(radius)[:, : pixels - half]], 1)
    return both.reshape(len(streams), len(streams[0]), *shape)


_BITS = 24  # of a word for a number: all that a float32 below 1 holds evenly
_TOP, _LOW = 64 - _BITS, (1 << _BITS) - 1


def upper(words: Tensor) -> Tensor:
    """The upper 24 bits of int64 words as whole numbers, float32."""
    return (words >> _TOP).bitwise_and_(_LOW).to(torch.float32)


def lower(words: Tensor) -> Tensor:
    """The lower 24 bits of int64 words as whole numbers, float32."""
    return words.bitwise_and(_LOW).to(torch.float32)


def _pairs(index: Tensor, bases: Sequence[int], pixels: int) -> tuple[Tensor, Tensor]:
    """The upper and the lower 24 bits of each word as whole numbers: (bases x N, pixels) float32 twice."""
    if index.device.type != "cpu":
        words = torch.cat([hashed(index, base, pixels) for base in bases])
        return upper(words), lower(words)
    high, low = torch.empty(2, len(bases) * len(index), pixels)
    for rows, block in hashed_on_cpu(index, bases, pixels):
        low.numpy()[rows] = np.bitwise_and(block, np.uint64(_LOW)).view(np.int64)
        high.numpy()[rows] = np.right_shift(block, np.uint64(_TOP), out=block).view(np.int64)
    return high, low


def _uniforms(index: Tensor, base: int, pixels: int) -> Tensor:
    """(N, pixels) float32 in [0, 1)."""
    if index.device.type != "cpu":
        return upper(hashed(index, base, pixels, _FOR_TOP)).mul_(2.0**-_BITS)
    out = np.empty((len(index), pixels), np.float32)
    for rows, block in hashed_on_cpu(index, [base], pixels, _FOR_TOP):
        top = np.right_shift(block, np.uint64(_TOP), out=block).view(np.int64)
        np.multiply(top, np.float32(2.0**-_BITS), out=out[rows], dtype=np.float32, casting="unsafe")
    return torch.from_numpy(out)
