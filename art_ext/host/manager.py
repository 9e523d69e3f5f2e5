"""Finds plugins and what they offer. A plugin that fails is remembered with its cause, and the others go on."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pluggy

from art_ext.entries import AttackEntry, ModelEntry
from art_ext.errors import ComposeError, ConfigError, Problem, unknown
from art_ext.host import hookspecs
from art_ext.host.hookspecs import PROJECT
from art_ext.ingredient import Ingredient
from art_ext.lazy import Later
from art_ext.plan import Plan

if TYPE_CHECKING:
    from art_ext.data.entry import DatasetEntry
    from art_ext.engine.observe import Observer, RunInfo
    from art_ext.types import Facts

__all__ = [
    "CORE",
    "BrokenPlugin",
    "Catalogue",
    "PluginInfo",
    "PluginManager",
    "create_plugin_manager",
    "default_manager",
    "installed_plugins",
]

ONLY, BLOCK = "ART_EXT_ONLY_PLUGINS", "ART_EXT_BLOCK_PLUGINS"
CORE = "core"
"""The plugin of the built-in data sets; allow-lists need not name it."""

HOOKS = tuple(name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_"))
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_T = TypeVar("_T")


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that could not be imported or registered, or whose hook failed."""

    name: str
    distribution: str
    version: str
    cause: str

    def __str__(self) -> str:
        return f"plugin {self.name} ({_source(self.distribution, self.version)}) is broken: {self.cause}"


@dataclass(frozen=True)
class PluginInfo:
    """What `art-ext plugins` shows of a plugin; `cause` says why it is blocked or broken, `art` are classes for ART."""

    name: str
    distribution: str
    version: str
    state: Literal["loaded", "blocked", "broken"]
    hooks: tuple[str, ...] = ()
    ingredients: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    cause: str = ""
    art: tuple[str, ...] = ()


@dataclass(frozen=True)
class Catalogue:
    """All that the loaded plugins offer, by name, and the state of every plugin."""

    ingredients: Mapping[str, type[Ingredient]]
    attacks: Mapping[str, AttackEntry]
    datasets: Mapping[str, DatasetEntry]
    models: Mapping[str, ModelEntry]
    plugins: Sequence[PluginInfo]
    manager: PluginManager = field(repr=False, compare=False)

    def ingredient(self, name: str) -> type[Ingredient]:
        """The ingredient called `name`.

        Raises:
            ConfigError: naming near names, and the plugins that might have had it but did not load.
        """
        return self._find("ingredient", name, self.ingredients)

    def attack(self, name: str) -> AttackEntry:
        """The evaluation's attack called `name`; raises as `ingredient`."""
        return self._find("attack", name, self.attacks)

    def dataset(self, name: str) -> DatasetEntry:
        """The data set called `name`; raises as `ingredient`."""
        return self._find("data set", name, self.datasets)

    def model(self, name: str) -> ModelEntry:
        """The plugins' network called `name`; raises as `ingredient`."""
        return self._find("model", name, self.models)

    def plan(self, ingredients: Sequence[Ingredient], facts: Facts) -> Plan:
        """The plan of the ingredients, with the plugins' own objections heard.

        Raises:
            ComposeError: with every problem.
        """
        plan = Plan.of(ingredients, facts)
        problems = self.manager.objections(plan)
        if problems:
            raise ComposeError(problems)
        return plan

    def versions(self, ingredients: Iterable[str]) -> dict[str, str]:
        """Distribution and version of each plugin that offers one of the ingredients, by plugin: a run's tags."""
        wanted = set(ingredients)
        return {
            info.name: _source(info.distribution, info.version)
            for info in self.plugins
            if wanted.intersection(info.ingredients)
        }

    def _find(self, kind: str, name: str, known: Mapping[str, _T]) -> _T:
        if name in known:
            return known[name]
        message = unknown(kind, name, known)
        for info in self.plugins:
            if info.state == "broken":
                message += f"; plugin {info.name} is broken: {info.cause}"
        idle: dict[str, list[str]] = {}
        for info in self.plugins:
            if info.state == "blocked":
                idle.setdefault(info.cause, []).append(info.name)
        for cause, names in idle.items():
            message += f"; not loaded: {', '.join(names)} ({cause})"
        raise ConfigError(message)


