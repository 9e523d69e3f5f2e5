"""A recipe with everything it names found and checked: data, network, optimizer, attacks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from art_ext.border.mlflow_where import resolve_tracking
from art_ext.border.timm import count_parameters
from art_ext.data.augment import augmentation_from
from art_ext.data.batches import ArrayBatches, split_off
from art_ext.data.entry import Data, Split
from art_ext.engine.net import Net
from art_ext.engine.offers import check_offers, needs_of
from art_ext.engine.optim import Schedule, make_optimizer, make_schedule
from art_ext.engine.run import RunSettings
from art_ext.engine.warm_start import objections, refuse
from art_ext.entries import AttackEntry, EvaluationContext
from art_ext.errors import ConfigError
from art_ext.evaluation.asked import distinct
from art_ext.evaluation.suite import Threat, threat_of
from art_ext.host.given import Given, open_given
from art_ext.host.manager import Catalogue
from art_ext.host.models import build_network
from art_ext.host.recipe import Recipe
from art_ext.host.sections import Train
from art_ext.ingredient import Ingredient
from art_ext.parts.attacks import Attack
from art_ext.parts.detectors import Detector
from art_ext.parts.surgery import find_head
from art_ext.plan import Plan
from art_ext.types import Facts

DEFAULT_ATTACKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("pgd", {"steps": 20}),
    ("pgd", {"steps": 20, "objective": "margin"}),
)


@dataclass(frozen=True)
class Job:
    """What a recipe asks for; made by `prepare`, which raises everything that is wrong with it."""

    recipe: Recipe
    catalogue: Catalogue
    ingredients: tuple[Ingredient, ...]
    data: Data
    facts: Facts
    threat: Threat
    given: Given | None = None
    """The network of `model.from`, to be trained further."""

    @property
    def baseline(self) -> Literal["given", "train", "none"]:
        """What the undefended model is: the given network as it is, one that is trained, or left out."""
        if self.recipe.train.baseline is not None:
            return self.recipe.train.baseline
        return "given" if self.given is not None and self.given.is_whole else "train"

    def takes_as_it_is(self, plan: Plan) -> bool:
        """Whether the network under a plan is the given one, evaluated without training."""
        return not plan.used and bool(self.ingredients) and self.baseline == "given"

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The recipe as plain data, with every default spelled out."""
        return self.recipe.resolved(self.catalogue)

    @cached_property
    def _parts(self) -> tuple[Split, Split]:
        own = self.recipe.train
        rows, held_out = split_off(len(self.data.train), self.data.train.y, own.held_out, own.seed)
        return self.data.train.at(rows), self.data.train.at(held_out)

    @property
    def training(self) -> Split:
        """The training rows without those held out."""
        return self._parts[0]

    @property
    def held_out(self) -> Split:
        """Training rows that only choose the best epoch."""
        return self._parts[1]

    def plan(self, ingredients: Sequence[Ingredient]) -> Plan:
        return self.catalogue.plan(ingredients, self.facts)

    @cached_property
    def train(self) -> Train:
        """The train settings, those that the ingredients ask for included; the undefended model has the same."""
        return self.recipe.train.tuned(self.plan(self.ingredients).settings)

    @property
    def settings(self) -> RunSettings:
        return RunSettings(
            accelerator=self.train.accelerator,
            devices=self.train.devices,
            nodes=self.train.nodes,
            precision=self.train.precision,
            compile=self.train.compile,
            threads=self.train.threads,
            channels_last=self.train.channels_last is not False,
            clip_gradient=self.train.clip_gradient,
            micro_batch=None if self.train.micro_batch == "auto" else self.train.micro_batch,
        )

    def batches(self, device: torch.device) -> ArrayBatches:
        part, augment = self.training, augmentation_from(self.recipe.data.augment)
        return ArrayBatches(part.x, part.y, self.train.batch_size, self.train.seed, device, augment)

    def check_start(self, ingredients: Sequence[Ingredient]) -> None:
        """Refuses ingredients that cannot train the given network further.

        Raises:
            ModelError: naming the first of them, the network and the way out.
        """
        if self.given is not None and self.given.is_whole:
            against = objections(ingredients, self.given.module)
            refuse(against, f"the network of model.from={self.given.source}", "leave model.from out")

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return make_optimizer(self.train.optimizer.name, model.parameters(), self.train.optimizer.options)

    def schedule(self) -> Schedule:
        return make_schedule(self.train.schedule.name, self.train.schedule.options)

    def model(self, plan: Plan) -> nn.Module:
        """The network after surgery, its weights given or drawn from the seed."""
        if self.given is not None:
            bare = copy.deepcopy(self.given.module)
        else:
            bare = build_network(self.recipe.model, self.facts, self.catalogue, self.train.seed)
        return plan.operate(bare, self.train.seed)

    def net(self, plan: Plan) -> Net:
        """The network, with the extras that the plan's parts and the evaluation's attacks read collected.

        Raises:
            ModelError: where it does not offer one of them.
        """
        model = self.model(plan)
        needs = needs_of(plan)
        for name, attack in self.attacks(plan):
            needs = {**dict.fromkeys(() if attack.objective is None else attack.objective.needs, name), **needs}
        head = self.head(model)[1] if "features" in needs else None
        net = Net(model, head=head, wanted=frozenset(needs))
        check_offers(net, self.facts, needs)
        return net

    def head(self, model: nn.Module) -> tuple[str, nn.Module]:
        return find_head(model, self.facts, self.recipe.model.head)

    def attacks(self, plan: Plan) -> list[tuple[str, Attack]]:
        """The evaluation's attacks against a plan, by the names their results have.

        Those that fight detectors are not among them: these are fitted when the suite begins.

        Raises:
            ConfigError: for an attack that cannot be made against the recipe's own plan.
        """
        return distinct([named for entry, options in self._entries() for named in self._built(entry, options, plan)])

    def _context(self, plan: Plan, detectors: Sequence[Detector] = ()) -> EvaluationContext:
        return EvaluationContext(plan, self.threat.norm, self.threat.eps, self.facts.clip, detectors=detectors)

    def _built(self, entry: AttackEntry, options: Any, plan: Plan) -> Sequence[tuple[str, Attack]]:
        """None where it is about the recipe's own method, and the plan is another: the undefended one, for instance."""
        try:
            return entry.build(options, self._context(plan))
        except ConfigError:
            return ()

    def _entries(self) -> list[tuple[AttackEntry, Any]]:
        """Those that the recipe names and that need no fitted detectors, or else the usual ones."""
        asked = [named for named in self.recipe.attacks(self.catalogue) if self._can(*named)]
        if asked:
            return asked
        entries = ((self.catalogue.attack(name), options) for name, options in DEFAULT_ATTACKS)
        return [(entry, entry.options(**options)) for entry, options in entries]

    def _can(self, entry: AttackEntry, options: Any) -> bool:
        """Whether it can be made before an evaluation has fitted the detectors.

        Raises:
            ConfigError: where it cannot be made against the recipe's plan at all.
        """
        plan = self.plan(self.ingredients)
        try:
            entry.build(options, self._context(plan))
        except ConfigError:
            entry.build(options, self._context(plan, plan.compose().detectors))
            if self.recipe.suite == "none":
                word = f"{entry.name} attacks detectors, which a suite alone fits and judges"
                raise ConfigError(f"{word}; set suite: quick, or leave it out") from None
            return False
        return True

    def describe(self) -> list[str]:
        """What is about to be done, in a few lines."""
        model, data = self.model(self.plan(())), self.data
        shape = "x".join(str(side) for side in self.facts.input_shape)
        return [
            f"recipe    {self.recipe.name}: {' + '.join(i.name for i in self.ingredients) or 'no defence'}",
            f"data      {data.name}: {len(self.training)} images to train on, {len(self.held_out)} held out, "
            f"{len(data.test)} to test on; {shape}, {self.facts.n_classes} classes",
            *(f"note      {note}" for note in (*data.notes, data.imbalance()) if note),
            f"network   {self.recipe.model.shown}: {count_parameters(model):,} parameters{self._start()}",
            f"threat    {self.threat}",
        ]

    def _start(self) -> str:
        if self.given is None:
            return ""
        return f", trained further from {self.given.source}" + (f" ({self.given.note})" if self.given.note else "")

    def data_facts(self) -> dict[str, Any]:
        return {
            "name": self.data.name,
            "source": self.data.source,
            "digest": self.data.digest,
            "n_train": len(self.training),
            "n_held_out": len(self.held_out),
            "n_test": len(self.data.test),
        }


