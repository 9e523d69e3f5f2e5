"""ART's interfaces over plans: trainers, attacks, and ART's own attacks as the inner attack.

The classifier is trained in place: its model keeps its identity, mode and flags; its optimizer is
used as given. Images stay in clip-value units throughout; a mean/std preprocessing of the
classifier is folded into the network, so that eps means pixels.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from art.attacks.attack import EvasionAttack
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from art.exceptions import EstimatorError
from art.preprocessing.standardisation_mean_std import StandardisationMeanStd
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from art_ext.border.progress import ProgressDisplay
from art_ext.border.timm import check_network
from art_ext.data.batches import ArrayBatches, Batches, GeneratorBatches
from art_ext.data.checks import check_images, check_labels
from art_ext.data.images import as_images
from art_ext.engine.fit import Fit, History
from art_ext.engine.freeze import Crafter, frozen, restoring
from art_ext.engine.net import Net, in_channels_last
from art_ext.engine.observe import Observer, RunInfo
from art_ext.engine.offers import check_offers, needs_of
from art_ext.engine.optim import OPTIMIZERS, follow_surgery, tuned
from art_ext.engine.run import Run, RunSettings
from art_ext.engine.warm_start import knows_labels, objections, refuse
from art_ext.errors import ConfigError, DataError, ModelError, unknown
from art_ext.evaluation.suite import HeldOut, threat_of
from art_ext.ingredient import Count, Ingredient, Positive, checked
from art_ext.parts.attacks import PGD, Attack, BNMode, for_evaluation
from art_ext.parts.noise import Keys
from art_ext.parts.norms import norm_named
from art_ext.parts.objectives import Objective, Score, ce
from art_ext.parts.surgery import find_head
from art_ext.plan import Plan
from art_ext.types import Adversarial, Facts, Forward

logger = logging.getLogger(__name__)
STANDARDISATIONS = (StandardisationMeanStd, StandardisationMeanStdPyTorch)
FEW = 4
"""Batches that show whether a network knows the labels."""


class ClassifierView:
    """What art_ext reads of an ART classifier: its network in pixels, and the facts of its task.

    Raises:
        EstimatorError: unless it is a `PyTorchClassifier`.
        ModelError: for a preprocessing other than mean and std, or pixel-wise clip values.
    """

    def __init__(self, classifier: PyTorchClassifier, asked_by: type, *, wanted: frozenset[str] = frozenset()) -> None:
        if not isinstance(classifier, PyTorchClassifier):
            raise EstimatorError(asked_by, (PyTorchClassifier,), classifier)
        self.classifier = classifier
        self.device: torch.device = classifier.device
        self.facts = Facts(int(classifier.nb_classes), tuple(classifier.input_shape), self._clip())
        mean, std = self._standardisation()
        head = None
        if "features" in wanted:
            head = find_head(classifier.model, self.facts)[1]
        self.net = Net(classifier.model, mean, std, head, wanted)

    def check(self) -> None:
        """Runs one pass: a network that does not give (N, K) finite logits is refused."""
        example = torch.full((2, *self.facts.input_shape), self._middle(), device=self.device)
        check_network(self.classifier.model, example, self.facts.n_classes)

    def _middle(self) -> float:
        low, high = self.facts.clip
        return (low + high) / 2 if np.isfinite(low + high) else 0.0

    def _clip(self) -> tuple[float, float]:
        values = self.classifier.clip_values
        if values is None:
            return (float("-inf"), float("inf"))
        low, high = (np.unique(np.asarray(bound)) for bound in values)
        if len(low) != 1 or len(high) != 1:
            raise ModelError("the classifier has clip_values of their own for each pixel; give one (min, max) pair")
        return float(low[0]), float(high[0])

    def _standardisation(self) -> tuple[Tensor | None, Tensor | None]:
        mean, std = None, None
        for operation in self.classifier.preprocessing_operations:
            if not isinstance(operation, STANDARDISATIONS) or mean is not None:
                raise ModelError(
                    f"the classifier preprocesses with {type(operation).__name__}, which attacks cannot see through; "
                    "only one mean/std standardisation is supported: build the classifier without the other, "
                    "or put it into the model as a differentiable layer"
                )
            mean, std = (self._per_channel(value) for value in (operation.mean, operation.std))
        if self.classifier.postprocessing_defences:
            raise ModelError(
                "the classifier has postprocessing defences, which hide logits from training; build it without them"
            )
        if mean is not None and std is not None and bool((mean == 0).all() and (std == 1).all()):
            return None, None
        return mean, std

    def _per_channel(self, value: Any) -> Tensor:
        tensor = torch.as_tensor(np.asarray(value, dtype=np.float32), device=self.device)
        return tensor[:, None, None] if tensor.ndim == 1 and len(tensor) > 1 else tensor

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Mode and flags of the model are restored afterwards, and torch's global generator too."""
        devices = [self.device] if self.device.type == "cuda" else []
        with restoring(self.classifier.model), torch.random.fork_rng(devices=devices):
            yield


