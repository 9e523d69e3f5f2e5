"""Names that are imported when first asked for, so that listing plugins loads neither ART nor MLflow."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any


def lazily(package: str, **submodules: Sequence[str]) -> Callable[[str], Any]:
    """A module's `__getattr__`: `lazily(__name__, art=("XTrainer",))` finds XTrainer in the submodule `art`."""
    places = {name: submodule for submodule, names in submodules.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{places[name]}"), name)

    return __getattr__
