"""Recipes: a YAML file to a checked value, and back. All problems of a recipe are reported at once.

Each problem is one line that starts with its place: `recipes/x.yaml:12: pc_lc.xi: ...`.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard, cast

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from art_ext.data.augment import augmentation_from
from art_ext.data.entry import Data, DatasetEntry
from art_ext.engine.optim import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule
from art_ext.entries import AttackEntry
from art_ext.errors import ConfigError, did_you_mean, unknown
from art_ext.host import document
from art_ext.host.document import to_yaml
from art_ext.host.manager import CORE, Catalogue, create_plugin_manager, default_manager, installed_plugins, one_line
from art_ext.ingredient import (
    Complaint,
    Count,
    Ingredient,
    Number,
    Positive,
    complaints,
    explain,
    parse_number,
    problem,
)
from art_ext.lifecycle.roles import RESERVED
from art_ext.parts.ranges import OfEps, Uniform
from art_ext.plan import Plan
from art_ext.secrets import masked
from art_ext.types import Facts

__all__ = [
    "DataSection",
    "ModelSection",
    "Named",
    "Recipe",
    "RecipeError",
    "Threat",
    "Track",
    "Train",
    "as_use",
    "find_recipe",
    "flatten",
    "known_recipes",
    "load_recipe",
    "recipe_from",
    "to_yaml",
]

Place = tuple[str | int, ...]


class RecipeError(ConfigError):
    """All problems of a recipe, one line each.

    Attributes:
        lines: the problems, in the order of the file.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


class Named(NamedTuple):
    """Something by name with options, written `NAME` or `NAME: {OPTION: VALUE}`."""

    name: str
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed


def _named(value: Any) -> Named:
    if isinstance(value, Named):
        return value
    if isinstance(value, str):
        return Named(value, {})
    if isinstance(value, Mapping) and len(value) == 1:
        name, options = next(iter(value.items()))
        if options is None or isinstance(options, Mapping):
            return Named(name, dict(options or {}))
        raise ValueError(f"the options of {name} are written {name}: {{OPTION: VALUE}}")
    raise ValueError("this is written NAME or NAME: {OPTION: VALUE}")


NamedInYaml = Annotated[Named, BeforeValidator(_named)]


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
    eps: Annotated[Positive, Field(description="radius in clip-value units, [0, 1]")]


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
    precision: Literal[
        "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "transformer-engine"
    ] = "32-true"
    compile: StrictBool = False
    channels_last: Literal["auto"] | StrictBool = "auto"

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, value: Named) -> Named:
        maker = _known("optimizer", value.name, OPTIMIZERS)
        options = _checked_options(value, maker)
        if not all(map(_surely_fine, options.values())):
            # torch judges the rest; not always, since its first optimizer loads its compiler, which takes seconds
            _as_value_error(lambda: make_optimizer(value.name, [torch.nn.Parameter(torch.zeros(1))], options))
        return Named(value.name, options)

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, value: Named, info: ValidationInfo) -> Named:
        maker = _known("schedule", value.name, SCHEDULES)
        options = _checked_options(value, maker)
        schedule = _as_value_error(lambda: make_schedule(value.name, options))
        epochs = float(info.data.get("epochs", 15))
        for hundredth in range(101):
            factor = _as_value_error(functools.partial(schedule, epochs * hundredth / 100, epochs))
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
            optimizer = _named(settings["optimizer"][1])
        takes = _parameters(OPTIMIZERS[optimizer.name])
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

    def plain(self) -> dict[str, Any]:
        """As a recipe writes it, with every default spelled out, those of the optimizer included."""
        written = {name: _plain(getattr(self, name)) for name in type(self).model_fields}
        written["optimizer"] = {self.optimizer.name: _completed(self.optimizer, OPTIMIZERS)}
        written["schedule"] = {self.schedule.name: _completed(self.schedule, SCHEDULES)}
        return written


SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelSection,
    "data": DataSection,
    "threat": Threat,
    "train": Train,
    "track": Track,
}


class Recipe(BaseModel):
    """A checked recipe. `load_recipe` makes one from a file, with the line of each value for messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    schema_: Annotated[Literal[1], Field(alias="schema", description="of this file format")]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
    plugins: Annotated[tuple[str, ...] | None, Field(description="the plugins to load, and no others")] = None
    use: tuple[NamedInYaml, ...] = ()
    beside: Annotated[
        dict[str, tuple[NamedInYaml, ...]],
        Field(description="other methods by name, trained with as many updates and shown beside this one"),
    ] = {}
    model: ModelSection
    data: DataSection
    threat: Threat | None = None
    train: Train = Train()
    evaluate: tuple[NamedInYaml, ...] = ()
    suite: Annotated[
        Literal["quick", "standard", "full", "none"],
        Field(description="of the evaluation at the end; `evaluate: quick` sets it too"),
    ] = "quick"
    track: Track = Track()
    output: Annotated[Path | None, Field(description="folder of the run")] = None

    _catalogue: Catalogue | None = PrivateAttr(None)
    _marks: _Marks | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        empty = {key for key in ("use", "beside", "evaluate", "train", "track") if key in value and value[key] is None}
        named = value.get("evaluate")
        if isinstance(named, str) and "suite" not in value:  # evaluate: quick
            return {**{key: item for key, item in value.items() if key not in {*empty, "evaluate"}}, "suite": named}
        return {key: item for key, item in value.items() if key not in empty}

    @field_validator("schema_", mode="before")
    @classmethod
    def _number_one(cls, value: Any) -> Any:
        if isinstance(value, bool) or value != 1:
            raise ValueError("this art_ext reads schema 1; a higher one needs a newer art_ext")
        return 1

    @field_validator("beside")
    @classmethod
    def _folders(cls, value: dict[str, tuple[Named, ...]]) -> dict[str, tuple[Named, ...]]:
        for name, use in value.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED:
                raise ValueError(
                    f"{name} names a folder of the run: lower-case letters, digits and _, and none of "
                    f"{', '.join(sorted(RESERVED))}"
                )
            if not use:
                raise ValueError(f"{name} uses nothing; the undefended model is trained anyway")
        return value

    def catalogue(self) -> Catalogue:
        """What the plugins offer to this recipe: the ones it allows, or all that are installed."""
        if self._catalogue is None:
            self._catalogue = _catalogue_of(self.plugins)
        return self._catalogue

    def ingredients(self, catalogue: Catalogue | None = None) -> list[Ingredient]:
        """The ingredients as values.

        Raises:
            RecipeError: with every problem.
        """
        offered = catalogue or self.catalogue()
        made: list[Ingredient] = []
        problems = list(_check_use(_indexed(self.use), offered, made))
        self._raise(problems)
        return made

    def peers(self, catalogue: Catalogue | None = None) -> dict[str, tuple[Ingredient, ...]]:
        """The ingredients of each method of `beside:`; raises as `ingredients`."""
        offered, found = catalogue or self.catalogue(), {}
        for name, use in self.beside.items():
            made: list[Ingredient] = []
            self._raise(list(_check_use(_indexed(use), offered, made, ("beside", name))))
            found[name] = tuple(made)
        return found

    def attacks(self, catalogue: Catalogue | None = None) -> list[tuple[AttackEntry, BaseModel]]:
        """The attacks of the evaluation, each with its checked options; raises as `ingredients`."""
        made: list[tuple[AttackEntry, BaseModel]] = []
        problems = list(_check_evaluate(_indexed(self.evaluate), catalogue or self.catalogue(), made))
        self._raise(problems)
        return made

    def dataset(self, catalogue: Catalogue | None = None) -> DatasetEntry:
        """The entry of the data set; raises as `ingredients`."""
        offered = catalogue or self.catalogue()
        self._raise(list(_check_data(self.data.model_dump(), offered)))
        return offered.dataset(self.data.name)

    def open_data(self, catalogue: Catalogue | None = None) -> Data:
        """The data set, opened.

        Raises:
            RecipeError: as `ingredients`.
            DataError: if it is missing or cannot be read.
        """
        return self.dataset(catalogue).open(**self.data.options)

    def plan(self, facts: Facts, catalogue: Catalogue | None = None) -> Plan:
        """The plan of the ingredients.

        Raises:
            RecipeError: as `ingredients`.
            ComposeError: if they contradict each other, or a plugin objects.
        """
        offered = catalogue or self.catalogue()
        return offered.plan(self.ingredients(offered), facts)

    def without_method(self) -> Recipe:
        """The same recipe without ingredients: what trains the undefended model."""
        bare = self.model_copy(update={"use": ()})
        bare._catalogue, bare._marks = self._catalogue, self._marks
        return bare

    def assumed_facts(self) -> Facts:
        """What can be said of the data without opening it; good enough to show or check a plan."""
        size = self.data.size
        return Facts(self.model.num_classes or 10, (1, 8, 8) if size is None else (3, size, size))

    def resolved(self, catalogue: Catalogue | None = None) -> dict[str, Any]:
        """The recipe as plain data with every default spelled out, and what ingredients ask of training settled.

        Written with `to_yaml` and loaded again, it resolves to itself.

        Raises:
            ConfigError: as `plan`.
        """
        offered = catalogue or self.catalogue()
        ingredients = self.ingredients(offered)
        train = self.train.tuned(offered.plan(ingredients, self.assumed_facts()).settings)
        return {
            "schema": self.schema_,
            "name": self.name,
            "plugins": _plain(self.plugins),
            "use": as_use(ingredients),
            "beside": {name: as_use(made) for name, made in self.peers(offered).items()},
            "model": {**_fields(self.model), **_plain(self.model.options)},
            "data": _fields(self.data),
            "threat": None if self.threat is None else _fields(self.threat),
            "train": train.plain(),
            "evaluate": [{entry.name: _fields(options)} for entry, options in self.attacks(offered)],
            "suite": self.suite,
            "track": _fields(self.track),
            "output": _plain(self.output),
        }

    def _raise(self, problems: Sequence[tuple[Place, str]]) -> None:
        if problems:
            raise RecipeError((self._marks or _Marks("")).lines_of(problems))


@dataclass
class _Marks:
    """Where the values of a recipe were written."""

    shown: str
    lines: dict[Place, int] = field(default_factory=dict)
    overrides: dict[Place, str] = field(default_factory=dict)

    def lines_of(self, problems: Iterable[tuple[Place, str]]) -> list[str]:
        """The problems as lines, in the order of the file; overrides come last."""
        ordered = sorted(problems, key=lambda problem: self._order(problem[0]))
        return list(dict.fromkeys(f"{self._where(place)}{message}" for place, message in ordered))

    def override(self, place: Place, by: str) -> None:
        self.overrides[place] = by
        self.lines = {p: line for p, line in self.lines.items() if p[: len(place)] != place}

    def _find(self, place: Place) -> tuple[int | None, str | None]:
        """The line or the override that set the nearest enclosing value."""
        for end in range(len(place), 0, -1):
            part = place[:end]
            if part in self.overrides:
                return None, self.overrides[part]
            if part in self.lines:
                return self.lines[part], None
        return self.lines.get(()), None

    def _order(self, place: Place) -> tuple[int, int]:
        line, by = self._find(place)
        return (0, line or 0) if by is None else (1, list(self.overrides.values()).index(by))

    def _where(self, place: Place) -> str:
        line, by = self._find(place)
        if by is not None:
            return f"--set {by}: "
        if not self.shown:
            return ""
        return f"{self.shown}:{line}: " if line is not None else f"{self.shown}: "


def load_recipe(
    path: str | Path, overrides: Sequence[str] = (), *, catalogue: Catalogue | None = None
) -> Recipe:
    """Reads and checks a recipe, what it asks of plugins included.

    Args:
        path: a file, or the name of an installed recipe such as `digits/pc_lc_pgd_at`.
        overrides: `KEY=VALUE` texts: a section's field (`train.epochs=3`) or an ingredient's
            (`pc_lc.xi=0.9`); the values are YAML.
        catalogue: what plugins offer; found by the recipe's `plugins:` when left out.

    Raises:
        ConfigError: if the file cannot be read or is no plain YAML.
        RecipeError: with every problem, each naming its line or override.
    """
    file, shown = find_recipe(path)
    read = document.read(file, shown)
    if not isinstance(read.data, dict):
        what = "empty" if read.data is None else f"a {_kind(read.data)}"
        raise ConfigError(f"{shown}: a recipe is a mapping that starts with schema: 1, but this is {what}")
    marks = _Marks(shown, dict(read.lines))
    data: dict[str, Any] = read.data
    problems = [problem for text in overrides for problem in _override(data, text, marks)]
    data.setdefault("name", "".join(c if c.isalnum() or c in "_.-" else "_" for c in file.stem))
    return _checked(data, marks, problems, catalogue)


def recipe_from(data: Mapping[str, Any], shown: str, *, catalogue: Catalogue | None = None) -> Recipe:
    """A recipe from plain data, as `Recipe.resolved` gives it; `shown` names where it was found.

    Raises:
        RecipeError: as `load_recipe`.
    """
    return _checked(dict(data), _Marks(shown), [], catalogue)


def _checked(
    data: dict[str, Any], marks: _Marks, problems: list[tuple[Place, str]], catalogue: Catalogue | None
) -> Recipe:
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems += _complaints_of_recipe(error, data)
    found: list[Catalogue] = []
    problems += _check_parts(data, catalogue, found)
    if problems or recipe is None:
        raise RecipeError(marks.lines_of(problems))
    recipe._marks, recipe._catalogue = marks, found[0] if found else None
    return recipe


def as_use(ingredients: Iterable[Ingredient]) -> list[dict[str, Any]]:
    """Ingredients as a `use:` of plain data, with every default spelled out."""
    return [{item.name: _fields(item)} for item in ingredients]


def flatten(resolved: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """A resolved recipe as a tracker's parameters: `pc_lc.xi`, `train.epochs`, `evaluate.pgd.steps`.

    What is not set (null) is left out; lists and ranges become text.
    """
    flat: dict[str, str | int | float | bool] = {}

    def put(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and "uniform" not in value:
            for key, inner in value.items():
                put(f"{prefix}.{key}", inner)
        elif isinstance(value, Mapping):
            low, high = value["uniform"]
            flat[prefix] = f"uniform [{low}, {high}] per {value.get('per', 'example')}"
        elif isinstance(value, list | tuple):
            flat[prefix] = ", ".join(map(str, value))
        elif value is not None:
            flat[prefix] = value

    for section, value in resolved.items():
        if section in ("use", "evaluate"):
            names = [name for item in value for name in item]
            put(section, names)
            for index, item in enumerate(value):
                for name, options in item.items():
                    again = names[:index].count(name)
                    label = name if again == 0 else f"{name}_{again + 1}"
                    for key, inner in options.items():
                        put(f"{label}.{key}" if section == "use" else f"evaluate.{label}.{key}", inner)
        elif section == "beside":
            for name, use in value.items():
                put(f"beside.{name}", [ingredient for item in use for ingredient in item])
        elif section == "train":
            for key, inner in value.items():
                if key in ("optimizer", "schedule"):
                    for name, options in inner.items():
                        put(f"train.{key}", name)
                        put(f"train.{key}", options)
                else:
                    put(f"train.{key}", inner)
        else:
            put(section, value)
    return flat


def find_recipe(path: str | Path) -> tuple[Path, str]:
    """The file of a recipe, and how messages name it.

    Looks for the path as it is, with `.yaml`, and among the installed recipes.

    Raises:
        ConfigError: naming near recipes.
    """
    text = str(path)
    if "\0" in text or not text.strip():
        raise ConfigError("a recipe needs the path of a file, or the name of an installed recipe")
    given = Path(path).expanduser()
    for file in (given, given.with_name(f"{given.name}.yaml")) if given.name else ():
        if _is(file, Path.is_file):
            return file, one_line(str(file))
    installed = known_recipes()
    name = text.removeprefix("recipes/").removesuffix(".yaml").removesuffix(".yml")
    if name in installed:
        return installed[name], one_line(str(_from_here(installed[name])))
    if _is(given, Path.is_dir):
        inside = sorted(file.name for file in given.glob("*.yaml"))
        hint = f"it holds {', '.join(inside[:12])}" if inside else "it holds no recipes"
        raise ConfigError(f"recipe {one_line(text)} is a folder; {hint}")
    beside = [str(file) for file in given.parent.glob("*.y*ml")] if _is(given.parent, Path.is_dir) else []
    hint = did_you_mean(text, beside) or did_you_mean(name, installed)
    raise ConfigError(f"recipe {one_line(text)} does not exist" + (f"; {hint}" if hint else "; give a YAML file"))


def known_recipes() -> dict[str, Path]:
    """The installed recipes by name, `digits/pc_lc_pgd_at`: those of every distribution that adds some."""
    found: dict[str, Path] = {}
    for root in _recipe_roots():
        for file in sorted(root.rglob("*.yaml")):
            found.setdefault(file.relative_to(root).with_suffix("").as_posix(), file)
    return found


def _recipe_roots() -> list[Path]:
    # a namespace package of an editable install has a placeholder among its places, which is no folder
    spec = importlib.util.find_spec("art_ext_recipes")
    places = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    source_tree = Path(__file__).parents[2] / "recipes"
    if (source_tree.parent / "setup.cfg").is_file():
        places.append(source_tree)
    return list(dict.fromkeys(place.resolve() for place in places if place.is_dir()))


def _is(file: Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return kind(file)
    except OSError:  # a name that is too long for the file system
        return False


def _from_here(file: Path) -> Path:
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def _override(data: dict[str, Any], text: str, marks: _Marks) -> Iterator[tuple[Place, str]]:
    """Applies one `KEY=VALUE`; what is wrong with it is given back."""
    key, equals, value = text.partition("=")
    key = key.strip()
    place: Place = ("", one_line(key))
    marks.overrides[place] = one_line(key)
    parts = key.split(".")
    if not equals or not all(parts):
        yield place, "an override is written KEY=VALUE, as in train.epochs=3 or pc_lc.xi=0.9"
        return
    try:
        new = document.parse(value, "value").data
    except ConfigError as error:
        yield place, str(error)
        return
    settings = [info.alias or name for name, info in Recipe.model_fields.items()]
    used = [named.name for _, named in _readable(data.get("use"))]
    if parts[0] not in settings:
        if parts[0] not in used:
            yield place, unknown("setting or ingredient in use", parts[0], [*settings, *used])
            return
        parts = ["use", *parts]
    try:
        target = _put(data, parts, new)
    except ValueError as error:
        yield place, str(error)
        return
    marks.override(target, one_line(key))


def _put(data: dict[str, Any], parts: list[str], new: Any) -> Place:
    """Sets a value by its dotted name, creating mappings on the way.

    Raises:
        ValueError: if the way is blocked by something that is no mapping.
    """
    here, place = data, cast(Place, ())
    for part, then in itertools.pairwise(parts):
        inner = here.get(part)
        place = (*place, part)
        if isinstance(inner, list):
            index = _entry(inner, then, part)
            if not isinstance(inner[index], dict):
                inner[index] = {then: {}}
            here, place = inner[index], (*place, index)
            continue
        if inner is None or inner == then:  # an optimizer by its bare name gets options
            inner = here[part] = {} if inner is None else {then: {}}
        dotted = ".".join(map(str, place))
        if not isinstance(inner, dict):
            raise ValueError(f"{dotted} is a {_kind(inner)} and has no {then}")
        if place in _CHOICES and len(inner) == 1 and then not in inner and isinstance(next(iter(inner.values())), dict):
            chosen = next(iter(inner))
            raise ValueError(f"{dotted} is {chosen}; write {dotted}.{chosen}.{then}=..., or {dotted}={{{then}: {{}}}}")
        here = inner
    here[parts[-1]] = new
    return (*place, parts[-1])


_CHOICES: tuple[Place, ...] = (("train", "optimizer"), ("train", "schedule"))


def _entry(entries: list[Any], name: str, part: str) -> int:
    """The index of the entry called `name` in `use:` or `evaluate:`."""
    named = _readable(entries)
    found = [index for index, entry in named if entry.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{part} lists {name} more than once; change it in the file")
    raise ValueError(unknown(f"entry of {part}", name, [entry.name for _, entry in named]))


def _complaints_of_recipe(error: ValidationError, data: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    for place, items in complaints(error, data):
        section, kind = str(place[0]) if place else "", items[0]["type"]
        if section in SECTIONS and len(items[0]["loc"]) > 1:
            yield place, _line(items, place[1:], section, SECTIONS[section])
        elif kind == "missing":
            example = {"schema": "schema: 1", "model": "model: {timm: NAME}", "data": "data: {name: digits}"}
            yield place, f"{section} is missing; write {example.get(section, f'{section}: ...')}"
        elif kind == "extra_forbidden":
            known = [info.alias or name for name, info in Recipe.model_fields.items()]
            yield place, unknown("section", section, known)
        else:
            yield place, _line(items, place, "", Recipe)


_WORDS = {
    "model_type": "a mapping is needed, KEY: VALUE",
    "dict_type": "a mapping is needed, KEY: VALUE",
    "tuple_type": "a list is needed, [A, B]",
    "list_type": "a list is needed, [A, B]",
    "string_type": "text is needed",
    "bool_type": "true or false is needed",
}


def _line(items: Sequence[Complaint], place: Place, prefix: str, model: type[BaseModel]) -> str:
    """What is wrong at one place, in the words of recipes."""
    first, alone = items[0], len(items) == 1
    told = [{**first, "msg": _WORDS.get(first["type"], first["msg"])}] if alone else items
    line = problem(told, place, prefix, model).removeprefix(": ")
    known = isinstance(first["input"], Mapping) or repr(first["input"]) in first["msg"]
    if alone and first["type"] == "value_error" and known:
        line = line.rpartition(", got ")[0]  # the message has said so already
    return one_line(masked(line))


def _check_parts(
    data: Mapping[str, Any], catalogue: Catalogue | None, found: list[Catalogue]
) -> list[tuple[Place, str]]:
    """What a recipe asks of plugins that they do not have; the catalogue that was asked goes to `found`."""
    problems = list(_check_plugins(data.get("plugins"), catalogue))
    if problems:
        return problems
    names = data.get("plugins")
    offered = catalogue or _catalogue_of(tuple(names) if _is_texts(names) else None)
    found.append(offered)
    if _is_texts(names):
        states = {info.name: info for info in offered.plugins}
        for index, name in enumerate(names):
            if states[name].state != "loaded":
                problems.append((("plugins", index), f"plugin {name} is {states[name].state}: {states[name].cause}"))
    problems += _check_use(_readable(data.get("use")), offered, [])
    beside = data.get("beside")
    for name, use in beside.items() if isinstance(beside, Mapping) else ():
        problems += _check_use(_readable(use), offered, [], ("beside", name))
    problems += _check_evaluate(_readable(data.get("evaluate")), offered, [])
    problems += _check_data(data.get("data"), offered)
    model = data.get("model")
    if isinstance(model, Mapping) and isinstance(model.get("name"), str) and model.get("timm") is None:
        problems += _ask(("model", "name"), lambda: offered.model(model["name"]))
    return problems


def _check_plugins(names: Any, catalogue: Catalogue | None) -> Iterator[tuple[Place, str]]:
    if not _is_texts(names):
        return
    known = installed_plugins() if catalogue is None else [info.name for info in catalogue.plugins]
    for index, name in enumerate(names):
        if name not in known:
            yield ("plugins", index), unknown("plugin", name, [name for name in known if name != CORE])


def _check_use(
    use: Iterable[tuple[int, Named]], catalogue: Catalogue, made: list[Ingredient], where: Place = ("use",)
) -> Iterator[tuple[Place, str]]:
    seen: set[str] = set()
    for index, named in use:
        place: Place = (*where, index, named.name)
        if named.name in seen:
            yield place, f"{named.name} is listed twice; keep one"
            continue
        seen.add(named.name)
        try:
            cls = catalogue.ingredient(named.name)
        except ConfigError as error:
            yield place, str(error)
            continue
        problems = list(_check_options(place, named, cls))
        yield from problems
        if not problems:
            try:
                made.append(cls(**named.options))
            except (ConfigError, TypeError) as error:  # an ingredient with an __init__ of its own
                yield place, one_line(str(error))


def _check_evaluate(
    evaluate: Iterable[tuple[int, Named]], catalogue: Catalogue, made: list[tuple[AttackEntry, BaseModel]]
) -> Iterator[tuple[Place, str]]:
    for index, named in evaluate:
        place: Place = ("evaluate", index, named.name)
        try:
            entry = catalogue.attack(named.name)
        except ConfigError as error:
            yield place, str(error)
            continue
        problems = list(_check_options(place, named, entry.options, "evaluate."))
        yield from problems
        if not problems:
            made.append((entry, entry.options.model_validate(named.options)))


def _check_options(
    place: Place, named: Named, model: type[BaseModel], prefix: str = ""
) -> Iterator[tuple[Place, str]]:
    """What pydantic has against the options, each problem at its own place."""
    blank = model.__new__(model)
    try:
        # not the class's own __init__: an ingredient's joins all problems into one text
        BaseModel.__init__(blank, **named.options)
    except ValidationError as error:
        for inner, items in complaints(error, named.options):
            yield (*place, *inner), _line(items, inner, prefix + named.name, model)


def _check_data(data: Any, catalogue: Catalogue) -> Iterator[tuple[Place, str]]:
    if not isinstance(data, Mapping):
        return
    yield from _ask(("data", "augment"), lambda: augmentation_from(_mapping_or_none(data.get("augment"))))
    if not isinstance(data.get("name"), str):
        return
    unknown_name = list(_ask(("data", "name"), lambda: catalogue.dataset(data["name"])))
    yield from unknown_name
    if unknown_name:
        return
    entry = catalogue.dataset(data["name"])
    for key in DataSection.model_fields.keys() - {"name", "augment"}:
        if isinstance(data.get(key), str if key == "root" else int | float):
            yield from _ask(("data", key), functools.partial(entry.options, **{key: data[key]}))


def _ask(place: Place, question: Callable[[], object]) -> Iterator[tuple[Place, str]]:
    try:
        question()
    except ConfigError as error:
        yield place, one_line(str(error))


def _mapping_or_none(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


def _is_texts(value: Any) -> TypeGuard[Sequence[str]]:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _indexed(entries: Iterable[Named]) -> list[tuple[int, Named]]:
    return list(enumerate(entries))


def _readable(entries: Any) -> list[tuple[int, Named]]:
    """The entries of a `use:` or `evaluate:` that are written well; the others are reported elsewhere."""
    found = []
    for index, entry in enumerate(entries) if isinstance(entries, list) else ():
        try:
            found.append((index, _named(entry)))
        except ValueError:
            continue
    return found


def _catalogue_of(plugins: tuple[str, ...] | None) -> Catalogue:
    if plugins is None:
        return default_manager().catalogue
    return create_plugin_manager(only=plugins, asked_by="the recipe's plugins").catalogue


_HOW_TO_RUN = ("foreach", "fused", "capturable", "differentiable", "maximize")
"""Options of torch's optimizers that do not change a recipe's result, or must not be changed by one."""


def _known(kind: str, name: str, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if name not in known:
        raise ValueError(unknown(kind, name, known))
    return known[name]


def _parameters(maker: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    found = inspect.signature(maker).parameters
    return {name: found[name] for name in found if name != "params" and name not in _HOW_TO_RUN}


def _checked_options(named: Named, maker: Callable[..., Any]) -> dict[str, Any]:
    takes = _parameters(maker)
    for key in named.options:
        if key not in takes:
            raise ValueError(unknown(f"option of {named.name}", key, takes))
    for key, parameter in takes.items():
        if parameter.default is parameter.empty and key not in named.options:
            raise ValueError(f"{named.name} needs {key}; write {named.name}: {{{key}: ...}}")
    return {key: _like(f"{named.name}.{key}", value, takes[key].default) for key, value in named.options.items()}


def _like(name: str, value: Any, default: Any) -> Any:
    """The value as the kind of thing that its default is: a truth value, a number or a list of numbers."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{name} is true or false, not {value!r}")
        return value
    if isinstance(value, list | tuple):
        if isinstance(default, int | float):
            raise ValueError(f"{name} is a number, not a list")
        return [_number(name, item) for item in value]
    if isinstance(default, tuple) or default is inspect.Parameter.empty:
        raise ValueError(f"{name} is a list of numbers, not {value!r}")
    return value if value is None and default is None else _number(name, value)


