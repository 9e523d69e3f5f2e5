"""A trained network to be trained further: `model: {from: SOURCE}` of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from art_ext.border.timm import check_layers, check_network, check_size, unweighted
from art_ext.border.weights import fit_weights
from art_ext.errors import ConfigError, ModelError
from art_ext.host.manager import Catalogue
from art_ext.host.models import build_network, ingredients_of
from art_ext.host.sections import ModelSection
from art_ext.host.sources import Found, find
from art_ext.parts.surgery import find_head, probe, put
from art_ext.secrets import masked
from art_ext.types import Facts

__all__ = ["Given", "open_given"]


@dataclass(frozen=True)
class Given:
    """A network with weights, ready for this data.

    Attributes:
        module: with the surgery of the methods that it was trained by.
        earlier: the `use:` of each of those recipes whose method changed the network.
        note: one line on what was changed to fit the data; "" where nothing was.
    """

    module: nn.Module
    source: str
    earlier: tuple[Any, ...] = ()
    note: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether every weight is a trained one."""
        return not self.note


def open_given(
    wanted: ModelSection,
    facts: Facts,
    catalogue: Catalogue,
    *,
    seed: int = 0,
    tracking_uri: str | None = None,
    trust: bool = False,
) -> Given:
    """The network of `model: {from: SOURCE}`, for data of these classes and this shape.

    A head for another number of classes is replaced, its weights drawn from the seed.

    Args:
        wanted: may name the network beside `from`, where the source does not.

    Raises:
        ConfigError, ModelError: as `open_model`.
    """
    assert wanted.source is not None
    shown = masked(wanted.source)
    had: int | None
    earlier: tuple[Any, ...] = ()
    found = find(wanted.source, facts=facts, tracking_uri=tracking_uri, trust=trust, undefended=False)
    if found.weights is None:
        module = _ready_made(found, wanted, facts, catalogue, seed)
        had = _classes(module, facts)
        fresh = had != facts.n_classes
        if fresh:
            _renew_head(module, facts, wanted.head, seed)
    else:
        module, earlier = _bare(found, wanted, facts, catalogue, seed, shown)
        hint = "" if _named(wanted) else "or name the network that it belongs to: model.timm=NAME"
        fresh = fit_weights(module, found.weights, shown, hint=hint, head=_head(module, facts, wanted.head))
        had = None if found.network is None else found.network.facts.n_classes
        if found.network is not None and found.network.architecture is not None:
            check_layers(found.network.architecture, module)
    check_network(module.eval(), probe(module, facts), facts.n_classes)
    note = ""
    if fresh:
        others = f"{had} classes" if had not in (None, facts.n_classes) else "other classes"
        note = f"{shown} was trained on {others} and the data has {facts.n_classes}: its head is new"
    return Given(module, shown, earlier, note)


def _named(wanted: ModelSection) -> bool:
    return wanted.timm is not None or wanted.name is not None


def _ready_made(found: Found, wanted: ModelSection, facts: Facts, catalogue: Catalogue, seed: int) -> nn.Module:
    if found.module is not None:
        return found.module
    entry = ModelSection(name=found.plugin, head=wanted.head, mean=wanted.mean, std=wanted.std, **wanted.options)
    return build_network(entry, facts, catalogue, seed)


def _bare(
    found: Found, wanted: ModelSection, facts: Facts, catalogue: Catalogue, seed: int, shown: str
) -> tuple[nn.Module, tuple[Any, ...]]:
    """The network after the surgery of earlier methods, with weights of no meaning."""
    architecture = None if found.network is None else found.network.architecture
    recipe = found.recipe or {}
    if architecture is not None:
        _refuse_other(architecture, wanted, shown)
        assert found.weights is not None
        check_size(architecture, found.weights)
        module = unweighted(_for(architecture, facts))
    elif _named(wanted):
        module = build_network(wanted, facts, catalogue, seed)
    elif isinstance(recipe.get("model"), dict) and (recipe["model"].get("timm") or recipe["model"].get("name")):
        module = build_network(ModelSection.model_validate(recipe["model"]), facts, catalogue, seed)
    else:
        raise ModelError(
            f"nothing says which network the weights of {shown} belong to; name it beside them: "
            "model: {from: ..., timm: NAME}"
        )
    uses = [*(() if found.network is None else found.network.earlier), recipe.get("use") or []]
    kept = []
    for use in uses:
        plan = catalogue.plan(ingredients_of(use, shown, catalogue), facts)
        if plan.surgery:
            module = plan.operate(module, seed)
            kept.append(use)
    return module, tuple(kept)


def _refuse_other(architecture: Mapping[str, Any], wanted: ModelSection, shown: str) -> None:
    """The source knows its network; what the recipe says of it must not differ.

    Raises:
        ConfigError: naming the first setting that does.
    """
    has = {"timm": architecture.get("name"), **(architecture.get("kwargs") or {})}
    members = architecture.get("members")
    if isinstance(members, list):
        first = members[0] if members and isinstance(members[0], Mapping) else {}
        has = {"name": architecture.get("name"), "members": len(members), "of": first.get("name")}
        has |= first.get("kwargs") or {}
    asks = {"timm": wanted.timm, "name": wanted.name, **wanted.options}
    for key in ("mean", "std"):
        has[key], asks[key] = architecture.get(key), getattr(wanted, key)
    for key, value in asks.items():
        said = list(value) if isinstance(value, tuple) else value
        if value is not None and said != has.get(key):
            raise ConfigError(
                f"model.{key} is {said}, but {shown} has {has.get(key)}; leave it out, or set model.{key}=null"
            )


def _for(architecture: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The same architecture for other data."""
    changed = dict(architecture) | {"num_classes": facts.n_classes, "input_shape": list(facts.input_shape)}
    members = architecture.get("members")
    if isinstance(members, list):
        changed["members"] = [_for(member, facts) if isinstance(member, Mapping) else member for member in members]
    return changed


def _head(module: nn.Module, facts: Facts, named: str | None) -> str | None:
    """The path of the head, or None where there is not one."""
    try:
        return find_head(module, facts, named)[0]
    except ModelError:
        if named is not None:
            raise
        return None


def _classes(module: nn.Module, facts: Facts) -> int:
    module.eval()
    try:
        with torch.no_grad():
            out = module(probe(module, facts))
    except Exception as error:  # a stranger's network fails in its own way
        shape = "x".join(map(str, facts.input_shape))
        said = " ".join(str(error).split())[:160]
        raise ModelError(f"{type(module).__name__} fails on images of {shape}: {said}; set data.size") from None
    if not isinstance(out, torch.Tensor) or out.ndim != 2:
        raise ModelError(f"{type(module).__name__} gives no tensor of logits (N, K); wrap it so that it does")
    return int(out.shape[1])


def _renew_head(module: nn.Module, facts: Facts, named: str | None, seed: int) -> None:
    """A head for the data's classes, in place, its weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        reset = getattr(module, "reset_classifier", None)
        if callable(reset) and named is None:
            reset(facts.n_classes)
            return
        path, head = find_head(module, facts, named)
        if not isinstance(head, nn.Linear):
            raise ModelError(
                f"the head {path!r} is a {type(head).__name__} and has to be replaced for {facts.n_classes} classes, "
                "which takes a Linear; name another with model.head"
            )
        put(module, path, nn.Linear(head.in_features, facts.n_classes, bias=head.bias is not None))
