"""Accuracies that are kept as they come, so that an interrupted evaluation goes on behind its last attack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from art_ext.engine import checkpoint
from art_ext.engine.run import Run
from art_ext.errors import ModelError
from art_ext.evaluation.suite import Accuracy, Evaluator, under_shared
from art_ext.parts.attacks import Attack

__all__ = ["Rows"]


class Rows:
    """The outcome of each attack on a run's networks, image by image, in one file.

    Args:
        run: whose processes share the work; the first one writes.
    """

    def __init__(self, path: Path, run: Run) -> None:
        self.path, self._run = path, run
        self._known: dict[str, Any] = run.from_first(self._read)

    def _read(self) -> dict[str, Any]:
        try:
            return checkpoint.load(self.path)
        except ModelError:  # none yet, or a damaged one: it costs time alone
            return {}

    def run(self, of: str, evaluator: Evaluator, attacks: Sequence[tuple[str, Attack]]) -> list[Accuracy]:
        """Clean accuracy and that under each attack, as `Evaluator.run`; those known are not run again.

        Args:
            of: which weights these are, such as "epoch 3".
        """
        rows = [evaluator.clean()]
        for name, attack in attacks:
            key = f"{of}: {name}: {attack}"
            if key not in self._known:
                row = under_shared(evaluator, name, attack, self._run)
                self._known[key] = {"right": row.right, "budget": row.budget, "seconds": row.seconds}
                self._run.from_first(lambda: checkpoint.save(self.path, self._known))
            rows.append(Accuracy(name, **self._known[key]))
        return rows
