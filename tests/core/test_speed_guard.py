"""The fast path stays fast, and stays the same attack; benchmarks/ has the real figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import art_ext.border.networks  # noqa: F401  (registers small_cnn)
from art_ext.data.batches import ArrayBatches
from art_ext.engine.fit import Fit
from art_ext.engine.freeze import Crafter, Twin
from art_ext.engine.net import Net, in_channels_last
from art_ext.engine.run import Run, RunSettings
from art_ext.parts.attacks import PGD
from art_ext.parts.noise import Keys
from art_ext.parts.norms import Linf
from art_ext.parts.objectives import ce
from art_ext.plan import Plan
from art_ext.types import Facts
from art_ext_baselines import PGDAT

EPS, STEPS, BATCH = 0.15, 10, 128
SIZE = 2.5 * EPS / STEPS


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("small_cnn", num_classes=10, in_chans=1)
    return model


def images(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.randint(10, (n,), generator=generator)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)


def plain_pgd(model: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
    adv = (x + start).clamp(0, 1)
    for _ in range(STEPS):
        adv = adv.detach().requires_grad_()
        F.cross_entropy(model(adv), y).backward()
        assert adv.grad is not None
        adv = adv.detach() + SIZE * adv.grad.sign()
        adv = torch.min(torch.max(adv, x - EPS), x + EPS).clamp(0, 1)
    return adv.detach()


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@pytest.mark.slow
def test_a_training_step_is_faster_than_a_plain_loop() -> None:
    x, y = images(2 * BATCH)
    model = network()
    plan = Plan.of([PGDAT(eps=EPS, steps=STEPS, step_size=SIZE)], Facts(10, (1, 8, 8)))
    fit = Fit(plan, Net(model), optimizer_of(model), Run(RunSettings(), 0, torch.device("cpu")), epochs=1)
    batches = ArrayBatches(x, y, BATCH, 0)

    other = network()
    optimizer = optimizer_of(other)

    def plain() -> None:
        for rows in torch.arange(len(x)).split(BATCH):
            other.eval()
            adv = plain_pgd(other, x[rows], y[rows], torch.empty_like(x[rows]).uniform_(-EPS, EPS))
            other.train()
            optimizer.zero_grad()
            F.cross_entropy(other(adv), y[rows]).backward()
            optimizer.step()

    plain()
    fit(batches)
    ratios = [cpu_seconds(plain) / cpu_seconds(lambda: fit(batches)) for _ in range(9)]
    assert statistics.median(ratios) >= 1.2, ratios


@pytest.mark.slow
def test_the_fast_path_makes_the_plain_loops_examples() -> None:
    x, y = images(BATCH)
    model = network().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(10):  # statistics and weights that are not the initial ones
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    attack = PGD(Linf(EPS), STEPS, SIZE)
    keys = Keys(0, 0, torch.arange(BATCH))
    start = attack.start(attack.norm, keys.stream("start", 0), x, EPS)
    expected = plain_pgd(model.eval(), x, y, start)

    crafter, last = Crafter(), in_channels_last(x)
    with crafter(Net(model.train()), "eval", last) as forward:
        adv = attack.craft(forward, last, ce.bind(forward, last, y), keys).x

    assert crafter.folded == 3
    assert float(((adv - expected).abs() < 1e-6).double().mean()) >= 0.999


def test_iterates_keep_the_memory_order_of_the_images() -> None:
    last = in_channels_last(images(4)[0])
    seen: list[tuple[int, ...]] = []
    net = Net(network().eval())

    def spy(adv: Tensor) -> object:
        seen.append(adv.stride())
        return net(adv)

    PGD(Linf(EPS), 3).craft(spy, last, ce.bind(net, last, torch.zeros(4).long()), Keys(0, 0, torch.arange(4)))
    assert set(seen) == {last.stride()}


def test_gradients_get_the_memory_order_of_channels_last_maps() -> None:
    last = in_channels_last(images(4)[0])
    twin = Twin(Net(network().eval()), last)
    seen: list[bool] = []

    def look(grad: Tensor) -> None:
        seen.append(grad.is_contiguous(memory_format=torch.channels_last))

    for module in twin.net.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, args, out: out.register_hook(look) and None)
    x = last.clone().requires_grad_()
    torch.autograd.grad(twin(x).logits.sum(), x)
    assert seen == [True] * 3
