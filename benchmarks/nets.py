"""The networks and images that all contenders share."""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

import art_ext.border.networks  # noqa: F401  (registers them)


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

    def model(self) -> nn.Module:
        """The same weights each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: nn.Module = timm.create_model(self.make, num_classes=self.n_classes, in_chans=self.shape[0])
            return model

    def data(self, batches: int | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) images and (N,) classes."""
        n = self.batch_size * (batches or self.batches)
        if self.shape == (1, 8, 8):
            from sklearn.datasets import load_digits

            images, y = load_digits(return_X_y=True)
            x = torch.from_numpy(images).float().div(16).reshape(-1, *self.shape)
            return x[:n].contiguous(), torch.from_numpy(y)[:n].long()
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(n, *self.shape, generator=generator)
        return x, torch.randint(self.n_classes, (n,), generator=generator)


SMALL = Task("small_cnn, 1x8x8, batch 128, PGD-10", "small_cnn", (1, 8, 8), 128, 8, 0.15, 10)
RESNET = Task("resnet18_cifar, 3x32x32, batch 32, PGD-3", "resnet18_cifar", (3, 32, 32), 32, 1, 8 / 255, 3)