@dataclass
class _Record:
    """A plugin on its way from an entry point to what it offers."""

    name: str
    distribution: str
    version: str
    load: Callable[[], object]
    plugin: object = None
    state: Literal["loaded", "blocked", "broken"] = "loaded"
    cause: str = ""
    offers: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return _source(self.distribution, self.version)

    def info(self, hooks: Iterable[str]) -> PluginInfo:
        def names(kind: str) -> tuple[str, ...]:
            return tuple(sorted(item.name for item in self.offers.get(kind, ()))) if self.state == "loaded" else ()

        return PluginInfo(
            self.name,
            self.distribution,
            self.version,
            self.state,
            tuple(sorted(hooks)),
            names("ingredients"),
            names("attacks"),
            names("datasets"),
            names("models"),
            self.cause,
            tuple(_art_classes(self.plugin)) if self.state == "loaded" else (),
        )


def _art_classes(plugin: object) -> Iterator[str]:
    """The trainers, attacks and detectors that a plugin exports for ART, which is not imported for it."""
    inside = getattr(plugin, "__dict__", {})
    later = inside.get("__getattr__")
    waiting = later.submodules.get("art", ()) if isinstance(later, Later) else ()
    for name in sorted(map(str, inside.get("__all__", ()))):
        bases = value.__mro__[1:] if isinstance(value := inside.get(name), type) else ()
        if name in waiting or any(base.__module__.partition(".")[0] == "art" for base in bases):
            yield name