def prepare(recipe: Recipe, *, trust: bool = False) -> Job:
    """Finds and checks everything: settings before data, data before networks.

    Args:
        trust: whether code of what `model.from` names may run.

    Raises:
        ConfigError: for settings that cannot be used.
        DataError: for data that is missing or cannot be read.
        ModelError: for a network that cannot be built, or a given one that an ingredient cannot train further.
    """
    catalogue = recipe.catalogue()
    ingredients = tuple(recipe.ingredients(catalogue))
    if recipe.train.baseline == "given" and recipe.model.source is None:
        raise ConfigError("train.baseline is given, but no model is; set model.from, or train the baseline")
    assumed = catalogue.plan(ingredients, recipe.assumed_facts())
    find_threat(recipe, assumed)
    assumed.check_epochs(recipe.train.tuned(assumed.settings).epochs, "train.epochs")
    data = recipe.open_data(catalogue)
    asked = recipe.model.num_classes
    if asked is not None and asked != data.n_classes:
        raise ConfigError(f"model.num_classes is {asked}, but {data.name} has {data.n_classes} classes; leave it out")
    channels, height, width = data.input_shape
    facts = Facts(data.n_classes, (channels, height, width))
    plan = catalogue.plan(ingredients, facts)
    given = None
    if recipe.model.source is not None:
        given = open_given(
            recipe.model,
            facts,
            catalogue,
            seed=recipe.train.seed,
            tracking_uri=resolve_tracking(recipe.track.uri, Path.cwd()).uri,
            trust=trust,
        )
    job = Job(recipe, catalogue, ingredients, data, facts, find_threat(recipe, plan), given)
    job.check_start(ingredients)
    job.net(plan)
    return job


def find_threat(recipe: Recipe, plan: Plan) -> Threat:
    """The recipe's `threat:`, else that of the plan's attack."""
    if recipe.threat is not None:
        return Threat(recipe.threat.norm, recipe.threat.eps, plan.facts.clip)
    threat = threat_of(plan)
    if threat is None:
        raise ConfigError(
            f"{recipe.name} trains without an attack, so nothing says what to evaluate against; "
            "add threat: {norm: linf, eps: 0.15} to the recipe"
        )
    return threat
