"""Who may import whom, read from the source of every file: the architecture of the folder, as a test."""

import ast
import configparser
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE, PLUGINS = ROOT / "art_ext", ROOT / "plugins"
CORE_FILES = sorted(path for path in CORE.rglob("*.py"))
PLUGIN_FOLDERS = sorted(path.parent for path in PLUGINS.glob("*/__init__.py"))
PLUGIN_FILES = sorted(path for folder in PLUGIN_FOLDERS for path in folder.rglob("*.py"))

LAYERS = [
    {"types", "errors", "lazy", "secrets", "files"},
    {"parts"},
    {"plan"},
    {"ingredient", "entries", "aims", "data"},
    {"engine"},
    {"evaluation"},
    {"border"},
    {"lifecycle"},
    {"host"},
    {"api"},
    {"testing", "__main__"},
]
"""From the bottom up: a file imports from its own layer's folder and from the layers below."""

LIBRARIES = {
    "types": {"torch"},
    "errors": set(),
    "lazy": set(),
    "files": set(),
    "secrets": set(),
    "parts": {"torch", "numpy", "scipy"},
    "plan": {"torch"},
    "ingredient": {"pydantic"},
    "entries": {"torch", "pydantic"},
    "aims": {"pydantic"},
    "data": {"torch", "torchvision", "numpy", "scipy", "PIL", "sklearn", "timm"},
    "engine": {"torch", "numpy"},
    "evaluation": {"torch", "numpy", "scipy", "sklearn", "matplotlib", "jinja2", "pydantic"},
    "border": {"torch", "numpy", "pydantic", "yaml", "rich", "matplotlib", "safetensors"},
    "lifecycle": {"torch", "numpy", "pydantic", "yaml", "jinja2", "matplotlib", "safetensors"},
    "host": {"torch", "numpy", "pydantic", "pydantic_core", "yaml", "rich", "matplotlib", "jinja2", "click", "pluggy"},
    "api": set(),
    "__main__": set(),
    "testing": {"torch", "numpy", "pydantic"},
}
"""What each layer may import from elsewhere, besides the standard library."""

OWNERS = {
    "art": ("border/art", "testing/art"),
    "timm": ("border/timm", "border/networks"),
    "huggingface_hub": ("border/timm",),
    "mlflow": ("border/mlflow",),
    "filelock": ("border/mlflow_store",),
    "lightning_fabric": ("engine/run",),
    "pyarrow": ("evaluation/examples",),
    "pluggy": ("host/",),
    "click": ("host/",),
}
"""Libraries that live in one place: only files whose path starts so may import them."""


def imports(path):
    """Modules that a file imports when it runs, anywhere in it; those for type checking are left out."""
    found = []

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.extend(f"{node.module}.{a.name}" if node.module == "art_ext" else node.module for a in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def outside(path):
    return {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)


def layer(name):
    """The layer of a dotted module name below art_ext."""
    part = name.split(".")[1]
    return next(i for i, names in enumerate(LAYERS) if part in names)


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def label(path):
    return str(path.relative_to(ROOT))


core_files = pytest.mark.parametrize(
    "path", [p for p in CORE_FILES if p.parent != CORE or p.stem != "__init__"], ids=label
)
plugin_files = pytest.mark.parametrize("path", PLUGIN_FILES, ids=label)


def test_there_is_something_to_check():
    assert len(CORE_FILES) > 30
    assert {"art_ext_baselines", "art_ext_pc_lc"} <= {folder.name for folder in PLUGIN_FOLDERS}


@core_files
def test_layers_look_down_only(path):
    own = layer(dotted(path))
    for name in imports(path):
        if name.startswith("art_ext."):
            assert layer(name) <= own, f"{label(path)} imports {name}, which is above it"


@core_files
def test_the_core_imports_the_libraries_of_its_layer(path):
    place = dotted(path).split(".")[1]
    inside = str(path.relative_to(CORE))
    owned = {name for name, starts in OWNERS.items() if inside.startswith(starts)}
    extra = outside(path) - {"art_ext"} - LIBRARIES[place] - owned
    assert not extra, f"{label(path)} imports {sorted(extra)}"


@core_files
def test_each_border_keeps_its_library(path):
    inside = str(path.relative_to(CORE))
    for library, starts in OWNERS.items():
        if library in outside(path) and not (library == "timm" and inside.startswith("data/")):
            assert inside.startswith(starts), f"{label(path)} imports {library}"


@core_files
def test_the_core_imports_no_plugin(path):
    assert not {name for name in outside(path) if name.startswith("art_ext_")}


@plugin_files
def test_plugins_import_the_api_and_themselves(path):
    """A plugin's `art.py` is loaded when an ART user asks for it, so it alone may know ART's types."""
    own = path.relative_to(PLUGINS).parts[0]
    allowed = {"torch", "pydantic", "matplotlib", "art_ext", own} | ({"art", "numpy"} if path.stem == "art" else set())
    assert outside(path) <= allowed, f"{label(path)} imports {sorted(outside(path) - allowed)}"
    border = {"art_ext.border.art", "art_ext.border.art_detectors"} if path.stem == "art" else set()
    for name in imports(path):
        if name.split(".")[0] == "art_ext":
            assert name in {"art_ext.api", *border}, f"{label(path)} imports {name}; a stranger may import art_ext.api"


@pytest.mark.parametrize("folder", PLUGIN_FOLDERS, ids=label)
def test_each_plugin_has_its_lines_in_setup_cfg(folder):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    name = folder.name
    packages = config["options"]["packages"].split()
    missing = [
        n for n in [name, *(f"{name}.{sub.parent.name}" for sub in folder.glob("*/__init__.py"))] if n not in packages
    ]
    assert not missing, f"setup.cfg lacks {missing} among its packages"
    points = dict(
        (part.strip() for part in line.split("="))
        for line in config["options.entry_points"]["art_ext"].split("\n")
        if line
    )
    assert points.get(name.removeprefix("art_ext_")) == name, f"setup.cfg lacks the entry point of {name}"


def ingredient_names():
    """The names of the ingredients that plugins offer, read from their hooks and classes."""
    offered, named = set(), {}
    for path in PLUGIN_FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "art_ext_ingredients":
                offered |= {part.id for line in node.body for part in ast.walk(line) if isinstance(part, ast.Name)}
            if isinstance(node, ast.ClassDef):
                for line in node.body:
                    targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
                    is_name = any(isinstance(target, ast.Name) and target.id == "name" for target in targets)
                    if is_name and isinstance(line.value, ast.Constant):
                        named[node.name] = line.value.value
    return {name for kind, name in named.items() if kind in offered}


def strings(path):
    """String literals of a file that are no docstrings: (line, text)."""
    tree = ast.parse(path.read_text())
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]


def test_the_core_knows_no_method_s_name():
    """Nor branches on it: data sets may use the words for what they are, a cat for one."""
    torchs_own_words = {"optimizer", "weight_decay"}  # tricks go by them too
    names = ingredient_names() - torchs_own_words
    assert {"pgd_at", "trades", "pc_lc"} <= names
    files = [path for path in CORE_FILES if path.relative_to(CORE).parts[0] != "data"]
    told = [f"{label(path)}:{line}: {text!r}" for path in files for line, text in strings(path) if text in names]
    assert not told, told


def test_everything_the_api_promises_exists():
    import art_ext.api as api

    assert len(set(api.__all__)) == len(api.__all__)
    assert all(hasattr(api, name) for name in api.__all__)
