"""Weights in files: read as data alone, whatever wrapped them on the way, and put into a network strictly.

What would run code of the file (a pickle of anything but tensors, a TorchScript archive) is refused
by name, unless the caller trusts it.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from art_ext.border.mlflow_manners import one_line
from art_ext.engine import checkpoint
from art_ext.errors import ModelError
from art_ext.types import Facts

__all__ = [
    "ARCHITECTURE",
    "DETECTORS",
    "TRUST",
    "WEIGHTS",
    "Network",
    "digest_of_weights",
    "fit_weights",
    "read_network",
    "read_weights",
    "refused",
    "write_weights",
]

WEIGHTS = "weights.safetensors"
ARCHITECTURE = "architecture.json"
DETECTORS = "detectors.safetensors"
TRUST = "--trust-model"

_LARGEST_ARCHITECTURE = 1 << 20  # bytes; it is a page of text
_MOST_EARLIER = 20
_INFLATION = 50  # torch stores its archives uncompressed
_WRAPPED = ("state_dict", "model_state_dict", "net", "model", "weights", "network", "params", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")


# ------------------------------------------------------------------------------- the network as data


@dataclass(frozen=True)
class Network:
    """What `architecture.json` says of a network.

    Attributes:
        architecture: of `art_ext.border.timm.architecture`, or None for a network that is not timm's.
        recipe: the resolved recipe that trained it, {} when there was none.
        module_class: where the network's class was, for the reader; it is never imported.
        earlier: the `use:` of each earlier recipe whose method changed the network, the first one first, where it
            was trained further from there.
    """

    architecture: Mapping[str, Any] | None
    facts: Facts
    recipe: Mapping[str, Any] = field(default_factory=dict)
    module_class: str = ""
    earlier: tuple[Any, ...] = ()

    def as_record(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "architecture": None if self.architecture is None else dict(self.architecture),
            "class": self.module_class,
            "input_shape": list(self.facts.input_shape),
            "n_classes": self.facts.n_classes,
            "clip": list(self.facts.clip),
            "recipe": dict(self.recipe),
            "earlier": list(self.earlier),
        }


def read_network(path: Path, shown: str) -> Network:
    """Reads an `architecture.json`; `shown` names its artifact in messages.

    Raises:
        ModelError: if it is too large, no JSON, of another schema or garbled.
    """
    try:
        if path.stat().st_size > _LARGEST_ARCHITECTURE:
            raise ValueError("it is too large")
        known = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(known, dict) or known.get("schema") != 1:
            raise ValueError("its schema is not 1; it needs a newer art_ext")
        if not isinstance(known.get("architecture"), dict | None):
            raise ValueError("the architecture is no mapping")
        if not isinstance(known.get("recipe"), dict | None):
            raise ValueError("the recipe is no mapping")
        earlier = known.get("earlier", [])
        if not isinstance(earlier, list) or len(earlier) > _MOST_EARLIER:
            raise ValueError("earlier is no list of a few recipes")
        facts = _facts(known)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read the architecture of {shown} ({one_line(error)})") from None
    return Network(
        known.get("architecture"), facts, known.get("recipe") or {}, str(known.get("class", "")), tuple(earlier)
    )


def _facts(known: Mapping[str, Any]) -> Facts:
    shape, classes, clip = known.get("input_shape"), known.get("n_classes"), known.get("clip", [0.0, 1.0])
    sides = shape if isinstance(shape, list) else []
    if len(sides) != 3 or not all(type(side) is int and 0 < side < 1 << 16 for side in sides):
        raise ValueError("input_shape is no list of three positive numbers")
    if type(classes) is not int or not 0 < classes < 1 << 24:
        raise ValueError("n_classes is no positive number")
    if not isinstance(clip, list) or len(clip) != 2 or not all(type(end) in (int, float) for end in clip):
        raise ValueError("clip is no pair of numbers")
    return Facts(classes, tuple(sides), (float(clip[0]), float(clip[1])))


# ----------------------------------------------------------------------------------------- reading


def refused(path: Path | str, why: str) -> ModelError:
    """The error for a file that would run code."""
    return ModelError(
        f"{path} was not opened: {why}, which runs code of whoever made it; save the weights alone "
        f"(torch.save(model.state_dict(), ...) or safetensors), or allow it with {TRUST}"
    )


def read_weights(path: Path, *, trust: bool = False, sealed: bool = False) -> dict[str, Tensor] | nn.Module:
    """The weights in a `.safetensors` file or a state dict of torch's, by name; or the network itself, where trusted.

    A state dict may be nested, as `{"state_dict": ..., "epoch": ...}`; the first of the usual names counts.

    Args:
        trust: whether a pickle of anything and a TorchScript archive may be opened, which runs their code.
        sealed: whether it must be a checkpoint of ours, with a checksum; one that has it is always held to it.

    Raises:
        ModelError: for a file that is missing, damaged, no state dict, or would run code.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if _is_archive(path):
        _refuse_bomb(path)
        if _is_torchscript(path):
            if not trust:
                raise refused(path, "it is a TorchScript archive")
            return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-any-return]
    if sealed or _is_sealed(path):
        return _state_dict(checkpoint.load(path), path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles: they are refused, or read
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust:
            raise refused(path, f"it is a pickle of more than weights ({_wants(error)})") from None
        content = _trusted(path)
    except Exception as error:  # a damaged file can raise nearly anything
        raise ModelError(f"{path} is no file of weights, or is damaged ({one_line(error)}); save it again") from None
    if isinstance(content, nn.Module):
        return content
    return _state_dict(content, path)


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors.

    Raises:
        ModelError: for anything else among them.
    """
    from safetensors.torch import save

    plain = {}
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"{name} in the network's state is no tensor; safetensors holds tensors only, remove it")
        # clone: tied weights share memory
        plain[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    path.write_bytes(save(plain))  # its own save_file leaves a file that nobody else may read


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} holds damaged weights ({one_line(error)}); save or log them again") from None
    return {name: value.clone() for name, value in weights.items()}  # the file may go: its mapping must not be used


def _trusted(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise ModelError(f"{path} cannot be opened ({one_line(error)}); install what it was saved with") from None


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_sealed(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 128))
        return checkpoint.SEAL in file.read()


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in f"/{name}" or name.endswith("constants.pkl") for name in archive.namelist())


def _refuse_bomb(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            says = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ModelError(f"{path} is no file of weights, or is damaged ({one_line(error)}); save it again") from None
    holds = path.stat().st_size
    if says > _INFLATION * holds:
        raise ModelError(
            f"{path} has {holds:,} bytes and says that it unpacks to {says:,}; torch does not compress weights, "
            "so it was not opened"
        )


def _wants(error: Exception) -> str:
    """What an unpickler that allows tensors alone stumbled over, in a few words."""
    text = str(error)
    for mark in ("GLOBAL ", "Unsupported global: GLOBAL ", "Trying to load unsupported GLOBAL "):
        _, found, rest = text.partition(mark)
        if found:
            return f"it names {rest.split()[0].strip('`')}" if rest.split() else "it names a function"
    return "it holds other objects"


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict in a loaded file, at the top or one level below."""
    here = _weights_in(content)
    if here is None and isinstance(content, Mapping):
        nested = [content[key] for key in _WRAPPED if key in content]
        here = next((found for inner in nested if (found := _weights_in(inner)) is not None), None)
    if here is None:
        keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise ModelError(
            f"{path} holds no state dict, neither at its top nor as {', '.join(_WRAPPED[:3])}, ... "
            f"(it holds {one_line(Exception(keys))}); save model.state_dict()"
        )
    for name, value in here.items():
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ModelError(f"{path}: {name} claims {value.numel():,} numbers that the file does not hold")
    return here


def _weights_in(content: object) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping) or not content:
        return None
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        return None
    return {key: value.detach() for key, value in content.items()}


