"""A trained network again, wherever it is kept: run folders, weight files, MLflow, timm, plugins.

The network is built from data, the surgery of the recipe that trained it is repeated, and the
weights are put in strictly. Nothing that is read runs code, unless the caller trusts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from art_ext.border.timm import build_model, check_layers, check_network, check_size, unweighted
from art_ext.border.weights import digest_of_weights, fit_weights
from art_ext.errors import ConfigError, ModelError
from art_ext.host.manager import Catalogue
from art_ext.host.recipe import Recipe, recipe_from
from art_ext.host.sections import ModelSection
from art_ext.host.sources import Found, find
from art_ext.ingredient import Ingredient
from art_ext.parts.surgery import probe
from art_ext.plan import Plan
from art_ext.secrets import masked
from art_ext.types import Facts

__all__ = ["OpenedModel", "build_network", "ingredients_of", "open_model"]


@dataclass(frozen=True)
class OpenedModel:
    """A network and what is known of it.

    Attributes:
        module: pixels (N, C, H, W) to logits (N, K); weights loaded, in eval mode, after surgery.
        ingredients: of the recipe that trained it; () where unknown or undefended.
        recipe: that recipe, resolved, as plain data; None where unknown.
        source: as the user named it, secrets masked.
        digest: `sha256:...` of the weights.
        state: what was saved beside the weights: "detectors", each detector's state by its name.
    """

    module: nn.Module
    facts: Facts
    ingredients: tuple[Ingredient, ...]
    recipe: Mapping[str, Any] | None
    source: str
    digest: str
    state: Mapping[str, Any] = field(default_factory=dict)

    def plan(self, catalogue: Catalogue) -> Plan:
        """The plan of its ingredients, with the detectors as they were saved."""
        plan = catalogue.plan(self.ingredients, self.facts)
        saved = self.state.get("detectors", {})
        for detector in plan.compose().detectors:
            if detector.name in saved:
                detector.load_state_dict(saved[detector.name])
        return plan


def open_model(
    source: str,
    *,
    catalogue: Catalogue,
    recipe: Recipe | None = None,
    facts: Facts | None = None,
    tracking_uri: str | None = None,
    trust: bool = False,
    undefended: bool = False,
) -> OpenedModel:
    """Opens a trained network.

    Args:
        source: a run folder of `art-ext harden` or its `hardened` or `undefended` folder, a folder with
            weights.safetensors and architecture.json, a `.safetensors` file or a state dict of torch's (with
            architecture.json beside it, or a `recipe` that names the network), `models:/NAME@ALIAS`,
            `models:/NAME/VERSION`, `runs:/RUN/model`, `timm:NAME` with timm's published weights, or
            `plugin:NAME`, a network with weights that an installed plugin makes.
        recipe: the one it was trained by, where the source does not say.
        facts: classes and image shape, where the source does not say.
        tracking_uri: of `models:/` and `runs:/`; default is MLflow's own choice.
        trust: whether code of the source may run: pickled networks, TorchScript, MLflow's other flavors.
        undefended: of a run folder, the network that was trained without the method; of any other source, one
            that no method has changed.

    Raises:
        ConfigError: for a source that is none, or a recipe that names what no allowed plugin offers.
        ModelError: for what cannot be read, would run code, or does not fit; one line.
    """
    shown = masked(source)
    found = find(source, facts=facts, tracking_uri=tracking_uri, trust=trust, undefended=undefended)
    trained = recipe
    if trained is None and found.recipe:
        trained = recipe_from(found.recipe, f"the recipe of {shown}", catalogue=catalogue)
    if undefended and trained is not None:
        trained = trained.without_method()
    known = _facts(found, facts, trained, shown)
    ingredients = () if trained is None else tuple(trained.ingredients(catalogue))
    module = _module(found, trained, ingredients, known, catalogue, shown).eval()
    check_network(module, probe(module, known), known.n_classes)
    resolved = None if trained is None else trained.resolved(catalogue)
    return OpenedModel(module, known, ingredients, resolved, shown, digest_of_weights(_tensors(module)), found.state)


def ingredients_of(use: Any, shown: str, catalogue: Catalogue) -> list[Ingredient]:
    """The ingredients of a recipe's `use:` as plain data; `shown` names where it was found.

    Raises:
        ModelError: where it is garbled.
        RecipeError: for what no allowed plugin offers.
    """
    try:
        recipe = Recipe.model_validate(
            {"schema": 1, "name": "earlier", "use": use, "model": {"timm": ""}, "data": {"name": ""}}
        )
    except ValidationError:
        raise ModelError(f"the methods that {shown} was trained by are garbled; save the network again") from None
    return recipe.ingredients(catalogue)


def build_network(wanted: ModelSection, facts: Facts, catalogue: Catalogue, seed: int = 0) -> nn.Module:
    """The network that a recipe's `model:` names, before surgery; its weights are drawn from the seed.

    Raises:
        ConfigError, ModelError: where it cannot be built.
    """
    if wanted.name is not None:
        scale = {} if wanted.mean is None else {"mean": wanted.mean, "std": wanted.std}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return catalogue.model(wanted.name).build(scale | wanted.options, facts)
    if wanted.timm is None:
        raise ModelError(f"nothing says which network {wanted.shown} is; name it with model.timm=NAME")
    return build_model(
        wanted.timm,
        num_classes=facts.n_classes,
        input_shape=facts.input_shape,
        mean=wanted.mean,
        std=wanted.std,
        seed=seed,
        **wanted.options,
    )


def _module(
    found: Found,
    trained: Recipe | None,
    ingredients: tuple[Ingredient, ...],
    facts: Facts,
    catalogue: Catalogue,
    shown: str,
) -> nn.Module:
    """The network with its weights, built and operated on where it is not there already."""
    if found.module is not None:
        return found.module
    architecture = None if found.network is None else found.network.architecture
    if found.plugin is not None:
        named = trained is not None and trained.model.name == found.plugin
        wanted = trained.model if trained is not None and named else ModelSection(name=found.plugin)
        return catalogue.plan(ingredients, facts).operate(build_network(wanted, facts, catalogue))
    assert found.weights is not None
    if architecture is not None:
        check_size(architecture, found.weights)
        bare = unweighted(architecture)
    elif trained is not None:
        bare = build_network(trained.model, facts, catalogue)
    else:
        raise ModelError(
            f"nothing says which network the weights of {shown} belong to; name the recipe that trained it "
            "with --recipe, or put its architecture.json beside it"
        )
    for use in () if found.network is None else found.network.earlier:
        bare = catalogue.plan(ingredients_of(use, shown, catalogue), facts).operate(bare)
    module = catalogue.plan(ingredients, facts).operate(bare)
    fit_weights(module, found.weights, shown, hint="" if trained is not None else "name its recipe with --recipe")
    if architecture is not None:
        check_layers(architecture, module)
    return module


def _facts(found: Found, given: Facts | None, trained: Recipe | None, shown: str) -> Facts:
    """Classes and image shape: what the source says, else what the caller says, else the recipe's data."""
    own = None if found.network is None else found.network.facts
    if own is None and given is None:
        if trained is None:
            raise ConfigError(
                f"nothing says how many classes {shown} has and how large its images are; give the recipe whose "
                "data it is for with --recipe"
            )
        data = trained.open_data()
        return Facts(data.n_classes, data.input_shape)
    if own is not None and given is not None:
        for what, has, wants in (
            ("classes", own.n_classes, given.n_classes),
            ("images of shape", own.input_shape, given.input_shape),
        ):
            if has != wants:
                raise ModelError(f"{shown} has {what} {has}, but {wants} are asked for; give the data it was made for")
    known = given or own
    assert known is not None
    return known


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
