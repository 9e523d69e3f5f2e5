"""Where a trained network may be, and what is found there: weights, and what says how to build the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from art_ext.border.timm import published
from art_ext.border.weights import (
    ARCHITECTURE,
    DETECTORS,
    WEIGHTS,
    Network,
    read_network,
    read_weights,
    refused,
)
from art_ext.errors import ConfigError, ModelError
from art_ext.lifecycle.roles import BEST, HARDENED, UNDEFENDED, is_role
from art_ext.secrets import masked
from art_ext.types import Facts

__all__ = ["WAYS", "Found", "find"]

_RECIPE = "recipe.json"
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
_PICKLES = (".pkl", ".pickle", ".joblib")
_LARGEST_RECIPE = 1 << 20
WAYS = (
    "a run folder, a .safetensors or .pt file, models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/model, "
    "timm:NAME or plugin:NAME"
)


@dataclass(frozen=True)
class Found:
    """What a source holds.

    Attributes:
        weights: by name; None where `module` is the network itself, which needs no building.
        network: what says how to build it, where that is kept with the weights.
        recipe: the resolved recipe that trained it, as plain data.
        plugin: the model entry that makes the network.
    """

    weights: Mapping[str, Tensor] | None = None
    module: nn.Module | None = None
    network: Network | None = None
    recipe: Mapping[str, Any] | None = None
    plugin: str | None = None
    state: Mapping[str, Any] = field(default_factory=dict)


def find(source: str, *, facts: Facts | None, tracking_uri: str | None, trust: bool, undefended: bool) -> Found:
    """Reads what a source holds; see `art_ext.host.models.open_model`.

    Raises:
        ConfigError: for a source that is none.
        ModelError: for what cannot be read, or would run code.
    """
    kind, _, name = source.partition(":")
    if kind == "timm":
        module, own = published(name, facts)
        return Found(module=module, network=Network(None, own))
    if kind == "plugin":
        return Found(plugin=name)
    if kind in ("models", "runs"):
        return _of_mlflow(source, tracking_uri, trust)
    if "://" in source:
        raise ConfigError(f"{masked(source)} is an address that is not opened; fetch the file first, or give {WAYS}")
    path = Path(source).expanduser()
    if _is(path, Path.is_dir):
        return _of_folder(path, trust, undefended)
    if _is(path, Path.is_file):
        return _of_file(path, trust)
    raise ConfigError(f"there is no model {masked(source)!r}; give {WAYS}")


def _is(path: Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return kind(path)
    except (OSError, ValueError):  # a name that is too long, or has a zero in it
        return False


def _of_mlflow(address: str, uri: str | None, trust: bool) -> Found:
    from art_ext.border.mlflow_models import downloaded

    with downloaded(address, uri) as root:
        return _of_logged(root, masked(address), trust)


def _of_logged(root: Path, shown: str, trust: bool) -> Found:
    from art_ext.border.mlflow_models import is_ours, load_foreign, read_stored

    if trust and not is_ours(root):
        return Found(module=load_foreign(root, shown))
    stored = read_stored(root, shown)
    return Found(stored.weights, network=stored.network, recipe=stored.network.recipe, state=_state(stored.detectors))


def _of_folder(folder: Path, trust: bool, undefended: bool) -> Found:
    if (folder / "MLmodel").is_file():
        return _of_logged(folder, str(folder), trust)
    role = folder / (UNDEFENDED if undefended else HARDENED)
    if not role.is_dir() and is_role(folder / UNDEFENDED):
        role = folder / UNDEFENDED  # a recipe without a method trains that alone
    if is_role(role):
        return _of_role(role, folder / _RECIPE, trust)
    if is_role(folder):
        return _of_role(folder, folder.parent / _RECIPE, trust)
    if (folder / WEIGHTS).is_file():
        return _of_file(folder / WEIGHTS, trust)
    raise ModelError(
        f"{folder} holds no model: neither {HARDENED}/{BEST}, as a run leaves it, nor {WEIGHTS} and {ARCHITECTURE}; "
        f"give {WAYS}"
    )


def _of_role(role: Path, recipe: Path, trust: bool) -> Found:
    found = _of_file(role / BEST, trust, sealed=True)
    if found.recipe is not None or not recipe.is_file():
        return found
    trained = _read_recipe(recipe)
    if role.name == UNDEFENDED:
        trained["use"] = []
    return Found(found.weights, found.module, found.network, trained, state=found.state)


def _of_file(path: Path, trust: bool, sealed: bool = False) -> Found:
    if path.suffix in _PICKLES and not trust:
        raise refused(path, "it is a pickle")
    if path.suffix not in (*_WEIGHTS, *_PICKLES):
        raise ModelError(f"{path} is no file of weights; known endings are {' '.join(_WEIGHTS)}")
    weights = read_weights(path, trust=trust, sealed=sealed)
    if isinstance(weights, nn.Module):
        return Found(module=weights)
    beside = path.parent / ARCHITECTURE
    network = read_network(beside, str(path)) if beside.is_file() else None
    detectors = path.parent / DETECTORS
    state: Mapping[str, Any] = {}
    if detectors.is_file() and path != detectors:
        found = read_weights(detectors)
        state = {} if isinstance(found, nn.Module) else _state(found)
    return Found(weights, network=network, recipe=network.recipe if network else None, state=state)


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_RECIPE:
            raise ValueError("it is too large")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read the recipe {path} ({' '.join(str(error).split())[:160]})") from None
    if not isinstance(data, dict):
        raise ModelError(f"the recipe {path} is no mapping; name another one with --recipe")
    return data


def _state(detectors: Mapping[str, Tensor]) -> dict[str, Any]:
    """`NAME/ENTRY` tensors as the state of each detector by its name."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in detectors.items():
        name, _, entry = key.partition("/")
        found.setdefault(name, {})[entry] = value
    return {"detectors": found} if found else {}

