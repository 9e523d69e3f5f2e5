"""`python -m art_ext.testing docs/combinations.md pgd_at` tries every pair of what is installed and writes the page."""

import sys
from pathlib import Path

import torch

from art_ext.host.manager import default_manager
from art_ext.testing.combinations import as_markdown, try_all
from art_ext.testing.ingredients import trial_of


def main(path: str, *bases: str) -> None:
    """Tries all pairs of the installed ingredients and writes the table.

    Args:
        bases: ingredients beside which pairs are tried that lack an attack to train on.
    """
    torch.set_num_threads(1)
    catalogue = default_manager().catalogue
    ingredients = [trial_of(catalogue.ingredients[name]) for name in sorted(catalogue.ingredients)]
    beside = [trial_of(catalogue.ingredient(name)) for name in bases]
    Path(path).write_text(as_markdown(ingredients, try_all(ingredients, beside)))


if __name__ == "__main__":
    main(*sys.argv[1:])
