"""What every ingredient must do, alone and in any combination: two steps on a tiny network."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from art_ext.data.batches import ArrayBatches
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.offers import check_offers, needs_of
from art_ext.engine.optim import make_optimizer, tuned
from art_ext.engine.run import Run, RunSettings
from art_ext.ingredient import Ingredient
from art_ext.parts.ensemble import ensemble
from art_ext.parts.surgery import find_head
from art_ext.plan import Plan
from art_ext.types import Facts

FACTS = Facts(4, (1, 6, 6))
IMAGES = 8
EPOCHS = 2
"""One batch each, so two steps."""


def tiny_network(seed: int = 0, n_classes: int = FACTS.n_classes) -> nn.Module:
    """A network of 640 weights with batch norms, for images of `FACTS`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False),  # a bias would be taken away by the norm
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, n_classes),
        )


def trial_of(kind: type[Ingredient]) -> Ingredient:
    """The ingredient with its `trial` options, under which two steps show its effect."""
    return kind(**kind.trial)


def train_tiny(
    ingredients: Sequence[Ingredient],
    *,
    members: bool | None = None,
    n_classes: int = FACTS.n_classes,
    images: int = IMAGES,
    sharpness: float = 1.0,
) -> dict[str, Tensor]:
    """Two steps on eight random images; the weights afterwards, by name.

    Args:
        members: on an ensemble of two networks; by default where the plan needs one.
        images: of another number than eight, the last batch has the rest.
        sharpness: what the linear layers are multiplied by: 0 ties all logits, 1e4 saturates them.

    Raises:
        ComposeError: when the ingredients contradict each other.
        AssertionError: for a loss or weight that is not finite; where modes, `requires_grad` or one of the
            generators of torch, numpy and Python are not as they were; and, but for few images and
            changed sharpness, where a parameter that is trained stayed, or another tensor moved that
            is no statistic of a norm.
    """
    facts = replace(FACTS, n_classes=n_classes)
    plan = Plan.of(ingredients, facts)
    wants = "members" in needs_of(plan) if members is None else members
    several = [tiny_network(seed, n_classes) for seed in (0, 1)]
    model = plan.operate(ensemble(several) if wants else several[0])
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(sharpness)
                layer.bias.mul_(sharpness)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(images, *facts.input_shape, generator=generator), torch.arange(images) % n_classes
    needs = needs_of(plan)
    head = find_head(model, facts)[1] if "features" in needs else None
    net = Net(model, head=head, wanted=frozenset(needs))
    check_offers(net, facts, needs)
    optimizer = make_optimizer("sgd", model.parameters(), {"lr": 0.05, "momentum": 0.9})  # decay would move anything
    with torch.random.fork_rng(devices=[]), tuned(optimizer, plan.settings):
        torch.manual_seed(0)
        fit = Fit(plan, net, optimizer, Run(RunSettings(accelerator="cpu"), seed=0), epochs=EPOCHS)
        modules = {"": model, **{f"{name}.": aide.module for name, aide in fit.helpers.items()}}
        before = [_state_of(module) for module in modules.values()]
        generators = _generators()
        history = fit(ArrayBatches(x, y, IMAGES, seed=0))
        assert _generators() == generators, "a global generator was used"
    losses = [value for report in history.epochs for name, value in report.metrics.items() if "loss" in name]
    assert all(map(math.isfinite, losses)), f"the loss is not finite: {losses}"
    for (prefix, module), state in zip(modules.items(), before, strict=True):
        state.compare(module, prefix, moved=sharpness == 1 and images >= IMAGES)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@dataclass(frozen=True)
class _State:
    """Of a module before a training: modes, flags, parameters and buffers by name."""

    modes: list[bool]
    flags: list[bool]
    tensors: dict[str, Tensor]

    def compare(self, module: nn.Module, prefix: str, *, moved: bool) -> None:
        """Asserts that the module is as it was but for what training moves.

        Args:
            prefix: of the names in messages.
            moved: whether trained parameters must have moved.
        """
        after = _state_of(module)
        assert after.modes == self.modes, f"a layer of {prefix or 'the network'} is in another mode than before"
        assert after.flags == self.flags, f"requires_grad of {prefix or 'the network'} was not restored"
        trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        for name, value in after.tensors.items():
            same = torch.equal(value, self.tensors[name])
            assert bool(value.isfinite().all()), f"{prefix}{name} is not finite"
            if name in trained:
                assert not (moved and same), f"{prefix}{name} is trained, but has not moved"
            else:
                assert same or name.rpartition(".")[2] in STATISTICS, f"{prefix}{name} is not trained, but has moved"


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _state_of(module: nn.Module) -> _State:
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return _State(
        [part.training for part in module.modules()],
        [parameter.requires_grad for parameter in module.parameters()],
        {name: tensor.detach().clone() for name, tensor in named},
    )


def _generators() -> list[object]:
    """The states of the global generators of torch, numpy and Python, as comparable values."""
    kind, keys, *rest = np.random.get_state()
    return [torch.random.get_rng_state().tolist(), random.getstate(), kind, list(keys), rest]


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def check_ingredient(kind: type[Ingredient], bases: Sequence[Ingredient] = ()) -> None:
    """Checks one ingredient: it declares itself, does what it says in two steps, and does it again alike.

    Args:
        bases: ingredients that it needs beside it, such as one that attacks.

    Raises:
        AssertionError: in one line, what is wrong.
    """
    label = kind.__name__
    assert isinstance(getattr(kind, "name", None), str), f"{label} has no name"
    assert kind.name.isidentifier(), f"{label}.name is {kind.name!r}; recipes spell names in snake_case"
    assert kind.name == kind.name.lower(), f"{label}.name is {kind.name!r}; recipes spell names in snake_case"
    assert hasattr(kind, "paper"), f"{label} does not say where it was published: paper = Paper(...)"
    assert kind.__doc__, f"{label} has no docstring"
    first = train_tiny([*bases, trial_of(kind)])
    assert same_weights(first, train_tiny([*bases, trial_of(kind)])), f"{kind.name} gives other weights the second time"
    members = any(name.startswith("members.") for name in first)
    plain = train_tiny(bases, members=members)
    assert not same_weights(first, plain), f"{kind.name} changes nothing in two steps; give it `trial` options that do"
