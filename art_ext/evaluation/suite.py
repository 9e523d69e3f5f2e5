"""Accuracy under attack, example by example: what is still right after everything was tried."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_ext.data.images import Images
from art_ext.engine.freeze import Crafter, frozen
from art_ext.engine.net import Net, in_channels_last
from art_ext.engine.run import Run
from art_ext.errors import ConfigError
from art_ext.evaluation.counting import Counted, Spent
from art_ext.evaluation.rejection import thresholded_robust_error
from art_ext.evaluation.statistics import binomial_interval
from art_ext.evaluation.threat import Threat as Threat
from art_ext.evaluation.threat import threat_of as threat_of
from art_ext.parts.attacks import PGD, Attack, for_evaluation
from art_ext.parts.detectors import Detector, threshold_at
from art_ext.parts.noise import Keys
from art_ext.parts.objectives import Objective, ce
from art_ext.plan import Parts, Plan, Scores
from art_ext.types import Adversarial, Forward, Outputs

BATCH = 256
TPR = 0.99
"""Share of correct held-out examples that a detector must keep where an epoch is scored."""


NO_ANSWER = -1
"""Instead of a class, where the logits are NaN or infinite: wrong, whatever the label."""


def classes_of(logits: Tensor) -> Tensor:
    """(n,) the class of the largest logit, or `NO_ANSWER`; (n, K)."""
    top = logits.max(1)
    return torch.where(top.values.isfinite(), top.indices, NO_ANSWER)


@dataclass(frozen=True)
class Accuracy:
    """How many of n examples a network gets right.

    Attributes:
        name: "clean", or the attack's name.
        right: (n,) bool, in the order of the data.
        budget: the attack in words, with norm, eps and steps.
        seconds: wall time.
    """

    name: str
    right: Tensor
    budget: str = ""
    seconds: float = 0.0

    @property
    def n(self) -> int:
        return len(self.right)

    @property
    def value(self) -> float:
        return float(self.right.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95% binomial interval (Clopper and Pearson, 1934)."""
        return binomial_interval(int(self.right.sum()), self.n)

    def as_record(self) -> dict[str, object]:
        low, high = self.interval
        return {
            "attack": self.name,
            "budget": self.budget,
            "accuracy": self.value,
            "low": low,
            "high": high,
            "n": self.n,
            "seconds": round(self.seconds, 3),
        }


def joined(outs: Sequence[Outputs]) -> Outputs:
    """The outputs of several batches as those of one, on the CPU."""
    extras = {name: torch.cat([out.extras[name] for out in outs]).cpu() for name in outs[0].extras}
    return Outputs(torch.cat([out.logits for out in outs]).cpu(), extras)


