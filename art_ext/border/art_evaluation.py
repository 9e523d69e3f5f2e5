"""Evaluation of ART estimators: their network in clip-value units, under the same attacks and checks as any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_ext.border.art import ClassifierView
from art_ext.border.weights import digest_of_weights
from art_ext.data.checks import check_images, check_labels
from art_ext.data.images import as_images
from art_ext.engine.freeze import restoring
from art_ext.entries import AttackEntry
from art_ext.errors import ConfigError, DataError, ModelError
from art_ext.evaluation.evaluation import Evaluation as CoreEvaluation
from art_ext.evaluation.evaluation import Options
from art_ext.evaluation.record import DataInfo, EvaluationRecord, ModelInfo
from art_ext.evaluation.report import report_on
from art_ext.evaluation.settling import Question
from art_ext.evaluation.subject import Rows, Subject, adaptive_of, first_images, net_for
from art_ext.evaluation.suites import suite_named
from art_ext.evaluation.threat import Threat
from art_ext.evaluation.trials import Tick
from art_ext.ingredient import Ingredient, parse_number
from art_ext.parts.norms import NORMS
from art_ext.plan import Plan
from art_ext.types import Facts


class Evaluation:
    """Evaluates an ART classifier: `Evaluation(classifier, x, y, eps=8/255, attacks=...).run()` gives the record.

    Args:
        classifier: a `PyTorchClassifier`, or another ART classifier of images that gives class gradients (each
            pass then goes through NumPy, and gradients cost K passes).
        x, y: images (N, C, H, W) in clip-value units and their labels, which it was not trained on.
        norm: of the threat: "linf", "l2", "l1" or "l0", or as ART has them: np.inf, 2, 1.
        eps: its radius in clip-value units: a number, or a text such as "8/255".
        suite: "quick", "standard" or "full".
        ingredients: what trained it, so that attackers know it; None where nothing is known.
        attacks: the attacks that plugins offer, by name; `art_ext.evaluate` finds the installed ones.
        baseline: the same network without defence.
        calibration: held-out (x, y) that set the thresholds of detectors.
        training: (x, y) that it was trained on, for detectors' banks and to find images it has seen.
        until: a question to stop at, such as "robust>=0.40".
        folder: of evaluation.json, examples.parquet, report.html and what an interrupted evaluation goes on from.

    Raises:
        ConfigError, DataError, ModelError: in one line, before any attack.
    """

    def __init__(
        self,
        classifier: Any,
        x: Any,
        y: Any,
        *,
        eps: float | str,
        attacks: Mapping[str, AttackEntry],
        norm: str | float = "linf",
        suite: str = "standard",
        ingredients: Sequence[Ingredient] | None = None,
        baseline: Any = None,
        calibration: tuple[Any, Any] | None = None,
        training: tuple[Any, Any] | None = None,
        class_names: Sequence[str] = (),
        until: str | None = None,
        minutes: float | None = None,
        batch_size: int = 256,
        seed: int = 0,
        folder: str | Path | None = None,
        progress: Callable[[Tick], None] | None = None,
    ) -> None:
        module, mean, std, facts, device = _opened(classifier)
        threat = Threat(_norm(norm), _number(eps, "eps"), facts.clip)
        data = _rows(x, y, facts, "")
        plan = Plan.of(ingredients or (), facts)
        net, notes = net_for(module, plan, first_images(data, device), mean=mean, std=std)
        named = type(classifier).__name__
        if isinstance(module, EstimatorModule):  # its weights are its own business: its answers are known instead
            source, known = named, {"answers": net(first_images(data, device)).logits}
        else:
            source = f"{named} of {type(module).__name__}"
            known = {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}
        info = ModelInfo(source, digest_of_weights(known), plan.used)
        bare = None
        if baseline is not None:
            other, mean, std, other_facts, _ = _opened(baseline)
            if other_facts.n_classes != facts.n_classes or other_facts.input_shape != facts.input_shape:
                raise ModelError("the baseline has other classes or images than the classifier; give one for the same")
            bare, _ = net_for(other, Plan.of((), facts), first_images(data, device), mean=mean, std=std)
        self._modules = [part for part in (net, bare) if part is not None]
        self.core = CoreEvaluation(
            Subject(net, plan, info, ingredients is not None, adaptive_of(ingredients or ())),
            data,
            threat,
            Options(
                suite_named(suite),
                seed=seed,
                device=device,
                folder=None if folder is None else Path(folder),
                batch_size=batch_size,
                minutes=minutes,
                until=None if until is None else Question.parse(until),
                progress=progress,
            ),
            info=DataInfo("x", "given", "", len(data.y), tuple(class_names)),
            attacks=attacks,
            baseline=bare,
            calibration=None if calibration is None else _rows(*calibration, facts, "calibration "),
            seen={} if training is None else {"training": _rows(*training, facts, "training ")},
            notes=notes,
        )

    def run(self) -> EvaluationRecord:
        """Attacks, checks and the record, and the report where there is a folder for it.

        Modes and flags of the classifier's network are put back.
        """
        with ExitStack() as stack:
            for module in self._modules:
                stack.enter_context(restoring(module))
            record = self.core.run()
            if self.core.options.folder is not None:
                report_on(self.core, record)
            return record


def _norm(given: str | float) -> str:
    """A norm by our name, from it or from ART's order."""
    if isinstance(given, str):
        return given
    known = {float(norm.order): name for name, norm in NORMS.items()}
    if given not in known:
        raise ConfigError(f"norm {given} is not known; give np.inf, 2, 1 or 0, or {', '.join(NORMS)}")
    return known[given]