class PluginManager:
    """The plugins of one process or test, and the calls to their hooks.

    Make it with `create_plugin_manager` or, in tests, with `PluginManager.isolated`.

    Args:
        only: names of the plugins to load and no others; None for all.
        block: names of plugins to leave out.
        asked_by: who gave `only` and `block`, for messages.
    """

    def __init__(
        self, only: Iterable[str] | None = None, block: Iterable[str] = (), asked_by: str = "the list of plugins"
    ) -> None:
        self._only: list[tuple[frozenset[str], str]] = []
        self._block: list[tuple[frozenset[str], str]] = [(frozenset(block), asked_by)]
        if only is not None:
            self._only.append((frozenset(only), asked_by))
        self._records: list[_Record] = []
        self._pluggy = pluggy.PluginManager(PROJECT)
        self._pluggy.add_hookspecs(hookspecs)

    @classmethod
    def isolated(
        cls, plugins: Mapping[str, object], only: Iterable[str] | None = None, block: Iterable[str] = ()
    ) -> PluginManager:
        """A manager of these modules or objects alone, whatever is installed or set in the environment."""
        manager = cls(only, block)
        manager._add([_Record(name, "in memory", "", lambda p=p: p) for name, p in plugins.items()])  # type: ignore[misc]
        return manager

    def restrict_by_environment(self) -> None:
        """Honours ART_EXT_ONLY_PLUGINS and ART_EXT_BLOCK_PLUGINS, lists of names with commas between them."""
        only, block = (_listed(os.environ.get(name, "")) for name in (ONLY, BLOCK))
        if only:
            self._only.append((only, ONLY))
        self._block.append((block, BLOCK))

    def load_entry_points(self) -> None:
        """Loads the core's own plugin, and every installed plugin that is neither left out nor broken.

        Raises:
            ConfigError: on two plugins of one name, and on a list that names a plugin nobody has.
        """
        records = [_core()]
        for point in metadata.entry_points(group=PROJECT):
            dist = point.dist
            name, version = (dist.name, dist.version) if dist is not None else ("unknown distribution", "")
            records.append(_Record(point.name, name, version, point.load))
        self._add(records)

    @functools.cached_property
    def catalogue(self) -> Catalogue:
        """What the plugins offer, asked for once.

        Raises:
            ConfigError: if two plugins offer something of the same name; both distributions are named.
        """
        for record in self._loaded():
            self._ask_offers(record)
        return Catalogue(
            self._by_name("ingredient", "ingredients"),
            self._by_name("attack", "attacks"),
            self._by_name("data set", "datasets"),
            self._by_name("model", "models"),
            self.plugins,
            self,
        )

    @property
    def plugins(self) -> tuple[PluginInfo, ...]:
        """Every plugin that was found, loaded or not, by name."""
        infos = [record.info(self._hooks_of(record)) for record in self._records]
        return tuple(sorted(infos, key=lambda info: info.name))

    @property
    def broken(self) -> tuple[BrokenPlugin, ...]:
        return tuple(
            BrokenPlugin(r.name, r.distribution, r.version, r.cause) for r in self._records if r.state == "broken"
        )

    def objections(self, plan: Plan) -> list[Problem]:
        """What the plugins' `art_ext_check_plan` hooks find; one that fails is itself an objection."""
        found: list[Problem] = []
        for record in self._loaded():
            try:
                found += self._call(record, "art_ext_check_plan", Problem, plan=plan)
            except _Failed as failure:
                self._break(record, failure.cause)
                found.append(
                    Problem(f"plugin {record.name} could not check this plan ({failure.cause}); {_way_out(record)}")
                )
        return found

    def observers(self, run: RunInfo) -> list[Observer]:
        """The plugins' observers of a run; a plugin that fails here is left out with a warning."""
        from art_ext.engine.observe import Observer
        from art_ext.host.guarded import Guarded

        found: list[Observer] = []
        for record in self._loaded():
            try:
                made = self._call(record, "art_ext_observers", Observer, run=run)
                found += [Guarded(observer, record.name) for observer in made]
            except _Failed as failure:
                self._break(record, failure.cause)
                warnings.warn(f"plugin {record.name} does not observe this run: {failure.cause}", stacklevel=2)
        return found

    def _add(self, records: Iterable[_Record]) -> None:
        for record in records:
            record.cause = self._reason_to_block(record.name)
            record.state = "blocked" if record.cause else "loaded"
            if record.state == "loaded":
                self._refuse_twin(record)
            self._records.append(record)
        self._check_lists()
        for record in self._loaded():
            self._register(record)

    def _reason_to_block(self, name: str) -> str:
        for names, who in self._block:
            if name in names:
                return f"blocked by {who}"
        for names, who in self._only:
            if name not in names and name != CORE:
                return f"not in {who}"
        return ""

    def _refuse_twin(self, record: _Record) -> None:
        for other in self._loaded():
            if other.name == record.name:
                raise ConfigError(
                    f"two plugins are called {record.name!r}: one from {other.source}, one from {record.source}; "
                    "uninstall one of them, or block both"
                )

    def _check_lists(self) -> None:
        known = [record.name for record in self._records]
        for names, who in [*self._only, *self._block]:
            for name in sorted(names):
                if name not in known:
                    raise ConfigError(f"{who}: {unknown('plugin', name, known)}")

    def _register(self, record: _Record) -> None:
        from art_ext.host.guarded import TooLong, limited

        importlib.import_module("art_ext.api")  # before the clock starts: torch, which takes long on a busy machine
        try:
            with limited("its import"):
                record.plugin = record.load()
            self._refuse_unmarked(record.plugin)
            self._pluggy.register(record.plugin, record.name)
            self._check_pending(record)
        except (Exception, SystemExit, TooLong) as error:  # whatever a stranger's module does, the others go on
            self._break(record, _cause(error))

    @staticmethod
    def _refuse_unmarked(plugin: object) -> None:
        if not isinstance(plugin, ModuleType):
            return
        for name in HOOKS:
            function = getattr(plugin, name, None)
            if inspect.isfunction(function) and not hasattr(function, f"{PROJECT}_impl"):
                raise _Failed(f"{name} is not marked as a hook; put @hookimpl before it")

    def _check_pending(self, record: _Record) -> None:
        """Pluggy's check of the same name, one plugin at a time, so that the others stay."""
        for caller in self._pluggy.get_hookcallers(record.plugin) or ():
            for impl in caller.get_hookimpls():
                if impl.plugin is not record.plugin:
                    continue
                if not caller.has_spec() and not impl.optionalhook:
                    raise _Failed(f"{unknown('hook', caller.name, HOOKS)}; or it needs a newer art_ext?")
                if impl.hookwrapper or impl.wrapper:
                    raise _Failed(f"{caller.name} wraps the hook, which art_ext does not allow; return values instead")

    def _ask_offers(self, record: _Record) -> None:
        from art_ext.data.entry import DatasetEntry
        from art_ext.host.guarded import guarded

        kinds = {"attacks": AttackEntry, "datasets": DatasetEntry, "models": ModelEntry}
        try:
            record.offers["ingredients"] = tuple(self._ask_ingredients(record))
            for kind, entry in kinds.items():
                given: list[Any] = self._call(record, f"art_ext_{kind}", entry)
                record.offers[kind] = tuple(guarded(item, record.name) for item in given)
            for items in record.offers.values():
                for item in items:
                    if not isinstance(item.name, str) or _NAME.fullmatch(item.name) is None:
                        raise _Failed(f"{item.name!r} is no name; use lower-case letters, digits and _")
        except _Failed as failure:
            self._break(record, failure.cause)

    def _ask_ingredients(self, record: _Record) -> list[type[Ingredient]]:
        classes = self._call(record, "art_ext_ingredients", type)
        for cls in classes:
            if not issubclass(cls, Ingredient):
                raise _Failed(f"art_ext_ingredients gave {cls.__name__}, which is no subclass of Ingredient")
            if not hasattr(cls, "name"):
                raise _Failed(f"ingredient {cls.__name__} has no name; give it one, as recipes spell it")
            if cls.apply is Ingredient.apply:
                raise _Failed(f"ingredient {cls.name} does not define apply(plan)")
        return classes

    def _call(self, record: _Record, hook: str, kind: type[_T], **arguments: object) -> list[_T]:
        """One plugin's values of a hook, each checked to be a `kind`."""
        from art_ext.host.guarded import TooLong, limited

        others = [p for p in self._pluggy.get_plugins() if p is not record.plugin]
        caller = self._pluggy.subset_hook_caller(hook, others)
        try:
            with limited(hook):
                values = [item for given in caller(**arguments) for item in given]
        except TooLong as error:
            raise _Failed(str(error)) from error
        except (Exception, SystemExit) as error:
            raise _Failed(f"{hook} failed: {_cause(error)}") from error
        for value in values:
            if not isinstance(value, kind):
                wanted = "classes" if kind is type else f"{kind.__name__} objects"
                raise _Failed(f"{hook} must return {wanted}, gave {_short(value)}")
        return values

    def _by_name(self, kind: str, offer: str) -> dict[str, Any]:
        owners: dict[str, tuple[_Record, Any]] = {}
        for record in self._loaded():
            for item in record.offers.get(offer, ()):
                if item.name in owners:
                    first = owners[item.name][0]
                    if first is record:
                        out = "the plugin must give each its own name"
                    else:
                        out = f"uninstall one of them, or set {BLOCK}={record.name}"
                    raise ConfigError(
                        f"{kind} {item.name!r} comes twice: from plugin {first.name} ({first.source}) "
                        f"and from plugin {record.name} ({record.source}); {out}"
                    )
                owners[item.name] = (record, item)
        return {name: owners[name][1] for name in sorted(owners)}

    def _loaded(self) -> list[_Record]:
        return [record for record in self._records if record.state == "loaded"]

    def _hooks_of(self, record: _Record) -> list[str]:
        if record.state != "loaded":
            return []
        return [caller.name for caller in self._pluggy.get_hookcallers(record.plugin) or ()]

    def _break(self, record: _Record, cause: str) -> None:
        record.state, record.cause = "broken", cause
        # pluggy has it by now, in part or in full, or not at all
        with suppress(Exception):
            self._pluggy.unregister(record.plugin)


