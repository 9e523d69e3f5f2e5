"""Plugins that work, fail, clash or are kept out: the tool goes on and says which."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from art_ext.api import Facts, Ingredient, Paper, Plan, Problem
from art_ext.engine.observe import Observer, RunInfo
from art_ext.entries import AttackEntry, ModelEntry
from art_ext.errors import ComposeError, ConfigError
from art_ext.host import hookspecs
from art_ext.host.hookspecs import hookimpl
from art_ext.host.manager import (
    HOOKS,
    PluginManager,
    create_plugin_manager,
    default_manager,
    installed_plugins,
)

FACTS = Facts(10, (1, 8, 8))


def ingredient(called: str) -> type[Ingredient]:
    class Made(Ingredient):
        name = called
        paper = Paper("A Title", "An Author", "A Venue", 2020)

        def apply(self, plan: Plan) -> Plan:
            return plan

    return Made


def plugin(**hooks: Callable[..., Any]) -> ModuleType:
    """A module with marked hooks; `ingredients=...` is short for `art_ext_ingredients=...`."""
    module = ModuleType("fake_plugin")
    for name, function in hooks.items():
        setattr(module, f"art_ext_{name}", hookimpl(function))
    return module


def cause_of(bad: object) -> str:
    """The cause that a broken plugin is listed with, beside a good one that must survive it."""
    good = plugin(ingredients=lambda: [ingredient("fine")])
    catalogue = PluginManager.isolated({"bad": bad, "good": good}).catalogue
    states = {info.name: info for info in catalogue.plugins}
    assert states["good"].state == "loaded"
    assert list(catalogue.ingredients) == ["fine"]
    assert states["bad"].state == "broken"
    assert "\n" not in states["bad"].cause
    return states["bad"].cause


# ------------------------------------------------------------------ fake distributions on the path


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a distribution with one entry point on the path: install("dist", "1.0", plugin="name", code="...")."""
    modules: list[str] = []
    monkeypatch.delenv("ART_EXT_ONLY_PLUGINS", raising=False)
    monkeypatch.delenv("ART_EXT_BLOCK_PLUGINS", raising=False)

    def add(distribution: str, version: str, plugin: str, code: str) -> None:
        root = tmp_path / distribution
        info = root / f"{distribution}-{version}.dist-info"
        info.mkdir(parents=True)
        module = f"{distribution}_module"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[art_ext]\n{plugin} = {module}\n")
        (root / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(str(root))
        modules.append(module)

    yield add
    for module in modules:
        sys.modules.pop(module, None)


def code_of(name: str) -> str:
    return f"""
from art_ext.api import Ingredient, hookimpl

class Made(Ingredient):
    name = "{name}"
    def apply(self, plan):
        return plan

@hookimpl
def art_ext_ingredients():
    return [Made]
"""


def test_an_installed_plugin_is_listed_with_what_it_offers(install: Callable[..., None]) -> None:
    install("distone", "1.5", "one", code_of("loud"))
    catalogue = create_plugin_manager().catalogue
    info = {info.name: info for info in catalogue.plugins}["one"]
    assert (info.distribution, info.version, info.state) == ("distone", "1.5", "loaded")
    assert info.hooks == ("art_ext_ingredients",)
    assert info.ingredients == ("loud",)
    assert catalogue.ingredient("loud").name == "loud"
    assert catalogue.versions(["loud"]) == {"one": "distone 1.5"}


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise RuntimeError('two\\nlines \\x1b[31m')", "RuntimeError: two lines [31m"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_broken_and_the_others_go_on(
    install: Callable[..., None], code: str, cause: str
) -> None:
    install("distbad", "0.9", "bad", code)
    install("distgood", "1.0", "good", code_of("loud"))
    manager = create_plugin_manager()
    assert "loud" in manager.catalogue.ingredients
    (broken,) = (broken for broken in manager.broken if broken.name == "bad")
    assert cause in broken.cause
    assert str(broken).startswith("plugin bad (distbad 0.9) is broken: ")
    with pytest.raises(ConfigError, match=r"unknown ingredient 'lout'; did you mean loud.*; plugin bad is broken: "):
        manager.catalogue.ingredient("lout")


def test_two_plugins_of_one_name_are_refused_with_both_distributions(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("distone", "1.0", "twin", code_of("one"))
    install("disttwo", "2.0", "twin", code_of("two"))
    with pytest.raises(ConfigError, match="two plugins are called 'twin'") as caught:
        create_plugin_manager()
    assert "distone 1.0" in str(caught.value)
    assert "disttwo 2.0" in str(caught.value)
    monkeypatch.setenv("ART_EXT_BLOCK_PLUGINS", "twin")
    create_plugin_manager()


def test_two_ingredients_of_one_name_are_refused_with_both_distributions(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("distone", "1.0", "one", code_of("same"))
    install("disttwo", "2.0", "two", code_of("same"))
    with pytest.raises(ConfigError, match="ingredient 'same' comes twice") as caught:
        _ = create_plugin_manager().catalogue
    assert "distone 1.0" in str(caught.value)
    assert "disttwo 2.0" in str(caught.value)
    monkeypatch.setenv("ART_EXT_BLOCK_PLUGINS", "two")
    assert "same" in create_plugin_manager().catalogue.ingredients


def test_plugins_left_out_by_the_environment_are_not_imported(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("distone", "1.0", "one", code_of("loud"))
    install("disttwo", "1.0", "two", code_of("soft"))
    assert {"one", "two", "core"} <= set(installed_plugins())
    monkeypatch.setenv("ART_EXT_ONLY_PLUGINS", " one , ")
    catalogue = create_plugin_manager().catalogue
    assert list(catalogue.ingredients) == ["loud"]
    assert "digits" in catalogue.datasets  # the core need not be named
    assert "disttwo_module" not in sys.modules
    with pytest.raises(ConfigError, match=r"not loaded: .*two.*ART_EXT_ONLY_PLUGINS"):
        catalogue.ingredient("soft")
    monkeypatch.setenv("ART_EXT_BLOCK_PLUGINS", "one")
    states = {info.name: info for info in create_plugin_manager().catalogue.plugins}
    assert states["one"].state == "blocked"
    assert states["one"].cause == "blocked by ART_EXT_BLOCK_PLUGINS"
    monkeypatch.setenv("ART_EXT_BLOCK_PLUGINS", "ome")
    with pytest.raises(ConfigError, match=r"ART_EXT_BLOCK_PLUGINS: unknown plugin 'ome'; did you mean one"):
        create_plugin_manager()


def test_load_false_imports_nothing(install: Callable[..., None]) -> None:
    install("distone", "1.0", "one", code_of("loud"))
    assert create_plugin_manager(load=False).plugins == ()
    assert "distone_module" not in sys.modules


# ------------------------------------------------------------------------------- modules in memory


def test_allow_and_block_lists() -> None:
    fakes = {"one": plugin(ingredients=lambda: [ingredient("loud")]), "two": plugin()}
    assert list(PluginManager.isolated(fakes, only=["two"]).catalogue.ingredients) == []
    assert list(PluginManager.isolated(fakes, block=["two"]).catalogue.ingredients) == ["loud"]
    with pytest.raises(ConfigError, match=r"unknown plugin 'tow'; did you mean two"):
        PluginManager.isolated(fakes, only=["tow"])


def nothing() -> list[Any]:
    return []


def raising() -> list[type[Ingredient]]:
    raise KeyError("missing")


def late() -> Iterator[type[Ingredient]]:
    yield ingredient("early")
    raise ValueError("too late")


class NoName(Ingredient):
    def apply(self, plan: Plan) -> Plan:
        return plan


class NoApply(Ingredient):
    name = "idle"


@pytest.mark.parametrize(
    ("hooks", "cause"),
    [
        ({"ingredients": raising}, "art_ext_ingredients failed: KeyError: 'missing'"),
        ({"ingredients": late}, "art_ext_ingredients failed: ValueError: too late"),
        ({"ingredients": lambda: 3}, "art_ext_ingredients failed: TypeError"),
        ({"ingredients": lambda: ["loud"]}, "art_ext_ingredients must return classes, gave 'loud'"),
        ({"ingredients": lambda: [dict]}, "gave dict, which is no subclass of Ingredient"),
        ({"ingredients": lambda: [ingredient("loud")()]}, "must return classes"),
        ({"ingredients": lambda: [ingredient("Not A Name")]}, "'Not A Name' is no name"),
        ({"ingredients": lambda: [NoName]}, "ingredient NoName has no name"),
        ({"ingredients": lambda: [NoApply]}, "ingredient idle does not define apply"),
        ({"attacks": lambda: ["pgd"]}, "art_ext_attacks must return AttackEntry objects, gave 'pgd'"),
        ({"models": lambda: [None]}, "art_ext_models must return ModelEntry objects"),
        ({"datasets": lambda: [3]}, "art_ext_datasets must return DatasetEntry objects"),
        ({"ingredient": nothing}, "unknown hook 'art_ext_ingredient'; did you mean art_ext_ingredients"),
        ({"schedules": nothing}, "or it needs a newer art_ext?"),
        ({"check_plan": lambda plan, more: []}, "more"),
    ],
)
def test_a_plugin_that_breaks_the_contract_is_broken_with_its_cause(hooks: dict[str, Any], cause: str) -> None:
    assert cause in cause_of(plugin(**hooks))


def test_a_hook_without_its_mark_is_noticed() -> None:
    module = ModuleType("fake_plugin")
    module.art_ext_ingredients = lambda: [ingredient("loud")]  # type: ignore[attr-defined]
    assert "art_ext_ingredients is not marked as a hook" in cause_of(module)


def test_a_wrapper_of_a_hook_is_refused() -> None:
    import pluggy

    def around(plan: Plan) -> Iterator[None]:
        yield

    module = ModuleType("fake_plugin")
    module.art_ext_check_plan = pluggy.HookimplMarker("art_ext")(wrapper=True)(around)  # type: ignore[attr-defined]
    assert "wraps the hook" in cause_of(module)


def test_one_plugin_with_one_name_twice_is_told_so() -> None:
    twice = plugin(ingredients=lambda: [ingredient("loud"), ingredient("loud")])
    with pytest.raises(ConfigError, match=r"ingredient 'loud' comes twice.*give each its own name"):
        _ = PluginManager.isolated({"one": twice}).catalogue


class NoOptions(BaseModel):
    """Of an attack that has none."""


def test_attacks_and_models_are_found_by_name() -> None:
    attack = AttackEntry("poke", "pokes", NoOptions, lambda options, context: [])
    model = ModelEntry("crowd", "votes", lambda options, facts: None)  # type: ignore[arg-type, return-value]
    catalogue = PluginManager.isolated({"one": plugin(attacks=lambda: [attack], models=lambda: [model])}).catalogue
    assert catalogue.attack("poke").build(NoOptions(), None) == []  # type: ignore[arg-type]
    assert catalogue.model("crowd").summary == "votes"
    with pytest.raises(ConfigError, match=r"unknown attack 'pok'; did you mean poke\?"):
        catalogue.attack("pok")


def test_plugins_may_object_to_a_plan() -> None:
    def few(plan: Plan) -> Iterator[Problem]:
        if plan.facts.n_classes < 100:
            yield Problem("loud needs 100 classes; remove it", ("loud",))

    manager = PluginManager.isolated({"one": plugin(check_plan=few), "two": plugin(check_plan=lambda: None)})
    with pytest.raises(ComposeError, match="loud needs 100 classes"):
        manager.catalogue.plan([ingredient("loud")()], FACTS)
    assert manager.catalogue.plan([ingredient("loud")()], Facts(100, (1, 8, 8))).used == ("loud",)


def test_a_failing_check_is_an_objection_that_names_the_plugin() -> None:
    def fails(plan: Plan) -> list[Problem]:
        raise RuntimeError("oops")

    manager = PluginManager.isolated({"one": plugin(check_plan=fails)})
    with pytest.raises(ComposeError, match=r"plugin one could not check this plan \(.*oops\).*BLOCK_PLUGINS=one"):
        manager.catalogue.plan([], FACTS)


def test_observers_of_all_plugins_watch_and_a_failing_one_is_left_out() -> None:
    class Bell(Observer):
        pass

    def fails(run: RunInfo) -> list[Observer]:
        raise RuntimeError("no bell")

    manager = PluginManager.isolated({"bad": plugin(observers=fails), "good": plugin(observers=lambda run: [Bell()])})
    with pytest.warns(UserWarning, match="plugin bad does not observe this run: .*no bell"):
        (observer,) = manager.observers(RunInfo("run"))
    assert isinstance(observer.observer, Bell)
    assert [broken.name for broken in manager.broken] == ["bad"]


# -------------------------------------------------------------------------------- what is our own


def test_the_default_manager_is_made_once_and_has_the_builtin_data() -> None:
    assert default_manager() is default_manager()
    assert {"digits", "digits_on_photos", "cifar10"} <= set(default_manager().catalogue.datasets)


def test_our_own_methods_come_through_the_same_hooks() -> None:
    catalogue = default_manager().catalogue
    assert {"pgd_at", "trades", "pc_lc"} <= set(catalogue.ingredients)
    assert not default_manager().broken


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_says_what_to_return_and_when_it_is_called(name: str) -> None:
    contract = inspect.getdoc(getattr(hookspecs, name)) or ""
    assert "Called " in contract
    assert "Return" in contract or "return" in contract
    assert "Example::" in contract
    assert f"def {name}" in contract


def test_the_host_imports_lightly() -> None:
    code = """
import sys
import art_ext.host.cli
assert "torch" not in sys.modules and "pydantic" not in sys.modules, "cli"
import art_ext.host.recipe
from art_ext.host.manager import default_manager
default_manager().catalogue
heavy = {"art", "mlflow", "timm", "matplotlib", "sklearn", "torchvision"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
