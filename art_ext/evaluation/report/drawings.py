"""The report's figures, each drawn from numbers that were computed elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from art_ext.evaluation.record import CurvePoint, Estimate
from art_ext.evaluation.report import formulas
from art_ext.evaluation.report.canvas import BASELINE, CLASSES, GOOD, INK, MODEL, OTHER, figure
from art_ext.evaluation.report.material import FeatureMap, Heatmap, Plane, Ray, Scores, Training, Transfer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 20
WORST = "worst case"
"""The condition that comes last."""
_MARKS = ("o", "D", "s", "^", "v", "P", "X")
_MOST_WRITTEN = 12
"""Classes up to which a heatmap has its figures written in."""
_MOST_NAMED = 20
"""Classes up to which each is named in a picture."""


def intervals(models: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """Accuracies with their intervals: a line a condition, a mark a model."""
    rows = list(dict.fromkeys(name for found in models.values() for name in found if name != WORST))
    rows += [WORST] if any(WORST in found for found in models.values()) else []
    made = figure(4.8, 0.9 + 0.3 * len(rows))
    axes: Axes = made.add_subplot()
    colours = (MODEL, BASELINE, GOOD, OTHER)
    spread = 0.44 / max(len(models), 2)
    for place, (model, found) in enumerate(models.items()):
        at = [rows.index(name) + (place - (len(models) - 1) / 2) * spread for name in found]
        values = [one.accuracy for one in found.values()]
        low = [one.accuracy - one.low for one in found.values()]
        high = [one.high - one.accuracy for one in found.values()]
        axes.errorbar(
            values,
            at,
            xerr=[low, high],
            fmt=_MARKS[place % len(_MARKS)],
            ms=4.5,
            lw=1.4,
            capsize=2.5,
            color=colours[place % 4],
            label=model,
        )
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _percent(axes.xaxis)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("accuracy, with 95% interval")
    axes.grid(axis="x")
    if len(models) > 1:
        made.legend(loc="outside upper center", ncols=2)
    return made


def security_curve(
    curve: Sequence[CurvePoint], eps: float, norm: str, others: Mapping[str, tuple[float, Estimate]]
) -> Figure:
    """Accuracy over eps with its intervals; `others`: a name to a point (eps, accuracy) beside it."""
    made = figure()
    axes: Axes = made.add_subplot()
    at = [point.eps for point in curve]
    axes.fill_between(at, [p.low for p in curve], [p.high for p in curve], color=MODEL, alpha=0.2, lw=0)
    axes.plot(at, [point.accuracy for point in curve], "-o", ms=3, color=MODEL, label="this model")
    axes.axvline(eps, color=INK, lw=0.9, ls="--")
    axes.annotate("threat", (eps, 1.0), (3, -2), textcoords="offset points", va="top", fontsize=8.5)
    for (name, (where, one)), mark in zip(others.items(), itertools.cycle(_MARKS[1:])):
        error = [[one.accuracy - one.low], [one.high - one.accuracy]]
        axes.errorbar([where], [one.accuracy], yerr=error, fmt=mark, ms=5, capsize=3, color=BASELINE, label=name)
    _accuracy(axes)
    axes.set_xlabel(f"eps ({norm})")
    axes.legend(loc="best")
    return made


def histograms(scores: Scores, threshold: float | None) -> Figure:
    """A detector's scores of clean and adversarial images, and of those that it rejects."""
    made = figure()
    axes: Axes = made.add_subplot()
    finite = torch.cat([scores.clean, scores.adversarial]).double()
    finite = finite[finite.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    high = high if high > low else low + 1
    edges = torch.linspace(low, high, BINS + 1)
    for label, values, colour in (("clean", scores.clean, MODEL), ("adversarial", scores.adversarial, BASELINE)):
        counts = formulas.histogram(values, BINS, low, high) / max(len(values), 1)
        axes.stairs(counts.numpy(), edges.numpy(), color=colour, lw=1.6, label=label)
        axes.stairs(counts.numpy(), edges.numpy(), color=colour, alpha=0.15, fill=True)
    if threshold is not None:
        both = torch.cat([scores.clean, scores.adversarial])
        rejected = both[both < threshold]
        counts = formulas.histogram(rejected, BINS, low, high) / max(len(scores.clean), 1)
        look: dict[str, Any] = {"edgecolor": INK, "facecolor": "none", "hatch": "////", "fill": True, "lw": 0}
        axes.stairs(counts.numpy(), edges.numpy(), **look, label="rejected, of both")
        axes.axvline(threshold, color=INK, lw=0.9, ls="--")
    axes.set_xlabel(f"score of {scores.detector}")
    axes.set_ylabel("share of the images")
    axes.legend(loc="best")
    return made


def roc(curves: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """(false positive rates, true positive rates) by name."""
    made = figure(3.6, 3.3)
    axes: Axes = made.add_subplot()
    for (name, (false, true)), colour in zip(curves.items(), itertools.cycle((MODEL, BASELINE, GOOD, OTHER))):
        axes.plot(false.numpy(), true.numpy(), color=colour, label=name)
    axes.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":")
    axes.set_xlabel("adversarial images kept")
    axes.set_ylabel("clean images kept")
    _percent(axes.xaxis)
    _percent(axes.yaxis)
    axes.set_aspect("equal")
    axes.grid()
    axes.legend(loc="lower right")
    return made


def heatmap(
    matrix: Tensor, names: Sequence[str], across: str, down: str, *, top: float | None = None, share: bool = False
) -> Figure:
    """A matrix as colours; with few classes its figures are written in, as shares or as they are."""
    side = min(3.9, 1.9 + 0.22 * len(matrix))
    made = figure(side + 0.4, side)
    axes: Axes = made.add_subplot()
    values = matrix.double()
    known = values[values.isfinite()]
    most = top if top is not None else max(float(known.max()) if len(known) else 1.0, 1e-12)
    shown = axes.imshow(values.numpy(), cmap="cividis", vmin=0, vmax=most, interpolation="nearest")
    bar = made.colorbar(shown, ax=axes, shrink=0.82, pad=0.02)
    bar.outline.set_visible(False)
    if len(matrix) <= _MOST_WRITTEN:
        _write_in(axes, values, most, share)
    few = range(len(matrix)) if len(matrix) <= _MOST_NAMED else range(0, len(matrix), -(-len(matrix) // 10))
    labels = [_short(names[k]) for k in few]
    wide = max(map(len, labels), default=0) > 2
    axes.set_xticks(list(few), labels, rotation=90 if wide else 0)
    axes.set_yticks(list(few), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    return made


def certainty(found: Heatmap, names: Sequence[str]) -> Figure:
    """Labels against mean predicted probabilities."""
    return heatmap(found.means, names, "predicted", "label", top=1.0, share=True)


def landing(counts: Tensor) -> Figure:
    """Shares of the new adversarial examples by the place of their class among the clean runner-ups."""
    made = figure(4.8, 2.7)
    axes: Axes = made.add_subplot()
    shown = counts[:10].double() / counts.sum().clamp(min=1)
    bars = axes.bar(range(1, len(shown) + 1), shown.tolist(), 0.8, color=MODEL)
    axes.bar_label(bars, [f"{100 * value:.0f}" if value >= 0.005 else "" for value in shown.tolist()], fontsize=8)
    axes.set_xticks(range(1, len(shown) + 1))
    axes.set_xlabel("place among the false classes of the clean image")
    axes.set_ylabel("share")
    _percent(axes.yaxis)
    return made


def ray(found: Ray) -> Figure:
    """Means over the images along the adversarial direction, with the middle 80%, and along a random one."""
    made = figure()
    axes: Axes = made.add_subplot()
    at = found.at.numpy()
    for label, values, colour in (
        ("true class", found.true[0], MODEL),
        ("strongest false class", found.other[0], BASELINE),
    ):
        low, high = torch.quantile(values.double(), torch.tensor([0.1, 0.9], dtype=torch.float64), dim=0)
        axes.fill_between(at, low.numpy(), high.numpy(), color=colour, alpha=0.15, lw=0)
        axes.plot(at, values.mean(0).numpy(), color=colour, label=label)
    axes.plot(at, found.true[1].mean(0).numpy(), color=MODEL, ls=":", label="true class, random direction")
    axes.axvline(1, color=INK, lw=0.9, ls="--")
    axes.set_xlabel("multiples of the adversarial perturbation")
    axes.set_ylabel("probability")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(axis="y")
    made.legend(loc="outside lower center", ncols=2)
    return made


def plane(found: Plane, names: Sequence[str]) -> Figure:
    """Predicted classes as colours, the surer the stronger; the image and its adversarial example marked."""
    from matplotlib.colors import to_rgb

    made = figure(3.3, 3.1)
    axes: Axes = made.add_subplot(facecolor="white")
    palette = torch.tensor([to_rgb(colour) for colour in CLASSES])
    strength = (0.15 + 0.75 * found.confidence.double()).clamp(0, 1)[..., None]
    colours = torch.cat([palette[found.predicted % len(CLASSES)].double(), strength], 2)
    low, high = float(found.at[0]), float(found.at[-1])
    axes.imshow(colours.numpy(), extent=(low, high, low, high), origin="lower", interpolation="nearest")
    grid = found.at.double()
    for k in found.predicted.unique().tolist():  # type: ignore[no-untyped-call]
        inside = (found.predicted == k).double()
        if inside.mean() < 0.02:
            continue
        where = ((inside.sum(0) * grid).sum() / inside.sum(), (inside.sum(1) * grid).sum() / inside.sum())
        look: dict[str, Any] = {"ha": "center", "va": "center", "weight": "bold", "color": "black"}
        axes.text(float(where[0]), float(where[1]), _short(names[k]), **look, in_layout=False)
    axes.plot([0], [0], "o", ms=6, mfc="white", mec="black")
    axes.plot([1], [0], "X", ms=7, mfc="white", mec="black")
    axes.set_xlabel("adversarial direction")
    axes.set_ylabel("random direction")
    return made


def transfer(found: Transfer) -> Figure:
    return heatmap(found.matrix, found.names, "attacked: error rate", "crafted on", top=1.0, share=True)


def training(found: Training, kind: str) -> Figure:
    """Metrics of one kind ("accuracy" or "loss") over the epochs, with the best and the last epoch marked."""
    made = figure()
    axes: Axes = made.add_subplot()
    chosen = [name for name in found.series if _is(name, kind)]
    shown = {name: series for name, series in found.series.items() if name in chosen}
    colours, styles = (MODEL, BASELINE, GOOD, OTHER), ("-", "--", ":", "-.")
    for number, (name, series) in enumerate(shown.items()):
        colour, style = (colours[number % 4], styles[number // 4 % 4])
        if kind == "accuracy":
            colour = MODEL if "clean" in name else BASELINE if "robust" in name else GOOD
            style = "--" if name.startswith("train/") else "-"
        axes.plot(found.epochs.numpy(), series.numpy(), style, color=colour, label=_words(name, kind))
    last = int(found.epochs[-1])
    _mark(axes, found.best, "best" if found.best != last else "best and last", "--", "right")
    if found.best != last:
        _mark(axes, last, "last", ":", "left")
    axes.set_xlabel("epoch")
    if kind == "accuracy":
        _accuracy(axes)
    else:
        axes.set_ylabel("loss")
        axes.grid(axis="y")
    made.legend(loc="outside lower center", ncols=2)
    return made


def has(found: Training, kind: str) -> bool:
    return any(_is(name, kind) for name in found.series)


def feature_map(found: FeatureMap, names: Sequence[str]) -> Figure:
    """Clean images as dots of their label's colour; images that an attack changed as crosses of the new class's."""
    made = figure(4.8, 3.6)
    axes: Axes = made.add_subplot()
    for k in found.y.unique().tolist():  # type: ignore[no-untyped-call]
        own, colour = found.clean[found.y == k], CLASSES[k % len(CLASSES)]
        axes.plot(own[:, 0].numpy(), own[:, 1].numpy(), ".", ms=4, alpha=0.7, color=colour)
        centre = own.median(0).values
        look: dict[str, Any] = {"ha": "center", "va": "center", "weight": "bold", "in_layout": False}
        if len(names) <= _MOST_NAMED:
            axes.text(float(centre[0]), float(centre[1]), _short(names[k]), **look)
        moved = found.adversarial[(found.said != found.y) & (found.said == k)]
        axes.plot(moved[:, 0].numpy(), moved[:, 1].numpy(), "x", ms=4.5, mew=1, color=colour)
    axes.plot([], [], ".", color=INK, label="clean image, its label")
    axes.plot([], [], "x", color=INK, label="misclassified adversarial image, its new class")
    axes.set_xticks([])
    axes.set_yticks([])
    made.legend(loc="outside lower center")
    return made


def _write_in(axes: Axes, values: Tensor, most: float, share: bool) -> None:
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            if value == value and value >= (0.005 if share or most <= 1 else 0.5):
                text = f"{100 * value:.0f}" if share or most <= 1 else f"{value:.0f}"
                colour = "white" if value < 0.55 * most else "black"
                axes.text(j, i, text, ha="center", va="center", fontsize=7.5, color=colour, in_layout=False)


def _mark(axes: Axes, epoch: int, word: str, style: str, side: Literal["left", "right"]) -> None:
    """A line through an epoch, with a word above it whose `side` edge touches it."""
    axes.axvline(epoch, color=INK, lw=0.8, ls=style)
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate(word, (epoch, 1), (2 if side == "left" else -2, 1), ha=side, va="bottom", fontsize=8, **place)


def _is(name: str, kind: str) -> bool:
    return name.endswith("accuracy") if kind == "accuracy" else name.startswith("train/loss")


def _words(metric: str, kind: str) -> str:
    if kind == "loss":
        return metric.removeprefix("train/loss").strip("/").replace("_", " ") or "total"
    return metric.removesuffix("_accuracy").replace("_", " ").replace("/", ": ", 1).replace("/", " ")


def _short(name: str) -> str:
    return name if len(name) <= 12 else name[:11] + "\u2026"


def _accuracy(axes: Axes) -> None:
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("accuracy")
    _percent(axes.yaxis)
    axes.grid(axis="y")


def _percent(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
