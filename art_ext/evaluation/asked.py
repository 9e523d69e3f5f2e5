"""The attacks that a recipe's `evaluate:` names, made against what is evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from art_ext.entries import AttackEntry, EvaluationContext, Family
from art_ext.errors import ConfigError
from art_ext.evaluation.lineup import Planned, family_of
from art_ext.parts.attacks import Attack
from art_ext.parts.norms import Norm

Asked = Sequence[tuple[AttackEntry, Any]]
"""Entries with their options."""


def asked_attacks(asked: Asked, context: EvaluationContext, notes: list[str]) -> list[Planned]:
    """What entries give in a context; it runs on all images.

    Args:
        notes: get a sentence for each that cannot be made here, such as one on another method's objective.
    """
    found: list[tuple[str, Attack]] = []
    families: dict[int, Family] = {}
    for entry, options in asked:
        try:
            built = entry.build(options, context)
        except ConfigError as error:
            notes.append(f"the recipe's attack {entry.name} did not run: {error}")
            continue
        found += built
        families |= {id(attack): family_of(attack, entry) for _, attack in built}
    return [Planned(name, attack, families[id(attack)], True) for name, attack in distinct(found)]


def distinct(built: Sequence[tuple[str, Attack]]) -> list[tuple[str, Attack]]:
    """Each attack once, and no two of one name: those that share theirs are told apart by budget, then by number."""
    made = list({(name, str(attack)): (name, attack) for name, attack in built}.values())
    times = Counter(name for name, _ in made)
    found: dict[str, Attack] = {}
    for name, attack in made:
        label = wanted = name if times[name] == 1 else f"{name}_{_budget(attack)}"
        number = 1
        while label in found:
            number += 1
            label = f"{wanted}_{number}"
        found[label] = attack
    return list(found.items())


def _budget(attack: Attack) -> str:
    """Norm and radius, for attacks that differ in nothing else: "linf_0.15"."""
    norm = getattr(attack, "norm", None)
    return f"{norm.name}_{norm.largest:g}" if isinstance(norm, Norm) else str(attack)