def digest_of_weights(weights: Mapping[str, Tensor]) -> str:
    """`sha256:...` over names, types, shapes and values: the same whatever file or server they came from."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return f"sha256:{digest.hexdigest()}"


# ----------------------------------------------------------------------------------------- fitting


def fit_weights(
    model: nn.Module, weights: Mapping[str, Tensor], shown: str, *, hint: str = "", head: str | None = None
) -> bool:
    """Puts weights into a network, strictly, after taking off what wrappers add to names.

    Args:
        shown: where the weights are from, for messages.
        hint: a further way out, for messages.
        head: path of a module that may keep its own weights, where those given are of another shape.

    Returns:
        Whether the head kept its own.

    Raises:
        ModelError: in one line, naming what is missing, left over or of another shape, and the likely reason.
    """
    own = model.state_dict()
    named = _unwrapped(weights, own)
    for name, value in own.items():
        if name.endswith("num_batches_tracked") and name not in named:
            named[name] = value  # files from before torch counted batches
    missing = [name for name in own if name not in named]
    extra = [name for name in named if name not in own]
    bent = [name for name in own if name in named and own[name].shape != named[name].shape]
    fresh = head is not None and bool(bent) and all(name.startswith(f"{head}.") for name in bent)
    if missing or extra or (bent and not fresh):
        raise ModelError(f"the weights of {shown} do not fit: {_misfit(own, named, missing, extra, bent, hint)}")
    if fresh:
        named |= {name: value for name, value in own.items() if name.startswith(f"{head}.")}
    model.load_state_dict(named)
    return fresh


def _unwrapped(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of the network, as far as wrappers explain the difference."""
    best, most = dict(weights), _matches(weights, own)
    queue, seen = [dict(weights)], 0
    while seen < len(queue) and len(queue) < 64:
        here = queue[seen]
        seen += 1
        for prefix in _PREFIXES:
            if here and all(name.startswith(prefix) for name in here):
                queue.append({name.removeprefix(prefix): value for name, value in here.items()})
        count = _matches(here, own)
        if count > most:
            best, most = here, count
    inner = {f"backbone.{name}": value for here in queue for name, value in here.items()}
    if _matches(inner, own) > most:  # the recipe standardises inside the network, the file's network did not
        plain = next(here for here in queue if _matches({f"backbone.{name}": v for name, v in here.items()}, own))
        kept = {name: value for name, value in own.items() if name.startswith("standardize.")}
        return kept | {f"backbone.{name}": value for name, value in plain.items()}
    return best


