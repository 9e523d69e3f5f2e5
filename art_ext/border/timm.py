"""timm at the border: networks by name, networks as data, and what a network must be like.

A network built here takes pixels in [0, 1]: mean and standard deviation are layers of it, so that
attacks and eps stay in pixels. It remembers how it was built, as data from which it can be built
again; `art_ext.border.networks` adds small-image networks to timm's registry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from torch import Tensor, nn

from art_ext.border.networks import SmallImageNetwork
from art_ext.engine.freeze import frozen
from art_ext.errors import ArtExtError, ConfigError, ModelError, unknown
from art_ext.parts import surgery
from art_ext.parts.ensemble import Ensemble
from art_ext.types import Facts

__all__ = [
    "Pixels",
    "Standardize",
    "architecture",
    "build_model",
    "check_layers",
    "check_network",
    "check_size",
    "count_parameters",
    "find_head",
    "published",
    "rebuild",
    "unweighted",
]

_BLOAT, _SMALL = 4, 10_000_000
_MEMORY = "_art_ext_architecture"
ENSEMBLE = "ensemble"
"""The name of an ensemble's architecture, which lists those of its members."""

# Options of timm.create_model that name weights or files. They are no part of an architecture, and
# an architecture that a stranger wrote must not make timm open or fetch anything.
_SOURCES = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args", "checkpoint_path", "cache_dir"}
)


# -------------------------------------------------------------------------------------- pixels


class Standardize(nn.Module):
    """(x - mean) / std for each channel; images (N, C, H, W), mean and std of C numbers."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Pixels(nn.Module):
    """A timm network that takes pixels in [0, 1]: they are standardised inside, and timm's questions passed on."""

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.standardize = Standardize(mean, std)
        self.backbone: Any = backbone

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.backbone(self.standardize(x))
        return logits

    def forward_features(self, x: Tensor) -> Tensor:
        features: Tensor = self.backbone.forward_features(self.standardize(x))
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        out: Tensor = self.backbone.forward_head(x, pre_logits=pre_logits)
        return out

    def get_classifier(self) -> nn.Module:
        found: nn.Module = self.backbone.get_classifier()
        return found

    def reset_classifier(self, num_classes: int, *args: Any, **kwargs: Any) -> None:
        self.backbone.reset_classifier(num_classes, *args, **kwargs)

    @property
    def num_classes(self) -> int:
        return int(self.backbone.num_classes)

    @property
    def num_features(self) -> int:
        return int(self.backbone.num_features)

    @property
    def pretrained_cfg(self) -> Any:
        return self.backbone.pretrained_cfg

    @property
    def default_cfg(self) -> Any:
        return self.backbone.pretrained_cfg


# ------------------------------------------------------------------------------------ building


