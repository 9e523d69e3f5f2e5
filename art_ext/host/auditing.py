"""`art_ext.Evaluation`, `evaluate` and `audit`: ART classifiers evaluated from Python, with all installed attacks."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from art_ext.border import art_evaluation
from art_ext.border.mlflow_auto import choices, evaluation_folder
from art_ext.errors import ConfigError, unknown
from art_ext.evaluation.record import EvaluationRecord
from art_ext.evaluation.verdict import two_lines
from art_ext.host.evaluation_text import Progress, lines_of
from art_ext.host.manager import default_manager
from art_ext.lifecycle.family import track_called

_OWN = ("classifier", "x", "y", "eps", "attacks")
"""Parameters of an evaluation that are given otherwise."""


class Evaluation(art_evaluation.Evaluation):
    """Evaluates an ART classifier with all installed attacks: `record = Evaluation(classifier, x, y, eps=8/255).run()`.

    Nothing is printed or tracked. Arguments are those of `art_ext.evaluate`, and `progress`, which is called with a
    `Tick` now and then.

    Raises:
        ConfigError, DataError, ModelError: in one line, before any attack.
    """

    def __init__(self, classifier: Any, x: Any, y: Any, *, eps: float | str, **options: Any) -> None:
        known = [name for name in inspect.signature(art_evaluation.Evaluation).parameters if name not in _OWN]
        for name in options:
            if name not in known:
                raise ConfigError(unknown("option of an evaluation", name, known))
        super().__init__(classifier, x, y, eps=eps, attacks=default_manager().catalogue.attacks, **options)


def evaluate(
    classifier: Any, x: Any, y: Any, *, eps: float | str, verbose: bool = True, **options: Any
) -> EvaluationRecord:
    """Attacks an ART classifier in every way its suite knows, and checks whether the figures can be trusted.

    `record = art_ext.evaluate(classifier, x_test, y_test, eps=8/255, folder="evaluation")`

    Args:
        classifier: a `PyTorchClassifier`, or any other ART classifier of images or rows of values; one without class
            gradients is attacked through its answers alone.
        x, y: images in clip-value units, as it takes them, and labels that it was not trained on.
        verbose: print attacks, checks and the verdict; progress goes to stderr.
        options: of `art_ext.border.art_evaluation.Evaluation`: norm, suite, ingredients, baseline, surrogates,
            calibration, tprs, training, class_names, until, minutes, batch_size, seed, folder. With a folder,
            evaluation.json, examples.parquet and report.html are in it, and an interrupted evaluation goes on there.

    Raises:
        ConfigError, DataError, ModelError: in one line, before any attack.
    """
    return _run(classifier, x, y, eps, verbose, options, brief=False)


def audit(
    classifier: Any, x: Any, y: Any, *, eps: float | str, verbose: bool = True, **options: Any
) -> EvaluationRecord:
    """The quick suite on an ART classifier, printed as a verdict in two lines; else as `evaluate`.

    `art_ext.audit(classifier, x_test, y_test, eps=8/255)`
    """
    return _run(classifier, x, y, eps, verbose, {"suite": "quick", **options}, brief=True)


def _run(
    classifier: Any, x: Any, y: Any, eps: float | str, verbose: bool, options: dict[str, Any], *, brief: bool
) -> EvaluationRecord:
    show = Progress() if verbose else None
    tracked = choices().evaluations
    with evaluation_folder(options.get("folder")) if tracked else nullcontext(options.get("folder")) as folder:
        evaluation = Evaluation(classifier, x, y, eps=eps, **{"progress": show, **options, "folder": folder})
        record = evaluation.run()
        if tracked and folder is not None:
            track_called(record, Path(folder))
    if show is not None:
        show.end()
        for line in two_lines(record) if brief else lines_of(record):
            print(line)
        if evaluation.core.options.folder is not None:
            print(f"files: {evaluation.core.options.folder}")
    return record
