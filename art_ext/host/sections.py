"""The sections of a recipe: network, data, threat, tracking and training."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from art_ext.engine.optim import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule
from art_ext.errors import ConfigError, unknown
from art_ext.host.plain import Named, NamedInYaml, named, plain
from art_ext.host.torch_options import as_value_error, checked_options, completed, known_maker, parameters, surely_fine
from art_ext.ingredient import (
    Count,
    Number,
    Positive,
    explain,
)
from art_ext.parts.norms import norm_named
from art_ext.secrets import masked

if TYPE_CHECKING:
    from art_ext.plan import Plan

__all__ = ["SECTIONS", "DataSection", "ModelSection", "Overruled", "Threat", "Track", "Train"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_SOURCES = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args", "checkpoint_path", "cache_dir"}
)
"""Options of timm's that name weights or files; a stranger's recipe opens none through them."""


class ModelSection(BaseModel):
    """The network: `timm: NAME` from timm's registry, or `name: NAME` of a plugin's model.

    All other keys go to its builder. With `from: SOURCE` it starts from trained weights, and the network
    need be named only where the source does not say it.
    """

    model_config = ConfigDict(frozen=True, extra="allow", validate_by_name=True, validate_by_alias=True)

    source: Annotated[str | None, Field(alias="from", description="weights to start from")] = None
    timm: str | None = None
    name: str | None = None
    head: Annotated[str | None, Field(description="path of the last layer, where it is not found by itself")] = None
    mean: Annotated[tuple[Number, ...] | None, Field(description="of pixels in [0, 1], subtracted in the model")] = None
    std: tuple[Positive, ...] | None = None
    num_classes: Annotated[StrictInt | None, Field(ge=2, description="as many as the data has, when left out")] = None

    @model_validator(mode="after")
    def _one_source(self) -> ModelSection:
        if (self.timm is None) == (self.name is None) and not (self.source is not None and self.timm is None):
            raise ValueError("give either timm: NAME, or name: NAME of a plugin's model, or from: SOURCE alone")
        if self.source is not None:
            _refuse_password("from", self.source)
        if sources := sorted(_SOURCES & set(self.options)):
            raise ValueError(f"{sources[0]} is no option of a recipe; weights are named by from: timm:NAME, or a file")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together; give both or neither")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}; give one for each channel")
        return self

    @property
    def shown(self) -> str:
        """How lines name it."""
        return self.timm or self.name or masked(self.source or "")

    @property
    def options(self) -> dict[str, Any]:
        """The keys for the network's builder."""
        return dict(self.model_extra or {})


