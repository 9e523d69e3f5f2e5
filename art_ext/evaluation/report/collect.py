"""Fills the report's material: a few hundred images are attacked once more, with everything kept that figures show."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from art_ext.data.images import Images, Picked
from art_ext.engine.freeze import frozen
from art_ext.engine.journal import read_journal
from art_ext.engine.net import Net
from art_ext.errors import ArtExtError
from art_ext.evaluation.report import formulas
from art_ext.evaluation.report.material import (
    Confusion,
    FeatureMap,
    Gallery,
    Heatmap,
    Material,
    Plane,
    Ray,
    Scores,
    Training,
    Transfer,
)
from art_ext.evaluation.report.sample import CHUNK, Sample, craft, take
from art_ext.evaluation.suite import Evaluator, joined
from art_ext.evaluation.threat import Threat
from art_ext.evaluation.transfer import transferability
from art_ext.parts.attacks import PGD, Attack
from art_ext.parts.detectors import Confidence, Detector
from art_ext.parts.ensemble import Ensemble
from art_ext.parts.noise import Keys
from art_ext.secrets import masked
from art_ext.types import Outputs

logger = logging.getLogger(__name__)

MOST = 512
"""Images of the figures at most."""
STEPS = 20
MOST_CLASSES = 100
"""With more classes, a heatmap of all of them cannot be read."""
_FEWER, _RAYS, _PLANES, _GALLERY, _EMBEDDED = 256, 48, 3, 8, 150
_RAY = torch.linspace(0, 3, 31)
_PLANE = torch.linspace(-1.5, 2.0, 43)


def collect(
    evaluator: Evaluator,
    threat: Threat,
    *,
    attack: Attack | None = None,
    detectors: Sequence[Detector] = (),
    training_attack: Attack | None = None,
    train: tuple[Images, Tensor] | None = None,
    last: Net | None = None,
    baseline: Net | None = None,
    journals: Mapping[str, Path] | None = None,
    most: int = MOST,
    seconds: float = 60.0,
) -> Material:
    """Everything that the figures show, from at most `most` images and about `seconds`.

    A figure that fails, or for which there is no time left, is left out with its reason: a report
    never costs an evaluation.

    Args:
        evaluator: of the network on the images that were evaluated.
        attack: of the figures; PGD with 20 steps on cross-entropy by default. One that stops at the first
            wrong iterate shows less of the network's confidence than one that goes on.
        detectors: fitted; each is attacked on its own adversary where it names one. The confidence by default.
        training_attack: as the network was trained on it: the gallery shows what images it gives besides.
        train: training images and labels (N,).
        last: the network after the last epoch, where `evaluator` has the best one's.
        baseline: the undefended network.
        journals: what each training was called, with its metrics.jsonl.
    """
    attack = attack or PGD(threat.ball(), STEPS, keep="best", clip=threat.clip)
    clock = _Clock(seconds)
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}

    def attempt(name: str, make: Callable[[], Any]) -> None:
        try:
            clock.check()
            made = make()
        except _NotMade as reason:
            missing[name] = str(reason)
        except Exception as error:  # whatever a foreign network raises, the report goes on
            logger.debug("the report's %s", name, exc_info=True)
            missing[name] = _line(error)
        else:
            found[name] = made

    if journals:
        attempt("training", lambda: tuple(training_of(role, path) for role, path in journals.items()))
    sample: Sample | None = None
    try:
        sample = take(evaluator, attack, most, threat, enough=lambda: clock.half_over)
    except Exception as error:
        logger.debug("the report's adversarial examples", exc_info=True)
        missing["adversarial examples"] = _line(error)
    if sample is not None:
        look = _Look(evaluator, threat, attack, sample, clock)
        found |= {"n": len(sample.y), "n_classes": look.n_classes}
        attempt("confusion", look.confusion)
        attempt("landing", look.landing)
        attempt("gallery", look.gallery)
        if training_attack is not None and "gallery" in found:
            gallery = found.pop("gallery")
            attempt("gallery", lambda: look.with_extras(gallery, training_attack))
            found.setdefault("gallery", gallery)
        attempt("scores", lambda: tuple(look.scores(d) for d in detectors or (Confidence(),)))
        attempt("heatmaps", lambda: tuple(look.heatmaps(train, last)))
        attempt("ray", look.ray)
        attempt("planes", look.planes)
        if baseline is not None or isinstance(evaluator.net.module, Ensemble):
            attempt("transfer", lambda: look.transfer(baseline))
        attempt("features", look.features)
    return Material(attack=str(attack), missing=missing, **found)


def training_of(role: str, journal: Path) -> Training:
    """The metrics of a run's epochs, each epoch as it was written last."""
    epochs = {entry.epoch: entry for entry in read_journal(journal) if entry.event == "epoch"}
    if not epochs:
        raise _NotMade(f"{journal.name} of {role} holds no epoch")
    names = list(dict.fromkeys(name for entry in epochs.values() for name in entry.metrics))
    numbers = sorted(epochs)
    return Training(
        role,
        torch.tensor(numbers),
        max((epoch for epoch, entry in epochs.items() if entry.best), default=numbers[-1]),
        {name: torch.tensor([epochs[e].metrics.get(name, math.nan) for e in numbers]) for name in names},
    )


