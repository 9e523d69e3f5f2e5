"""What the report's figures show, ready to draw; saved as arrays, and nothing else, in material.npz."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_ext.errors import DataError
from art_ext.files import replacing

FILE = "material.npz"
_STRUCTURE = "structure"


@dataclass(frozen=True)
class Confusion:
    """(K, K) counts, label against prediction, of clean images and of their adversarial twins."""

    clean: Tensor
    adversarial: Tensor


@dataclass(frozen=True)
class Heatmap:
    """Labels against mean predicted probabilities of adversarial examples, (K, K).

    Attributes:
        part: "test" or "train".
        epoch: "best" or "last".
        certainty: mean variance of the logits, definition 1 of Zhang, Backes and Zhang.
    """

    part: str
    epoch: str
    means: Tensor
    certainty: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Scores:
    """A detector's (n,) scores of clean images and of their twins; `right` when clean, `fooled` when attacked.

    Attributes:
        threshold: inputs below it are rejected; None where none was set.
        attack: in words; it raises the detector's own adversary where there is one.
    """

    detector: str
    clean: Tensor
    adversarial: Tensor
    right: Tensor
    fooled: Tensor
    threshold: float | None
    attack: str


@dataclass(frozen=True)
class Ray:
    """Along the adversarial perturbation of m images, and along random signs of the same size.

    Attributes:
        at: (T,) multiples of the perturbation.
        true: (2, m, T) probability of the true class; row 0 the adversarial direction.
        other: (2, m, T) largest probability of a false class.
    """

    at: Tensor
    true: Tensor
    other: Tensor


@dataclass(frozen=True)
class Plane:
    """Predictions on the plane of an image's adversarial direction (across) and a random one (up).

    Attributes:
        at: (S,) multiples of the perturbation on both axes.
        predicted: (S, S) classes; row i is `at[i]` up.
        confidence: (S, S).
    """

    at: Tensor
    predicted: Tensor
    confidence: Tensor
    label: int
    adversarial: int


@dataclass(frozen=True)
class FeatureMap:
    """Features in two dimensions.

    Attributes:
        method: "PCA" or "t-SNE".
        of: "features" or "logits".
        clean, adversarial: (n, 2).
        y, said: (n,) labels, and classes of the adversarial examples.
        share: of the variance on both axes together, of a PCA of the clean images.
    """

    method: str
    of: str
    clean: Tensor
    adversarial: Tensor
    y: Tensor
    said: Tensor
    share: float | None = None


@dataclass(frozen=True)
class Transfer:
    """The transferability matrix (M, M) of networks with names."""

    names: tuple[str, ...]
    matrix: Tensor
    n: int


@dataclass(frozen=True)
class Gallery:
    """Images (m, C, H, W) in [0, 1], their twins, and what the network says of both.

    Attributes:
        extras: what else an attack gives in the shape of images, such as a mask: (m, 1 or C, H, W) in [0, 1].
        extras_attack: the attack that gave them.
    """

    clean: Tensor
    adversarial: Tensor
    delta: Tensor
    y: Tensor
    clean_said: Tensor
    clean_confidence: Tensor
    said: Tensor
    confidence: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    extras_attack: str = ""


@dataclass(frozen=True)
class Training:
    """One training's metrics by epoch.

    Attributes:
        epochs: (E,). best: the epoch whose weights were kept.
        series: metric name to (E,) values, NaN where an epoch lacks it.
    """

    role: str
    epochs: Tensor
    best: int
    series: Mapping[str, Tensor]


@dataclass(frozen=True)
class Material:
    """All that the figures show.

    Attributes:
        attack: in words, the attack of the figures.
        n: test images of the figures.
        missing: a figure's name to the reason why it could not be made.
    """

    attack: str = ""
    n: int = 0
    n_classes: int = 0
    confusion: Confusion | None = None
    heatmaps: tuple[Heatmap, ...] = ()
    landing: Tensor | None = None
    scores: tuple[Scores, ...] = ()
    ray: Ray | None = None
    planes: tuple[Plane, ...] = ()
    features: tuple[FeatureMap, ...] = ()
    transfer: Transfer | None = None
    gallery: Gallery | None = None
    training: tuple[Training, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> Path:
        """Writes material.npz into a folder, whole or not at all."""
        arrays: dict[str, Any] = {}
        structure = json.dumps(_packed(self, arrays))
        arrays[_STRUCTURE] = np.frombuffer(structure.encode(), dtype=np.uint8)
        with replacing(folder / FILE) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return folder / FILE


_KINDS = {
    kind.__name__: kind
    for kind in (Confusion, Heatmap, Scores, Ray, Plane, FeatureMap, Transfer, Gallery, Training, Material)
}


def read_material(path: Path) -> Material:
    """The material in a file, or in a folder that holds material.npz; runs no code of the file.

    Raises:
        DataError: where there is none, or it cannot be read.
    """
    place = path / FILE if path.is_dir() else path
    try:
        with np.load(place, allow_pickle=False) as arrays:
            structure = json.loads(bytes(arrays[_STRUCTURE]))
            found = _unpacked(structure, arrays)
    except OSError as error:
        raise DataError(f"cannot read {place} ({error.strerror or error}); evaluate the model again") from None
    except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{place} holds no figures of a report ({error}); evaluate the model again") from None
    if not isinstance(found, Material):
        raise DataError(f"{place} holds no figures of a report; evaluate the model again")
    return found


def _packed(value: Any, arrays: dict[str, Any]) -> Any:
    """A value as JSON, its tensors moved to `arrays`."""
    if isinstance(value, Tensor):
        name = f"a{len(arrays)}"
        arrays[name] = value.detach().cpu().numpy()
        return {"array": name}
    if is_dataclass(value):
        parts = {item.name: _packed(getattr(value, item.name), arrays) for item in fields(value)}
        return {"is": type(value).__name__, "parts": parts}
    if isinstance(value, Mapping):
        return {"named": {name: _packed(part, arrays) for name, part in value.items()}}
    if isinstance(value, tuple):
        return [_packed(part, arrays) for part in value]
    return value


def _unpacked(value: Any, arrays: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return tuple(_unpacked(part, arrays) for part in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return torch.from_numpy(arrays[value["array"]])
    if "named" in value:
        return {name: _unpacked(part, arrays) for name, part in value["named"].items()}
    return _KINDS[value["is"]](**{name: _unpacked(part, arrays) for name, part in value["parts"].items()})
