"""A task of seconds: a network of under 1,000 weights, 24 images, and one fit in float64."""

import copy
from contextlib import nullcontext

import torch
from lightning_fabric.plugins.precision.amp import MixedPrecision
from torch import nn

from art_ext.api import Facts, Plan
from art_ext.data.batches import ArrayBatches
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.run import Run, RunSettings

torch.set_num_threads(1)

FACTS = Facts(3, (1, 6, 6))
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
SEED = 3


def network(*, norm=True):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bn = nn.BatchNorm2d(4) if norm else nn.Identity()
        body = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), bn, nn.ReLU(), nn.Flatten())
        return nn.Sequential(body, nn.Linear(16, 3)).double()


def plain_network(n_classes=4, seed=0):
    """A convolution and a linear head of 64 features, for images (1, 6, 6), in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, n_classes))


def data(n=24):
    y = torch.arange(n) % 3
    x = torch.rand(n, 1, 6, 6, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
    x[:, 0, :, 2] = (x[:, 0, :, 2] + y[:, None]) / 3
    return x, y


def batches(batch_size=8):
    return ArrayBatches(*data(), batch_size, SEED)


class Scaled(MixedPrecision):
    """The scaled losses of mixed precision in float64, where the scale, a power of two, leaves nothing in the weights.

    Args:
        overflows: which backward passes into weights, counted from 0, give infinite gradients.
    """

    def __init__(self, overflows=()):
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
        self.overflows, self.passes = overflows, 0

    def backward(self, tensor, model, *args, **kwargs):
        factor = float("inf") if self.passes in self.overflows else 1.0
        self.passes += 1
        super().backward(tensor * factor, model, *args, **kwargs)

    def forward_context(self):
        return nullcontext()

    def convert_module(self, module):
        return module.double()

    def convert_input(self, data):
        return data

    def convert_output(self, data):
        return data


def fit(
    ingredients, module, *, epochs=2, batch_size=8, schedule=None, facts=FACTS, sgd=SGD, validate=None, scaled=None,
    **settings,
):  # fmt: skip
    """Trains a copy of the module; gives it, and the fit's history. `scaled` is a `Scaled` precision."""
    module = copy.deepcopy(module)
    run = Run(RunSettings(precision="64-true", fold=False, channels_last=False, **settings), SEED, torch.device("cpu"))
    if scaled is not None:
        run.fabric.strategy.precision = scaled
    optimizer = torch.optim.SGD(module.parameters(), **sgd)
    plan = Plan.of(ingredients, facts)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # fabric hands outputs over in the default type
    try:
        whole = Fit(plan, Net(module), optimizer, run, epochs=epochs, schedule=schedule, validate=validate)
        return module, whole(batches(batch_size))
    finally:
        torch.set_default_dtype(usual)


def weights(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_same(got, expected, atol=1e-10):
    got, expected = weights(got), weights(expected)
    for name, value in expected.items():
        assert torch.allclose(got[name].double(), value.double(), rtol=0, atol=atol), name


def differs(a, b):
    return any(not torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