def _number(given: float | str, name: str) -> float:
    try:
        return float(parse_number(given))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
    except TypeError:
        raise ConfigError(f"{name}: a number is needed, got {given!r}") from None


def _rows(x: Any, y: Any, facts: Facts, word: str) -> Rows:
    x = x if isinstance(x, Tensor | np.ndarray) else np.asarray(x)
    check_images(x, facts.clip, f"{word}x")
    if tuple(x.shape[1:]) != facts.input_shape:
        raise DataError(
            f"{word}x has images of shape {tuple(x.shape[1:])}, but the classifier takes {facts.input_shape}; "
            "resize the images, or build the classifier with their input_shape"
        )
    return Rows(as_images(x), check_labels(y, facts.n_classes, len(x), f"{word}y"))


def _opened(classifier: Any) -> tuple[nn.Module, Tensor | None, Tensor | None, Facts, torch.device]:
    """The network behind a classifier with its standardisation, facts and device."""
    if isinstance(classifier, PyTorchClassifier):
        view = ClassifierView(classifier, Evaluation)
        return classifier.model, view.net.mean, view.net.std, view.facts, view.device
    if not callable(getattr(classifier, "class_gradient", None)) or not callable(getattr(classifier, "predict", None)):
        raise ModelError(
            f"a {type(classifier).__name__} gives no class gradients, so it cannot be attacked as a white box; "
            "give a PyTorchClassifier, or another ART classifier with class_gradient"
        )
    shape = tuple(int(side) for side in classifier.input_shape)
    if len(shape) != 3 or getattr(classifier, "channels_first", True) is False:
        raise ModelError(f"images of shape {shape} are not (C, H, W); give a classifier with channels_first=True")
    if classifier.clip_values is None:
        raise ConfigError("the classifier has no clip_values, which bound attacks; build it with clip_values=(0, 1)")
    low, high = (float(np.asarray(bound).reshape(-1)[0]) for bound in classifier.clip_values)
    facts = Facts(int(classifier.nb_classes), (shape[0], shape[1], shape[2]), (low, high))
    return EstimatorModule(classifier), None, None, facts, torch.device("cpu")


class EstimatorModule(nn.Module):
    """Any ART classifier as a network: `predict` forwards, `class_gradient` backwards."""

    def __init__(self, estimator: Any) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Estimated.apply(x, self.estimator)
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> EstimatorModule:
        return EstimatorModule(self.estimator)  # there is one estimator, whose weights are its own business


class _Estimated(torch.autograd.Function):
    """logits = predict(x); dx = sum_k dlogits_k class_gradient_k(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, estimator: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.estimator = estimator
        return torch.as_tensor(np.asarray(estimator.predict(x.detach().cpu().numpy())), dtype=x.dtype, device=x.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():  # for estimators that use torch inside
            by_class = np.asarray(ctx.estimator.class_gradient(x.detach().cpu().numpy(), label=None))
        return torch.einsum("nk,nkchw->nchw", grad, torch.as_tensor(by_class, dtype=x.dtype, device=x.device)), None