class _NotMade(Exception):
    """Why a figure is left out."""


class _Clock:
    def __init__(self, seconds: float) -> None:
        self.seconds, self.began = seconds, time.perf_counter()

    @property
    def half_over(self) -> bool:
        return time.perf_counter() - self.began > self.seconds / 2

    @property
    def over(self) -> bool:
        return time.perf_counter() - self.began > self.seconds

    def check(self) -> None:
        if self.over:
            raise _NotMade(f"the {self.seconds:g} seconds for figures were over")


class _Look:
    """The figures of one sample, one method each."""

    def __init__(self, evaluator: Evaluator, threat: Threat, attack: Attack, sample: Sample, clock: _Clock) -> None:
        self.evaluator, self.threat, self.attack, self.sample, self.clock = evaluator, threat, attack, sample, clock
        self.n_classes = sample.clean.logits.shape[1]

    def confusion(self) -> Confusion:
        self._readable()
        clean, attacked = self.sample.said
        y = self.sample.y
        return Confusion(formulas.confusion(y, clean, self.n_classes), formulas.confusion(y, attacked, self.n_classes))

    def landing(self) -> Tensor:
        if not bool(self.sample.fooled.any()):
            raise _NotMade("the attack changed none of the images")
        return formulas.landing_ranks(self.sample.probabilities[0], self.sample.y, self.sample.said[1])

    def heatmaps(self, train: tuple[Images, Tensor] | None, last: Net | None) -> Iterator[Heatmap]:
        self._readable()
        own = self.evaluator
        data = {"test": (own.images, own.y)} | ({"train": train} if train is not None else {})
        for part, (images, y) in data.items():
            for epoch, net in (("best", own.net), ("last", last)):
                if net is None:
                    continue
                if self.clock.over:
                    return
                if part == "test" and epoch == "best":
                    sample = self.sample
                else:
                    other = Evaluator(net, images, y, seed=own.seed, device=own.device)
                    sample = take(other, self.attack, min(_FEWER, len(self.sample.y)), self.threat)
                yield Heatmap(
                    part,
                    epoch,
                    formulas.mean_probabilities(sample.y, sample.probabilities[1]),
                    float(formulas.logit_variance(sample.attacked.logits.double()).mean()),
                    float((sample.said[1] == sample.y).double().mean()),
                    len(sample.y),
                )

    def scores(self, detector: Detector) -> Scores:
        sample, attack = self.sample, self.attack
        if detector.adversaries and isinstance(attack, PGD):
            attack = replace(attack, objective=detector.adversaries[0], keep="best", stop_when_wrong=False)
        clean, attacked = [], []
        for rows in torch.split(sample.index, CHUNK):
            self.clock.check()
            with self.evaluator.net.offering_features(), frozen(self.evaluator.net), torch.no_grad():
                clean.append(self.evaluator.net(self.evaluator.batch(rows)[0]))
            adversarial = craft(self.evaluator, attack, rows).x
            with self.evaluator.net.offering_features(), frozen(self.evaluator.net), torch.no_grad():
                attacked.append(self.evaluator.net(adversarial))
        ours, theirs = joined(clean), joined(attacked)
        right = ours.logits.argmax(1) == sample.y
        fooled = right & (theirs.logits.argmax(1) != sample.y)
        return Scores(
            detector.name, detector.score(ours), detector.score(theirs), right, fooled, detector.threshold, str(attack)
        )

    def ray(self) -> Ray:
        rows = self._right(_RAYS)
        x, y, delta = self.sample.x[rows], self.sample.y[rows], (self.sample.adversarial - self.sample.x)[rows]
        true, other = [], []
        for direction in (delta, delta * self._signs(rows)):
            p = formulas.along(self._probabilities, x, direction, _RAY, self.threat.clip)
            true.append(p.gather(2, y[:, None, None].expand(*p.shape[:2], 1)).squeeze(2))
            other.append(formulas.best_other(p, y))
        return Ray(_RAY, torch.stack(true).float(), torch.stack(other).float())

    def planes(self) -> tuple[Plane, ...]:
        made = []
        for row in self._right(_PLANES):
            self.clock.check()
            x, delta = self.sample.x[row], (self.sample.adversarial - self.sample.x)[row]
            up = formulas.orthogonal(delta, delta.abs().amax() * self._signs(row[None])[0])
            points = formulas.plane(x, delta, up, _PLANE, self.threat.clip)
            p = torch.cat([self._probabilities(part) for part in torch.split(points, 512)])
            side = len(_PLANE)
            top = p.max(1)
            shown = (top.indices.reshape(side, side), top.values.float().reshape(side, side))
            made.append(Plane(_PLANE, *shown, int(self.sample.y[row]), int(self.sample.said[1][row])))
        return tuple(made)

    def features(self) -> tuple[FeatureMap, ...]:
        sample = self.sample
        of = "features" if sample.has_features else "logits"
        clean, attacked = (_points(out, of) for out in (sample.clean, sample.attacked))
        centre, axes, share = formulas.principal_components(clean)
        words = (sample.y, sample.said[1])
        maps = [
            FeatureMap("PCA", of, (clean - centre) @ axes.T, (attacked - centre) @ axes.T, *words, float(share.sum()))
        ]
        few = slice(0, _EMBEDDED)
        if len(clean[few]) >= 30:
            self.clock.check()
            both = _embedded(torch.cat([clean[few], attacked[few]]), self.evaluator.seed)
            n = len(clean[few])
            maps.append(FeatureMap("t-SNE", of, both[:n], both[n:], words[0][few], words[1][few]))
        return tuple(maps)

    def transfer(self, baseline: Net | None) -> Transfer:
        own, index = self.evaluator, self.sample.index[:_FEWER]
        images, y = Picked(own.images, index), own.y[index]
        nets: dict[str, Net] = {}
        if isinstance(own.net.module, Ensemble):
            members = own.net.module.members
            nets |= {f"member {i + 1}": Net(member, own.net.mean, own.net.std) for i, member in enumerate(members)}
        else:
            nets["this model"] = own.net
        if baseline is not None:
            nets["undefended"] = baseline
        evaluators = [Evaluator(net, images, y, seed=own.seed, device=own.device) for net in nets.values()]
        attack = self.attack
        if isinstance(attack, PGD) and attack.objective.needs:  # a single network offers no members
            attack = PGD(attack.norm, attack.steps, keep="best", clip=attack.clip)
        return Transfer(tuple(nets), transferability(evaluators, attack), len(y))

    def gallery(self) -> Gallery:
        sample, rows = self.sample, self._right(_GALLERY)
        (p, q), (clean, attacked) = sample.probabilities, sample.said
        x, adversarial = (self._unit(part[rows]) for part in (sample.x, sample.adversarial))
        return Gallery(
            x,
            adversarial,
            sample.adversarial[rows] - sample.x[rows],
            sample.y[rows],
            clean[rows],
            p.amax(1)[rows],
            attacked[rows],
            q.amax(1)[rows],
        )

    def with_extras(self, gallery: Gallery, attack: Attack) -> Gallery:
        """The gallery with what the training's attack gives in the shape of images, of the same images."""
        rows = self._right(_GALLERY)
        made = craft(self.evaluator, attack, self.sample.index[rows])
        size = self.sample.x.shape[2:]
        fitting = {
            name: value.detach().cpu().float()
            for name, value in made.extras.items()
            if value.ndim == 4 and value.shape[2:] == size and value.shape[1] in (1, 3)
        }
        low, high = self.threat.clip
        shown = {n: v if bool(((v >= 0) & (v <= 1)).all()) else (v - low) / (high - low) for n, v in fitting.items()}
        return replace(gallery, extras=shown, extras_attack=str(attack)) if shown else gallery

    def _right(self, n: int) -> Tensor:
        rows = self.sample.first(n)
        if len(rows) == 0:
            raise _NotMade("the network has none of the clean images right")
        return rows

    def _readable(self) -> None:
        if self.n_classes > MOST_CLASSES:
            raise _NotMade(f"{self.n_classes} classes are too many for a picture of all of them")

    def _signs(self, rows: Tensor) -> Tensor:
        """(n, C, H, W) of -1 and 1, keyed by the images' indices."""
        keys = Keys(self.evaluator.seed, 0, self.sample.index[rows]).stream("signs")
        return keys.uniform(tuple(self.sample.x.shape[1:])).sub_(0.5).sign().to(self.sample.x)

    def _probabilities(self, x: Tensor) -> Tensor:
        net = self.evaluator.net
        with frozen(net), torch.no_grad():
            logits: Tensor = net(x.to(self.evaluator.device)).logits
        return F.softmax(logits.double(), 1).cpu()

    def _unit(self, x: Tensor) -> Tensor:
        low, high = self.threat.clip
        return ((x - low) / (high - low)).float()


def _points(out: Outputs, of: str) -> Tensor:
    return (out.extras["features"] if of == "features" else out.logits).double()


def _embedded(points: Tensor, seed: int) -> Tensor:
    """(n, 2) by t-SNE (van der Maaten and Hinton, 2008), started from the principal components."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(points) - 1) / 3)
    embedding = TSNE(2, perplexity=perplexity, max_iter=500, init="pca", random_state=seed, n_jobs=1)
    return torch.from_numpy(embedding.fit_transform(points.numpy()))


def _line(error: Exception) -> str:
    """An error as one line; those that are not ours with their kind."""
    text = masked(" ".join(str(error).split())[:300]) or type(error).__name__
    return text if isinstance(error, ArtExtError) else f"{type(error).__name__}: {text}"
