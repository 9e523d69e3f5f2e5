"""Every method's training step beside its own arithmetic limit: the passes that the method needs, counted.

K is the attack's number of steps, n the rows of a batch. Where a method looks at some of the rows
alone, its count is their share of the batch. Methods are trained as their plugin has them, with the
task's eps, steps and step size where they attack.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_ext.api import Facts, Ingredient, Keys, Outputs, Plan, Progress, ce, ensemble
from art_ext.data.batches import ArrayBatches
from art_ext.engine.net import Net
from art_ext.engine.offers import needs_of
from art_ext.parts.objectives import best_other_probability
from art_ext.parts.surgery import find_head
from art_ext_adp import ADP
from art_ext_baselines import AWP, FAT, MART, PGDAT, TRADES, FastAT, FreeAT, GuidedComplementEntropy
from art_ext_cat import CAT, MaskNetwork, cw_surrogate
from art_ext_ccat import CCAT
from art_ext_dac import DAC
from art_ext_mmc import MMC
from art_ext_pc_lc import PCLC
from art_ext_rce import RCE
from art_ext_tricks import EMA, SWA, EarlyStopSteps, OptimizerChoice
from art_ext_tricks.optimizers import Centralise
from benchmarks import contenders as who
from benchmarks.contenders import SEED
from benchmarks.limit import Limit, MakeOptimizer, inner_kl, outer_trades, sgd
from benchmarks.nets import Task
from benchmarks.timing import Contender


@dataclass(frozen=True)
class Method:
    """A method's step and the limit it is held to.

    Attributes:
        bound: adds the pieces to an empty limit of the network that the method trains.
        members: networks of an ensemble.
        trained: start from a network that knows the images, and stay there: for work that depends on it.
    """

    name: str
    make: Callable[[Task], Sequence[Ingredient]]
    bound: Callable[[Task, Limit], Limit]
    optimizer: MakeOptimizer = sgd
    members: int = 1
    trained: bool = False

    def model(self, task: Task) -> nn.Module:
        """Before surgery."""
        if self.trained:
            return resting_statistics(who.trained(task, 100))
        return task.model() if self.members == 1 else ensemble([task.model(seed) for seed in range(self.members)])

    def contender(self, task: Task) -> Contender:
        model = self.plan(task).operate(self.model(task))
        return who.art_ext_fit(task, self.name, self.make(task), model=model, optimizer=self.optimizer)

    def limit(self, task: Task) -> Limit:
        x, y = (part[: task.batch_size] for part in task.data())
        return self.bound(task, Limit(self.plan(task).operate(self.model(task)), x, y))

    def plan(self, task: Task) -> Plan:
        return Plan.of(self.make(task), Facts(task.n_classes, task.shape))


def pgd(task: Task) -> PGDAT:
    return PGDAT(eps=task.eps, steps=task.steps, step_size=task.step_size)


def robust(task: Task, limit: Limit) -> Limit:
    """K attack + 1 train."""
    return limit.attack(task.steps).train()


def with_criterion(make: Callable[[Task], Sequence[Ingredient]]) -> Callable[[Task, Limit], Limit]:
    """1 train on the plan's own criterion, a drop-in for cross-entropy."""

    def bound(task: Task, limit: Limit) -> Limit:
        plan = Plan.of(make(task), Facts(task.n_classes, task.shape))
        criterion, needs = plan.compose().criterion, frozenset(needs_of(plan))

        def outer(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            head = find_head(model, plan.facts)[1] if "features" in needs else None
            return criterion(Net(model, head=head, wanted=needs)(x), y).mean()

        return limit.train(outer)

    return bound


def ccat(task: Task, limit: Limit) -> Limit:
    """On half of the rows K steps forward and back, each at the point it judges, and a last look."""
    half = slice(task.batch_size // 2, None)
    limit = limit.attack(task.steps, lambda z, y: best_other_probability(z, y).sum(), half).look(1, rows=half)

    def soft(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), torch.full((len(x), task.n_classes), 1 / task.n_classes))

    return limit.train(soft)


def cat(task: Task, limit: Limit) -> Limit:
    """K attack + 1 train of clean and calibrated rows + 1 mask step: g forward and back through f, f at x' once."""

    def masked(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
        model.train().requires_grad_(False)
        network = MaskNetwork("conv", task.shape).to(memory_format=torch.channels_last)
        optimizer = sgd(network)

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                at_full = model(x)
            calibrated = model(x + network(x) * 0.01)
            loss = F.kl_div(F.log_softmax(calibrated, 1), F.log_softmax(at_full, 1), log_target=True)
            (loss + F.cross_entropy(calibrated, y)).backward()
            optimizer.step()

        return run

    inner = limit.attack(task.steps, lambda z, y: cw_surrogate(z, y, 50.0).sum())
    return inner.train(outer_trades).add("mask step", masked)


def dac(task: Task, limit: Limit) -> Limit:
    """The attack and the step twice."""
    return limit.attack(2 * task.steps).train(count=2)


def mart(task: Task, limit: Limit) -> Limit:
    return limit.attack(task.steps).train(outer_trades)


def awp(task: Task, limit: Limit) -> Limit:
    """K attack, the proxy's gradients, and the step."""
    return limit.attack(task.steps).train(word="proxy", step=False).train()


def free_at(task: Task, limit: Limit) -> Limit:
    """As many steps as replays, each with the gradient of the images."""
    return limit.train(count=REPLAYS, to_images=True)


def fast_at(task: Task, limit: Limit) -> Limit:
    return limit.attack(1).train()


REPLAYS = 4


def stopped(make: Callable[[Task], Sequence[Ingredient]]) -> Callable[[Task, Limit], Limit]:
    """A pass of each step on the rows that still go on, whose number is counted on every batch of the epoch."""

    def bound(task: Task, limit: Limit) -> Limit:
        attack = Plan.of(make(task), Facts(task.n_classes, task.shape)).compose(0).at(Progress(0.0, 1.0)).attack
        assert attack is not None
        model = copy.deepcopy(limit.model).eval()
        sizes: list[list[int]] = []

        def counted(images: Tensor) -> Outputs:
            sizes[-1].append(len(images))
            return Outputs(model(images))

        for number, batch in enumerate(ArrayBatches(*task.data(), task.batch_size, SEED).epoch(0)):
            sizes.append([])
            keys = Keys(SEED, 0, batch.index, step=number)
            attack.craft(counted, batch.x, ce.bind(counted, batch.x, batch.y), keys)
        limit.steps = task.batches
        numbers: dict[int, list[int]] = {}
        for size, count in Counter(itertools.chain(*sizes)).items():
            before = len(limit.pieces)
            limit.attack(count, rows=slice(0, size))
            if attack.jitter:
                limit.add("jitter", jitter, count, slice(0, size))
            numbers[size] = list(range(before, len(limit.pieces)))
        limit.train(count=task.batches)
        last = len(limit.pieces) - 1
        limit.order = [n for passes in sizes for n in [*(n for size in passes for n in numbers[size]), last]]
        return limit

    return bound


def resting_statistics(model: nn.Module) -> nn.Module:
    """The network with batch norms whose running statistics stay: the attack meets the same network at every step."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0
    return model


def jitter(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """Normal noise at each step, which is part of the method, from the library's own generator."""
    adv = x.clone()
    return lambda: adv.add_(torch.randn_like(adv), alpha=1e-3)


def averaging(task: Task, limit: Limit) -> Limit:
    """K attack + 1 train + one pass over the weights."""

    def mean(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
        weights = [p.detach() for p in model.parameters()]
        means = [w.clone() for w in weights]
        return lambda: torch._foreach_lerp_(means, weights, 0.01)

    return robust(task, limit).add("average", mean)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def centralised(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = sgd(model)
    Centralise(2)(optimizer, model)
    return optimizer


def resting(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, fused=True)


def _fat(task: Task) -> Sequence[Ingredient]:
    return [FAT(eps=task.eps, steps=task.steps, step_size=task.step_size)]


def _early(task: Task) -> Sequence[Ingredient]:
    return [pgd(task), EarlyStopSteps()]


def _gce(task: Task) -> Sequence[Ingredient]:
    return [GuidedComplementEntropy()]


def _pc_lc(task: Task) -> Sequence[Ingredient]:
    return [PCLC(warmup_epochs=0)]


def _rce(task: Task) -> Sequence[Ingredient]:
    return [RCE()]


def _adp(task: Task) -> Sequence[Ingredient]:
    return [ADP()]


def _mmc(task: Task) -> Sequence[Ingredient]:
    return [MMC(dim=64)]


METHODS = [
    Method("pgd_at", lambda task: [pgd(task)], robust),
    Method(
        "trades",
        lambda task: [TRADES(eps=task.eps, steps=task.steps, step_size=task.step_size)],
        lambda task, limit: limit.attack(task.steps, inner_kl).look(1).train(outer_trades),
    ),
    Method("mart", lambda task: [MART(eps=task.eps, steps=task.steps, step_size=task.step_size)], mart),
    Method("fat", _fat, stopped(_fat), optimizer=resting, trained=True),
    Method("awp x pgd_at", lambda task: [pgd(task), AWP()], awp),
    Method("free_at", lambda task: [FreeAT(eps=task.eps, replays=REPLAYS)], free_at),
    Method("fast_at", lambda task: [FastAT(eps=task.eps)], fast_at),
    Method("guided_complement_entropy", _gce, with_criterion(_gce)),
    Method("ccat", lambda task: [CCAT(eps=task.eps, steps=task.steps)], ccat),
    Method("cat", lambda task: [CAT(eps=task.eps, steps=task.steps, step_size=task.step_size)], cat),
    Method("dac x pgd_at", lambda task: [pgd(task), DAC()], dac),
    Method("pc_lc", _pc_lc, with_criterion(_pc_lc)),
    Method("mmc", _mmc, with_criterion(_mmc)),
    Method("mmc x pgd_at", lambda task: [pgd(task), MMC(dim=64)], robust),
    Method("rce", _rce, with_criterion(_rce)),
    Method("adp, 3 members", _adp, with_criterion(_adp), members=3),
    Method("ema x pgd_at", lambda task: [pgd(task), EMA()], averaging),
    Method("swa x pgd_at", lambda task: [pgd(task), SWA()], robust),
    Method("early_stop_steps x pgd_at", _early, stopped(_early), optimizer=resting, trained=True),
    Method("pgd_at with adamw", lambda task: [pgd(task)], lambda t, l: l.attack(t.steps).train(optimizer=adamw), adamw),
    Method(
        "optimizer gc x pgd_at",
        lambda task: [pgd(task), OptimizerChoice(kind="gc")],
        lambda task, limit: limit.attack(task.steps).train(optimizer=centralised),
    ),
]
FIXED = ("fat", "free_at", "fast_at", "ccat", "mmc")
"""Where what a step needs besides its passes shows most on small images."""