def _number(name: str, value: Any) -> int | float:
    try:
        number = parse_number(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(number, int | float) or not abs(number) < math.inf:
        raise ValueError(f"{name} is a number, not {value!r}")
    return number


def _surely_fine(option: Any) -> bool:
    """Whether every optimizer takes the value: a number from 0, a pair of betas, or a switch left off."""
    if isinstance(option, list):
        return len(option) == 2 and all(0 <= item < 1 for item in option)
    return option is None or (option >= 0 and option is not True)


def _completed(named: Named, makers: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """The options with those that were left out at their defaults."""
    defaults = {name: p.default for name, p in _parameters(makers[named.name]).items() if p.default is not p.empty}
    return cast(dict[str, Any], _plain({**defaults, **named.options}))


def _as_value_error(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # torch and arithmetic raise many kinds; each is about these options
        raise ValueError(one_line(str(error))) from None


def _fields(model: BaseModel) -> dict[str, Any]:
    """A model's declared fields as plain data."""
    written: dict[str, Any] = {}
    for name, info in type(model).model_fields.items():
        value, key = getattr(model, name), info.alias or name
        try:
            written[key] = _plain(value)
        except TypeError:  # a plugin's own type: pydantic knows how to write it
            written[key] = model.model_dump(mode="json", include={name})[name]
    return written


def _plain(value: Any) -> Any:
    if isinstance(value, Uniform):
        return {"uniform": [value.low, value.high], "per": value.per}
    if isinstance(value, OfEps):
        return f"{value.share!r} eps"
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Named):
        return {value.name: _plain(value.options)}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseModel):
        return _fields(value)
    raise TypeError(f"{type(value).__name__} is no plain data")


def _kind(value: Any) -> str:
    return {dict: "mapping", list: "list", str: "text", bool: "truth value"}.get(type(value), "number")