def build_model(
    name: str,
    *,
    num_classes: int,
    input_shape: Sequence[int],
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A network of timm's registry, ours among them, from pixels in [0, 1] to logits (N, num_classes).

    Args:
        name: as timm spells it.
        input_shape: (C, H, W) of one image.
        mean, std: of each channel or of all, in pixels; they become a layer. Default is none.
        seed: of the initial weights; torch's global generator is then left as it was.
        kwargs: the network's own options. Pretrained weights come only with `pretrained=True`.

    Raises:
        ConfigError: for an unknown name, or arguments that contradict each other.
        ModelError: where timm cannot build the network.
    """
    check_name(name)
    shape = _shape(input_shape)
    if num_classes < 2:
        raise ConfigError(
            f"num_classes is {num_classes}; every class needs a logit of its own, so two classes take num_classes=2"
        )
    if "in_chans" in kwargs:
        raise ConfigError("in_chans is the first number of input_shape; leave in_chans out")
    channels = shape[0]
    standardised = mean is not None or std is not None
    means = _per_channel("mean", 0.0 if mean is None else mean, channels)
    stds = _per_channel("std", 1.0 if std is None else std, channels)
    if min(stds) <= 0:
        raise ConfigError(f"std is {list(stds)}; pixels are divided by it, so it must be positive")
    options = dict(kwargs)
    if _fixed_size(name):
        options.setdefault("img_size", shape[1:])
    with _seeded(seed):
        backbone = _create(name, num_classes=num_classes, in_chans=channels, **options)
    if isinstance(backbone, SmallImageNetwork):
        backbone.check_input(shape)
    model = Pixels(backbone, means, stds) if standardised else backbone
    # Kept as given: only `architecture` asks whether the options are data.
    setattr(
        model,
        _MEMORY,
        {
            "name": name,
            "kwargs": {key: value for key, value in kwargs.items() if key not in _SOURCES},
            "num_classes": num_classes,
            "input_shape": shape,
            "mean": means if standardised else None,
            "std": stds if standardised else None,
        },
    )
    return model


def published(name: str, facts: Facts | None) -> tuple[nn.Module, Facts]:
    """A network with the weights that timm publishes, as far as they are on this machine; nothing is fetched.

    Args:
        name: with or without the tag of its weights, `resnet18.a1_in1k`.
        facts: what it is wanted for; None for its own classes and image size.

    Raises:
        ConfigError: for an unknown name.
        ModelError: where there are no weights, or none on this machine.
    """
    check_name(name)
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if cfg is None or not cfg.has_weights:
        raise ModelError(f"timm has no weights of {name}; give a file of weights, and model: {{timm: {name}}}")
    file = _published_file(cfg)
    if file is None:
        raise ModelError(
            f"timm's weights of {name} are not on this machine; fetch them where there is a network, once: "
            f"timm.create_model({name!r}, pretrained=True)"
        )
    own = Facts(int(cfg.num_classes), tuple(int(side) for side in cfg.input_size))
    known = own if facts is None else facts
    model = build_model(
        name,
        num_classes=own.n_classes,
        input_shape=known.input_shape,
        mean=cfg.mean if known.input_shape[0] == len(cfg.mean) else sum(cfg.mean) / len(cfg.mean),
        std=cfg.std if known.input_shape[0] == len(cfg.std) else sum(cfg.std) / len(cfg.std),
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file)},
    )
    return model, Facts(own.n_classes, known.input_shape, known.clip)


def _published_file(cfg: Any) -> Path | None:
    """Where a download of timm's has left the weights of a configuration."""
    if cfg.file:
        return Path(cfg.file) if Path(cfg.file).is_file() else None
    if cfg.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        for filename in filter(None, (cfg.hf_hub_filename, "model.safetensors", "pytorch_model.bin")):
            found = try_to_load_from_cache(cfg.hf_hub_id, filename)
            if isinstance(found, str):
                return Path(found)
    if cfg.url:
        kept = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlsplit(cfg.url).path).name
        return kept if kept.is_file() else None
    return None


def check_name(name: str) -> None:
    """Refuses a name that timm's registry does not have; so nothing is ever fetched by name.

    Raises:
        ConfigError: with the nearest names.
    """
    if not isinstance(name, str) or not timm.is_model(name):
        raise ConfigError(f"{unknown('network', str(name), timm.list_models())}; timm.list_models() lists all")


def _create(name: str, **options: Any) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, **options)
    except ArtExtError:
        raise
    except Exception as error:  # each of timm's hundred files has its own way to refuse an option
        raise ModelError(f"timm cannot build {name}: {_one_line(error)}; change the options of the network") from None
    return model


def _fixed_size(name: str) -> bool:
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return cfg is not None and bool(cfg.fixed_input_size)


def _shape(shape: Sequence[int]) -> tuple[int, int, int]:
    sides = tuple(int(side) for side in shape)
    if len(sides) != 3 or min(sides) < 1:
        raise ConfigError(f"input_shape is {list(shape)}; it needs three positive numbers, (channels, height, width)")
    return sides


