"""Networks in MLflow, usable three ways: served, attacked, trained further.

A logged model is a folder with MLflow's own pt2 graph for serving (a graph cannot be attacked: it
has no modes and no modules), and beside it the weights as safetensors and the architecture as
data, from which timm builds the same network again. Loading reads these two and runs no code of
the artifact, whatever its MLmodel names.
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from art_ext.border.mlflow_manners import impatient, one_line, quiet
from art_ext.border.weights import (
    ARCHITECTURE,
    DETECTORS,
    WEIGHTS,
    Network,
    read_network,
    read_weights,
    refused,
    write_weights,
)
from art_ext.errors import ModelError
from art_ext.files import PART
from art_ext.secrets import masked
from art_ext.types import Facts

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Stored", "load_model", "load_stored", "save_model"]

FLAVOR = "art_ext"
_MINUTE = 60
_LARGEST_CARD = 1 << 20

_log = logging.getLogger("art_ext.border.mlflow")


# -------------------------------------------------------------------------------------- saving


def save_model(
    folder: Path,
    model: nn.Module,
    architecture: Mapping[str, Any] | None,
    example: npt.NDArray[Any],
    recipe: Mapping[str, Any] | None = None,
    detectors: Mapping[str, Tensor] | None = None,
    earlier: Sequence[Any] = (),
) -> None:
    """Writes a network as a folder that MLflow serves and `load_model` reads, whole or not at all.

    Args:
        model: maps pixels (N, C, H, W) to logits (N, K).
        architecture: of `art_ext.border.timm.architecture`, or None for a network that is not timm's.
        example: a few images, (N, C, H, W).
        recipe: kept with the architecture.
        earlier: kept with it too; see `Network.earlier`.
        detectors: states of the method's detectors, as `NAME/ENTRY`; kept beside the weights.

    Raises:
        ModelError: when the weights cannot be stored.
    """
    part = _emptied(Path(f"{folder}{PART}"))
    try:
        _write(part, model, architecture, example, recipe, detectors, earlier)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(
    folder: Path,
    model: nn.Module,
    architecture: Mapping[str, Any] | None,
    example: npt.NDArray[Any],
    recipe: Mapping[str, Any] | None,
    detectors: Mapping[str, Tensor] | None,
    earlier: Sequence[Any],
) -> None:
    from mlflow.models import Model

    images = np.ascontiguousarray(np.asarray(example)[:2], dtype=np.float32)
    if len(images) == 1:  # a batch of one is exported with a fixed batch size
        images = np.concatenate([images, images])
    still = copy.deepcopy(model).cpu().eval()
    with torch.no_grad():
        logits = still(torch.from_numpy(images)).numpy()
    card = Model()
    try:
        _write_graph(folder, card, still, images, logits)
    except Exception as error:
        _log.warning(
            "the network %s cannot be exported for serving (%s); its weights are logged, for attacks and training",
            type(model).__name__,
            one_line(error),
        )
        folder = _emptied(folder)
        card = Model()
    write_weights(folder / WEIGHTS, still.state_dict())
    facts = Facts(int(logits.shape[1]), images.shape[1:])
    origin = f"{type(model).__module__}.{type(model).__qualname__}"
    known = Network(architecture, facts, recipe or {}, origin, tuple(earlier))
    (folder / ARCHITECTURE).write_text(json.dumps(known.as_record(), indent=1, default=str) + "\n")
    files = {"weights": WEIGHTS, "architecture": ARCHITECTURE}
    if detectors:
        write_weights(folder / DETECTORS, detectors)
        files["detectors"] = DETECTORS
    card.add_flavor(FLAVOR, **files)
    card.save(str(folder / "MLmodel"))


def _write_graph(
    folder: Path, card: Any, still: nn.Module, images: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]
) -> None:
    """MLflow's own model: a traced graph in eval mode, with a float32 signature of any batch size."""
    import mlflow.pytorch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *images.shape[1:]))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *logits.shape[1:]))]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pytorch.save_model(
            still,
            str(folder),
            mlflow_model=card,
            signature=signature,
            input_example=images,
            pip_requirements=_requirements(),
            serialization_format="pt2",
        )


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _requirements() -> list[str]:
    """The installed versions of what a server of the model needs, as an index has them."""
    from importlib.metadata import version

    return [f"{name}=={version(name).partition('+')[0]}" for name in ("mlflow", "torch", "numpy")]


# ------------------------------------------------------------------------------------- loading


@dataclass(frozen=True)
class Stored:
    """What a logged model holds, as data.

    Attributes:
        detectors: states of the method's detectors, as `NAME/ENTRY`.
    """

    weights: dict[str, Tensor]
    network: Network
    detectors: dict[str, Tensor]


def load_model(
    address: str,
    *,
    into: nn.Module | None = None,
    change: Callable[[nn.Module], nn.Module] | None = None,
    uri: str | None = None,
) -> nn.Module:
    """A logged network again: in eval mode, trainable, open to attacks.

    Runs no code of the artifact: it is downloaded, its MLmodel is read as plain YAML for the names
    of two files, and the network is built by timm from data.

    Args:
        address: `models:/...`, `runs:/<run>/model`, or a folder.
        into: a network to load the weights into, for one that is not timm's.
        change: what a method did to timm's network before training, as a replaced head.
        uri: the tracking store or server; default is MLflow's own choice.

    Raises:
        ModelError: for an artifact that is not ours, is damaged, or needs `into`.
    """
    stored = load_stored(address, uri=uri)
    if into is not None:
        try:
            into.load_state_dict(stored.weights)
        except RuntimeError as error:
            raise ModelError(
                f"the weights of {address} do not fit the network given ({one_line(error)}); build the same network"
            ) from None
        return into.eval()
    if stored.network.architecture is None:
        raise ModelError(
            f"{address} holds weights of {stored.network.module_class or 'a network'}, which timm cannot build; "
            "build the network yourself and pass it as load_model(..., into=network)"
        )
    from art_ext.border.timm import rebuild

    return rebuild(stored.network.architecture, stored.weights, change=change).eval()


