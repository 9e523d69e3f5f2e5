"""Any ART classifier as a network of images (N, C, H, W): by its own network, by its gradients, or by its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_ext.border.art import STANDARDISATIONS, ClassifierView
from art_ext.errors import ConfigError, DataError, ModelError
from art_ext.evaluation.answers import looks_like_probabilities
from art_ext.types import Facts

__all__ = ["EstimatorModule", "Layout", "Opened", "opened"]

FEW = 4
"""Images that a classifier is asked about when it is opened."""
STEP, SMALLEST = 1e-2, 1e-6
"""As a share of the clip range, and of a probability: where its gradients are compared with differences."""


@dataclass(frozen=True)
class Layout:
    """How a classifier has its images, and how they are turned into ours and back.

    Attributes:
        shape: (C, H, W). own: of one image as the classifier takes it.
        channels_last: whether that is (H, W, C).
    """

    shape: tuple[int, int, int]
    own: tuple[int, ...]
    channels_last: bool = False

    @classmethod
    def of(cls, classifier: Any, x: Any) -> Layout:
        """Of a classifier and images for it: of channels first or last, grey ones without channels, flat ones.

        Raises:
            ModelError: for a classifier of anything else.
        """
        given, shape = getattr(classifier, "input_shape", None), tuple(np.shape(x))[1:]
        if given is None:
            raise ModelError(
                f"the {type(classifier).__name__} does not say what its images are like; fit it, or build it with "
                "their input_shape"
            )
        own = tuple(int(side) for side in given)
        if len(own) == 3 and getattr(classifier, "channels_first", True) is False:
            return cls((own[2], own[0], own[1]), own, channels_last=True)
        if len(own) == 3:
            return cls((own[0], own[1], own[2]), own)
        if len(own) == 2:
            return cls((1, own[0], own[1]), own)
        if len(own) == 1:
            images = len(shape) == 3 and int(np.prod(shape)) == own[0]
            return cls((shape[0], shape[1], shape[2]) if images else (1, 1, own[0]), own)
        raise ModelError(
            f"the {type(classifier).__name__} takes inputs of shape {own}, which are no images; an evaluation needs "
            "images, or rows of values"
        )

    def ours(self, x: Any, word: str = "") -> Any:
        """(N, C, H, W) of the caller's images.

        Raises:
            DataError: for other shapes than the classifier's own, or ours of a flat one.
        """
        x = x if isinstance(x, Tensor | np.ndarray) else np.asarray(x)
        if tuple(x.shape[1:]) == self.own:
            if self.channels_last:
                return x.permute(0, 3, 1, 2) if isinstance(x, Tensor) else np.moveaxis(x, 3, 1)
            return x.reshape(len(x), *self.shape)
        if tuple(x.shape[1:]) != self.shape or self.channels_last:
            raise DataError(
                f"{word}x has images of shape {tuple(x.shape[1:])}, but the classifier takes {self.own}; "
                "resize the images, or build the classifier with their input_shape"
            )
        return x

    def theirs(self, x: Tensor) -> np.ndarray[Any, Any]:
        """Images (N, C, H, W) as the classifier takes them."""
        plain = x.detach().cpu().numpy()
        if self.channels_last:
            return np.ascontiguousarray(np.moveaxis(plain, 1, 3))
        return np.ascontiguousarray(plain).reshape(len(plain), *self.own)

    def gradients(self, by_class: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(N, K, C, H, W) of the classifier's (N, K, ...)."""
        if self.channels_last:
            return np.moveaxis(by_class, 4, 2)
        return by_class.reshape(*by_class.shape[:2], *self.shape)


@dataclass(frozen=True)
class Opened:
    """A classifier as a network.

    Attributes:
        mean, std: of the standardisation before the module.
        gradients: whether the module has any.
        notes: a sentence on how it is asked, where that is not its network itself.
    """

    module: nn.Module
    facts: Facts
    layout: Layout
    device: torch.device
    mean: Tensor | None = None
    std: Tensor | None = None
    gradients: bool = True
    notes: tuple[str, ...] = ()

    @property
    def is_network(self) -> bool:
        """Whether the module is the classifier's own network, whose weights can be looked at."""
        return not isinstance(self.module, EstimatorModule)


def opened(classifier: Any, x: Any) -> Opened:
    """The network of a `PyTorchClassifier`; of any other, and of one with defences around it, what ART makes of it.

    Args:
        x: images for it.

    Raises:
        ModelError: for what is no classifier of images.
        ConfigError: without clip values.
    """
    if not callable(getattr(classifier, "predict", None)):
        raise ModelError(
            f"a {type(classifier).__name__} is no ART classifier, since it has no predict; give one, such as "
            "PyTorchClassifier(model, loss, input_shape, nb_classes, clip_values=(0, 1))"
        )
    if _is_network(classifier):
        view = ClassifierView(classifier, Opened)
        layout = Layout.of(classifier, x)
        return Opened(classifier.model, view.facts, layout, view.device, view.net.mean, view.net.std)
    layout = Layout.of(classifier, x)
    facts = Facts(_classes(classifier), layout.shape, _clip(classifier))
    some = torch.as_tensor(np.array(layout.ours(x)[:FEW]), dtype=torch.float32)
    why = _no_gradients(classifier, layout, some)
    notes = [_asked_through(classifier, why)]
    if len(layout.own) == 1 and layout.shape[0] == layout.shape[1] == 1:
        notes.append(f"rows of {layout.own[0]} values are taken for images of 1 x {layout.own[0]} pixels")
    module = EstimatorModule(classifier, layout, gradients=why is None)
    module.of_logarithm = why is None and _are_of_logarithm(module, some, facts.clip)
    return Opened(module, facts, layout, torch.device("cpu"), gradients=why is None, notes=tuple(notes))


