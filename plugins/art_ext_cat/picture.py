"""What the mask does to perturbations, as a picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.api import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = ("clean", "calibrated", "change", "mask")
MOST = 12
"""Images that are shown at most."""


def picture(x: Any, x_cal: Any, mask: Any, clip: tuple[float, float] = (0.0, 1.0)) -> Figure:
    """Each image, its calibrated example, the change between them, and the mask: one column an image.

    The first images are shown, `MOST` at most. The change is drawn around grey, as strong as the
    largest one shown allows; the mask black where it is 0 and white where it is 1. Of colour images
    both are drawn per channel.

    Args:
        x, x_cal, mask: (N, C, H, W) arrays or tensors, as `CATTrainer.calibrated` gives and takes them.
        clip: smallest and largest pixel, which are drawn black and white.

    Raises:
        DataError: for what is no array, and unless all three have the same shape, with 1 or 3 channels and an image
            at least, and the clip range is finite.
    """
    from matplotlib.figure import Figure

    given = {"x": x, "x_cal": x_cal, "mask": mask}
    x, x_cal, mask = (_as_images(name, part) for name, part in given.items())
    if not x.shape == x_cal.shape == mask.shape or x.ndim != 4 or x.shape[1] not in (1, 3) or len(x) == 0:
        shapes = ", ".join(str(tuple(part.shape)) for part in (x, x_cal, mask))
        raise DataError(f"a picture needs x, x_cal and mask of one shape (N, 1 or 3, H, W), not {shapes}")
    low, high = clip
    if not 0 < high - low < math.inf:
        raise DataError(f"a picture needs a finite clip range from black to white, not ({low}, {high}); give clip")
    x, x_cal, mask = x[:MOST], x_cal[:MOST], mask[:MOST]
    change = x_cal - x
    change = 0.5 + change / (2 * float(change.abs().max().clamp(min=1e-12)))
    shown = ((x - low) / (high - low), (x_cal - low) / (high - low), change, mask)
    figure = Figure(figsize=(0.6 + 0.9 * len(x), 1.0 * len(ROWS)), dpi=120, layout="constrained")
    for name, images, axes in zip(ROWS, shown, figure.subplots(len(ROWS), 1), strict=True):
        axes.imshow(_side_by_side(images), cmap="gray", vmin=0, vmax=1)
        axes.set_ylabel(name, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def _as_images(name: str, part: Any) -> Tensor:
    try:
        return torch.as_tensor(part, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"a picture needs arrays or tensors, but {name} is a {type(part).__name__} that cannot be read as one; "
            "give what CATTrainer.calibrated gives"
        ) from None


def _side_by_side(images: Tensor) -> Any:
    """(N, C, H, W) as one array that matplotlib draws, with white gaps."""
    gap = max(1, images.shape[3] // 8)
    strip = F.pad(images.clamp(0, 1), (0, gap), value=1.0).permute(2, 0, 3, 1).flatten(1, 2)
    return strip[:, :-gap].squeeze(2).numpy()
