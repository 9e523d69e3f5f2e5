"""What is evaluated: a network with what is known of its training, and rows of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from art_ext.data.images import Images
from art_ext.engine.net import Net
from art_ext.engine.offers import check_offers, needs_of
from art_ext.evaluation.answers import understood
from art_ext.evaluation.lineup import Named
from art_ext.evaluation.record import ModelInfo
from art_ext.ingredient import Ingredient
from art_ext.parts.surgery import find_head
from art_ext.plan import Plan
from art_ext.types import Facts


@dataclass(frozen=True)
class Rows:
    """Images with their labels, (N,) class indices."""

    x: Images
    y: Tensor


@dataclass(frozen=True)
class Subject:
    """The network under evaluation.

    Attributes:
        plan: of the ingredients that trained it; of none where nothing is known.
        known: whether the plan is what trained it.
        gradients: whether it has any; else it is attacked through its answers alone.
        adaptive: an ingredient's name to the attacks that it says an informed attacker would run.
        notes: what had to be made of the network's answers.
    """

    net: Net
    plan: Plan
    info: ModelInfo
    known: bool = False
    adaptive: Mapping[str, Sequence[Named]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    gradients: bool = True


def adaptive_of(ingredients: Sequence[Ingredient]) -> dict[str, Sequence[Named]]:
    """Each ingredient's name to the attacks it names for an attacker who knows it."""
    return {ingredient.name: type(ingredient).adaptive for ingredient in ingredients}


def net_for(
    module: nn.Module,
    plan: Plan,
    example: Tensor,
    *,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    head: str | None = None,
) -> tuple[Net, list[str]]:
    """The net around a network for evaluation, with all that the plan's adversaries read of it collected.

    Args:
        example: (n, C, H, W) images in clip-value units, on the network's device.
        mean, std: subtracted from and divided into the pixels before the network.
        head: path of its last layer, where it is not found by itself.

    Returns:
        The net, and a sentence for each thing that was made of its answers.

    Raises:
        ModelError: for answers that cannot be used, or extras that it does not offer.
    """
    scaled = example if mean is None or std is None else (example - mean) / std
    answering, notes = understood(module, scaled, plan.facts.n_classes)
    needs, parts = needs_of(plan), plan.compose()
    for slot, objectives in [
        ("criterion", parts.criterion.adversaries),
        *(("detectors", detector.adversaries) for detector in parts.detectors),
    ]:
        for objective in objectives:
            needs = {**dict.fromkeys(objective.needs, plan.owner(slot)), **needs}
    layer = find_head(module, plan.facts, head)[1] if "features" in needs else None
    net = Net(answering, mean, std, layer, frozenset(needs))
    check_offers(net, plan.facts, needs)
    return net, notes


def plain_net(
    module: nn.Module, facts: Facts, example: Tensor, *, mean: Tensor | None = None, std: Tensor | None = None
) -> Net:
    """The net around a network of which only the logits are looked at: a baseline, or one to transfer from."""
    return net_for(module, Plan.of((), facts), example, mean=mean, std=std)[0]


def first_images(rows: Rows, device: torch.device, n: int = 64) -> Tensor:
    """At most n of the images, on a device."""
    return rows.x[torch.arange(min(n, len(rows.x)))].to(device)
