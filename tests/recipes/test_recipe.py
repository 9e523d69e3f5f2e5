"""Recipes: read, checked with a line for every mistake, resolved, written again."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from art_ext.api import Count, Facts, Ingredient, NonNegative, Number, Paper, Plan, Radius, Uniform
from art_ext.entries import AttackEntry, ModelEntry
from art_ext.errors import ArtExtError, ComposeError, ConfigError
from art_ext.host import builtin, document
from art_ext.host.hookspecs import hookimpl
from art_ext.host.manager import Catalogue, PluginManager, default_manager
from art_ext.host.plain import flatten
from art_ext.host.recipe import Recipe, load_recipe, to_yaml
from art_ext.host.recipe_files import known_recipes

PAPER = Paper("A Title", "An Author", "A Venue", 2020)


class Loud(Ingredient):
    """Stands for a method with every kind of field."""

    name = "loud"
    paper = PAPER

    norm: Literal["linf", "l2"] = "linf"
    eps: Radius = 8 / 255
    steps: Count = 10
    share: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    hard: bool = False

    def apply(self, plan: Plan) -> Plan:
        return plan.fill(self, selection=max)


class Soft(Ingredient):
    """Stands for a trick that asks for train settings."""

    name = "soft"
    paper = PAPER

    xi: Annotated[Number, Field(gt=0, le=1)] = 0.995
    decay: NonNegative = 1e-3

    def apply(self, plan: Plan) -> Plan:
        return plan.tune(self, weight_decay=self.decay, epochs=7)


class Rival(Loud):
    """Fills the same slot as `Loud`."""

    name = "rival"


class PokeOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    steps: Count = 20


def fakes() -> ModuleType:
    module = ModuleType("fakes")
    poke = AttackEntry("poke", "pokes", PokeOptions, lambda options, context: [])
    crowd = ModelEntry("crowd", "votes", lambda options, facts: None)  # type: ignore[arg-type, return-value]
    for name, values in (("ingredients", [Loud, Soft, Rival]), ("attacks", [poke]), ("models", [crowd])):
        setattr(module, f"art_ext_{name}", hookimpl(lambda values=values: values))
    return module


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    broken = ModuleType("broken")
    broken.art_ext_ingredients = lambda: [Loud]  # type: ignore[attr-defined]  # not marked as a hook
    return PluginManager.isolated({"fakes": fakes(), "core": builtin, "sick": broken}).catalogue


VALID = """\
schema: 1
name: valid
use:
  - loud: {norm: linf, eps: 8/255, steps: 5}
  - soft:
      xi: 0.9
model: {timm: small_cnn, num_classes: 10}
data: {name: digits, augment: {crop: 1}}
threat: {norm: linf, eps: 0.1}
train:
  epochs: 3
  optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
  schedule: {steps: [1, 2], factor: 0.1}
