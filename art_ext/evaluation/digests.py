"""Digests of images one by one: to know a data set again, and to find images that were seen before."""

from __future__ import annotations

import hashlib
from collections.abc import Set

import numpy as np
import torch
from torch import Tensor

from art_ext.data.images import Images

_ROWS = 512


def image_digests(images: Images) -> list[bytes]:
    """16 bytes for each image: equal for equal pixels, in float32."""
    found: list[bytes] = []
    for index in torch.split(torch.arange(len(images)), _ROWS):
        for row in np.ascontiguousarray(images[index].to(torch.float32).cpu().numpy()):
            found.append(hashlib.blake2b(row.data, digest_size=16).digest())
    return found


def data_digest(digests: list[bytes], y: Tensor) -> str:
    """`sha256:...` over images and labels, in order."""
    whole = hashlib.sha256(b"".join(digests))
    whole.update(y.cpu().to(torch.int64).numpy().tobytes())
    return f"sha256:{whole.hexdigest()}"


def overlap(digests: list[bytes], seen: Set[bytes]) -> int:
    """How many of the images are among those seen."""
    return sum(digest in seen for digest in digests)
