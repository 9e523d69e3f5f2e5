"""Names that are imported when first asked for, so that listing plugins loads neither ART nor MLflow."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any


class Later:
    """A module's `__getattr__`.

    Attributes:
        submodules: the names in each, known without importing it.
    """

    def __init__(self, package: str, submodules: dict[str, tuple[str, ...]]) -> None:
        self.package, self.submodules = package, submodules

    def __call__(self, name: str) -> Any:
        for submodule, names in self.submodules.items():
            if name in names:
                return getattr(importlib.import_module(f"{self.package}.{submodule}"), name)
        raise AttributeError(f"module {self.package!r} has no attribute {name!r}")


def lazily(package: str, **submodules: Sequence[str]) -> Later:
    """A module's `__getattr__`: `lazily(__name__, art=("XTrainer",))` finds XTrainer in the submodule `art`."""
    return Later(package, {submodule: tuple(names) for submodule, names in submodules.items()})
