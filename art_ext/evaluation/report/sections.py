"""The report's figures with their titles and captions, by section; those that do not apply are not among them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from art_ext.evaluation.record import AttackResult, Estimate, EvaluationRecord
from art_ext.evaluation.report import drawings, formulas
from art_ext.evaluation.report.canvas import png, svg
from art_ext.evaluation.report.material import Gallery, Material, Scores, Training
from art_ext.evaluation.transfer import mean_off_diagonal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THIS = "this model"


@dataclass(frozen=True)
class Drawn:
    """A figure of the page."""

    title: str
    svg: str
    caption: str
    wide: bool = False


def drawn(name: str, title: str, caption: str, draw: Callable[..., Figure], *args: object) -> Drawn:
    """A figure whose caption is also what readers get who do not see it."""
    return Drawn(title, svg(name, f"{title}. {caption}", draw, *args), caption)


def all_figures(
    record: EvaluationRecord, material: Material, compare: Mapping[str, EvaluationRecord]
) -> dict[str, list[Drawn]]:
    """Section to figures."""
    names = class_names(record, material)
    return {
        "attacks": list(_attacks(record)),
        "compare": list(_compare(record, compare)),
        "curve": list(_curve(record)),
        "rejection": list(_rejection(record, material)),
        "answers": list(_answers(material, names)),
        "around": list(_around(material, names)),
        "transfer": list(_transfer(material)),
        "training": list(_training(material.training)),
        "features": list(_features(material, names)),
    }


def class_names(record: EvaluationRecord, material: Material) -> tuple[str, ...]:
    """Those of the data; the class's number where it has none."""
    known = record.data.class_names
    return (*known, *(str(k) for k in range(len(known), material.n_classes)))


def counted(record: EvaluationRecord) -> dict[str, Estimate]:
    """Clean accuracy, that under each attack of the threat that ran, and the worst case."""
    return _conditions(record.clean, record.attacks, record.worst_case)


def _conditions(clean: Estimate, attacks: Sequence[AttackResult], worst: Estimate) -> dict[str, Estimate]:
    found = {one.name: one.estimate for one in attacks if one.error is None and one.bounded}
    return {"clean": clean, **found, drawings.WORST: worst}


def _attacks(record: EvaluationRecord) -> Iterator[Drawn]:
    models = {THIS: counted(record)}
    caption = f"This model: {record.clean.accuracy:.1%} clean, {record.worst_case.accuracy:.1%} in the worst case"
    if record.baseline is not None:
        own = record.baseline
        models[own.name] = _conditions(own.clean, own.attacks, own.worst_case)
        caption += f"; {own.name}: {own.clean.accuracy:.1%} and {own.worst_case.accuracy:.1%}"
    yield drawn("attacks", "Accuracy under each attack", f"{caption}.", drawings.intervals, models)


def _compare(record: EvaluationRecord, compare: Mapping[str, EvaluationRecord]) -> Iterator[Drawn]:
    models = {peer.name: _conditions(peer.clean, peer.attacks, peer.worst_case) for peer in record.beside}
    models |= {name: counted(other) for name, other in compare.items()}
    if models:
        models = {THIS: counted(record)} | models
        shares = "; ".join(f"{name}: {found[drawings.WORST].accuracy:.1%}" for name, found in models.items())
        yield drawn("compare", "Attack by attack", f"In the worst case, {shares}.", drawings.intervals, models)


def _curve(record: EvaluationRecord) -> Iterator[Drawn]:
    if record.curve:
        threat = record.threat
        others = {} if record.baseline is None else {record.baseline.name: (threat.eps, record.baseline.worst_case)}
        first, last = record.curve[0], record.curve[-1]
        caption = (
            f"From {first.accuracy:.1%} at eps {first.eps:g} to {last.accuracy:.1%} at eps {last.eps:g}, "
            "from the smallest eps at which each image fell."
        )
        what = (record.curve, threat.eps, threat.norm, others)
        yield drawn("curve", "Security curve", caption, drawings.security_curve, *what)


def _rejection(record: EvaluationRecord, material: Material) -> Iterator[Drawn]:
    curves: dict[str, tuple[Tensor, Tensor]] = {}
    for number, scores in enumerate(material.scores):
        known = [one.threshold for one in record.rejection if one.detector == scores.detector]
        threshold = known[0] if known else scores.threshold
        caption = _shares(scores, threshold)
        title = f"Scores of {scores.detector}"
        yield drawn(f"scores-{number}", title, caption, drawings.histograms, scores, threshold)
        pairs = scores.fooled
        if bool(pairs.any()):
            curves[scores.detector] = formulas.roc_curve(scores.clean[pairs], scores.adversarial[pairs])
    if curves:
        caption = (
            "Images of the figures that are right when clean and misclassified when attacked, both versions; "
            "the diagonal tells nothing apart."
        )
        judged = {one.detector: one.auc for one in record.rejection if one.aim == "evade" and one.auc is not None}
        areas = ", ".join(f"{name} {area:.3f}" for name, area in judged.items())
        caption += f" Area in the whole evaluation: {areas}." if areas else ""
        title = "ROC: clean images against their adversarial versions"
        yield drawn("roc", title, caption, drawings.roc, curves)


