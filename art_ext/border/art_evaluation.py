"""Evaluation of ART estimators: their network in clip-value units, under the same attacks and checks as any other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from art_ext.border.art_estimators import Opened, opened
from art_ext.border.weights import digest_of_weights
from art_ext.data.checks import check_images, check_labels
from art_ext.data.images import as_images
from art_ext.engine.freeze import restoring
from art_ext.engine.net import Net
from art_ext.entries import AttackEntry
from art_ext.errors import ConfigError, ModelError
from art_ext.evaluation.evaluation import Evaluation as CoreEvaluation
from art_ext.evaluation.evaluation import Options
from art_ext.evaluation.record import DataInfo, EvaluationRecord, ModelInfo
from art_ext.evaluation.rejecting import TPRS
from art_ext.evaluation.report import report_on
from art_ext.evaluation.settling import Question
from art_ext.evaluation.subject import Rows, Subject, adaptive_of, first_images, net_for, plain_net
from art_ext.evaluation.suites import suite_named
from art_ext.evaluation.threat import Threat
from art_ext.evaluation.trials import Tick
from art_ext.ingredient import Ingredient, parse_number
from art_ext.parts.norms import NORMS
from art_ext.plan import Plan


class Evaluation:
    """Evaluates an ART classifier: `Evaluation(classifier, x, y, eps=8/255, attacks=...).run()` gives the record.

    Args:
        classifier: a `PyTorchClassifier`, or any other ART classifier of images or rows of values. With class
            gradients, or with preprocessing or postprocessing defences, it is asked through ART (each pass goes
            through NumPy, and gradients cost K passes); without, through its answers alone.
        x, y: images in clip-value units, as the classifier takes them, and their labels, which it was not trained
            on; a classifier of rows takes rows, or images of as many values.
        norm: of the threat: "linf", "l2", "l1" or "l0", or as ART has them: np.inf, 2, 1.
        eps: its radius in clip-value units: a number, or a text such as "8/255".
        suite: "quick", "standard" or "full".
        ingredients: what trained it, so that attackers know it; None where nothing is known.
        attacks: the attacks that plugins offer, by name; `art_ext.evaluate` finds the installed ones.
        baseline: the same network without defence.
        surrogates: other classifiers by name, such as an adversarially trained one, to transfer from.
        calibration: held-out (x, y) that set the thresholds of rejection, by the defence's detectors or by confidence.
        tprs: shares of the correct ones among them that it must keep, one threshold each.
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
        surrogates: Mapping[str, Any] | None = None,
        calibration: tuple[Any, Any] | None = None,
        training: tuple[Any, Any] | None = None,
        class_names: Sequence[str] = (),
        until: str | None = None,
        minutes: float | None = None,
        batch_size: int = 256,
        tprs: Sequence[float] = TPRS,
        seed: int = 0,
        folder: str | Path | None = None,
        progress: Callable[[Tick], None] | None = None,
    ) -> None:
        used = _ingredients(ingredients)
        known = opened(classifier, x)
        facts = known.facts
        threat = Threat(_norm(norm), _number(eps, "eps"), facts.clip)
        data = _rows(x, y, known, "")
        plan = Plan.of(used, facts)
        sample = first_images(data, known.device)
        net, notes = net_for(known.module, plan, sample, mean=known.mean, std=known.std)
        source = type(classifier).__name__
        if known.is_network:
            source = f"{source} of {type(known.module).__name__}"
            looked_at = {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}
        else:  # its weights are its own business: its answers are known instead
            looked_at = {"answers": net(sample).logits.detach()}
        info = ModelInfo(source, digest_of_weights(looked_at), plan.used)
        bare = None if baseline is None else _other("baseline", baseline, x, known, sample)
        others = {name: _other(f"surrogate {name}", one, x, known, sample) for name, one in (surrogates or {}).items()}
        self._modules = [part for part in (net, bare, *others.values()) if part is not None]
        self.core = CoreEvaluation(
            Subject(
                net, plan, info, ingredients is not None, adaptive_of(used), gradients=known.gradients
            ),
            data,
            threat,
            Options(
                suite_named(suite),
                seed=_whole(seed, "seed", 0),
                device=known.device,
                folder=None if folder is None else Path(folder),
                batch_size=_whole(batch_size, "batch_size", 1),
                tprs=tuple(_number(tpr, "tprs") for tpr in (tprs if isinstance(tprs, Iterable) else (tprs,))),
                minutes=None if minutes is None else _number(minutes, "minutes"),
                until=None if until is None else Question.parse(str(until)),
                progress=progress,
            ),
            info=DataInfo("x", "given", "", len(data.y), tuple(class_names)),
            attacks=attacks,
            baseline=bare,
            surrogates=others,
            calibration=None if calibration is None else _pair(calibration, known, "calibration"),
            seen={} if training is None else {"training": _pair(training, known, "training")},
            notes=[*known.notes, *notes],
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


def _other(name: str, given: Any, x: Any, known: Opened, sample: Tensor) -> Net:
    """Another classifier as a network for the same images.

    Raises:
        ModelError: for other images or classes, or one without gradients.
    """
    other = opened(given, x)
    if other.facts.n_classes != known.facts.n_classes or other.facts.input_shape != known.facts.input_shape:
        raise ModelError(f"the {name} has other classes or images than the classifier; give one for the same")
    if not other.gradients:
        raise ModelError(f"the {name} gives answers alone, and examples are made on it; give one with gradients")
    return plain_net(other.module, known.facts, sample.to(other.device), mean=other.mean, std=other.std)


def _ingredients(given: Any) -> Sequence[Ingredient]:
    """The ingredients, for None none.

    Raises:
        ConfigError: for what is no list of them.
    """
    used = () if given is None else (given,) if isinstance(given, Ingredient) else given
    if isinstance(used, list | tuple) and all(isinstance(one, Ingredient) for one in used):
        return used
    raise ConfigError(f"ingredients are values in a list, such as [PGDAT(eps=0.15)], got {given!r}")


def _pair(given: Any, known: Opened, name: str) -> Rows:
    """The rows of (x, y)."""
    if isinstance(given, list | tuple) and len(given) == 2:
        return _rows(given[0], given[1], known, f"{name} ")
    raise ConfigError(f"{name} is a pair of images and labels, (x, y), got a {type(given).__name__}")


def _whole(given: Any, name: str, least: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < least:
        raise ConfigError(f"{name} is a whole number from {least}, got {given!r}")
    return int(given)


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


def _rows(x: Any, y: Any, known: Opened, word: str) -> Rows:
    facts, x = known.facts, known.layout.ours(x, word)
    check_images(x, facts.clip, f"{word}x")
    return Rows(as_images(x), check_labels(y, facts.n_classes, len(x), f"{word}y"))
