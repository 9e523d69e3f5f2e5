"""Any detector as ART knows evasion detectors: it says which inputs to reject."""

from __future__ import annotations

import math
from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any, ClassVar

import numpy as np
import torch
from art.defences.detector.evasion import EvasionDetector
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from art_ext.border.art import ClassifierView, wrong_shape
from art_ext.data.checks import check_images, check_labels
from art_ext.data.images import Images, as_images
from art_ext.engine.freeze import frozen
from art_ext.engine.net import in_channels_last
from art_ext.errors import ConfigError, unknown
from art_ext.evaluation.suite import joined
from art_ext.parts.detectors import Detector
from art_ext.types import Outputs


class MethodDetector(EvasionDetector):
    """A detector on an ART classifier: an input whose score is below the threshold is rejected.

    `MethodDetector(classifier, Confidence(), tpr=0.99)`, then `fit` on clean images that the
    classifier was NOT trained on, then `detect`.

    Args:
        classifier: a `PyTorchClassifier`, trained; neither its weights nor its modes change.
        detector: the score.
        tpr: share of correctly classified clean images that must be kept, in (0, 1].
        held_out: share of the rows given to `fit`, evenly spread over them, that sets the threshold of a
            detector with a bank, since the bank must not hold them; others use all rows.

    Raises:
        EstimatorError: unless the classifier is a `PyTorchClassifier`.
        ConfigError: for a share out of its range.
    """

    defence_params: ClassVar[list[str]] = ["tpr", "held_out"]

    def __init__(
        self, classifier: PyTorchClassifier, detector: Detector, tpr: float = 0.99, held_out: float = 0.1
    ) -> None:
        super().__init__()
        ClassifierView(classifier, type(self))
        self.classifier, self.detector = classifier, detector
        self.tpr, self.held_out = tpr, held_out
        self._check_params()

    @property
    def threshold(self) -> float | None:
        """The smallest score that is kept; None before `fit`."""
        return self.detector.threshold

    def fit(self, x: Any, y: Any, batch_size: int = 128, nb_epochs: int = 20, **kwargs: Any) -> None:
        """Fits the detector's bank, where it has one, and sets its threshold.

        Args:
            x: clean images (N, C, H, W) within the clip values.
            y: true classes: indices (N,) or one-hot rows (N, K).
            nb_epochs: taken for ART's sake; nothing is trained here.

        Raises:
            DataError: for arrays that cannot be used.
            ConfigError: when no image is classified correctly, when the threshold would reject nothing, or an
                argument is not known.
        """
        self._refuse(kwargs, "fit")
        view, images = self._images(x)
        labels = check_labels(y, view.facts.n_classes, len(x))
        out = self._outputs(view, images, batch_size)
        if not self.detector.has_bank:
            self.detector.calibrate(out, labels, self.tpr)
            return
        apart = spread(len(labels), self.held_out)
        if not 0 < int(apart.sum()) < len(labels):
            raise ConfigError(
                f"{len(labels)} images are too few for the bank of {self.detector.name} and its threshold; give more"
            )
        self.detector.fit(_rows(out, ~apart), labels[~apart])
        if self.detector.calibrate(_rows(out, apart), labels[apart], self.tpr) == -math.inf:
            self.detector.threshold = None
            raise ConfigError(
                f"the threshold of {self.detector.name} would keep everything, since its bank has no images of some "
                "class; give fit images of each class"
            )

    def detect(self, x: Any, batch_size: int = 128, **kwargs: Any) -> tuple[dict[str, Any], Any]:
        """Which images to reject.

        Returns:
            A report, "scores" (N,), "predictions" (N, K) logits and "threshold", and (N,) bool,
            True for images to reject.

        Raises:
            ConfigError: before `fit`.
        """
        self._refuse(kwargs, "detect")
        if self.detector.threshold is None:
            raise ConfigError(
                f"the detector {self.detector.name} has no threshold yet; fit it on clean images that were held out"
            )
        view, images = self._images(x)
        out = self._outputs(view, images, batch_size)
        scores, kept = self.detector.score(out), self.detector.keeps(out)
        report = {"scores": scores.numpy(), "predictions": out.logits.numpy(), "threshold": self.detector.threshold}
        return report, (~kept).numpy()

    def set_params(self, **kwargs: Any) -> None:
        """Changes `tpr` or `held_out`, which hold from the next `fit` on; an unknown name raises ValueError."""
        for name in kwargs:
            if name not in self.defence_params:
                raise ConfigError(unknown(f"option of {type(self).__name__}", name, self.defence_params))
        before = self.get_params()
        try:
            super().set_params(**kwargs)
        except ConfigError:
            super().set_params(**before)
            raise

    def _check_params(self) -> None:
        for name in ("tpr", "held_out"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int | float):
                raise ConfigError(f"{name} is a number, got {getattr(self, name)!r}")
        if not 0 < self.tpr <= 1:
            raise ConfigError(f"tpr must lie in (0, 1], got {self.tpr}")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out must lie between 0 and 1, got {self.held_out}")

    def _images(self, x: Any) -> tuple[ClassifierView, Images]:
        x = x if isinstance(x, Tensor | np.ndarray) else np.asarray(x)
        view = ClassifierView(self.classifier, type(self), wanted=self.detector.needs)
        check_images(x, view.facts.clip)
        if tuple(x.shape[1:]) != view.facts.input_shape:
            raise wrong_shape(x, view.facts, "x")
        return view, as_images(x)

    def _outputs(self, view: ClassifierView, images: Images, batch_size: int) -> Outputs:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ConfigError(f"batch_size is a whole number from 1, got {batch_size!r}")
        outs: list[Outputs] = []
        with frozen(view.net), view.net.offering_features(), torch.no_grad():
            for index in torch.arange(len(images)).split(int(batch_size)):
                outs.append(view.net(in_channels_last(images[index].to(view.device))))
        return joined(outs)

    @staticmethod
    def _refuse(options: dict[str, Any], call: str) -> None:
        for name in options:
            raise ConfigError(unknown(f"argument of {call}", name, ("x", "y", "batch_size", "nb_epochs")))