evaluate: [poke, poke: {steps: 40}]
track: {experiment: tests}
"""


def write(folder: Path, text: str, name: str = "r.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def error_of(file: Path, catalogue: Catalogue, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, overrides, catalogue=catalogue)
    return str(caught.value).replace(f"{file}:", "r.yaml:")


# -------------------------------------------------------------------------------------- what works


def test_a_recipe_is_read(tmp_path: Path, catalogue: Catalogue) -> None:
    recipe = load_recipe(write(tmp_path, VALID), catalogue=catalogue)
    loud, soft = recipe.ingredients()
    assert isinstance(loud, Loud)
    assert isinstance(soft, Soft)
    assert loud.eps == 8 / 255
    assert soft.xi == 0.9
    assert recipe.train.optimizer == ("sgd", {"lr": 0.05, "momentum": 0.9})
    assert recipe.train.schedule == ("steps", {"milestones": [1, 2], "factor": 0.1})
    assert [options.model_dump() for _, options in recipe.attacks()] == [{"steps": 20}, {"steps": 40}]
    assert recipe.dataset().name == "digits"
    assert recipe.model.options == {}
    assert recipe.plan(Facts(10, (1, 8, 8))).used == ("loud", "soft")


def test_a_short_recipe_has_defaults(tmp_path: Path, catalogue: Catalogue) -> None:
    text = "schema: 1\nuse:\ntrain:\nmodel: {timm: small_cnn, width: 8}\ndata: {name: digits}\n"
    recipe = load_recipe(write(tmp_path, text, "short one.yaml"), catalogue=catalogue)
    assert recipe.name == "short_one"
    assert recipe.ingredients() == []
    assert recipe.train.held_out == 0.2
    assert recipe.model.options == {"width": 8}


def test_the_resolved_recipe_spells_out_everything_and_resolves_to_itself(
    tmp_path: Path, catalogue: Catalogue
) -> None:
    text = VALID.replace("8/255", "{uniform: [0, 0.1], per: batch}")
    resolved = load_recipe(write(tmp_path, text), catalogue=catalogue).resolved()
    loud = {"norm": "linf", "eps": {"uniform": [0.0, 0.1], "per": "batch"}, "steps": 5, "share": 0.0, "hard": False}
    assert resolved["use"][0] == {"loud": loud}
    assert resolved["train"]["epochs"] == 3
    assert resolved["train"]["optimizer"]["sgd"]["nesterov"] is False
    again = load_recipe(write(tmp_path, to_yaml(resolved), "again.yaml"), catalogue=catalogue)
    assert again.resolved() == resolved
    (drawn,) = (item.eps for item in again.ingredients() if isinstance(item, Loud))
    assert drawn == Uniform(0, 0.1, per="batch")


def test_what_ingredients_ask_of_training_yields_to_the_recipe(tmp_path: Path, catalogue: Catalogue) -> None:
    text = "schema: 1\nuse: [soft]\nmodel: {timm: small_cnn}\ndata: {name: digits}\n"
    train = load_recipe(write(tmp_path, text), catalogue=catalogue).resolved()["train"]
    assert train["epochs"] == 7
    assert train["optimizer"]["sgd"]["weight_decay"] == 1e-3
    assert train["optimizer"]["sgd"]["momentum"] == 0.9
    own = text + "train: {epochs: 2, optimizer: {sgd: {lr: 0.1, weight_decay: 0}}}\n"
    train = load_recipe(write(tmp_path, own), catalogue=catalogue).resolved()["train"]
    assert train["epochs"] == 2
    assert train["optimizer"]["sgd"]["weight_decay"] == 0


def test_a_setting_of_train_that_does_not_exist_names_the_ingredient(tmp_path: Path, catalogue: Catalogue) -> None:
    recipe = load_recipe(write(tmp_path, VALID), catalogue=catalogue)
    with pytest.raises(ConfigError, match=r"soft: unknown setting of train 'epoch'; did you mean epochs"):
        recipe.train.tuned({"epoch": ("soft", 3)})
    with pytest.raises(ConfigError, match=r"set by soft: train.batch_size: input should be greater"):
        recipe.train.tuned({"batch_size": ("soft", 0)})


def test_parameters_for_a_tracker(tmp_path: Path, catalogue: Catalogue) -> None:
    recipe = load_recipe(write(tmp_path, VALID), ["loud.eps={uniform: [0, 0.1]}"], catalogue=catalogue)
    flat = flatten(recipe.resolved())
    assert flat["use"] == "loud, soft"
    assert flat["soft.xi"] == 0.9
    assert flat["loud.eps"] == "uniform [0.0, 0.1] per example"
    assert flat["train.optimizer"] == "sgd"
    assert flat["train.optimizer.lr"] == 0.05
    assert flat["train.schedule.milestones"] == "1, 2"
    assert flat["evaluate.poke.steps"] == 20
    assert flat["evaluate.poke_2.steps"] == 40
    assert "output" not in flat
    assert all(isinstance(value, str | int | float) for value in flat.values())


def test_ingredients_that_contradict_each_other_are_both_named(tmp_path: Path, catalogue: Catalogue) -> None:
    text = VALID.replace("  - soft:\n      xi: 0.9\n", "  - rival\n")
    recipe = load_recipe(write(tmp_path, text), catalogue=catalogue)
    with pytest.raises(ComposeError, match="loud and rival both set the selection"):
        recipe.plan(Facts(10, (1, 8, 8)))


def test_an_allow_list_loads_nothing_else(tmp_path: Path) -> None:
    default = default_manager().catalogue.ingredients
    text = "schema: 1\nplugins: [baselines]\nuse: [pgd_at]\nmodel: {timm: small_cnn}\ndata: {name: digits}\n"
    recipe = load_recipe(write(tmp_path, text))
    assert "pgd_at" in recipe.catalogue().ingredients
    assert "pc_lc" in default
    assert "pc_lc" not in recipe.catalogue().ingredients
    with pytest.raises(ConfigError, match=r":3: unknown ingredient 'pc_lc'.*not loaded: .*pc_lc.* \(not in the recipe"):
        load_recipe(write(tmp_path, text.replace("pgd_at", "pc_lc")))


def test_installed_recipes_are_found_by_name_and_load() -> None:
    names = known_recipes()
    for name in names:
        assert isinstance(load_recipe(name), Recipe)
        assert isinstance(load_recipe(f"{name}.yaml"), Recipe)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1:30", "1:30"),
        ("on", "on"),
        ("yes", "yes"),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("~", None),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("'3'", "3"),
        ("2024-01-01", "2024-01-01"),
        ("<<", "<<"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = document.parse(f"key: {text}", "r.yaml").data["key"]
    assert read == value
    assert type(read) is type(value)
    assert document.parse(to_yaml({"key": value}), "r.yaml").data == {"key": value}


def test_aliases_stand_for_what_they_name() -> None:
    read = document.parse("a: &x {b: [1, 2]}\nc: *x\n", "r.yaml")
    assert read.data == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}
    assert read.data["a"] is not read.data["c"]


# ---------------------------------------------------------------------------------- what is refused

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcd", "bcde", strict=True)
)

MALFORMED_YAML = [
    ("", "r.yaml: a recipe is a mapping that starts with schema: 1, but this is empty"),
    ("# nothing\n", "but this is empty"),
    ("- schema: 1\n", "but this is a list"),
    ("schema 1\n", "but this is a text"),
    ("schema: 1\nschema: 1\n", "r.yaml:2: schema is set twice, first in line 1"),
    ("schema: 1\nuse: [{loud: {}, loud: {}}]\n", "r.yaml:2: loud is set twice"),
    ("schema: 1\nname: !!python/object/apply:os.system [ls]\n", "r.yaml:2: tag tag:yaml.org,2002:python"),
    ("schema: !!int 1\n", "r.yaml:1: tag"),
    ("schema: !mine 1\n", "r.yaml:1: tag !mine is not allowed"),
    (BOMB, "unfolds to more than 10,000 values"),
    ("a: " + "[" * 50, "r.yaml:1: nested deeper than 30 levels"),
    ("a: &a [*a]\n", "r.yaml:1: alias *a has no anchor"),
    ("schema: 1\nuse: [loud\nmodel: x\n", "no valid YAML"),
    ("schema: 1\n\tname: x\n", "r.yaml:2: no valid YAML"),
    ("schema: 1\n---\nschema: 1\n", "r.yaml:2: a second document starts here"),
    ("schema: 1\n? [a]\n: 1\n", "r.yaml:2: a key must be a word"),
    ("schema: 1\nname: \x00\n", "r.yaml:2: character #x0000 is not allowed"),
    ("schema: 1\nname: 'x\n", "no valid YAML"),
]

MALFORMED = [
    ("schema: 1", "schema: 2", "r.yaml:1: schema: this art_ext reads schema 1"),
    ("schema: 1", "schema: true", "r.yaml:1: schema: this art_ext reads schema 1"),
    ("schema: 1\n", "", "r.yaml:1: schema is missing; write schema: 1"),
    ("name: valid", "name: ../up", "r.yaml:2: name: "),
    ("name: valid", "name: 3", "r.yaml:2: name: text is needed, got 3"),
    ("name: valid", "nmae: valid", "r.yaml:2: unknown section 'nmae'; did you mean name?"),
    ("- loud:", "- lout:", "r.yaml:4: unknown ingredient 'lout'; did you mean loud?; plugin sick is broken: "),
    ("- soft:", "- loud:", "r.yaml:5: loud is listed twice"),
    ("eps: 8/255", "epz: 8/255", "r.yaml:4: unknown option of loud 'epz'; did you mean eps?"),
    ("eps: 8/255", "eps: 8/0", "r.yaml:4: loud.eps: '8/0' divides by zero"),
    ("eps: 8/255", "eps: 0", "r.yaml:4: loud.eps: input should be greater than 0, got 0"),
    ("eps: 8/255", "eps: -1/255", "r.yaml:4: loud.eps: input should be greater than 0"),
    ("eps: 8/255", "eps: 1:30", "r.yaml:4: loud.eps: '1:30' is not a number"),
    ("eps: 8/255", "eps: .inf", "r.yaml:4: loud.eps: input should be a finite number"),
    ("eps: 8/255", "eps: yes", "r.yaml:4: loud.eps: 'yes' is not a number"),
    ("eps: 8/255", "eps: {uniform: [0.2, 0.1]}", "r.yaml:4: loud.eps: a range needs 0 <= low < high"),
    ("eps: 8/255", "eps: {unifrom: [0.1, 0.2]}", "r.yaml:4: loud.eps: unknown kind of range 'unifrom'"),
    ("eps: 8/255", "eps: __import__('os')", "is not a number"),
    ("steps: 5", "steps: 0", "r.yaml:4: loud.steps: input should be greater than or equal to 1, got 0"),
    ("steps: 5", "steps: 2.5", "r.yaml:4: loud.steps: input should be a valid integer"),
    ("norm: linf, eps: 8", "norm: l3, eps: 8", "r.yaml:4: loud.norm: input should be 'linf' or 'l2', got 'l3'"),
    ("norm: linf, eps: 8", "norm: lin, eps: 8", "input should be 'linf' or 'l2', got 'lin'; did you mean linf?"),
    ("xi: 0.9", "xi: 1.5", "r.yaml:6: soft.xi: input should be less than or equal to 1, got 1.5"),
    ("  - soft:\n      xi: 0.9", "  - soft: 0.9", "r.yaml:5: use.1: the options of soft are written soft: {"),
    ("  - soft:\n      xi: 0.9", "  - {soft: {}, rival: {}}", "r.yaml:5: use.1: this is written NAME or NAME: {"),
    ("  - soft:\n      xi: 0.9", "  - 3", "r.yaml:5: use.1: this is written NAME or NAME: {"),
    ("timm: small_cnn, ", "", "r.yaml:7: model: give either timm: NAME, or name: NAME"),
    ("timm: small_cnn", "name: crowds", "r.yaml:7: unknown model 'crowds'; did you mean crowd?"),
    ("num_classes: 10", "num_classes: 1", "r.yaml:7: model.num_classes: input should be greater"),
    ("num_classes: 10", "mean: [0.5]", "r.yaml:7: model: mean and std go together"),
    ("model: {timm: small_cnn, num_classes: 10}", "model: small_cnn", "r.yaml:7: model: a mapping is needed"),
    ("model: {timm: small_cnn, num_classes: 10}\n", "", "r.yaml:1: model is missing; write model: {timm: NAME}"),
    ("name: digits", "name: digit", "r.yaml:8: unknown data set 'digit'; did you mean digits?"),
    ("name: digits", "name: digits, root: here", "r.yaml:8: unknown option of data digits 'root'"),
    ("name: digits", "name: digits, siez: 8", "r.yaml:8: unknown option of data 'siez'; did you mean size?"),
    ("crop: 1", "corp: 1", "r.yaml:8: unknown augmentation 'corp'; did you mean crop?"),
    ("eps: 0.1}", "eps: 0}", "r.yaml:9: threat.eps: input should be greater than 0"),
    ("threat: {norm: linf, eps: 0.1}", "threat: {norm: linf}", "r.yaml:9: threat.eps is missing"),
    ("epochs: 3", "epocs: 3", "r.yaml:11: unknown option of train 'epocs'; did you mean epochs?"),
    ("epochs: 3", "epochs: 0", "r.yaml:11: train.epochs: input should be greater than or equal to 1"),
    ("epochs: 3", "held_out: 1", "r.yaml:11: train.held_out: input should be less than 1"),
    ("epochs: 3", "held_out: 0/4", "r.yaml:11: train.held_out: input should be greater than 0"),
    ("epochs: 3", "compile: yes", "r.yaml:11: train.compile: true or false is needed, got 'yes'"),
    ("epochs: 3", "channels_last: on", "r.yaml:11: train.channels_last: input should be 'auto' or true or false, got"),
    ("epochs: 3", "channels_last: atuo", "or true or false, got 'atuo'; did you mean auto?"),
    ("epochs: 3", "micro_batch: 0", "train.micro_batch: input should be 'auto' or greater than or equal to 1, got 0"),
    ("epochs: 3", "precision: 16", "r.yaml:11: train.precision: input should be '32-true'"),
    ("epochs: 3", "seed: -1", "r.yaml:11: train.seed: input should be greater than or equal to 0"),
    ("{sgd: {lr: 0.05", "{sdg: {lr: 0.05", "r.yaml:12: train.optimizer: unknown optimizer 'sdg'; did you mean sgd?"),
    ("{sgd: {lr: 0.05", "{sgd: {rl: 0.05", "r.yaml:12: train.optimizer: unknown option of sgd 'rl'; known are "),
    ("lr: 0.05", "lr: -1", "r.yaml:12: train.optimizer: optimizer sgd: "),
    ("lr: 0.05, momentum: 0.9", "lr: 0.05, nesterov: true", "r.yaml:12: train.optimizer: optimizer sgd: Nesterov"),
    ("{sgd: {lr: 0.05, momentum: 0.9}}", "{adam: {betas: [0.9, 1]}}", "r.yaml:12: train.optimizer: optimizer adam: "),
    ("{sgd: {lr: 0.05, momentum: 0.9}}", "{adam: {betas: 0.9}}", "adam.betas is a list of numbers, not 0.9"),
    ("lr: 0.05", "lr: fast", "r.yaml:12: train.optimizer: sgd.lr: 'fast' is not a number"),
    ("{steps: [1, 2], factor: 0.1}", "one_cycel", "r.yaml:13: train.schedule: unknown schedule 'one_cycel'; did you"),
    ("{steps: [1, 2], factor: 0.1}", "steps", "r.yaml:13: train.schedule: steps needs milestones"),
    ("{steps: [1, 2], factor: 0.1}", "{steps: 3}", "r.yaml:13: train.schedule: the options of steps are written"),
    ("factor: 0.1", "factors: [0.1]", "r.yaml:13: train.schedule: steps: 2 milestones take as many factors, got 1"),
    ("factor: 0.1", "factors: 0.1", "r.yaml:13: train.schedule: steps.factors is a list of numbers, not 0.1"),
    ("factor: 0.1", "factor: -1", "r.yaml:13: train.schedule: steps makes the learning rate"),
    ("[poke, poke", "[pok, poke", "r.yaml:14: unknown attack 'pok'; did you mean poke?"),
    ("{steps: 40}", "{steps: 0}", "r.yaml:14: evaluate.poke.steps: input should be greater than or equal to 1"),
    ("{steps: 40}", "{stepz: 4}", "r.yaml:14: unknown option of evaluate.poke 'stepz'; did you mean steps?"),
    ("experiment: tests", "experiment: [tests]", "r.yaml:15: track.experiment: text is needed"),
    ("name: valid", "plugins: [fake]", "r.yaml:2: unknown plugin 'fake'; did you mean fakes?"),
    ("name: valid", "plugins: [fakes, sick]", "r.yaml:2: plugin sick is broken: art_ext_ingredients is not marked"),
    ("name: valid", "plugins: fakes", "r.yaml:2: plugins: a list is needed"),
    ("name: valid", "use: loud\nname: valid", "use is set twice"),
]


@pytest.mark.parametrize(("text", "said"), MALFORMED_YAML)
def test_malformed_yaml_gets_one_line(tmp_path: Path, catalogue: Catalogue, text: str, said: str) -> None:
    message = error_of(write(tmp_path, text), catalogue)
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(("old", "new", "said"), MALFORMED, ids=[new[:30] or said[:20] for _, new, said in MALFORMED])
def test_a_mistake_gets_one_line_with_its_place(
    tmp_path: Path, catalogue: Catalogue, old: str, new: str, said: str
) -> None:
    assert old in VALID
    message = error_of(write(tmp_path, VALID.replace(old, new, 1)), catalogue)
    assert said in message
    assert "\n" not in message
    assert message.startswith("r.yaml:")


def test_all_mistakes_are_reported_in_the_order_of_the_file(tmp_path: Path, catalogue: Catalogue) -> None:
    text = VALID.replace("xi: 0.9", "xi: 2").replace("epochs: 3", "epochs: x").replace("linf, eps: 8", "l7, eps: 8")
    message = error_of(write(tmp_path, text), catalogue, "data.name=nothing", "train.nodes=0")
    places = [line.split(": ")[0] for line in message.splitlines()]
    assert places == ["r.yaml:4", "r.yaml:6", "r.yaml:11", "--set data.name", "--set train.nodes"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, catalogue: Catalogue) -> None:
    write(tmp_path, VALID, "pgd.yaml")
    with pytest.raises(ConfigError, match=r"does not exist; did you mean .*pgd\.yaml"):
        load_recipe(tmp_path / "pdg.yaml", catalogue=catalogue)
    with pytest.raises(ConfigError, match=r"is a folder; it holds pgd\.yaml"):
        load_recipe(tmp_path, catalogue=catalogue)
    with pytest.raises(ConfigError, match="does not exist"):
        load_recipe("x" * 5000, catalogue=catalogue)
    file = tmp_path / "latin.yaml"
    file.write_bytes("schema: 1\nname: \xe9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml:2: not UTF-8"):
        load_recipe(file, catalogue=catalogue)
    file.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="larger than 1 MB"):
        load_recipe(file, catalogue=catalogue)


def test_a_missing_recipe_is_told_near_installed_ones() -> None:
    if known_recipes():
        with pytest.raises(ConfigError, match="did you mean digits/pgd_at"):
            load_recipe("digits/pdg_at")


# --------------------------------------------------------------------------------------- overrides


def test_overrides_win(tmp_path: Path, catalogue: Catalogue) -> None:
    overrides = [
        "train.epochs=9",
        "soft.xi=1/2",
        "loud.eps={uniform: [0, 0.1]}",
        "train.optimizer.sgd.nesterov=true",
        "data.augment.flip=true",
        "name=other",
        "evaluate=[poke]",
        "evaluate.poke.steps=3",
        "model.width=8",
    ]
    recipe = load_recipe(write(tmp_path, VALID), overrides, catalogue=catalogue)
    resolved = recipe.resolved()
    assert recipe.name == "other"
    assert recipe.train.epochs == 9
    assert resolved["use"][0]["loud"]["eps"] == {"uniform": [0.0, 0.1], "per": "example"}
    assert resolved["use"][1]["soft"]["xi"] == 0.5
    assert resolved["train"]["optimizer"]["sgd"]["nesterov"] is True
    assert resolved["data"]["augment"] == {"crop": 1, "flip": True}
    assert resolved["evaluate"] == [{"poke": {"steps": 3}}]
    assert recipe.model.options == {"width": 8}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("epochs", "an override is written KEY=VALUE"),
        ("=3", "an override is written KEY=VALUE"),
        ("train..epochs=3", "an override is written KEY=VALUE"),
        ("trian.epochs=3", "unknown setting or ingredient in use 'trian'; did you mean train"),
        ("rival.eps=3", "unknown setting or ingredient in use 'rival'"),
        ("train.epocs=3", "--set train.epocs: unknown option of train 'epocs'; did you mean epochs?"),
        ("soft.xi=2", "--set soft.xi: soft.xi: input should be less than or equal to 1, got 2"),
        ("soft.xj=2", "--set soft.xj: unknown option of soft 'xj'"),
        ("soft.xi.deep=2", "is a number and has no deep"),
        ("train.optimizer.lr=1", "train.optimizer is sgd; write train.optimizer.sgd.lr=..."),
        ("evaluate.poke.steps=3", "evaluate lists poke more than once"),
        ("use.rival.eps=3", "unknown entry of use 'rival'"),
        ("train.seed=[", "no valid YAML"),
        ("train.seed=!!python/name:os.system", "is not allowed"),
        ("train.epochs=", "--set train.epochs: train.epochs: input should be a valid integer, got None"),
    ],
)
def test_a_bad_override_gets_one_line(tmp_path: Path, catalogue: Catalogue, override: str, said: str) -> None:
    message = error_of(write(tmp_path, VALID), catalogue, override)
    assert said in message
    assert "\n" not in message
    assert message.startswith("--set ")


# ------------------------------------------------------------------------------------------- a fuzz

TOKENS = ["{", "}", "[", "]", ":", "- ", "&a ", "*a", "!x ", "'", '"', "#", "null", "1e999", "8/0", "-", "\t", "\x07"]
TOKENS += ["9" * 400, "é", "? ", "| ", "---\n", "{}", "[]", "true", "loud", "uniform: ", "0", "-1", "  ", "%", "\u2028"]


def mutated(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 4)):
        lines = text.splitlines(keepends=True)
        at, line = rng.randrange(len(text)), rng.randrange(len(lines))
        kind = rng.randrange(6)
        if kind == 0:
            text = text[:at] + rng.choice(TOKENS) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + rng.randint(1, 6) :]
        elif kind == 2:
            text = "".join([*lines[:line], *lines[line + 1 :]]) or text
        elif kind == 3:
            text = "".join([*lines[:line], rng.choice(lines), *lines[line:]])
        elif kind == 4:
            head, colon, _ = lines[line].partition(":")
            text = "".join([*lines[:line], f"{head}{colon} {rng.choice(TOKENS)}\n", *lines[line + 1 :]])
        else:
            text = "".join([*lines[:line], rng.choice([" ", "  ", "    "]) + lines[line], *lines[line + 1 :]])
    return text


def test_no_mutation_of_a_recipe_gives_a_traceback(tmp_path: Path, catalogue: Catalogue) -> None:
    rng, refused = random.Random(20), 0
    for _ in range(300):
        text = mutated(VALID, rng)
        file = write(tmp_path, text)
        try:
            recipe = load_recipe(file, catalogue=catalogue)
            flatten(recipe.resolved())
        except ArtExtError as error:
            refused += 1
            said = str(error)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} for\n{text}") from error
        else:
            said = "fine"
        assert all(line.isprintable() and line.strip() for line in said.split("\n")), (text, said)
    assert 150 < refused < 300


def test_no_mutation_of_an_override_gives_a_traceback(tmp_path: Path, catalogue: Catalogue) -> None:
    file, rng = write(tmp_path, VALID), random.Random(21)
    for _ in range(100):
        parts = [rng.choice(["train", "use", "loud", "evaluate", "poke", "optimizer", "sgd", "0", "", "data"])]
        inner = ["loud", "eps", "sgd", "lr", "steps", "augment", "crop", "x", "schedule"]
        parts += rng.choices(inner, k=rng.randint(0, 3))
        values: list[Any] = ["1", "[1]", "{a: 1}", "{sgd: {}}", "loud", "", "null", "true", *TOKENS]
        try:
            load_recipe(file, [f"{'.'.join(parts)}={rng.choice(values)}"], catalogue=catalogue).resolved()
        except ArtExtError as error:
            said = str(error)
        else:
            said = "fine"
        assert all(line.isprintable() and line.strip() for line in said.split("\n")), said