class DataSection(_Section):
    """The data set, and how images vary in training."""

    name: str
    root: str | None = None
    size: StrictInt | None = None
    channels: Annotated[Literal[1, 3] | None, Field(description="1 makes images of files grey, 3 colour")] = None
    max_corrupt: Annotated[Number | None, Field(description="share of training files that may be unreadable")] = None
    skip_corrupt_test: Annotated[StrictBool | None, Field(description="leave out unreadable test files too")] = None
    outside: Annotated[StrictBool | None, Field(description="let a CSV file name files outside of its folder")] = None
    augment: Annotated[
        dict[str, Any] | None,
        Field(
            description="crop, flip, rotate, resized_crop, trim, contrast, autoaugment, cutout; one_of: {...} draws "
            "one for each image, share: 0.8 leaves the rest as they are"
        ),
    ] = None

    @property
    def options(self) -> dict[str, Any]:
        """What the data set's own entry is asked for."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name not in ("name", "augment")}
        return {name: value for name, value in given.items() if value is not None}


class Threat(_Section):
    """The attacker that results are stated against."""

    norm: Literal["linf", "l2", "l1", "l0"] = "linf"
    eps: Annotated[Positive, Field(description="radius in clip-value units, [0, 1]; of l0, pixels")]

    @model_validator(mode="after")
    def _whole_pixels(self) -> Threat:
        norm_named(self.norm, self.eps)
        return self


class Track(_Section):
    """Where the run is recorded."""

    experiment: str | None = None
    run_name: str | None = None
    uri: str | None = None
    registered_as: Annotated[
        str | None,
        Field(alias="register", description="registered model that the network becomes a version of"),
    ] = None

    @field_validator("registered_as")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or any(c in "/:.%\"'@" for c in value)):
            raise ValueError("the name of a registered model is a word without / : . % @ and quotes")
        return value

    @field_validator("uri")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        return value if value is None else _refuse_password("uri", value)


def _refuse_password(key: str, address: str) -> str:
    """Recipes are copied into runs, reports and servers, so an address in one holds no secret."""
    if masked(address) != address:
        raise ValueError(
            f"{key} holds a password or a token, and a recipe is shown to others; take it out and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI as a whole"
        )
    return address


def _milestones_beside_factor(value: Any) -> Any:
    """`{steps: [100, 105], factor: 0.1}` as well as `{steps: {milestones: [100, 105], factor: 0.1}}`."""
    if isinstance(value, Mapping) and isinstance(value.get("steps"), list | tuple):
        beside = {key: option for key, option in value.items() if key != "steps"}
        return {"steps": {"milestones": list(value["steps"]), **beside}}
    return value


@dataclass(frozen=True)
class Overruled:
    """What an ingredient asks for and does not get, since the recipe says otherwise.

    Attributes:
        setting: of `Plan.settings`.
        what: the setting itself, or that option of the optimizer that differs.
    """

    owner: str
    setting: str
    what: str
    asked: Any
    held: Any

    @property
    def of_optimizer(self) -> bool:
        return self.setting not in Train.model_fields or self.setting == "optimizer"

    def __str__(self) -> str:
        place = "train.optimizer" if self.of_optimizer else "train"
        return (
            f"{self.owner} asks for {self.what} {self.asked}, but {place} has {self.held}, which holds; "
            f"set it there, or remove {self.owner}"
        )


class Train(_Section):
    """How the network is trained. What is set here wins over what ingredients ask for."""

    epochs: Count = 15
    batch_size: Count = 128
    optimizer: NamedInYaml = Named("sgd", {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4})
    schedule: Annotated[NamedInYaml, BeforeValidator(_milestones_beside_factor)] = Named("constant")
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = 0
    baseline: Annotated[
        Literal["given", "train", "none"] | None,
        Field(description="the undefended model: the one of model.from, or trained; given where it can be"),
    ] = None
    held_out: Annotated[Number, Field(gt=0, lt=1, description="share of training data that picks the best epoch")] = 0.2
    clip_gradient: Annotated[Positive | None, Field(description="largest norm of a gradient")] = None
    threads: Annotated[Count | None, Field(description="of the CPU; 1 is fastest for small images")] = None
    checkpoint_every: Annotated[
        Count | None, Field(description="steps; left out: each epoch's end and every 5 minutes, at most 2% of the time")
    ] = None
    micro_batch: Annotated[
        Literal["auto"] | Count, Field(description="images at once in the network; auto: what memory holds")
    ] = "auto"
    devices: Count = 1
    nodes: Count = 1
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine"] = (
        "32-true"
    )
    compile: StrictBool = False
    channels_last: Literal["auto"] | StrictBool = "auto"

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, value: Named) -> Named:
        maker = known_maker("optimizer", value.name, OPTIMIZERS)
        options = checked_options(value, maker)
        if not all(map(surely_fine, options.values())):
            # torch judges the rest; not always, since its first optimizer loads its compiler, which takes seconds
            as_value_error(lambda: make_optimizer(value.name, [torch.nn.Parameter(torch.zeros(1))], options))
        return Named(value.name, options)

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, value: Named, info: ValidationInfo) -> Named:
        maker = known_maker("schedule", value.name, SCHEDULES)
        options = checked_options(value, maker)
        schedule = as_value_error(lambda: make_schedule(value.name, options))
        epochs = float(info.data.get("epochs", 15))
        for hundredth in range(101):
            factor = as_value_error(functools.partial(schedule, epochs * hundredth / 100, epochs))
            if isinstance(factor, complex) or not math.isfinite(factor) or factor < 0:
                raise ValueError(f"{value.name} makes the learning rate {factor} times its base; change its options")
        return Named(value.name, options)

    def tuned(self, settings: Mapping[str, tuple[str, Any]]) -> Train:
        """With the settings that a plan's ingredients ask for, where the recipe has none of its own.

        Args:
            settings: `Plan.settings`: a field of this section, or an option of the optimizer.

        Raises:
            ConfigError: on a setting that does not exist, or a value that it cannot have.
        """
        own = {name: getattr(self, name) for name in self.model_fields_set}
        found: dict[str, Any] = {}
        options: dict[str, Any] = {}
        if "optimizer" in own or "optimizer" not in settings:
            optimizer = self.optimizer
        else:
            optimizer = named(settings["optimizer"][1])
        takes = parameters(OPTIMIZERS[optimizer.name])
        for key, (owner, value) in settings.items():
            if key in type(self).model_fields:
                found.setdefault(key, value)
            elif key not in takes:
                raise ConfigError(f"{owner}: {unknown('setting of train', key, [*type(self).model_fields, *takes])}")
            elif "optimizer" not in own or key not in optimizer.options:
                options[key] = value
        merged = {**found, **own}
        if options:
            merged["optimizer"] = Named(optimizer.name, {**optimizer.options, **options})
        try:
            return Train(**merged)
        except ValidationError as error:
            owners = ", ".join(sorted({owner for owner, _ in settings.values()}))
            raise ConfigError(f"set by {owners}: {'; '.join(explain(error, 'train', Train, merged))}") from None

    def overruled(self, settings: Mapping[str, tuple[str, Any]]) -> list[Overruled]:
        """Those of the settings that a plan's ingredients ask for which do not hold here."""
        held, found = self.plain(), []
        kind, options = self.optimizer.name, completed(self.optimizer, OPTIMIZERS)
        for key, (owner, value) in settings.items():
            if key not in type(self).model_fields:
                found.append(Overruled(owner, key, key, value, options.get(key)))
            elif key != "optimizer":
                found.append(Overruled(owner, key, key, Train(**{key: value}).plain()[key], held[key]))
            elif named(value).name != kind:
                found.append(Overruled(owner, key, key, named(value).name, kind))
            else:
                asked = {name: option for name, option in named(value).options.items() if name not in settings}
                found += [Overruled(owner, key, name, option, options.get(name)) for name, option in asked.items()]
        return [one for one in found if one.asked != one.held]

    def lines(self, plan: Plan) -> list[tuple[str, str, str]]:
        """`Plan.describe`, but for settings that the recipe has otherwise: what holds, and what was asked for."""
        held, found = self.plain(), []
        options = completed(self.optimizer, OPTIMIZERS)
        overruled = self.overruled(plan.settings)
        for slot, part, owner in plan.describe():
            setting = slot.removeprefix("train.")
            over = [f"{one.what} {one.asked}" for one in overruled if slot == f"train.{one.setting}"]
            if over:
                part = str(held.get(setting, options.get(setting)))
                owner = f"the recipe; {owner} asks for {', '.join(over)}"
            found.append((slot, part, owner))
        return found

    def plain(self) -> dict[str, Any]:
        """As a recipe writes it, with every default spelled out, those of the optimizer included."""
        written = {name: plain(getattr(self, name)) for name in type(self).model_fields}
        written["optimizer"] = {self.optimizer.name: completed(self.optimizer, OPTIMIZERS)}
        written["schedule"] = {self.schedule.name: completed(self.schedule, SCHEDULES)}
        return written


SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelSection,
    "data": DataSection,
    "threat": Threat,
    "train": Train,
    "track": Track,
}
