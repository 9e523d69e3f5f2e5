"""The names of a run's trainings, which are those of their folders too."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BEST", "HARDENED", "RESERVED", "ROLES", "UNDEFENDED", "is_role"]

HARDENED, UNDEFENDED = "hardened", "undefended"
ROLES = (HARDENED, UNDEFENDED)
"""What the model of a run's folder is: the first of these that is there."""
RESERVED = frozenset({*ROLES, "evaluation"})
"""Names in a run's folder that other methods, trained beside the one of the recipe, cannot have."""
BEST = "best.pt"
"""The weights of the best epoch, in a role's folder."""


def is_role(folder: Path) -> bool:
    """Whether a folder is that of one training of a run."""
    return (folder / BEST).is_file()
