"""The networks and images that all contenders share."""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

import art_ext.border.networks  # noqa: F401  (registers them)
from art_ext.data.entry import DatasetOptions
from art_ext.data.onboard import digits, digits_on_photos


@dataclass(frozen=True)
class Task:
    """A network, a batch size, and the images of a few batches, in [0, 1]."""

    name: str
    make: str
    shape: tuple[int, int, int]
    batch_size: int
    batches: int
    eps: float
    steps: int
    n_classes: int = 10

    @property
    def step_size(self) -> float:
        return 2.5 * self.eps / self.steps

    def model(self, seed: int = 0) -> nn.Module:
        """The same weights each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: nn.Module = timm.create_model(self.make, num_classes=self.n_classes, in_chans=self.shape[0])
            return model

    def data(self, batches: int | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) images and (N,) classes."""
        n = self.batch_size * (batches or self.batches)
        split = (digits if self.shape[0] == 1 else digits_on_photos)(DatasetOptions()).train
        rows = torch.arange(n)
        return split.x[rows].contiguous(), split.y[rows]


SMALL = Task("small_cnn, 1x8x8, batch 128, PGD-10", "small_cnn", (1, 8, 8), 128, 8, 0.15, 10)
PHOTOS = Task("small_cnn, 3x32x32, batch 64, PGD-10", "small_cnn", (3, 32, 32), 64, 2, 8 / 255, 10)
RESNET = Task("resnet18_cifar, 3x32x32, batch 32, PGD-3", "resnet18_cifar", (3, 32, 32), 32, 1, 8 / 255, 3)