def _matches(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    return sum(name in own for name in weights)


def _misfit(
    own: Mapping[str, Tensor],
    named: Mapping[str, Tensor],
    missing: list[str],
    extra: list[str],
    bent: list[str],
    hint: str,
) -> str:
    said = []
    if bent:
        name = bent[0]
        said.append(f"{name} is {tuple(named[name].shape)} and should be {tuple(own[name].shape)}{_more(bent)}")
    if missing:
        said.append(f"missing {missing[0]}{_more(missing)}")
    if extra:
        said.append(f"left over {extra[0]}{_more(extra)}")
    return f"{'; '.join(said)}; {_reason(own, named, missing, extra, bent)}{f'; {hint}' if hint else ''}"


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _reason(
    own: Mapping[str, Tensor], named: Mapping[str, Tensor], missing: list[str], extra: list[str], bent: list[str]
) -> str:
    if any(name.startswith("members.") for name in extra) != any(name.startswith("members.") for name in missing):
        return "one of the two is an ensemble and the other is not"
    if 2 * _matches(named, own) < len(own):
        return "few names agree, so it is another network: name the one that was trained"
    if bent and not missing and not extra:
        first = named[bent[0]]
        wanted = own[bent[0]]
        if first.shape[:1] != wanted.shape[:1] and first.shape[1:] == wanted.shape[1:]:
            return "it was trained with another number of classes, or is another size of this network"
        if first.ndim == 4 and first.shape[1] != wanted.shape[1]:
            return "it was trained on images with another number of channels, or is another size of this network"
        return "it was trained on images of another size, or is another size of this network"
    return "most names agree, so a method has changed the network: give the recipe that it was trained by"
