"""Recipes: a YAML file to a checked value, and back. All problems of a recipe are reported at once.

Each problem is one line that starts with its place: `recipes/x.yaml:12: pc_lc.xi: ...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from art_ext.data.entry import Data, DatasetEntry
from art_ext.entries import AttackEntry
from art_ext.errors import ConfigError
from art_ext.evaluation.rejecting import TPRS
from art_ext.host import document
from art_ext.host.document import to_yaml
from art_ext.host.manager import Catalogue
from art_ext.host.overrides import override
from art_ext.host.places import Marks, Place, RecipeError
from art_ext.host.plain import Named, NamedInYaml, as_use, fields, kind, plain
from art_ext.host.recipe_files import find_recipe
from art_ext.host.recipe_problems import (
    catalogue_of,
    check_data,
    check_evaluate,
    check_parts,
    check_use,
    complaints_of_recipe,
    settings_of,
)
from art_ext.host.sections import DataSection, ModelSection, Threat, Track, Train
from art_ext.ingredient import Ingredient, Number
from art_ext.lifecycle.roles import RESERVED
from art_ext.plan import Plan
from art_ext.types import Facts

__all__ = ["Recipe", "RecipeError", "load_recipe", "recipe_from", "to_yaml"]


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
    tprs: Annotated[
        tuple[Annotated[Number, Field(gt=0, le=1)], ...],
        Field(min_length=1, description="shares of correct held-out images that rejection keeps, a threshold each"),
    ] = TPRS
    track: Track = Track()
    output: Annotated[Path | None, Field(description="folder of the run")] = None

    _catalogue: Catalogue | None = PrivateAttr(None)
    _marks: Marks | None = PrivateAttr(None)

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
            self._catalogue = catalogue_of(self.plugins)
        return self._catalogue

    def ingredients(self, catalogue: Catalogue | None = None) -> list[Ingredient]:
        """The ingredients as values.

        Raises:
            RecipeError: with every problem.
        """
        offered = catalogue or self.catalogue()
        made: list[Ingredient] = []
        problems = list(check_use(_indexed(self.use), offered, made))
        self._raise(problems)
        return made

    def peers(self, catalogue: Catalogue | None = None) -> dict[str, tuple[Ingredient, ...]]:
        """The ingredients of each method of `beside:`; raises as `ingredients`."""
        offered, found = catalogue or self.catalogue(), {}
        for name, use in self.beside.items():
            made: list[Ingredient] = []
            self._raise(list(check_use(_indexed(use), offered, made, ("beside", name))))
            found[name] = tuple(made)
        return found

    def attacks(self, catalogue: Catalogue | None = None) -> list[tuple[AttackEntry, BaseModel]]:
        """The attacks of the evaluation, each with its checked options; raises as `ingredients`."""
        made: list[tuple[AttackEntry, BaseModel]] = []
        problems = list(check_evaluate(_indexed(self.evaluate), catalogue or self.catalogue(), made))
        self._raise(problems)
        return made

    def dataset(self, catalogue: Catalogue | None = None) -> DatasetEntry:
        """The entry of the data set; raises as `ingredients`."""
        offered = catalogue or self.catalogue()
        self._raise(list(check_data(self.data.model_dump(), offered)))
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
            "plugins": plain(self.plugins),
            "use": as_use(ingredients),
            "beside": {name: as_use(made) for name, made in self.peers(offered).items()},
            "model": {**fields(self.model), **plain(self.model.options)},
            "data": fields(self.data),
            "threat": None if self.threat is None else fields(self.threat),
            "train": train.plain(),
            "evaluate": [{entry.name: fields(options)} for entry, options in self.attacks(offered)],
            "suite": self.suite,
            "tprs": list(self.tprs),
            "track": fields(self.track),
            "output": plain(self.output),
        }

    def _raise(self, problems: Sequence[tuple[Place, str]]) -> None:
        if problems:
            raise RecipeError((self._marks or Marks("")).lines_of(problems))


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, catalogue: Catalogue | None = None) -> Recipe:
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
        what = "empty" if read.data is None else f"a {kind(read.data)}"
        raise ConfigError(f"{shown}: a recipe is a mapping that starts with schema: 1, but this is {what}")
    marks = Marks(shown, dict(read.lines))
    data: dict[str, Any] = read.data
    problems = [problem for text in overrides for problem in override(data, text, marks, settings_of(Recipe))]
    data.setdefault("name", "".join(c if c.isalnum() or c in "_.-" else "_" for c in file.stem))
    return _checked(data, marks, problems, catalogue)


def recipe_from(data: Mapping[str, Any], shown: str, *, catalogue: Catalogue | None = None) -> Recipe:
    """A recipe from plain data, as `Recipe.resolved` gives it; `shown` names where it was found.

    Raises:
        RecipeError: as `load_recipe`.
    """
    return _checked(dict(data), Marks(shown), [], catalogue)


def _checked(
    data: dict[str, Any], marks: Marks, problems: list[tuple[Place, str]], catalogue: Catalogue | None
) -> Recipe:
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems += complaints_of_recipe(error, data, Recipe)
    found: list[Catalogue] = []
    problems += check_parts(data, catalogue, found)
    if problems or recipe is None:
        raise RecipeError(marks.lines_of(problems))
    recipe._marks, recipe._catalogue = marks, found[0] if found else None
    return recipe


def _indexed(entries: Iterable[Named]) -> list[tuple[int, Named]]:
    return list(enumerate(entries))
