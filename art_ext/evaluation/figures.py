"""Pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from art_ext.evaluation.report.canvas import BASELINE, GOOD, MODEL, OTHER
from art_ext.evaluation.suite import Accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BESIDE = (GOOD, OTHER)


def comparison(models: Mapping[str, Sequence[Accuracy]], gallery: Gallery | None = None, title: str = "") -> Figure:
    """Accuracy of models side by side, clean and under each attack, with 95% intervals.

    Args:
        models: a name to its rows; attacks that a model lacks are left out for it.
        gallery: images that are shown beside the bars.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8) if gallery else (6.2, 3.8), dpi=120, layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[1.25, 1] if gallery else [1, 0.001])
    _bars(figure.add_subplot(grid[0, 0]), models, title)
    if gallery is not None:
        gallery.draw(figure, grid[0, 1])
    return figure


def _bars(axes: Axes, models: Mapping[str, Sequence[Accuracy]], title: str) -> None:
    names = list(dict.fromkeys(row.name for rows in models.values() for row in rows))
    width = 0.8 / len(models)
    for place, ((model, rows), colour) in enumerate(zip(models.items(), _colours(len(models)), strict=True)):
        found = {row.name: row for row in rows}
        at = [i + (place - (len(models) - 1) / 2) * width for i, name in enumerate(names) if name in found]
        shown = [found[name] for name in names if name in found]
        low = [row.value - row.interval[0] for row in shown]
        high = [row.interval[1] - row.value for row in shown]
        bars = axes.bar(at, [row.value for row in shown], width * 0.94, label=model, color=colour)
        axes.errorbar(at, [row.value for row in shown], [low, high], fmt="none", ecolor="#222", capsize=3, lw=1)
        for bar, row in zip(bars, shown, strict=True):
            axes.text(bar.get_x() + bar.get_width() / 2, 0.02, f"{row.value:.0%}", ha="center", color="white", size=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.15)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_ylabel("accuracy")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=4)


def _colours(models: int) -> list[str]:
    """The first model is the undefended one, the last the one that it is about; where there is one, it is that."""
    between = [BESIDE[place % len(BESIDE)] for place in range(models - 2)]
    return [BASELINE, *between, MODEL][-models:]


class Gallery:
    """A few images, and each model's adversarial twin of them with what the model says.

    Args:
        clean: (n, C, H, W) in [0, 1].
        rows: a model's name to (adversarial images (n, C, H, W), predictions (n,)).
        y: (n,) true classes.
        names: of the classes.
    """

    def __init__(
        self, clean: Tensor, rows: Mapping[str, tuple[Tensor, Tensor]], y: Tensor, names: Sequence[str]
    ) -> None:
        self.clean, self.rows, self.y, self.names = clean, rows, y, names

    def draw(self, figure: Figure, place: Any) -> None:
        lines = [("clean", self.clean, self.y), *((name, x, said) for name, (x, said) in self.rows.items())]
        grid = place.subgridspec(len(lines), len(self.clean), wspace=0.05, hspace=0.35)
        for i, (name, images, said) in enumerate(lines):
            for j in range(len(images)):
                axes = figure.add_subplot(grid[i, j])
                picture = images[j].permute(1, 2, 0).clamp(0, 1).cpu().numpy()
                axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1)
                right = bool(said[j] == self.y[j])
                axes.set_title(self.names[int(said[j])], fontsize=8, pad=2, color="#1a7a32" if right else "#b4462f")
                axes.set_xticks([])
                axes.set_yticks([])
                if j == 0:
                    axes.set_ylabel(f"attack on\n{name}" if i else name, fontsize=7)
