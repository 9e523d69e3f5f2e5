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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from art_ext.border.mlflow_upload import impatient, one_line, quiet
from art_ext.errors import ModelError

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Stored", "load_model", "load_stored", "log_model", "save_model"]

FLAVOR = "art_ext"
WEIGHTS = "weights.safetensors"
ARCHITECTURE = "architecture.json"

_LARGEST_ARCHITECTURE = 1 << 20  # bytes; it is a page of text
_MINUTE = 60

_log = logging.getLogger("art_ext.border.mlflow")


# -------------------------------------------------------------------------------------- saving


def log_model(
    uri: str,
    run_id: str,
    model: nn.Module,
    architecture: Mapping[str, Any] | None,
    example: npt.NDArray[Any],
    recipe: Mapping[str, Any] | None = None,
    *,
    name: str = "model",
    tags: Mapping[str, str] | None = None,
) -> str:
    """Logs a network as a model of a run and returns its address, `models:/m-...`.

    Works through MLflow's client alone: neither the active run nor the tracking URI of the process
    is used or changed.

    Args:
        uri: the tracking store or server; see `resolve_tracking`.
        model: maps pixels (N, C, H, W) to logits (N, K).
        architecture: of `art_ext.border.timm.architecture`, or None for a network that is not timm's.
        example: a few images, (N, C, H, W).
        recipe: kept with the architecture.

    Raises:
        ModelError: when the weights cannot be stored.
        mlflow.exceptions.MlflowException: when the store cannot be reached.
    """
    with impatient(_MINUTE, retries=2), quiet():
        from mlflow import MlflowClient
        from mlflow.entities import LoggedModelOutput

        client = MlflowClient(tracking_uri=uri)
        run = client.get_run(run_id)
        made = client.create_logged_model(
            run.info.experiment_id,
            name=name,
            source_run_id=run_id,
            params={key: value for key, value in run.data.params.items() if value},
            tags=dict(tags or {}),
        )
        try:
            with tempfile.TemporaryDirectory(prefix="art_ext-model-") as folder:
                place = Path(folder) / "model"
                _write(place, model, architecture, example, recipe, made, run_id)
                client.log_model_artifacts(made.model_id, str(place))
            client.finalize_logged_model(made.model_id, "READY")
        except BaseException:
            client.finalize_logged_model(made.model_id, "FAILED")
            raise
        client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
    return f"models:/{made.model_id}"


