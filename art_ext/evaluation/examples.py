"""What happened to each image, as a Parquet file: so that two models can be compared image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from art_ext.errors import DataError
from art_ext.evaluation.record import EXAMPLES
from art_ext.files import replacing


@dataclass(frozen=True)
class Examples:
    """n images, and under each attack those of them that it was run on.

    Attributes:
        index: (n,) rows of the data set.
        label, predicted: (n,) classes; predicted and confidence of the clean image.
        right: (n,) bool: right when clean, and under no attack inside the threat's ball wrong.
        attacks: a name to (attacked (n,) bool, predicted (n,), confidence (n,)).
        smallest_eps: (n,) the smallest perturbation known to change the image; 0 where it is wrong when clean,
            infinite where none is known; None where it was not looked for.
    """

    index: Tensor
    label: Tensor
    predicted: Tensor
    confidence: Tensor
    right: Tensor
    attacks: Mapping[str, tuple[Tensor, Tensor, Tensor]]
    smallest_eps: Tensor | None = None

    def write(self, folder: Path) -> Path:
        """Writes examples.parquet: nulls where an attack was not run on an image, or no perturbation is known.

        Columns: index, label, predicted, confidence, right (when clean), standing (after everything),
        smallest_eps; for each attack right/NAME, predicted/NAME, confidence/NAME.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            "index": self.index.numpy(),
            "label": self.label.numpy(),
            "predicted": self.predicted.numpy(),
            "confidence": self.confidence.float().numpy(),
            "right": (self.predicted == self.label).numpy(),
            "standing": self.right.numpy(),
        }
        if self.smallest_eps is not None:
            unknown = self.smallest_eps.isinf().numpy()
            columns["smallest_eps"] = pa.array(self.smallest_eps.float().numpy(), mask=unknown)
        for name, (attacked, predicted, confidence) in self.attacks.items():
            absent = ~attacked.numpy()
            columns[f"right/{name}"] = pa.array((predicted == self.label).numpy(), mask=absent)
            columns[f"predicted/{name}"] = pa.array(predicted.numpy(), mask=absent)
            columns[f"confidence/{name}"] = pa.array(confidence.float().numpy(), mask=absent)
        path = folder / EXAMPLES
        with replacing(path) as part:
            pq.write_table(pa.table(columns), part)
        return path


def read_examples(path: str | Path) -> Examples:
    """The examples in a file, or in a folder that holds examples.parquet.

    Raises:
        DataError: where there is none, or it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = Path(path)
    place = place / EXAMPLES if place.is_dir() else place
    try:
        table = pq.read_table(place)
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        names = [name.removeprefix("right/") for name in columns if name.startswith("right/")]
        attacks = {
            name: (
                ~_mask(columns[f"right/{name}"]),
                _filled(columns[f"predicted/{name}"], -1),
                _filled(columns[f"confidence/{name}"], 0.0),
            )
            for name in names
        }
        smallest = columns.get("smallest_eps")
        return Examples(
            _filled(columns["index"], 0),
            _filled(columns["label"], 0),
            _filled(columns["predicted"], 0),
            _filled(columns["confidence"], 0.0),
            _filled(columns["standing"], False),
            attacks,
            None if smallest is None else _filled(smallest, float("inf")),
        )
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"cannot read the examples {place} ({said}); evaluate the model again") from None


def _mask(column: Any) -> Tensor:
    return torch.from_numpy(np.array(column.is_null()))


def _filled(column: Any, value: float) -> Tensor:
    return torch.from_numpy(np.array(column.fill_null(value)))