def _is_network(classifier: Any) -> bool:
    """Whether `predict` is the network alone, after at most one standardisation."""
    if not isinstance(classifier, PyTorchClassifier) or type(classifier).predict is not PyTorchClassifier.predict:
        return False
    before = classifier.preprocessing_operations
    standard = len(before) <= 1 and all(isinstance(operation, STANDARDISATIONS) for operation in before)
    return standard and not classifier.postprocessing_defences


def _asked_through(classifier: Any, why: str | None) -> str:
    parts = []
    for word, names in (("before", "preprocessing_operations"), ("after", "postprocessing_defences")):
        there = [part for part in getattr(classifier, names, None) or () if not isinstance(part, STANDARDISATIONS)]
        used = [type(part).__name__ for part in there]
        parts += [f"{' and '.join(used)} {word} it"] if used else []
    said = f"the {type(classifier).__name__} is asked through its own predict"
    said += f", with {' and '.join(parts)}" if parts else ""
    if why is not None:
        return f"{said}, and gives answers alone ({why})"
    if parts:
        said += "; gradients are ART's, which goes past what cannot be differentiated as if it were not there (BPDA)"
    return said


def _no_gradients(classifier: Any, layout: Layout, x: Tensor) -> str | None:
    """Why a classifier gives no class gradients; None where it does."""
    if not callable(getattr(classifier, "class_gradient", None)):
        return "it has no class_gradient"
    try:
        EstimatorModule(classifier, layout).by_class(x)
    except Exception as error:  # each kind of classifier says it in its own way
        said = " ".join(str(error).split())[:160]
        return f"its class_gradient fails: {said or type(error).__name__}"
    return None


def _are_of_logarithm(module: EstimatorModule, x: Tensor, clip: tuple[float, float]) -> bool:
    """Whether class gradients are those of the logarithm of the answers, as of ART's logistic regression."""
    if not looks_like_probabilities(module.answers(x)):
        return False
    signs = torch.sign(torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype) - 0.5)
    span = clip[1] - clip[0]
    step = STEP * (span if np.isfinite(span) else 1.0) * signs
    above, below = (module.answers(at).clamp(min=SMALLEST) for at in (x + step, x - step))
    slope = 2 * (module.by_class(x) * step[:, None]).sum((2, 3, 4))
    of_answers, of_logarithm = ((slope - found).abs().sum() for found in (above - below, (above / below).log()))
    return bool(of_logarithm < of_answers / 2)


def _classes(classifier: Any) -> int:
    known = getattr(classifier, "nb_classes", None)
    if known is None or int(known) < 2:
        raise ModelError(f"the {type(classifier).__name__} does not say how many classes it has; fit it first")
    return int(known)


def _clip(classifier: Any) -> tuple[float, float]:
    if getattr(classifier, "clip_values", None) is None:
        raise ConfigError("the classifier has no clip_values, which bound attacks; build it with clip_values=(0, 1)")
    low, high = (np.unique(np.asarray(bound, dtype=np.float64)) for bound in classifier.clip_values)
    if len(low) != 1 or len(high) != 1:
        raise ModelError("the classifier has clip_values of their own for each pixel; give one (min, max) pair")
    return float(low[0]), float(high[0])


class EstimatorModule(nn.Module):
    """An ART classifier as a network: `predict` forwards, `class_gradient` backwards, where it has one.

    Attributes:
        of_logarithm: answer with the logarithm of what `predict` gives, which the class gradients are of.
    """

    def __init__(self, estimator: Any, layout: Layout, *, gradients: bool = True) -> None:
        super().__init__()
        self.estimator, self.layout, self.gradients = estimator, layout, gradients
        self.of_logarithm = False

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Estimated.apply(x, self) if self.gradients else self.answers(x)
        return out

    def values(self, x: Tensor) -> Tensor:
        """What the class gradients are of."""
        given = self.answers(x)
        return given.clamp(min=torch.finfo(given.dtype).tiny).log() if self.of_logarithm else given

    def answers(self, x: Tensor) -> Tensor:
        """What `predict` gives."""
        with torch.enable_grad():  # for estimators that use torch inside
            given = np.asarray(self.estimator.predict(self.layout.theirs(x)))
        return torch.as_tensor(given, dtype=x.dtype, device=x.device)

    def by_class(self, x: Tensor) -> Tensor:
        """(N, K, C, H, W) gradients of each class's answer."""
        with torch.enable_grad():
            given = np.asarray(self.estimator.class_gradient(self.layout.theirs(x), label=None))
        return torch.as_tensor(self.layout.gradients(given), dtype=x.dtype, device=x.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> EstimatorModule:
        twin = EstimatorModule(self.estimator, self.layout, gradients=self.gradients)  # there is one estimator
        twin.of_logarithm = self.of_logarithm
        return twin


class _Estimated(torch.autograd.Function):
    """values(x); dx = sum_k dvalues_k class_gradient_k(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: EstimatorModule) -> Tensor:
        ctx.save_for_backward(x)
        ctx.module = module
        return module.values(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.einsum("nk,nkchw->nchw", grad, ctx.module.by_class(x)), None