def save_model(
    folder: Path,
    model: nn.Module,
    architecture: Mapping[str, Any] | None,
    example: npt.NDArray[Any],
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Writes the folder that `log_model` would log; `load_model` takes its path."""
    _write(Path(folder), model, architecture, example, recipe)


def _write(
    folder: Path,
    model: nn.Module,
    architecture: Mapping[str, Any] | None,
    example: npt.NDArray[Any],
    recipe: Mapping[str, Any] | None,
    made: Any = None,
    run_id: str | None = None,
) -> None:
    from mlflow.models import Model

    images = np.ascontiguousarray(np.asarray(example)[:2], dtype=np.float32)
    if len(images) == 1:  # a batch of one is exported with a fixed batch size
        images = np.concatenate([images, images])
    still = copy.deepcopy(model).cpu().eval()
    with torch.no_grad():
        logits = still(torch.from_numpy(images)).numpy()
    origin: dict[str, Any] = {"run_id": run_id}
    if made is not None:
        origin |= {"artifact_path": made.artifact_location, "model_uuid": made.model_id, "model_id": made.model_id}
    card = Model(**origin)
    try:
        _write_graph(folder, card, still, images, logits)
    except Exception as error:
        _log.warning(
            "the network %s cannot be exported for serving (%s); its weights are logged, for attacks and training",
            type(model).__name__,
            one_line(error),
        )
        folder = _emptied(folder)
        card = Model(**origin)
    _write_weights(folder / WEIGHTS, still)
    known = {
        "schema": 1,
        "architecture": None if architecture is None else dict(architecture),
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "input_shape": list(images.shape[1:]),
        "n_classes": int(logits.shape[1]),
        "recipe": dict(recipe or {}),
    }
    (folder / ARCHITECTURE).write_text(json.dumps(known, indent=1, default=str) + "\n")
    card.add_flavor(FLAVOR, weights=WEIGHTS, architecture=ARCHITECTURE)
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


def _write_weights(path: Path, still: nn.Module) -> None:
    from safetensors.torch import save_file

    weights = {}
    for name, value in still.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelError(f"{name} in the network's state is no tensor; safetensors holds tensors only, remove it")
        weights[name] = value.detach().clone(memory_format=torch.contiguous_format)  # clone: tied weights share memory
    save_file(weights, str(path))


# ------------------------------------------------------------------------------------- loading


@dataclass(frozen=True)
class Stored:
    """What a logged model holds, as data.

    Attributes:
        architecture: for `art_ext.border.timm.rebuild`, or None for a network that is not timm's.
        module_class: where the network's class was, for the reader; it is never imported.
    """

    weights: dict[str, Tensor]
    architecture: Mapping[str, Any] | None
    module_class: str
    recipe: Mapping[str, Any]


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
    if stored.architecture is None:
        raise ModelError(
            f"{address} holds weights of {stored.module_class or 'a network'}, which timm cannot build; "
            "build the network yourself and pass it as load_model(..., into=network)"
        )
    from art_ext.border.timm import rebuild

    return rebuild(stored.architecture, stored.weights, change=change).eval()


def load_stored(address: str, *, uri: str | None = None) -> Stored:
    """Downloads a logged model and reads its weights and architecture, nothing else; see `load_model`."""
    with tempfile.TemporaryDirectory() as folder, _downloaded(address, Path(folder), uri) as root:
        flavor = _flavor(root, address)
        weights = _read_weights(_inside(root, flavor.get("weights"), address), address)
        known = _read_architecture(_inside(root, flavor.get("architecture"), address), address)
    return Stored(weights, known.get("architecture"), str(known.get("class", "")), known.get("recipe") or {})


@contextmanager
def _downloaded(address: str, folder: Path, uri: str | None) -> Iterator[Path]:
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
            raise ModelError(f"cannot download {address} ({one_line(error)}); name another model or store") from None
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
        card = yaml.safe_load(_inside(root, "MLmodel", address).read_text())
        flavor = card["flavors"][FLAVOR]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise ModelError(
            f"{address} was not logged by art_ext: its MLmodel names no {FLAVOR} flavor; "
            "loading anything else would run code of the artifact"
        ) from None
    if not isinstance(flavor, dict):
        raise ModelError(f"{address} is damaged: the {FLAVOR} flavor in its MLmodel is no mapping; log the model again")
    return flavor


def _inside(root: Path, name: object, address: str) -> Path:
    """A file below root, by a relative path that leads nowhere else, not even through a link."""
    path = root / name if isinstance(name, str) and name else None
    if path is None or not path.resolve().is_relative_to(root.resolve()):
        raise ModelError(f"{address} names the file {name!r}, which lies outside of the artifact; it was not read")
    if not path.is_file():
        raise ModelError(f"{address} lacks its file {name}; log the model again")
    return path


def _read_weights(path: Path, address: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{address} holds damaged weights ({one_line(error)}); log the model again") from None
    return {name: value.clone() for name, value in weights.items()}  # the file goes, its mapping must not be used


def _read_architecture(path: Path, address: str) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_ARCHITECTURE:
            raise ValueError("it is too large")
        known = json.loads(path.read_text())
        if not isinstance(known, dict) or known.get("schema") != 1:
            raise ValueError("its schema is not 1; it needs a newer art_ext")
        if not isinstance(known.get("architecture"), dict | None):
            raise ValueError("the architecture is no mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read the architecture of {address} ({one_line(error)})") from None
    return known

