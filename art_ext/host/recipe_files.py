"""Where recipes are found: files, and those that are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from art_ext.errors import ConfigError, did_you_mean
from art_ext.host.manager import one_line

__all__ = ["find_recipe", "known_recipes"]


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
