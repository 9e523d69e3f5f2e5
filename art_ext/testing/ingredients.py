"""What every ingredient must do: alone, in pairs, in any combination."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from art_ext.data.batches import ArrayBatches
from art_ext.engine.fit import Fit
from art_ext.engine.net import Net
from art_ext.engine.offers import check_offers, needs_of
from art_ext.engine.optim import make_optimizer, tuned
from art_ext.engine.run import Run, RunSettings
from art_ext.errors import ComposeError
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
            nn.Conv2d(4, 8, 3, stride=2, padding=1),
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
        AssertionError: for a loss that is not finite, and where mode, flags or torch's generator
            are not as they were.
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
    optimizer = make_optimizer("sgd", model.parameters(), {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3})
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with torch.random.fork_rng(devices=[]), tuned(optimizer, plan.settings):
        torch.manual_seed(0)
        state = torch.random.get_rng_state()
        fit = Fit(plan, net, optimizer, Run(RunSettings(accelerator="cpu"), seed=0), epochs=EPOCHS)
        history = fit(ArrayBatches(x, y, IMAGES, seed=0))
        assert torch.equal(torch.random.get_rng_state(), state), "torch's global generator was used"
    losses = [value for report in history.epochs for name, value in report.metrics.items() if "loss" in name]
    assert all(map(math.isfinite, losses)), f"the loss is not finite: {losses}"
    assert [parameter.requires_grad for parameter in model.parameters()] == flags, "requires_grad was not restored"
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    assert all(bool(value.isfinite().all()) for value in weights.values()), "a weight is not finite"
    return weights


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@dataclass(frozen=True)
class Pair:
    """What became of two ingredients together.

    Attributes:
        refused: why they cannot be combined, or "" where they trained.
        idle: the one of the two without which the result is the same, or "".
    """

    names: tuple[str, str]
    refused: str = ""
    idle: str = ""


def try_pair(one: Ingredient, other: Ingredient) -> Pair:
    """Trains two ingredients together, in the order that works, and each alone on the same network.

    Raises:
        AssertionError: as `train_tiny`, and for a refusal that does not name both.
    """
    names = (one.name, other.name)
    together: tuple[Ingredient, Ingredient] | None = None
    reasons = []
    for order in ((one, other), (other, one)):
        try:
            Plan.of(order, FACTS)
        except ComposeError as error:
            reasons.append(error)
        else:
            together = order
            break
    if together is None:
        return Pair(names, refused=_reason(reasons, one, other))
    members = "members" in needs_of(Plan.of(together, FACTS))
    both = train_tiny(together, members=members)
    for left_out, alone in ((other, one), (one, other)):
        try:
            single = train_tiny([alone], members=members)
        except ComposeError:
            continue  # it does not train alone: the pair is what makes it work
        if same_weights(both, single):
            return Pair(names, idle=left_out.name)
    return Pair(names)


def _reason(errors: Sequence[ComposeError], one: Ingredient, other: Ingredient) -> str:
    """The problem that names both; else, one of them lacks what the other does not bring either."""
    problems = [problem for error in errors for problem in error.problems]
    for problem in problems:
        if {one.name, other.name} <= set(problem.names):
            return problem.message
    alone = [ingredient.name for ingredient in (one, other) if _refused_alone(ingredient)]
    named = {name for problem in problems for name in problem.names}
    assert named & set(alone), f"the refusal names neither of {one.name} and {other.name}: {problems}"
    return problems[0].message


def _refused_alone(ingredient: Ingredient) -> bool:
    try:
        Plan.of([ingredient], FACTS)
    except ComposeError:
        return True
    return False


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


def try_all(ingredients: Sequence[Ingredient]) -> list[Pair]:
    return [try_pair(one, other) for one, other in itertools.combinations(ingredients, 2)]


def as_markdown(ingredients: Sequence[Ingredient], pairs: Sequence[Pair]) -> str:
    """The table of all pairs, and every refusal with its reason."""
    names = [ingredient.name for ingredient in ingredients]
    found = {frozenset(pair.names): pair for pair in pairs}
    lines = [
        "# Which ingredients go together",
        "",
        "Written by `make docs`: every pair is trained for two steps on a tiny network, or refused before.",
        "`+` trains, and differs from either alone; `.` is refused (reasons below); `=` trains, but one of the two",
        "changes nothing beside the other.",
        "",
        "| | " + " | ".join(str(i + 1) for i in range(len(names))) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for i, one in enumerate(names):
        marks = [_mark(found.get(frozenset((one, other)))) for other in names]
        lines.append(f"| {i + 1} `{one}` | " + " | ".join(marks) + " |")
    lines += ["", "## Refused", ""]
    lines += [f"- `{a}` x `{b}`: {pair.refused}" for pair in pairs if pair.refused for a, b in [pair.names]]
    idle = [pair for pair in pairs if pair.idle]
    if idle:
        lines += ["", "## One changes nothing", ""]
        lines += [f"- `{pair.names[0]}` x `{pair.names[1]}`: `{pair.idle}`" for pair in idle]
    return "\n".join(lines) + "\n"


def _mark(pair: Pair | None) -> str:
    if pair is None:
        return ""
    return "." if pair.refused else "=" if pair.idle else "+"
