"""One unit of work: a network trained from a recipe, and what measures ask of it."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from art_ext.engine.fit import Fit, Validate
from art_ext.engine.net import Net
from art_ext.engine.offers import needs_of
from art_ext.engine.run import Run
from art_ext.evaluation.suite import BATCH, TPR, Evaluator, HeldOut
from art_ext.host.job import prepare
from art_ext.host.recipe import Recipe, load_recipe
from art_ext.parts.attacks import Attack
from art_ext.parts.detectors import Confidence
from art_ext.types import Outputs
from benchmarks.claims.claim import Training
from benchmarks.claims.intervals import Images

if TYPE_CHECKING:
    from art_ext.plan import Plan

QUICK = ("train.epochs=2", "train.batch_size=256")
QUICK_IMAGES = 40


def recipe_of(training: Training, seed: int, quick: bool) -> Recipe:
    """The training's recipe, checked."""
    changes = [*training.changes, *(QUICK if quick else ()), f"train.seed={seed}", "train.threads=1"]
    recipe = load_recipe(f"digits/{training.recipe}", changes)
    warm = [used.name for used in recipe.use if quick and used.options.get("warmup_epochs")]
    return load_recipe(f"digits/{training.recipe}", [*changes, *(f"{name}.warmup_epochs=1" for name in warm)])


class Trained:
    """A network after its last epoch, with the images that measures look at.

    Attributes:
        last, best: evaluators on the test images, of the last and of the best epoch's weights; the
            same unless the training follows "robust".
        untrained: of the weights before the first step.
        clean_by_epoch: accuracy on held-out images after each epoch, where it was followed.
        metrics: each epoch's.
    """

    def __init__(self, training: Training, seed: int, quick: bool = False) -> None:
        self.quick = quick
        self.job = job = prepare(recipe_of(training, seed, quick))
        self.plan: Plan = job.plan(job.ingredients)
        run = Run(job.settings, seed)
        model = job.model(self.plan)
        wanted = frozenset(needs_of(self.plan)) | frozenset(training.wants)
        net = Net(model, head=job.head(model)[1] if "features" in wanted else None, wanted=wanted)
        torch.manual_seed(seed)
        self.untrained = self._on_test(copy.deepcopy(net))
        fit = Fit(
            self.plan,
            net,
            job.optimizer(net.module),
            run,
            epochs=job.train.epochs,
            schedule=job.schedule(),
            validate=self._validate(training.follow),
        )
        history = fit(job.batches(run.device))
        self.metrics = [report.metrics for report in history.epochs]
        self.clean_by_epoch = [report.scores.clean for report in history.epochs if report.scores is not None]
        self.helpers = {name: aide.module for name, aide in fit.helpers.items()}
        self.last = self.best = self._on_test(net)
        if training.follow == "robust":
            self.last = self._on_test(copy.deepcopy(net))
            fit.restore_best()
            self.best = self._on_test(net)
        self._crafted: dict[str, Tensor] = {}

    def _validate(self, follow: str) -> Validate | None:
        if not follow:
            return None
        held_out, threat = self.job.held_out, self.job.threat if follow == "robust" else None
        return HeldOut(self.plan, held_out.x, held_out.y, threat, seed=self.job.train.seed)

    def _over(self, net: Net, part: Any, n: int | None = None) -> Evaluator:
        rows = torch.arange(min(len(part), n or (QUICK_IMAGES if self.quick else len(part))))
        part = part.at(rows)
        return Evaluator(net, part.x, part.y, seed=self.job.train.seed)

    def _on_test(self, net: Net) -> Evaluator:
        return self._over(net, self.job.data.test)

    def on_test(self, n: int) -> Evaluator:
        """The last weights on the first n test images, for attacks that take long."""
        return self._over(self.last.net, self.job.data.test, min(n, QUICK_IMAGES // 4) if self.quick else n)

    @cached_property
    def held_out(self) -> Evaluator:
        """The last weights on the images that were held out of training."""
        return self._over(self.last.net, self.job.held_out)

    @cached_property
    def train_last(self) -> Evaluator:
        """The last weights on as many training images as there are test images."""
        return self._over(self.last.net, self.job.training, len(self.last.y))

    @cached_property
    def train_best(self) -> Evaluator:
        """The best epoch's weights on those images."""
        return self._over(self.best.net, self.job.training, len(self.last.y))

    @cached_property
    def bank(self) -> tuple[Outputs, Tensor]:
        """What the network gives for all training images, and their classes."""
        part = self.job.training
        return Evaluator(self.last.net, part.x, part.y).outputs(), part.y

    def crafted(self, attack: Attack) -> Tensor:
        """The adversarial twin of each test image, against the last weights; crafted once an attack."""
        if str(attack) not in self._crafted:
            every = torch.arange(len(self.last.y))
            parts = [self.last.craft(attack, index)[0] for index in torch.split(every, BATCH)]
            self._crafted[str(attack)] = torch.cat(parts)
        return self._crafted[str(attack)]

    def outputs(self, attack: Attack | None = None) -> Outputs:
        """What the last weights give for all test images, or for the twin of each."""
        if attack is None:
            return self.last.outputs()
        return Evaluator(self.last.net, self.crafted(attack), self.last.y).outputs()

    @cached_property
    def confidence_threshold(self) -> float:
        """What 99% of the correctly classified held-out images reach in confidence."""
        return Confidence().calibrate(self.held_out.outputs(), self.held_out.y, TPR)

    def steps(self, n: int) -> int:
        """Of an attack; a tenth of them in a quick run."""
        return max(2, n // 10) if self.quick else n


def images(num: Tensor, den: Tensor | None = None) -> Images:
    """(N,) numbers, or truths, as a value."""

    def plain(values: Tensor) -> tuple[float, ...]:
        return tuple(round(value, 6) for value in values.double().tolist())

    return Images(plain(num), None if den is None else plain(den))