class Evaluator:
    """Attacks one network on one data set; each example's noise is keyed by its index.

    Args:
        images: N images in the clip range, as an array, too.
        y: (N,) class indices.
        seed: of the attacks' noise.
        spent: where passes are counted.
    """

    def __init__(
        self,
        net: Net,
        images: Images | npt.NDArray[Any],
        y: Tensor | npt.NDArray[Any],
        *,
        seed: int = 0,
        device: torch.device | None = None,
        spent: Spent | None = None,
    ) -> None:
        self.net, self.y, self.seed = net, torch.as_tensor(y).cpu(), seed
        self.images: Images = torch.as_tensor(images).float() if isinstance(images, np.ndarray) else images
        self.device = device or torch.device("cpu")
        self.spent = spent or Spent()
        self.crafter = Crafter()
        self._clean: Tensor | None = None

    def clean(self) -> Accuracy:
        """Accuracy on the images as they are."""
        began = time.perf_counter()
        if self._clean is None:
            parts = (self.batch(index) for index in torch.split(torch.arange(len(self.y)), BATCH))
            self._clean = torch.cat([self.predict(x).eq(y).cpu() for x, y in parts])
        return Accuracy("clean", self._clean, "none", time.perf_counter() - began)

    def under(self, name: str, attack: Attack, *, standing: Tensor | None = None) -> Accuracy:
        """Accuracy under an attack, which is spared on examples that fell already.

        Args:
            standing: (N,) bool, which examples are still right; by default those right when clean.
        """
        began = time.perf_counter()
        right = (self.clean().right if standing is None else standing).clone()
        for index in torch.split(right.nonzero().squeeze(1), BATCH):
            if len(index) == 0:  # nothing stands: split gives one empty part
                break
            adversarial, y = self.craft(attack, index)
            right[index] = self.predict(adversarial).eq(y).cpu()
        return Accuracy(name, right, str(attack), time.perf_counter() - began)

    def craft(self, attack: Attack, index: Tensor) -> tuple[Tensor, Tensor]:
        """Adversarial twins of the examples at `index` (n,), and their labels, on the device."""
        return self.attacked(attack, index).x, self.y[index].to(self.device)

    def attacked(self, attack: Attack, index: Tensor) -> Adversarial:
        """What an attack gives for the examples at `index` (n,), its extras included; on the device."""
        x, y = self.batch(index)
        objective = attack.objective or ce
        with self._lent(objective, attack, x) as lent:
            net = Counted(lent, self.spent)
            return attack.craft(net, x, objective.bind(net, x, y), Keys(self.seed, 0, index.to(self.device)))

    @contextmanager
    def _lent(self, objective: Objective, attack: Attack, x: Tensor) -> Iterator[Forward]:
        """The network for crafting: folded where it may be, itself where features are read off its layers."""
        if "features" in objective.needs:
            with frozen(self.net, attack.bn), self.net.offering_features():
                yield self.net
            return
        with self.crafter(self.net, attack.bn, x) as net:
            yield net

    def predict(self, x: Tensor) -> Tensor:
        """(n,) predicted classes, or `NO_ANSWER`."""
        return classes_of(self.logits(x))

    def logits(self, x: Tensor) -> Tensor:
        """(n, K), of the network itself, in eval mode."""
        return self.answer(x).logits

    def answer(self, x: Tensor) -> Outputs:
        """What the network itself gives for x (n, C, H, W), in eval mode."""
        self.spent.forwards += len(x)
        with frozen(self.net), self.net.offering_features(), torch.no_grad():
            return self.net(x)  # type: ignore[no-any-return]

    def outputs(self, attack: Attack | None = None, rows: Tensor | None = None) -> Outputs:
        """What the network gives for the images at `rows`, or for the adversarial twin of each; on the CPU.

        Args:
            rows: (n,) indices; all N when left out.
        """
        outs = []
        with self.net.offering_features():
            for index in torch.split(torch.arange(len(self.y)) if rows is None else rows, BATCH):
                x = self.batch(index)[0] if attack is None else self.craft(attack, index)[0]
                with frozen(self.net), torch.no_grad():
                    out: Outputs = self.net(x)
                outs.append(out)
        return joined(outs)

    def run(
        self, attacks: Sequence[tuple[str, Attack]], progress: Callable[[str], None] | None = None
    ) -> list[Accuracy]:
        """Clean accuracy, then accuracy under each attack on its own."""
        rows = [self.clean()]
        for name, attack in attacks:
            if progress is not None:
                progress(name)
            rows.append(self.under(name, attack))
        return rows

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The images at `index` (n,) and their labels, on the device, as the network takes them."""
        dtype = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), torch.float32)
        return in_channels_last(self.images[index].to(self.device, dtype)), self.y[index].to(self.device)


def informed(plan: Plan, threat: Threat, steps: int = 10, restarts: int = 1) -> list[tuple[str, PGD]]:
    """PGD on each adversary that the plan's criterion declares: what an attacker who knows it would run."""
    criterion = plan.compose().criterion
    base = PGD(threat.ball(), steps, restarts=restarts, clip=threat.clip)
    return [(objective.name, for_evaluation(base, objective=objective)) for objective in criterion.adversaries]


def evading(plan: Plan, threat: Threat, steps: int = 10) -> tuple[Detector, PGD] | None:
    """The first of the plan's detectors that needs no bank and names its adversary, and that attack.

    It is the plan's own attack where that raises the same objective, else PGD on it.
    """
    parts = plan.compose()
    for detector in parts.detectors:
        if detector.adversaries and not detector.has_bank:
            objective, own = detector.adversaries[0], parts.attack
            base = PGD(threat.ball(), steps, clip=threat.clip)
            if isinstance(own, PGD) and own.objective is objective:
                base = replace(own, norm=threat.ball())
            return detector, for_evaluation(base, objective=objective, stop_when_wrong=False)
    return None


