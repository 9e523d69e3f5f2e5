"""`python -m art_ext.testing docs/combinations.md` tries every pair of what is installed and writes the table."""

import sys
from pathlib import Path

import torch

from art_ext.host.manager import default_manager
from art_ext.testing.ingredients import as_markdown, trial_of, try_all


def main(path: str) -> None:
    """Tries all pairs of the installed ingredients and writes the table."""
    torch.set_num_threads(1)
    kinds = default_manager().catalogue.ingredients
    ingredients = [trial_of(kinds[name]) for name in sorted(kinds)]
    Path(path).write_text(as_markdown(ingredients, try_all(ingredients)))


if __name__ == "__main__":
    main(sys.argv[1])