def _per_channel(what: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    try:
        numbers = [float(value)] if isinstance(value, int | float) else [float(number) for number in value]
    except (TypeError, ValueError):
        raise ConfigError(f"{what} is {value!r}; give one number, or one for each of {channels} channels") from None
    if len(numbers) == 1:
        numbers *= channels
    if len(numbers) != channels:
        raise ConfigError(f"{what} has {len(numbers)} numbers for {channels} channels; give one, or one for each")
    return tuple(numbers)


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    # The CPU's generator alone: weights are drawn there, and torch.manual_seed would reseed all GPUs.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


# ------------------------------------------------------------------------------------- as data


def architecture(model: nn.Module, input_shape: Sequence[int] | None = None) -> dict[str, Any]:
    """What `rebuild` needs to build the network again, as JSON has it, without its weights.

    Args:
        model: built by `build_model`, or by `timm.create_model` and not changed since, or an ensemble of such.
        input_shape: (C, H, W); needed only for a network of `timm.create_model`.

    Raises:
        ModelError: for any other network, or one that was built with options that are no data.
    """
    if isinstance(model, Ensemble):
        members = [architecture(member, input_shape) for member in model.members]
        own: dict[str, Any] = {"name": ENSEMBLE, "kwargs": {}, "mean": None, "std": None, "layers": _layers(model)}
        return members[0] | own | {"members": members}
    known = getattr(model, _MEMORY, None) or _recalled(model, input_shape)
    if known is None:
        raise ModelError(
            f"nobody knows how this {type(model).__name__} was built; build it with art_ext.border.timm.build_model, "
            "or keep its weights alone and load them into a network that you build"
        )
    for key, value in known["kwargs"].items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise ModelError(
                f"{known['name']} was built with {key}={value!r}, which is no data; "
                "give it by name if timm knows one, as act_layer='gelu'"
            ) from None
    classes = getattr(model, "num_classes", None)  # reset_classifier may have changed it
    versions = {"art_ext": _version("art_ext"), "timm": timm.__version__}
    known = known | {"num_classes": classes or known["num_classes"], "versions": versions, "layers": _layers(model)}
    data: dict[str, Any] = json.loads(json.dumps(known))  # tuples become lists now rather than in the file
    return data


def _recalled(model: nn.Module, input_shape: Sequence[int] | None) -> dict[str, Any] | None:
    """What timm itself remembers of a network, if that builds the same parameters."""
    cfg, options = getattr(model, "pretrained_cfg", None), getattr(model, "_model_args", None)
    name = cfg.get("architecture") if isinstance(cfg, Mapping) else None
    if not isinstance(options, Mapping) or not isinstance(name, str) or not timm.is_model(name) or input_shape is None:
        return None
    kwargs = {key: value for key, value in options.items() if key not in _SOURCES | {"num_classes", "in_chans"}}
    shape, classes = _shape(input_shape), getattr(model, "num_classes", 0)
    try:
        with torch.device("meta"):  # shapes without memory
            same = build_model(name, num_classes=classes, input_shape=shape, **kwargs)
    except Exception:
        return None
    theirs, ours = ({key: value.shape for key, value in net.state_dict().items()} for net in (model, same))
    if theirs != ours:
        return None
    return {"name": name, "kwargs": kwargs, "num_classes": classes, "input_shape": shape, "mean": None, "std": None}


def rebuild(
    architecture: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    *,
    change: Callable[[nn.Module], nn.Module] | None = None,
) -> nn.Module:
    """The network of `architecture`, with these weights. Nothing is fetched, and nothing but data is read.

    Args:
        change: what was done to the network before it got these weights, as a replaced head.

    Raises:
        ModelError: for an architecture that is none, or weights that do not fit it.
    """
    name = architecture.get("name", "the network")
    try:
        model = unweighted(architecture)
        if change is not None:
            model = change(model)
        model.load_state_dict(state_dict)
    except (RuntimeError, ConfigError) as error:
        raise ModelError(f"cannot build {name} again{_elsewhere(architecture)}: {_one_line(error)}") from None
    check_layers(architecture, model)
    return model


def check_layers(architecture: Mapping[str, Any], model: nn.Module) -> None:
    """Refuses a network whose modules are of other kinds than those of the network that `architecture` is of.

    Raises:
        ModelError: naming the network and the likely reason.
    """
    if architecture.get("layers", _layers(model)) != _layers(model):
        raise ModelError(
            f"{architecture.get('name', 'the network')} was saved with other layers than it is built with"
            f"{_elsewhere(architecture)}, so its weights would mean something else; give the recipe of the method "
            "that changed them"
        )


def _layers(model: nn.Module) -> str:
    """A digest of what kind each module is: a swapped activation has no weights that would tell."""
    kinds = "\n".join(f"{name} {type(module).__name__}" for name, module in model.named_modules())
    return hashlib.sha256(kinds.encode()).hexdigest()[:16]


def unweighted(architecture: Mapping[str, Any]) -> nn.Module:
    """The network of an architecture, with weights of no meaning.

    Raises:
        ModelError: for an architecture that is none.
    """
    members = architecture.get("members")
    if members is None:
        return _single(architecture)
    if not isinstance(members, list) or not all(isinstance(m, Mapping) and "members" not in m for m in members):
        raise ModelError("the architecture of an ensemble garbles its members; save the network again")
    return Ensemble(map(_single, members))


def check_size(architecture: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Refuses an architecture that is out of all proportion to the weights it came with, before memory is taken.

    Raises:
        ModelError: naming both sizes.
    """
    try:
        with torch.device("meta"):  # shapes without memory
            claims = count_parameters(unweighted(architecture))
    except ArtExtError:
        raise
    except Exception:  # a network that computes with its weights while it is built
        return
    holds = sum(value.numel() for value in weights.values())
    if claims > _BLOAT * holds + _SMALL:
        raise ModelError(
            f"the architecture of {architecture.get('name')} has {claims:,} numbers and its weights {holds:,}, so they "
            "do not belong together; nothing was built, save the network again"
        )


def _single(architecture: Mapping[str, Any]) -> nn.Module:
    """The network of an architecture that is no ensemble's, with weights of no meaning."""
    try:
        name, kwargs = architecture["name"], dict(architecture["kwargs"])
        shape, classes = _shape(architecture["input_shape"]), int(architecture["num_classes"])
        mean, std = architecture["mean"], architecture["std"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the architecture lacks or garbles {_one_line(error)}; save the network again") from None
    if sources := sorted(_SOURCES & set(kwargs)):
        raise ModelError(
            f"the architecture of {name} names a source of weights ({', '.join(sources)}); nothing was read, remove it"
        )
    if taken := sorted({"seed", "num_classes", "input_shape", "mean", "std", "name"} & set(kwargs)):
        raise ModelError(f"the architecture of {name} has {', '.join(taken)} among its kwargs; save the network again")
    return build_model(name, num_classes=classes, input_shape=shape, mean=mean, std=std, seed=0, **kwargs)


def _elsewhere(architecture: Mapping[str, Any]) -> str:
    """A clause on the timm that a network was saved by, where it is another one."""
    saved = architecture.get("versions")
    by = saved.get("timm") if isinstance(saved, Mapping) else None
    return "" if by in (None, timm.__version__) else f" (saved by timm {by}, this is {timm.__version__})"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


# ----------------------------------------------------------------------------- any torch network


def find_head(model: nn.Module, example: Tensor, head: str | None = None) -> tuple[str, nn.Module]:
    """The module that turns features into logits, with its name; see `art_ext.parts.surgery.find_head`.

    Args:
        example: (N, C, H, W) in pixels; only its shape is used.
        head: the name of the module, for a network where it cannot be guessed.

    Raises:
        ModelError: where there is none, or none of that name.
    """
    try:
        return surgery.find_head(model, Facts(0, tuple(example.shape[1:])), head)
    except ArtExtError:
        raise
    except Exception as error:
        raise _fails(model, example, error) from None


def check_network(model: nn.Module, example: Tensor, n_classes: int) -> None:
    """Runs one pass in eval mode and refuses a network that does not give finite logits (N, n_classes).

    Modes, flags, buffers and torch's generators are left as they were.

    Args:
        example: (N, C, H, W) in pixels, on the network's device.

    Raises:
        ModelError: naming what the network gives, and what it should.
    """
    name = type(model).__name__
    with _untouched(model, example.device), torch.no_grad():
        try:
            out = model(example)
        except ArtExtError:
            raise
        except Exception as error:
            raise _fails(model, example, error) from None
    if not isinstance(out, Tensor):
        raise ModelError(
            f"{name} returns a {type(out).__name__}, but attacks need one tensor of logits (N, {n_classes}); "
            "return the logits alone and hand out everything else with art_ext.api.offer"
        )
    if out.shape == (len(example), 1) or out.shape == (len(example),):
        raise ModelError(
            f"{name} gives a single logit; every class needs a logit of its own, so end it with nn.Linear(..., 2) "
            "and train it with class indices"
        )
    if out.shape != (len(example), n_classes):
        raise ModelError(
            f"{name} gives logits of shape {tuple(out.shape)} for {len(example)} images, but {n_classes} classes need "
            f"{(len(example), n_classes)}; change its head, or the number of classes"
        )
    if not out.is_floating_point():
        raise ModelError(f"{name} gives {out.dtype} instead of logits; return the logits, not the predicted classes")
    if not bool(torch.isfinite(out).all()):
        raise ModelError(
            f"{name} gives logits that are not finite on a plain image; look for NaN in its weights, "
            "and for images in 0 to 255 where it wants 0 to 1"
        )


def _fails(model: nn.Module, example: Tensor, error: Exception) -> ModelError:
    return ModelError(
        f"{type(model).__name__} fails on images of shape {tuple(example.shape[1:])}: {_one_line(error)}; "
        "build it for this shape, or give images of its own"
    )


@contextmanager
def _untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), frozen(model):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, seen, kept in buffers:
                    if buffer._version != seen:
                        buffer.copy_(kept)


def count_parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """How many numbers the network has (shared ones once), or how many of them are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)