class ScoreDetector(MethodDetector):
    """The detector of one score; subclasses name it, and its arguments are theirs.

    `XDetector(classifier, tpr=0.95, **options)`; an option that `set_params` changes makes a new score,
    which `fit` must fit again.
    """

    score: ClassVar[type[Detector]]
    options: ClassVar[Mapping[str, Parameter]]
    usual_tpr: ClassVar[float] = 0.99

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.options = {} if cls.score.__init__ is object.__init__ else dict(signature(cls.score).parameters)
        cls.defence_params = [*MethodDetector.defence_params, *cls.options]

    def __init__(
        self, classifier: PyTorchClassifier, tpr: float | None = None, held_out: float = 0.1, **options: Any
    ) -> None:
        for name in options:
            if name not in self.options:
                raise ConfigError(unknown(f"option of {type(self).__name__}", name, self.defence_params))
        for name, parameter in self.options.items():
            setattr(self, name, options.get(name, parameter.default))
        super().__init__(classifier, self.score(**options), self.usual_tpr if tpr is None else tpr, held_out)

    def set_params(self, **kwargs: Any) -> None:
        """Changes options, which hold from the next `fit` on; an unknown name raises ValueError."""
        chosen = {name: kwargs.get(name, getattr(self, name)) for name in self.options}
        fresh = self.score(**chosen) if any(name in self.options for name in kwargs) else self.detector
        super().set_params(**kwargs)
        self.detector = fresh


def spread(n: int, share: float) -> Tensor:
    """(n,) bool: `share` of n rows, as evenly apart as can be, so that rows in the order of their classes do too."""
    steps = (torch.arange(n + 1, dtype=torch.float64) * share + 1e-9).floor()
    return steps[1:] > steps[:-1]


def _rows(out: Outputs, rows: Tensor) -> Outputs:
    return Outputs(out.logits[rows], {name: value[rows] for name, value in out.extras.items()})