class _Failed(Exception):
    """A plugin did something wrong; the message is the cause."""

    @property
    def cause(self) -> str:
        return str(self)


def create_plugin_manager(
    load: bool = True,
    only: Iterable[str] | None = None,
    block: Iterable[str] = (),
    *,
    asked_by: str = "the list of plugins",
) -> PluginManager:
    """A fresh manager of the installed plugins, within what the environment allows.

    Args:
        load: whether to import the plugins.
        only, block: names of plugins to load alone, or to leave out.
        asked_by: who gave `only` and `block`, for messages: "the recipe's plugins".

    Raises:
        ConfigError: on a list that names an unknown plugin, and on two plugins of one name.
    """
    manager = PluginManager(only, block, asked_by)
    manager.restrict_by_environment()
    if load:
        manager.load_entry_points()
    return manager


def installed_plugins() -> list[str]:
    """The names of all plugins that are installed, without importing any."""
    return sorted({CORE, *(point.name for point in metadata.entry_points(group=PROJECT))})


@functools.cache
def default_manager() -> PluginManager:
    """The manager of all installed plugins, made when first asked for."""
    return create_plugin_manager()


def _core() -> _Record:
    try:
        version = metadata.version(PROJECT)
    except metadata.PackageNotFoundError:  # run from a source tree
        version = ""
    return _Record(CORE, PROJECT, version, lambda: importlib.import_module("art_ext.host.builtin"))


def _listed(text: str) -> frozenset[str]:
    return frozenset(filter(None, (part.strip() for part in text.split(","))))


def _source(distribution: str, version: str) -> str:
    return f"{distribution} {version}".strip()


def _way_out(record: _Record) -> str:
    return f"update {record.distribution}, or set {BLOCK}={record.name}"


def _cause(error: BaseException) -> str:
    from art_ext.host.guarded import TooLong

    if isinstance(error, _Failed):
        return error.cause
    if isinstance(error, TooLong):
        return str(error)
    text = one_line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(text: str) -> str:
    """A stranger's text, safe to print: no line breaks, no control characters, not endless."""
    text = "".join(c if c.isprintable() else " " for c in text)
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:397] + "..."


def _short(value: object) -> str:
    return one_line(repr(value))[:80]
