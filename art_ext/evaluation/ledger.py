"""Results example by example, appended to files as they come: an interrupted evaluation goes on where it stopped.

One file for each attack and process, named after a digest of all that its numbers depend on. A batch
is a line of JSON, written whole; a line that was cut short by a crash is attacked again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = "partial"


@dataclass(frozen=True)
class Batch:
    """What one attack did to n images.

    Attributes:
        index: (n,) which images.
        predicted: (n,) the class that the network gives for each adversarial twin; `suite.NO_ANSWER` where there
            is none.
        confidence: (n,) its softmax probability, 0 without an answer.
        norm: (n,) of the perturbation, in the threat's norm.
        inside: (n,) bool: the twin lies in the threat's ball and in the clip range.
        scores: a detector's name to (n,) what it makes of each twin, -inf where that is not defined.
    """

    index: Tensor
    predicted: Tensor
    confidence: Tensor
    norm: Tensor
    inside: Tensor
    forwards: int
    backwards: int
    seconds: float
    scores: Mapping[str, Tensor] = field(default_factory=dict)

    def as_line(self) -> str:
        data = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in vars(self).items()}
        return json.dumps(data | {"scores": {name: score.tolist() for name, score in self.scores.items()}})

    @classmethod
    def from_line(cls, line: str) -> Batch:
        data = json.loads(line)
        return cls(
            torch.tensor(data["index"], dtype=torch.int64),
            torch.tensor(data["predicted"], dtype=torch.int64),
            torch.tensor(data["confidence"], dtype=torch.float32),
            torch.tensor(data["norm"], dtype=torch.float32),
            torch.tensor(data["inside"], dtype=torch.bool),
            data["forwards"],
            data["backwards"],
            data["seconds"],
            {name: torch.tensor(score, dtype=torch.float64) for name, score in data["scores"].items()},
        )


def digest_of_config(config: Mapping[str, Any]) -> str:
    """16 hex digits of a SHA-256 over plain data."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


class Ledger:
    """The batches of one attack, kept in a folder or in memory alone.

    Args:
        folder: of the evaluation; None keeps nothing.
        name: of the attack.
        digest: of all that its numbers depend on; files of other digests are not looked at.
        writer: names this process among those that share the folder.
    """

    def __init__(self, folder: Path | None, name: str, digest: str, writer: str = "0") -> None:
        self.stem = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{digest}"
        self.folder = None if folder is None else folder / FOLDER
        self.writer = writer

    def __iter__(self) -> Iterator[Batch]:
        """The batches of all processes, as they lie on disk."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob(f"{self.stem}.*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    yield Batch.from_line(line)
                except (ValueError, KeyError, TypeError):  # cut short when its process died
                    continue

    def append(self, batch: Batch) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.stem}.{self.writer}.jsonl"
        with path.open("a+b") as file:
            if file.tell() > 0:
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # the last line of a process that died
                    file.write(b"\n")
            file.write(batch.as_line().encode() + b"\n")
