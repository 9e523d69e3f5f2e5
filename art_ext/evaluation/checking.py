"""Gathers what each trust check needs from a campaign, and asks what else must be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from art_ext.evaluation import lineup as names
from art_ext.evaluation import trust
from art_ext.evaluation.campaign import Campaign
from art_ext.evaluation.lineup import WHITE_BOX, Lineup, Planned
from art_ext.evaluation.measure import MOST, Repeats, gradients
from art_ext.evaluation.probes import rescaled_ce
from art_ext.evaluation.suites import Suite
from art_ext.evaluation.trials import Trials
from art_ext.evaluation.trust import Suspicion
from art_ext.parts.attacks import PGD, for_evaluation
from art_ext.parts.norms import norm_named
from art_ext.parts.objectives import cw

UNBOUNDED_STEPS = 40
NO_TURN = "the evaluation ended before its attacks had their turn"
NO_SURROGATE = "this needs another network to craft on: --baseline MODEL, or in Python baseline=classifier"


@dataclass(frozen=True)
class Checking:
    """Asks every trust check about a campaign that has run.

    Attributes:
        seen: a part ("training", "selection") to how many of the images are in it.
        known: whether the recipe is.
        gradients: whether the network has any; else the checks that need them are not run.
    """

    campaign: Campaign
    suite: Suite
    lineup: Lineup
    repeats: Repeats
    n_classes: int
    seen: Mapping[str, int]
    known: bool
    gradients: bool = True

    def suspicions(self) -> list[Suspicion]:
        """Every check's, in the order of the report."""
        campaign, rows = self.campaign, self.campaign.active
        n = int(rows.sum())
        return [
            trust.clean_accuracy_low(int((campaign.right & rows).sum()), n, self.n_classes),
            self._labels(rows, n),
            *(self._by_gradients(n) if self.gradients else map(trust.without_gradients, trust.BY_GRADIENTS)),
            self._repeats(self.repeats.varied, self.repeats.twice, trust.answers_vary),
            self._repeats(self.repeats.mixed, self.repeats.company, trust.batch_matters),
            trust.seen_before(self.seen, n),
            self._adaptive(),
        ]

    def _labels(self, rows: Tensor, n: int) -> Suspicion:
        """Wrong answers on the half of the images that the network is surest of."""
        evaluator = self.campaign.evaluator
        parts = (evaluator.logits(evaluator.batch(at)[0]) for at in torch.split(rows.nonzero().squeeze(1), MOST))
        tops = torch.cat([logits.topk(2, dim=1).values.cpu() for logits in parts])
        wrong = ~self.campaign.right[rows]
        surest = (tops[:, 0] - tops[:, 1]).argsort(descending=True, stable=True)[: n // 2]
        return trust.labels_disagree(int(wrong[surest].sum()), len(surest), int(wrong.sum()), n)

    def _by_gradients(self, n: int) -> list[Suspicion]:
        """Those that compare attacks with gradients, or look at the gradients themselves."""
        white = self._of(WHITE_BOX)
        one, many, margin, half = ((name,) for name in (names.ONE_STEP, names.MANY_STEPS, names.MARGIN, names.HALF))
        random = (names.RANDOM,)
        return [
            self._compared("one_step", one, many, trust.one_step_beats_many),
            self._others("black-box", white, trust.black_box_beats_white_box),
            self._others("transfer", white, trust.transfer_beats_white_box),
            self._compared(
                "random_search", random, white, lambda a, b: trust.random_beats_gradients(a, b, self.suite.tries)
            ),
            self._unbounded(),
            self._compared("eps_order", half, margin, trust.smaller_ball_beats_larger),
            *self._gradients(),
            self._compared("losses", margin, many, trust.losses_disagree),
            self._effort(n),
        ]

    def _of(self, families: tuple[str, ...]) -> list[str]:
        """Attacks that did not fail, whether or not they had their turn."""
        known = {name: trial.error for name, trial in self.campaign.found.items()}
        planned = [one for one in self.campaign.planned if known.get(one.name) is None]
        return [one.name for one in planned if one.family in families and not one.name.startswith(names.EFFORT)]

    def _compared(
        self, name: str, first: Sequence[str], second: Sequence[str], check: Callable[[Tensor, Tensor], Suspicion]
    ) -> Suspicion:
        """On the images where all of both had their turn."""
        campaign = self.campaign
        owing = campaign.owing(*first, *second)
        rows = campaign.active & ~owing
        if bool(owing.any()) and not bool((campaign.right & rows).any()):
            return trust.not_run(name, trust.BY_GRADIENTS[name], NO_TURN)
        return check(campaign.fell(*first)[rows], campaign.fell(*second)[rows])

    def _others(
        self, family: str, white: Sequence[str], check: Callable[[Tensor, Tensor, Sequence[str]], Suspicion]
    ) -> Suspicion:
        """Attacks of a family that needs no gradients of this network against those that do."""
        name = family.replace("-", "_")
        found = [attack for attack in self._of((family,)) if attack != names.RANDOM]
        if found:
            return self._compared(name, found, white, lambda a, b: check(a, b, found))
        why = f"no black-box attack that is installed works in {self.campaign.threat.norm}"
        return trust.not_run(name, trust.BY_GRADIENTS[name], NO_SURROGATE if family == "transfer" else why)

    def _sample(self) -> Tensor:
        """(m,) at most `MOST` images that are right when clean."""
        return (self.campaign.right & self.campaign.active).nonzero().squeeze(1)[:MOST]

    def _unbounded(self) -> Suspicion:
        """The strongest kinds of gradient attack, in a ball that holds every image."""
        campaign, index = self.campaign, self._sample()
        low, high = campaign.threat.clip
        norm, title = campaign.threat.norm, trust.BY_GRADIENTS["unbounded"]
        if high - low == float("inf") or norm == "l0":
            return trust.not_run("unbounded", title, "this needs a range of pixels, and a norm that it bounds")
        pixels = campaign.evaluator.batch(torch.arange(1))[0][0].numel()
        reach = {"linf": 1.0, "l2": pixels**0.5, "l1": float(pixels)}[norm] * (high - low)
        pgd = PGD(norm_named(norm, reach), UNBOUNDED_STEPS, clip=campaign.threat.clip)
        trials = Trials(
            campaign.evaluator,
            campaign.threat,
            campaign.trials.identity,
            folder=campaign.trials.folder,
            writer=campaign.trials.writer,
            batch_size=campaign.trials.batch_size,
            clock=campaign.clock,
        )
        standing = index
        for objective in (cw, rescaled_ce):
            attack = Planned(f"unbounded_{objective.name}", for_evaluation(pgd, objective=objective), "gradient")
            trial = trials.run(attack, standing)
            standing = standing[~trial.changed(campaign.y)[standing]]
            if campaign.clock.over:
                return trust.not_run("unbounded", title, "the budget ended before it was done")
        return trust.unbounded_survivors(len(standing), len(index), reach)

    def _gradients(self) -> list[Suspicion]:
        index = self._sample()
        title = trust.BY_GRADIENTS["zero_gradients"]
        if len(index) == 0:
            return [trust.not_run("zero_gradients", title, "no clean image is right, so there is none to look at")]
        found = gradients(self.campaign.evaluator, self.campaign.threat, index)
        gap, vanished = float(found.gap.median()), float(found.vanished.double().mean())
        zero = trust.no_gradients(int(found.zero.sum()), len(index), found.cut)

        def saturated(rescaled: Tensor, plain: Tensor) -> Suspicion:
            return trust.saturated_logits(rescaled | (plain & ~done), plain, vanished, gap)

        trial = self.campaign.found.get(names.RESCALED)
        rows = self.campaign.active & ~self.campaign.owing(names.RESCALED, names.MANY_STEPS)
        done = torch.zeros_like(rows)[rows] if trial is None else trial.done[rows]
        return [zero, self._compared("saturated_logits", (names.RESCALED,), (names.MANY_STEPS,), saturated)]

    def _effort(self, n: int) -> Suspicion:
        trials = [trial for name, trial in self.campaign.found.items() if name.startswith(names.EFFORT)]
        if not trials:
            return trust.not_run("more_effort", trust.BY_GRADIENTS["more_effort"], "more effort was not spent")
        found = self.campaign.fell(*(trial.planned.name for trial in trials))
        if bool(self.campaign.owing(*(trial.planned.name for trial in trials)).any()) and not bool(found.any()):
            return trust.not_run("more_effort", trust.BY_GRADIENTS["more_effort"], NO_TURN)
        steps, restarts = self.suite.effort
        return trust.more_effort_finds(int(found.sum()), n, f"PGD with {steps} steps and {restarts + 1} restarts")

    def _repeats(
        self, odd: Tensor, sizes: Tensor, check: Callable[[int, int, float], Suspicion]
    ) -> Suspicion:
        return check(int(odd.sum()), len(odd), float(sizes.max()))

    def _adaptive(self) -> Suspicion:
        """Who knew the defence, by what ran: an attack that ran on no image counts for nobody."""
        campaign, unfinished = self.campaign, self.campaign.unfinished
        covered: dict[str, list[str]] = {}
        spared, missing = [], dict(self.lineup.missing)
        for ingredient, attacks in self.lineup.covered.items():
            trials = [campaign.found[name] for name in attacks if name in campaign.found]
            ran = [trial.planned.name for trial in trials if bool((trial.done & campaign.active).any())]
            errors = [trial.error for trial in trials if trial.error is not None]
            if ran:
                covered[ingredient] = ran
            elif errors:
                missing.setdefault(ingredient, f"its attack failed ({errors[0]})")
            elif any(name in unfinished for name in attacks):
                missing.setdefault(ingredient, NO_TURN)
            else:
                spared.append(ingredient)
        return trust.adaptive_attacks(covered, missing, spared, known=self.known)