def thresholded_accuracy(evaluator: Evaluator, detector: Detector, attack: Attack, tpr: float = TPR) -> float:
    """1 - RErr(tau) under an attack, tau set on the same clean examples; 0 where none of them is right."""
    y, clean, adversarial = evaluator.y, evaluator.outputs(), evaluator.outputs(attack)
    wrong, adv_wrong = (out.logits.argmax(1) != y for out in (clean, adversarial))
    if bool(wrong.all()):
        return 0.0
    score, adv_score = detector.score(clean), detector.score(adversarial)
    tau = threshold_at(score[~wrong], tpr)
    return 1 - thresholded_robust_error(wrong, score >= tau, adv_wrong, adv_score >= tau)


class HeldOut:
    """Scores an epoch on held-out data: clean, under the method's own adversary, and, where a
    detector rejects, what of the kept is right under the adversary of both. What the plan measures is
    taken at the strongest point of that same adversary, which goes on after success.

    Args:
        threat: None leaves the robust score out.
        steps: of the adversary.
        run: whose processes share the work.
    """

    def __init__(
        self,
        plan: Plan,
        images: Images,
        y: Tensor,
        threat: Threat | None,
        *,
        seed: int = 0,
        steps: int = 10,
        device: torch.device | None = None,
        run: Run | None = None,
    ) -> None:
        self.images, self.y, self.seed, self.device, self.run = images, y, seed, device, run
        self.attack = informed(plan, threat, steps)[0] if threat is not None else None
        self.rejecting = evading(plan, threat, steps) if threat is not None else None
        self.measures = {name: what for _, name, what in plan.measures}

    def __call__(self, net: Net, parts: Parts, epoch: int) -> Scores:
        evaluator = Evaluator(net, self.images, self.y, seed=self.seed, device=self.device)
        clean = evaluator.clean().value
        robust = under_shared(evaluator, *self.attack, self.run).value if self.attack is not None else None
        kept = thresholded_accuracy(evaluator, *self.rejecting) if self.rejecting is not None else None
        return Scores(clean, robust, len(self.y), kept, self._measured(evaluator))

    def _measured(self, evaluator: Evaluator) -> dict[str, float]:
        """The means of what the plan measures, over the adversarial twins of all examples, from all processes."""
        if not self.measures or self.attack is None:
            return {}
        whole = replace(self.attack[1], stop_when_wrong=False)
        rows = torch.arange(len(self.y)) if self.run is None else self.run.own(len(self.y)).nonzero().squeeze(1)
        sums = dict.fromkeys(self.measures, 0.0)
        if len(rows):
            out = evaluator.outputs(whole, rows)
            sums = {name: float(what(out).double().sum()) for name, what in self.measures.items()}
        found = sums if self.run is None else self.run.reduce(sums)
        return {name: value / len(self.y) for name, value in found.items()}


def under_shared(evaluator: Evaluator, name: str, attack: Attack, run: Run | None) -> Accuracy:
    """`Evaluator.under` by all processes of a run, each on its share of the examples; the same on all of them."""
    if run is None or run.world == 1:
        return evaluator.under(name, attack)
    right = evaluator.clean().right
    row = evaluator.under(name, attack, standing=right & run.own(len(right)))
    return replace(row, right=run.anywhere(row.right))


def worst(rows: Sequence[Accuracy]) -> Tensor:
    """(N,) bool: right under every one of the rows."""
    if not rows:
        raise ConfigError("the worst case of no attacks is not defined; evaluate at least one")
    return torch.stack([row.right for row in rows]).all(0)


def as_metrics(rows: Sequence[Accuracy]) -> Mapping[str, float]:
    """evaluate/<attack>/accuracy with its interval, under names that trackers take."""
    metrics: dict[str, float] = {}
    for row in rows:
        low, high = row.interval
        metrics |= {
            f"evaluate/{row.name}/accuracy": row.value,
            f"evaluate/{row.name}/low": low,
            f"evaluate/{row.name}/high": high,
        }
    return metrics