def _shares(scores: Scores, threshold: float | None) -> str:
    how = f"Adversarial images by {scores.attack}."
    if threshold is None:
        return f"No threshold was set, so nothing is rejected. {how}"
    clean, attacked = ((part < threshold).double().mean() for part in (scores.clean, scores.adversarial))
    shares = f"{clean:.1%} of the clean and {attacked:.1%} of the adversarial images"
    return f"Below {threshold:.3g} it rejects {shares}; held-out images set that threshold. {how}"


def _answers(material: Material, names: Sequence[str]) -> Iterator[Drawn]:
    if material.confusion is not None:
        for word, matrix in (("clean", material.confusion.clean), ("adversarial", material.confusion.adversarial)):
            share = float(matrix.diag().sum() / matrix.sum())
            caption = f"{share:.1%} on the diagonal; row the label, column the answer."
            what = (matrix, names, "predicted", "label")
            yield drawn(f"confusion-{word}", f"Confusion, {word} images", caption, drawings.heatmap, *what)
    for heat in material.heatmaps:
        part = "training" if heat.part == "train" else heat.part
        title = f"Certainty on adversarial {part} images, {heat.epoch} epoch"
        caption = (
            f"Mean predicted probabilities in percent, row the label; {heat.accuracy:.1%} of {heat.n} right, "
            f"adversarial certainty (variance of the logits) {heat.certainty:.3g}."
        )
        yield drawn(f"certainty-{heat.part}-{heat.epoch}", title, caption, drawings.certainty, heat, names)
    if material.landing is not None:
        counts = material.landing
        caption = (
            f"{float(counts[0] / counts.sum()):.0%} of the {int(counts.sum())} images that were right and fell land in "
            "the class that was the runner-up before."
        )
        yield drawn("landing", "Where adversarial examples land", caption, drawings.landing, counts)


def _around(material: Material, names: Sequence[str]) -> Iterator[Drawn]:
    if material.ray is not None:
        ray = material.ray
        caption = (
            f"Means over {ray.true.shape[1]} images with the middle 80%: the image at 0, its adversarial example at 1, "
            "the same perturbation carried on beyond; dotted, the same sizes with random signs."
        )
        yield drawn("ray", "Along the adversarial direction", caption, drawings.ray, ray)
    for number, plane in enumerate(material.planes):
        caption = (
            f"Label {names[plane.label]}, attacked to {names[plane.adversarial]}. Circle: the image; cross: the "
            "adversarial example. The stronger the colour, the surer the answer."
        )
        title = f"Cross-section {number + 1} of the decision boundary"
        yield drawn(f"plane-{number}", title, caption, drawings.plane, plane, names)


def _transfer(material: Material) -> Iterator[Drawn]:
    if material.transfer is not None:
        found = material.transfer
        caption = (
            f"Percent of images that are misclassified, of those that both networks have right when clean ({found.n} "
            f"images); {mean_off_diagonal(found.matrix):.0%} on average off the diagonal."
        )
        yield drawn("transfer", "Transferability", caption, drawings.transfer, found)


def _training(trainings: Sequence[Training]) -> Iterator[Drawn]:
    for training, kind in itertools.product(trainings, ("accuracy", "loss")):
        if drawings.has(training, kind):
            caption = f"Epoch {training.best} of {int(training.epochs[-1])} was kept as the best on held-out images."
            title = f"{training.role.capitalize()}: {kind}"
            yield drawn(f"training-{training.role}-{kind}", title, caption, drawings.training, training, kind)


def _features(material: Material, names: Sequence[str]) -> Iterator[Drawn]:
    for found in material.features:
        caption = f"{found.of.capitalize()} of {len(found.y)} images and of their adversarial versions"
        caption += "." if found.share is None else f"; the axes hold {found.share:.0%} of the clean images' variance."
        yield drawn(f"features-{found.method}", found.method, caption, drawings.feature_map, found, names)


@dataclass(frozen=True)
class Cell:
    """An image of the gallery as a data URI, and either what the network says of it or a note."""

    image: str
    alt: str
    said: str = ""
    right: bool = False
    confidence: float = 0.0
    note: str = ""


def gallery(found: Gallery, names: Sequence[str]) -> list[tuple[str, list[Cell]]]:
    """Rows of images, each with its name."""
    change, factor = formulas.amplified(found.delta)
    y = found.y.tolist()

    def answered(images: Tensor, said: Tensor, sure: Tensor, word: str) -> list[Cell]:
        rows = zip(images, said.tolist(), sure.tolist(), y, strict=True)
        return [
            Cell(png(image), f"{word} {names[label]}, taken for {names[k]}", names[k], k == label, p)
            for image, k, p, label in rows
        ]

    def plain(images: Tensor, word: str, notes: Sequence[str]) -> list[Cell]:
        rows = zip(images, y, notes, strict=True)
        return [Cell(png(image), f"{word} of {names[label]}", note=note) for image, label, note in rows]

    none = [""] * len(y)
    return [
        ("image", answered(found.clean, found.clean_said, found.clean_confidence, "clean")),
        ("perturbation", plain(change, "perturbation", [f"\u00d7{f:.3g}" for f in factor.tolist()])),
        ("adversarial", answered(found.adversarial, found.said, found.confidence, "adversarial")),
        *((name, plain(images, name, none)) for name, images in found.extras.items()),
    ]