def load_stored(address: str, *, uri: str | None = None) -> Stored:
    """Downloads a logged model and reads its weights and what they belong to, nothing else; see `load_model`."""
    with downloaded(address, uri) as root:
        return read_stored(root, address)


def read_stored(root: Path, address: str) -> Stored:
    """The same for a folder that is here; `address` names it in messages."""
    flavor = _flavor(root, address)
    weights = _tensors(_inside(root, flavor.get("weights"), address))
    network = read_network(_inside(root, flavor.get("architecture"), address), address)
    detectors = flavor.get("detectors")
    return Stored(weights, network, {} if detectors is None else _tensors(_inside(root, detectors, address)))


def _tensors(path: Path) -> dict[str, Tensor]:
    found = read_weights(path)
    if isinstance(found, nn.Module):
        raise refused(path, "it holds a module")
    return found


def is_ours(root: Path) -> bool:
    """Whether art_ext logged the model in a folder."""
    try:
        _flavor(root, "")
    except ModelError:
        return False
    return True


def load_foreign(root: Path, address: str) -> nn.Module:
    """A network that MLflow's own pytorch flavor logged; THIS RUNS CODE OF THE ARTIFACT, so only where trusted.

    Raises:
        ModelError: where MLflow cannot load it.
    """
    import mlflow.pytorch

    try:
        module = mlflow.pytorch.load_model(str(root), map_location="cpu")
    except Exception as error:  # whatever the artifact's own code raises
        raise ModelError(f"MLflow cannot load {address} as a torch network ({one_line(error)})") from None
    if not isinstance(module, nn.Module):
        raise ModelError(f"{address} is a {type(module).__name__} and no torch network; it cannot be attacked")
    return module


@contextmanager
def downloaded(address: str, uri: str | None) -> Iterator[Path]:
    """The files of a logged model in a folder that goes afterwards; a folder is taken as it is.

    Raises:
        ModelError: where it cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="art_ext-model-") as folder, _fetched(address, Path(folder), uri) as root:
        yield root


@contextmanager
def _fetched(address: str, folder: Path, uri: str | None) -> Iterator[Path]:
    if "://" not in address and ":/" not in address:
        local = Path(address)
        if not local.is_dir():
            raise ModelError(f"{address} is no folder; name a logged model as models:/NAME/VERSION or runs:/RUN/model")
        yield local
        return
    with impatient(_MINUTE, retries=2), quiet():
        import mlflow.artifacts
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            where = address
            for _ in range(3):  # an alias leads to a version, a version to a logged model
                where = _location(MlflowClient(tracking_uri=uri), where)
            place = mlflow.artifacts.download_artifacts(artifact_uri=where, dst_path=str(folder), tracking_uri=uri)
        except (MlflowException, OSError) as error:
            reason = masked(f"cannot download {address} ({one_line(error)})")
            raise ModelError(f"{reason}; name another model or store") from None
    yield Path(place)


def _location(client: MlflowClient, address: str) -> str:
    """Where the files of an address are, one step nearer.

    MLflow would look up `models:/` and `runs:/` in the process's own store, whichever was asked for.
    """
    kind, _, rest = address.partition(":/")
    first, _, second = rest.strip("/").partition("/")
    if kind == "runs":
        outputs = client.get_run(first).outputs
        models = [client.get_logged_model(out.model_id) for out in (outputs.model_outputs if outputs else ())]
        named = [model for model in models if model.name == second]
        if named:
            return max(named, key=lambda model: model.creation_timestamp).artifact_location
    if kind == "models":
        if not second and first.startswith("m-"):
            return client.get_logged_model(first).artifact_location
        name, _, alias = first.partition("@")
        if alias:
            second = str(client.get_model_version_by_alias(name, alias).version)
        return client.get_model_version_download_uri(name, second)
    return address


def _flavor(root: Path, address: str) -> Mapping[str, Any]:
    import yaml

    try:
        card = yaml.safe_load(_text(_inside(root, "MLmodel", address)))
        flavor = card["flavors"][FLAVOR]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError):
        raise refused(
            f"{address}/MLmodel", f"it was not logged by art_ext: it has no {FLAVOR} flavor, and any other needs MLflow"
        ) from None
    if not isinstance(flavor, dict):
        raise ModelError(f"{address} is damaged: the {FLAVOR} flavor in its MLmodel is no mapping; log the model again")
    return flavor


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST_CARD:
        raise ValueError("it is too large")
    return path.read_text(encoding="utf-8")


def _inside(root: Path, name: object, address: str) -> Path:
    """A file below root, by a relative path that leads nowhere else, not even through a link."""
    path = root / name if isinstance(name, str) and name else None
    if path is None or not path.resolve().is_relative_to(root.resolve()):
        raise ModelError(f"{address} names the file {name!r}, which lies outside of the artifact; it was not read")
    if not path.is_file():
        raise ModelError(f"{address} lacks its file {name}; log the model again")
    return path