class RecipeTrainer(Trainer):
    """Trains an ART classifier with a combination of ingredients.

    `RecipeTrainer(classifier, [PCLC(warmup_epochs=5), PGDAT(eps=0.15)]).fit(x, y, nb_epochs=15)`

    Args:
        classifier: a `PyTorchClassifier` with an optimizer; trained in place.
        ingredients: in the order of a recipe's `use:`.
        attack: an ART `EvasionAttack` to craft with instead of the ingredients' own.
        track: log to MLflow: into the active run if there is one, else into a new one.
        verbose: show progress on stderr: a bar on a terminal, else a few plain lines.
        seed: of batch order, noise and dropout; torch's global generator is left as it was.
        settings: devices, precision and speed.
        callbacks: observers of the run, after the built-in ones.
        folder: where the fit keeps its state, so that it can go on after the process has ended.
        resume: goes on with the interrupted fit in the folder, bit for bit on a CPU; where there is none, begins.

    Raises:
        ComposeError: when the ingredients contradict each other.
        ConfigError: for an attack that is not ART's.
        EstimatorError: unless the classifier is a `PyTorchClassifier`.
        ModelError: for a classifier without optimizer, or one whose network cannot be trained.
    """

    trainer_params: ClassVar[list[str]] = [
        *("attack", "track", "verbose", "seed", "settings", "callbacks", "folder", "resume")
    ]

    def __init__(
        self,
        classifier: PyTorchClassifier,
        ingredients: Sequence[Ingredient],
        *,
        attack: EvasionAttack | None = None,
        track: bool = True,
        verbose: bool = True,
        seed: int = 0,
        settings: RunSettings | None = None,
        callbacks: Sequence[Observer] = (),
        folder: str | Path | None = None,
        resume: bool = False,
    ) -> None:
        view = ClassifierView(classifier, type(self))
        if classifier.optimizer is None:
            raise ModelError("the classifier has no optimizer; build it as PyTorchClassifier(..., optimizer=...)")
        if not all(isinstance(ingredient, Ingredient) for ingredient in ingredients):
            raise ConfigError("ingredients are values such as PGDAT(eps=0.15), not classes or names")
        if attack is not None and not isinstance(attack, EvasionAttack):
            raise ConfigError(f"attack must be an ART EvasionAttack, got {type(attack).__name__}")
        view.check()
        super().__init__(classifier)
        self.ingredients = tuple(ingredients)
        self.attack, self.track, self.verbose, self.seed = attack, track, verbose, seed
        self.settings = settings or RunSettings()
        self.callbacks = tuple(callbacks)
        if resume and folder is None:
            raise ConfigError("resume goes on with the fit in a folder; name it: folder=...")
        self.folder, self.resume = None if folder is None else Path(folder), resume
        self.history: History | None = None
        plan = self.plan(view)
        check_settings(classifier.optimizer, plan.settings)
        if not plan.surgery:
            self._check_offers(plan)

    def plan(self, view: ClassifierView | None = None) -> Plan:
        """The plan of the next fit, built fresh."""
        facts = (view or ClassifierView(self._classifier, type(self))).facts
        plan = Plan.of(self.ingredients, facts)
        if self.attack is not None:
            given = type(self.attack).__name__
            _check_crafts(plan, given)
            plan = replace(plan, slots={**plan.slots, "attack": ArtAttack(self.attack)})
            plan = replace(plan, owners={**plan.owners, "attack": given})
        return plan

    def fit(
        self,
        x: Any,
        y: Any,
        validation_data: tuple[Any, Any] | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        scheduler: Any = None,
        **unknown_options: Any,
    ) -> None:
        """Trains the classifier in place.

        Args:
            x: images (N, C, H, W) within the clip values; never modified.
            y: class indices (N,) or one-hot rows (N, K).
            validation_data: (x, y) to choose the best epoch by; without it the last epoch stays.
            scheduler: any torch scheduler over the classifier's optimizer, stepped once an epoch.

        Raises:
            DataError: for arrays that cannot be trained on.
            ModelError: for a classifier that knows the labels already, where an ingredient cannot go on from that.
            NonFiniteError: naming the step and the part of the loss.
        """
        self._refuse(unknown_options, "fit")
        self._check_run(nb_epochs, batch_size)
        bare = ClassifierView(self._classifier, type(self))
        images, labels = self._data(bare.facts, x, y, "", training=True)
        held_out = None if validation_data is None else self._data(bare.facts, *validation_data, "validation ")
        batches = ArrayBatches(images, labels, batch_size, self.seed, bare.device)
        self._check_start(bare, batches)
        self._run(self._view(), batches, nb_epochs, scheduler, held_out)

    def fit_generator(
        self, generator: Any, nb_epochs: int = 20, scheduler: Any = None, **unknown_options: Any
    ) -> None:
        """Trains on an ART `DataGenerator`; one epoch is ceil(size / batch_size) batches."""
        self._refuse(unknown_options, "fit_generator")
        self._check_run(nb_epochs, 1)
        bare = ClassifierView(self._classifier, type(self))
        batches = GeneratorBatches(generator, bare.device, bare.facts.n_classes)
        self._check_start(bare, batches)
        self._run(self._view(), batches, nb_epochs, scheduler, None)

    def predict(self, x: Any, **kwargs: Any) -> Any:
        """The classifier's logits for x."""
        return self._classifier.predict(x, **kwargs)

    def _check_start(self, view: ClassifierView, batches: Batches) -> None:
        """Refuses weights that know the labels already, where an ingredient cannot go on from them."""
        against = objections(self.ingredients, view.classifier.model)
        if not against:
            return
        with frozen(view.net), torch.no_grad():
            few = [(view.net(in_channels_last(batch.x)).logits, batch.y) for batch in islice(batches.epoch(0), FEW)]
        if knows_labels(torch.cat([logits for logits, _ in few]), torch.cat([y for _, y in few])):
            refuse(against, "this classifier, which knows the labels already,", "build it with new weights")

    def _view(self) -> ClassifierView:
        """The classifier after surgery; its optimizer follows."""
        plan = self.plan()
        if plan.surgery:
            model = self._classifier.model
            if plan.operate(model, self.seed) is not model:
                raise ModelError(
                    f"{' and '.join(plan.used)} replaces the whole network, which a classifier cannot follow; "
                    "build the reshaped network first and give it to PyTorchClassifier"
                )
            follow_surgery(self._classifier.optimizer, model)
        return self._check_offers(plan)

    def _check_offers(self, plan: Plan) -> ClassifierView:
        """The classifier with all that the plan's parts read of its network."""
        view = ClassifierView(self._classifier, type(self), wanted=plan.compose().needs)
        check_offers(view.net, view.facts, needs_of(plan))
        return view

    def _run(
        self,
        view: ClassifierView,
        batches: Batches,
        epochs: int,
        scheduler: Any,
        held_out: tuple[Any, Tensor] | None,
    ) -> None:
        plan = self.plan(view)
        run = Run(self.settings, self.seed, view.device)
        validate = None
        if held_out is not None:
            validate = HeldOut(plan, *held_out, threat_of(plan), seed=self.seed, device=view.device)
        observers = self._observers(run, plan, view, epochs, batches)
        with view.kept(), tuned(self._classifier.optimizer, plan.settings):
            torch.manual_seed(self.seed)
            fit = Fit(
                plan,
                view.net,
                self._classifier.optimizer,
                run,
                epochs=epochs,
                scheduler=scheduler,
                validate=validate,
                observers=observers,
                folder=self.folder,
                resume=self.resume,
            )
            try:
                self.history = fit(batches)
                fit.restore_best()
            except BaseException as error:
                for observer in observers:
                    observer.run_failed(error)
                raise
            finally:
                self._classifier.optimizer.zero_grad(set_to_none=True)
                fit.give_back()
        for observer in observers:
            observer.run_end({})

    def _observers(
        self, run: Run, plan: Plan, view: ClassifierView, epochs: int, batches: Batches
    ) -> list[Observer]:
        observers = list(self.callbacks)
        if run.rank != 0:
            return observers
        info = RunInfo(
            name="+".join(plan.used) or "standard",
            folder=self.folder,
            params={**self._params(), "train.epochs": epochs, "train.seed": self.seed},
            recipe={"use": [{i.name: i.model_dump(mode="json")} for i in self.ingredients]},
            plan=plan.describe(),
            data={"n_train": batches.n},
        )
        if self.verbose:
            observers.insert(0, ProgressDisplay())
        if self.track:
            from art_ext.border.mlflow_trainers import tracker_for_trainers

            tracker = tracker_for_trainers(view.classifier.model, view.facts.input_shape)
            if tracker is not None:
                observers.insert(0, tracker)
        for observer in observers:
            observer.run_start(info)
        return observers

    def _params(self) -> dict[str, Any]:
        return {f"{i.name}.{field}": value for i in self.ingredients for field, value in i}

    def _data(
        self, facts: Facts, x: Any, y: Any, word: str, *, training: bool = False
    ) -> tuple[Any, Tensor]:
        x = x if isinstance(x, Tensor | np.ndarray) else np.asarray(x)
        check_images(x, facts.clip, f"{word}x")
        if tuple(x.shape[1:]) != facts.input_shape:
            raise wrong_shape(x, facts, f"{word}x")
        labels = check_labels(y, facts.n_classes, len(x), f"{word}y", training=training)
        return as_images(x), labels

    def _check_run(self, epochs: int, batch_size: int) -> None:
        for name, value in (("nb_epochs", epochs), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ConfigError(f"{name} is a whole number from 1, got {value!r}")
        plan = self.plan()
        plan.check_epochs(int(epochs), "nb_epochs")
        for remark in plan.remarks(int(epochs)):
            warnings.warn(remark, stacklevel=3)
        check_optimizer(self._classifier.optimizer, self._classifier.model)

    @staticmethod
    def _refuse(options: Mapping[str, Any], call: str) -> None:
        known = ("validation_data", "batch_size", "nb_epochs", "scheduler")
        for name in options:
            raise ConfigError(unknown(f"argument of {call}", name, known))


def wrong_shape(x: Any, facts: Facts, what: str) -> DataError:
    return DataError(
        f"{what} has images of shape {tuple(x.shape[1:])}, but the classifier takes {facts.input_shape}; "
        "resize the images, or build the classifier with their input_shape"
    )


def check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Refuses an optimizer that would not move this model.

    Raises:
        ModelError: when none of the model's parameters that ask for gradients is in it.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(p) in held for p in model.parameters() if p.requires_grad):
        raise ModelError(
            "the optimizer holds none of the model's trainable parameters; make it from model.parameters() again"
        )


def check_settings(optimizer: torch.optim.Optimizer, settings: Mapping[str, tuple[str, Any]]) -> None:
    """Refuses an optimizer of another kind than an ingredient asks for: a classifier brings its own.

    Raises:
        ModelError: naming the ingredient and both optimizers.
    """
    owner, wanted = settings.get("optimizer", ("", {}))
    for name, options in wanted.items():
        kind, present = OPTIMIZERS[name], type(optimizer)
        if present is not kind:
            written = ", ".join(f"{key}={value}" for key, value in options.items())
            raise ModelError(
                f"{owner} asks for {kind.__name__}, but the classifier's optimizer is {present.__name__}; "
                f"build it as torch.optim.{kind.__name__}(model.parameters(), {written})"
            )


class MethodTrainer(RecipeTrainer):
    """A single method as an ART trainer; subclasses name their `ingredient`.

    `trainer_params` lists its keyword arguments: the ingredient's options, and those of `RecipeTrainer`.
    Where ART's trainer of the same method takes positional arguments, `art_arguments` names them.
    """

    ingredient: ClassVar[type[Ingredient]]
    art_arguments: ClassVar[tuple[str, ...]] = ("attack",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "ingredient"):
            cls.trainer_params = [*RecipeTrainer.trainer_params, *cls.ingredient.model_fields]

    def __init__(self, classifier: PyTorchClassifier, *args: Any, **options: Any) -> None:
        if len(args) > len(self.art_arguments):
            raise ConfigError(f"{type(self).__name__} takes (classifier, {', '.join(self.art_arguments)}) by position")
        for name, value in zip(self.art_arguments, args, strict=False):
            if name in options:
                raise ConfigError(f"{type(self).__name__} was given {name} twice, by position and by name")
            options[name] = value
        for name in options:
            if name not in self.trainer_params:
                raise ConfigError(unknown(f"option of {type(self).__name__}", name, self.trainer_params))
        run = {name: options.pop(name) for name in RecipeTrainer.trainer_params if name in options}
        super().__init__(classifier, self._used(options), **run)

    def _used(self, options: dict[str, Any]) -> list[Ingredient]:
        return [self.ingredient(**options)]


class AroundTrainer(MethodTrainer):
    """A method that goes around the step of another one: `AroundTrainer(classifier, base, **options)`.

    Args:
        classifier: a `PyTorchClassifier` with an optimizer; trained in place.
        base: the ingredient inside. Without it the `usual_base` of the class, whose options are then
            taken beside the method's own.
        options: the method's options, and those of `RecipeTrainer`.

    Raises:
        ConfigError: without a base, where the class has no usual one.
    """

    usual_base: ClassVar[type[Ingredient] | None] = None
    art_arguments = ("base",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        inner = cls.usual_base.model_fields if cls.usual_base is not None else {}
        cls.trainer_params = [*cls.trainer_params, "base", *inner]

    def _used(self, options: dict[str, Any]) -> list[Ingredient]:
        base = options.pop("base", None)
        if base is None:
            if self.usual_base is None:
                raise ConfigError(
                    f"{self.ingredient.name} goes around the step of another method and cannot train alone; "
                    f"give it one that trains on an attack: {type(self).__name__}(classifier, base)"
                )
            known = self.usual_base.model_fields
            base = self.usual_base(**{name: options.pop(name) for name in list(options) if name in known})
        return [base, self.ingredient(**options)]


def _check_crafts(plan: Plan, attack: str) -> None:
    """Refuses an ART attack that a plan would never call."""
    parts, used = plan.compose(), " and ".join(plan.used) or "ordinary training"
    for owner, update in parts.layers:
        if getattr(update, "reads_attack", None) is not None:
            raise ConfigError(
                f"{owner} takes the steps of its attack itself and would never call {attack}; leave attack out, "
                "or train with a method that crafts before its step"
            )
    if not parts.risk.needs_adversarial:
        raise ConfigError(
            f"{used} uses clean rows alone and would never call {attack}; leave attack out, or add an ingredient "
            "that trains on an attack: RecipeTrainer(classifier, [it, ...], attack=...)"
        )


@dataclass(frozen=True)
class ArtAttack:
    """Any ART evasion attack as the attack slot; it brings its own objective and radius."""

    attack: EvasionAttack
    bn: BNMode = "eval"
    objective: Objective | None = None

    def craft(self, net: Forward, x: Tensor, score: Score, keys: Keys, mask: Tensor | None = None) -> Adversarial:
        model = getattr(self.attack.estimator, "model", None)
        images, labels = x.detach().cpu().numpy(), score.y.cpu().numpy()
        extra = {} if mask is None else {"mask": mask.cpu().numpy()}
        if isinstance(model, nn.Module):
            with frozen(model, self.bn):  # ART leaves gradients and its own mode behind
                made = self.attack.generate(images, y=labels, **extra)
        else:
            made = self.attack.generate(images, y=labels, **extra)
        adv = torch.as_tensor(made).to(x)
        return Adversarial(adv, adv - x)

    def __str__(self) -> str:
        return f"ART's {type(self.attack).__name__}"


class PGDOptions(BaseModel):
    """The attack of a method that trains without one: PGD on the adversary its criterion declares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    norm: str = "linf"
    eps: Positive = 8 / 255
    steps: Count = 20
    step_size: Positive | None = None
    restarts: Count = 1
    adversary: str | None = None
    """Which of the objectives that the criterion declares; the strongest when left out."""


class MethodAttack(EvasionAttack):
    """The attack of a method's plan as an ART evasion attack; subclasses name their `ingredient`.

    It keeps the best iterate of each example: one that is misclassified (or classified as the
    target), then the highest objective. Noise is keyed by example, so results do not depend on
    `batch_size`.

    Args:
        estimator: a `PyTorchClassifier`.
        targeted: y are the classes to reach.
        batch_size: images at a time.
        seed: of the noise.
        verbose: accepted for ART's sake; nothing is printed.
        ingredients: what trained the classifier, so that the objectives `criterion` and `detector`, and those
            that they declare, are known by name.
        fields: the ingredient's options; for a method without an attack, those of `PGDOptions`.
    """

    ingredient: ClassVar[type[Ingredient]]
    own_params: ClassVar[tuple[str, ...]] = (
        *EvasionAttack.attack_params,
        *("targeted", "batch_size", "seed", "verbose", "ingredients"),
    )
    """Options of the class, which are no fields of an ingredient."""
    attack_params: ClassVar[list[str]] = [*own_params]
    takes_mask: ClassVar[bool] = True
    _estimator_requirements = (PyTorchClassifier,)

    def __init_subclass__(cls, *, bounded: bool = True, **kwargs: Any) -> None:
        """`bounded=False` is for an attack without a ball: norm, eps and their like are refused, not ignored."""
        super().__init_subclass__(**kwargs)
        names = [*cls.ingredient.model_fields]
        if bounded and "eps" not in names:
            names += [name for name in PGDOptions.model_fields if name not in names]
        cls.attack_params = [*cls.own_params, *names]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        *,
        targeted: bool = False,
        batch_size: int = 256,
        seed: int = 0,
        verbose: bool = False,
        ingredients: Sequence[Ingredient] = (),
        summary_writer: Any = False,
        **fields: Any,
    ) -> None:
        super().__init__(estimator=estimator, summary_writer=summary_writer)
        self._targeted, self.batch_size, self.seed, self.verbose = targeted, batch_size, seed, verbose
        self.ingredients = tuple(ingredients)
        self._crafter = Crafter()
        self._configure(fields)
        self._check_params()

    @property
    def targeted(self) -> bool:
        return self._targeted

    @targeted.setter
    def targeted(self, value: bool) -> None:
        self._targeted = value

    def set_params(self, **kwargs: Any) -> None:
        """Changes options; an unknown name raises ValueError, with a suggestion."""
        for name in kwargs:
            if name not in self.attack_params:
                raise ConfigError(unknown(f"option of {type(self).__name__}", name, self.attack_params))
        own = {name: kwargs.pop(name) for name in list(kwargs) if name in self.own_params}
        before = {name: getattr(self, name) for name in own}
        try:
            for name, value in own.items():
                setattr(self, name, value)
            self._check_params()
            self._configure({**self._given, **kwargs})
        except ConfigError:
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def generate(self, x: Any, y: Any = None, **kwargs: Any) -> Any:
        """Adversarial examples, shaped as x, float32, within the clip values.

        Args:
            x: (N, C, H, W); not modified.
            y: true classes (indices or one-hot), or target classes when targeted; without them the
                model's own predictions are taken as true.
            mask: broadcastable to x, in [0, 1]: where x may change.

        Raises:
            DataError: for arrays that cannot be attacked, or a mask that is none.
            ConfigError: for a targeted attack without y, or an option that is not known.
        """
        for name in kwargs:
            if name not in ("mask", "x_init"):  # some of ART's callers give a start, which is the attack's own here
                raise ConfigError(unknown("option of generate", name, ["x", "y", "mask"]))
        x = x if isinstance(x, Tensor | np.ndarray) else np.asarray(x)
        view = ClassifierView(self.estimator, type(self), wanted=self._needs())
        check_images(x, view.facts.clip)
        if tuple(x.shape[1:]) != view.facts.input_shape:
            raise wrong_shape(x, view.facts, "x")
        mask = mask_for(kwargs.get("mask"), tuple(x.shape))
        labels = self._labels(view, x, y)
        attack, images = self.attack(view.facts), as_images(x)
        net = self._remembered(view.net)
        check_offers(net, view.facts, dict.fromkeys(self._needs(), type(self).__name__))
        made = np.empty(tuple(x.shape), dtype=np.float32)
        with view.kept(), net.offering_features():
            for start in range(0, len(labels), self.batch_size):
                index = torch.arange(start, min(start + self.batch_size, len(labels)))
                part = in_channels_last(images[index].to(view.device))
                goal = labels[index].to(view.device)
                keys = Keys(self.seed, 0, index.to(view.device))
                with self._crafter(net, attack.bn, part) as forward:
                    objective = attack.objective or ce
                    score = objective.bind(forward, part, goal, targeted=self.targeted)
                    rows = None if mask is None else torch.from_numpy(mask[index.numpy()].copy()).to(part)
                    adv = attack.craft(forward, part, score, keys, rows)
                made[start : start + len(index)] = adv.x.cpu().numpy()
        return made

    def attack(self, facts: Facts) -> Attack:
        """The attack as an evaluation runs it."""
        parts = self._ingredient.apply(self._known(facts)).compose()  # unchecked: alone, it need not train
        if parts.attack is None:
            options = self._pgd
            base = PGD(norm_named(options.norm, options.eps), options.steps, options.step_size, clip=facts.clip)
            known = {objective.name: objective for objective in parts.criterion.adversaries}
            name = options.adversary or next(iter(known))
            if name not in known:
                raise ConfigError(unknown(f"adversary of {self.ingredient.name}", name, known))
            return for_evaluation(base, objective=known[name], restarts=options.restarts)
        return for_evaluation(parts.attack) if isinstance(parts.attack, PGD) else parts.attack

    def _known(self, facts: Facts) -> Plan:
        """What is known of the defence: its criterion and detectors, without an attack of its own."""
        if not self.ingredients:
            return Plan(facts)
        parts = Plan.of(self.ingredients, facts).compose()
        return Plan(facts, {"criterion": parts.criterion, "detectors": parts.detectors})

    def _needs(self) -> frozenset[str]:
        objective = self.attack(Facts(int(self.estimator.nb_classes), tuple(self.estimator.input_shape))).objective
        return frozenset() if objective is None else objective.needs

    def _remembered(self, net: Net) -> Net:
        """The net of the last call where it is the same model, so that its folded twin is kept."""
        known = getattr(self, "_net", None)
        if known is None or known.module is not net.module:
            self._net = net
        return self._net

    def _labels(self, view: ClassifierView, x: Any, y: Any) -> Tensor:
        if y is not None:
            return check_labels(y, view.facts.n_classes, len(x))
        if self.targeted:
            raise ConfigError("a targeted attack needs y: the class that each image is to be taken for")
        images = as_images(x)
        with frozen(view.net), torch.no_grad():
            parts = torch.split(torch.arange(len(x)), self.batch_size)
            return torch.cat([view.net(images[rows].to(view.device)).logits.argmax(1).cpu() for rows in parts])

    def _configure(self, fields: Mapping[str, Any]) -> None:
        known = self.ingredient.model_fields
        for name in fields:
            if name not in self.attack_params:
                raise ConfigError(unknown(f"option of {type(self).__name__}", name, self.attack_params))
        ingredient = self.ingredient(**{k: v for k, v in fields.items() if k in known})
        options = checked(PGDOptions, self.ingredient.name, **{k: v for k, v in fields.items() if k not in known})
        before = dict(self.__dict__)
        self._given, self._ingredient, self._pgd = dict(fields), ingredient, options
        try:
            self._needs()  # an attack that cannot be made says so now
        except ConfigError:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        for name in self.attack_params:
            if name not in self.own_params:
                setattr(self, name, getattr(ingredient if name in known else options, name))

    def _check_params(self) -> None:
        if not isinstance(self.targeted, bool):
            raise ConfigError(f"targeted is true or false, got {self.targeted!r}")
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ConfigError(f"batch_size is a whole number from 1, got {self.batch_size!r}")


def mask_for(mask: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float32] | None:
    """A mask as float32, broadcast to images of `shape` (N, C, H, W); None where there is none.

    Raises:
        DataError: for one that does not fit the images, or that has values outside of [0, 1].
    """
    if mask is None:
        return None
    try:
        given = np.asarray(mask, dtype=np.float32)
        whole = np.broadcast_to(given, shape)
    except (TypeError, ValueError):
        size = getattr(mask, "shape", type(mask).__name__)
        raise DataError(f"mask {size} does not fit the images {shape}; give one for each, or one for all") from None
    if given.size and not (given.min() >= 0 and given.max() <= 1):  # NaN is neither
        raise DataError("a mask says where pixels may change, from 0 (not at all) to 1; it has values outside of that")
    return whole
