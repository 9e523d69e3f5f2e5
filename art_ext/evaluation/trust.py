"""Reasons not to trust a robust accuracy, one function each: pure functions of counts and (N,) bool tensors.

What a check suspects is tested: counts against the rate that honest networks show, by the exact binomial
test. Where two attacks are compared, the count is of the images that the weaker kind alone changes: what the
stronger kind finds elsewhere does not make up for them, since a part of the images may be masked. A check fails
where p < 0.01 after Holm's correction for all checks of the evaluation, and at least 2% of the images are
concerned. (Athalye, Carlini, Wagner, ICML 2018; Carlini et al., 2019; Tramer et al., NeurIPS 2020; Pintor et
al., NeurIPS 2022.)

Throughout, N images; `a`, `b`, ... are (N,) bool: the images that an attack changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from art_ext.evaluation.record import Check, Status
from art_ext.evaluation.statistics import holm, mcnemar

LEVEL = 0.01
LEAST = 0.02
"""Share of the images that must be concerned."""
USUAL = 0.01
"""A share that may go astray in an honest evaluation."""
STRAY = 0.01
"""Share of the images that the weaker of two attacks alone may change: honest networks showed up to 1 of 120."""
STRAY_STEP = 0.02
"""The same of one step against twenty: honest networks showed up to 2 of 120."""
USUAL_MISTAKES = 0.03
"""Share of the images that a network is surest of, the half of all, that it may be wrong on."""
USUAL_GAP = 0.10
"""Share of the images that cross-entropy may leave to the margin: honest networks showed up to 6%."""


@dataclass(frozen=True)
class Suspicion:
    """What a check suspects, with its test before the correction.

    Attributes:
        alarm, calm: the sentence if it holds, and if it does not.
        p: of the exact test; None where the matter is a fact and not a sample.
        share: of the images that are concerned.
        severity: what the status is if it holds.
        ran: False where something that it needs is not known; `calm` then says what.
        p_half: what p would be if half of the images were concerned: with too few, that could be chance.
    """

    name: str
    title: str
    alarm: str
    calm: str
    share: float = 0.0
    p: float | None = None
    severity: Literal["fail", "warn"] = "fail"
    evidence: Mapping[str, Any] = field(default_factory=dict)
    ran: bool = True
    p_half: float = 0.0


def judge(suspicions: Sequence[Suspicion]) -> tuple[Check, ...]:
    """The checks' statuses, with the p-values of all corrected together.

    A check that so few images could not fail, even with half of them concerned, counts as not run.
    """
    tested = [item for item in suspicions if item.ran and item.p is not None]
    corrected = dict(zip(map(id, tested), holm([item.p for item in tested if item.p is not None]), strict=True))
    checks = []
    for item in suspicions:
        p = corrected.get(id(item))
        holds = item.ran and item.share >= LEAST and (p is None or p < LEVEL)
        too_few = p is not None and not holds and item.p_half * len(tested) >= LEVEL
        status: Status = item.severity if holds else "pass" if item.ran and not too_few else "not_run"
        share = item.share if item.ran else None
        sentence = item.alarm if holds else f"too few images to tell: {item.calm}" if too_few else item.calm
        checks.append(Check(item.name, item.title, status, sentence, dict(item.evidence), p, share, too_few))
    return tuple(checks)


def not_run(name: str, title: str, why: str) -> Suspicion:
    """A check that could not be made."""
    return Suspicion(name, title, "", why, ran=False)


BY_GRADIENTS = {
    "one_step": "One step against many",
    "black_box": "Black box against white box",
    "transfer": "Transfer against white box",
    "random_search": "Random search",
    "unbounded": "Unbounded perturbations",
    "eps_order": "Accuracy falls with eps",
    "zero_gradients": "Gradients that are zero",
    "saturated_logits": "Saturated logits",
    "losses": "Cross-entropy against margin",
    "more_effort": "More steps and restarts",
}
"""The checks that need gradients of the network, with their titles."""


def without_gradients(name: str) -> Suspicion:
    """One of those, of a classifier that gives answers alone; that no attack saw gradients is a warning."""
    if name == "black_box":
        said = "no attack saw gradients, since the classifier gives answers alone: who has the network does better"
        return Suspicion(name, BY_GRADIENTS[name], said, "", 1.0, severity="warn")
    return not_run(name, BY_GRADIENTS[name], "this needs gradients, and the classifier gives answers alone")


def compared(first: Tensor, second: Tensor) -> dict[str, int]:
    """How many images the first attack alone changes, the second alone, and both."""
    return {
        "only_first": int((first & ~second).sum()),
        "only_second": int((second & ~first).sum()),
        "both": int((first & second).sum()),
        "n": len(first),
    }


def missed(first: Tensor, second: Tensor, usual: float = STRAY) -> tuple[float, float, float, dict[str, Any]]:
    """What the first attack finds and the second should: share, p against the rate `usual`, p at half, and counts."""
    counts = compared(first, second)
    alone, n = counts["only_first"], counts["n"]
    return alone / n, above(alone, n, usual), at_half(n, usual), {**counts, "usual": usual}


def above(count: int, n: int, rate: float) -> float:
    """P(Bin(n, rate) >= count)."""
    from scipy.stats import binom

    return float(binom.sf(count - 1, n, rate))


def at_half(n: int, rate: float) -> float:
    """What p would be if half of the n images were concerned; 0 of none."""
    return above(-(-n // 2), n, rate) if n else 0.0


def labels_disagree(wrong_of_sure: int, sure: int, wrong: int, n: int) -> Suspicion:
    """Wrong answers are as common where the network is surest as elsewhere: then it is the labels that are wrong.

    A network's own mistakes gather where it is unsure; wrong labels do not know what it is sure of.

    Args:
        wrong_of_sure: of the `sure` images with the largest gap between the two largest logits, half of all n, those
            whose label is another than its answer. wrong: of all.
    """
    common = wrong_of_sure * n > wrong * sure / 2
    return Suspicion(
        "labels",
        "Labels",
        f"of the {sure} images that the network is surest of, {wrong_of_sure} have another label than its answer, "
        f"nearly as often as all ({wrong} of {n}), and its own mistakes would be rare there: labels are wrong, and "
        "each counts against it",
        f"of the {sure} images that the network is surest of, {wrong_of_sure} have another label than its answer, and "
        f"{wrong} of all {n}",
        wrong_of_sure / n if common else 0.0,
        above(wrong_of_sure, sure, USUAL_MISTAKES) if sure else 1.0,
        severity="warn",
        evidence={"wrong_of_sure": wrong_of_sure, "sure": sure, "wrong": wrong, "n": n, "usual": USUAL_MISTAKES},
    )


def one_step_beats_many(one: Tensor, many: Tensor) -> Suspicion:
    """An attack of one step finds what the same with many steps does not: the steps follow useless gradients."""
    share, p, p_half, counts = missed(one, many, STRAY_STEP)
    return Suspicion(
        "one_step",
        BY_GRADIENTS["one_step"],
        f"one gradient step changes {counts['only_first']} of {counts['n']} images that 20 steps leave: iterating does "
        "not help there",
        f"20 steps change {counts['only_second']} of {counts['n']} images that one step leaves, and leave "
        f"{counts['only_first']} that it changes",
        share,
        p,
        p_half=p_half,
        evidence=counts,
    )


def black_box_beats_white_box(black: Tensor, white: Tensor, names: Sequence[str]) -> Suspicion:
    """Attacks that see only answers find what attacks with gradients do not: the gradients are masked."""
    share, p, p_half, counts = missed(black, white)
    return Suspicion(
        "black_box",
        BY_GRADIENTS["black_box"],
        f"attacks that see only answers change {counts['only_first']} of {counts['n']} images that attacks with "
        "gradients leave: the gradients are masked there",
        f"attacks with gradients change {counts['only_second']} of {counts['n']} images that those which see only "
        f"answers leave, and leave {counts['only_first']} that these change",
        share,
        p,
        p_half=p_half,
        evidence={**counts, "attacks": list(names)},
    )


def transfer_beats_white_box(transferred: Tensor, white: Tensor, names: Sequence[str]) -> Suspicion:
    """Examples made on another network fool this one where its own gradients do not."""
    share, p, p_half, counts = missed(transferred, white)
    return Suspicion(
        "transfer",
        BY_GRADIENTS["transfer"],
        f"examples made on another network change {counts['only_first']} of {counts['n']} images that the network's "
        "own gradients leave: the gradients are masked there",
        f"the network's own gradients change {counts['only_second']} of {counts['n']} images that examples made on "
        f"another network leave, and leave {counts['only_first']} that these change",
        share,
        p,
        p_half=p_half,
        evidence={**counts, "attacks": list(names)},
    )


def random_beats_gradients(random: Tensor, white: Tensor, tries: int) -> Suspicion:
    """Random points of the ball are misclassified where gradients find nothing."""
    share, p, p_half, counts = missed(random, white)
    return Suspicion(
        "random_search",
        BY_GRADIENTS["random_search"],
        f"{tries} random points of the ball change {counts['only_first']} of {counts['n']} images that gradient "
        "attacks leave",
        f"gradient attacks change {counts['only_second']} of {counts['n']} images that {tries} random points of the "
        f"ball leave, and leave {counts['only_first']} that these change",
        share,
        p,
        p_half=p_half,
        evidence=counts,
    )


def unbounded_survivors(standing: int, n: int, eps: float) -> Suspicion:
    """Images that stand an attack which may change every pixel at will: the attack fails, not the attacker's reach."""
    return Suspicion(
        "unbounded",
        BY_GRADIENTS["unbounded"],
        f"{standing} of {n} images stand an attack whose radius {eps:g} allows any image: the attack does not work",
        f"with the radius {eps:g}, which allows any image, the attack changes all but {standing} of {n} images",
        standing / n if n else 0.0,
        above(standing, n, USUAL) if n else 1.0,
        p_half=at_half(n, USUAL),
        evidence={"standing": standing, "n": n, "eps": eps},
    )


def smaller_ball_beats_larger(half: Tensor, full: Tensor) -> Suspicion:
    """The same attack finds in half the ball, which the whole ball holds, what it does not find in the whole."""
    share, p, p_half, counts = missed(half, full)
    return Suspicion(
        "eps_order",
        BY_GRADIENTS["eps_order"],
        f"with half of eps the attack changes {counts['only_first']} of {counts['n']} images that it leaves with all "
        "of eps",
        f"with all of eps the attack changes {counts['only_second']} of {counts['n']} images that it leaves with half, "
        f"and leaves {counts['only_first']} that it changes there",
        share,
        p,
        p_half=p_half,
        evidence=counts,
    )


def no_gradients(zero: int, n: int, cut: bool) -> Suspicion:
    """The gradient of the margin, which no softmax saturates, is exactly zero at random points of the ball."""
    how = "no gradient reaches the image at all" if cut else "the gradient is exactly zero"
    return Suspicion(
        "zero_gradients",
        BY_GRADIENTS["zero_gradients"],
        f"at {zero} of {n} random points {how}: something is not differentiable (rounding, a detached step), "
        "and attacks with gradients see nothing",
        "the margin has a gradient everywhere",
        zero / n if n else 0.0,
        above(zero, n, USUAL) if n else 1.0,
        p_half=at_half(n, USUAL),
        evidence={"zero": zero, "n": n, "cut": cut},
    )


def saturated_logits(rescaled: Tensor, plain: Tensor, vanished: float, largest_gap: float) -> Suspicion:
    """Cross-entropy finds more once the logits are made smaller: they saturate the softmax.

    Args:
        rescaled: changed by PGD on the cross-entropy of logits whose gap is at most 10. plain: of logits as they are.
        vanished: share of images on which the gradient of cross-entropy is too small for a step.
        largest_gap: median difference of the two largest logits.
    """
    share, p, p_half, counts = missed(rescaled, plain)
    return Suspicion(
        "saturated_logits",
        BY_GRADIENTS["saturated_logits"],
        f"cross-entropy changes {counts['only_first']} of {counts['n']} images only once the logits (median gap "
        f"{largest_gap:.3g}) are made smaller; its gradient vanishes on {vanished:.0%} of the images: figures by "
        "cross-entropy overstate",
        f"making the logits smaller (median gap {largest_gap:.3g}) lets cross-entropy change {counts['only_first']} "
        f"more of {counts['n']} images",
        share,
        p,
        p_half=p_half,
        evidence={**counts, "vanished": vanished, "median_gap": largest_gap},
    )


def losses_disagree(margin: Tensor, plain: Tensor) -> Suspicion:
    """The margin finds what cross-entropy does not, beyond what honest models show."""
    share, p, p_half, counts = missed(margin, plain, USUAL_GAP)
    alone = (
        f"the margin changes {counts['only_first']} of {counts['n']} images that cross-entropy leaves, and leaves "
        f"{counts['only_second']} that this changes"
    )
    return Suspicion(
        "losses",
        BY_GRADIENTS["losses"],
        f"{alone}; honest models show up to {USUAL_GAP:.0%}: figures by cross-entropy overstate",
        f"{alone}, as on honest models (up to {USUAL_GAP:.0%})",
        share,
        p,
        p_half=p_half,
        evidence=counts,
    )


def more_effort_finds(found: int, n: int, effort: str) -> Suspicion:
    """More steps and restarts still change images that everything before left."""
    return Suspicion(
        "more_effort",
        BY_GRADIENTS["more_effort"],
        f"{effort} changes {found} images that all attacks before left: the search is not done",
        f"{effort} changes {found} further images of {n}",
        found / n,
        mcnemar(found, 0),
        p_half=mcnemar(-(-n // 2), 0),
        evidence={"found": found, "n": n},
    )


def answers_vary(varied: int, n: int, largest: float) -> Suspicion:
    """The same image, asked twice, gets different answers."""
    return Suspicion(
        "random_answers",
        "Same image, same answer",
        f"{varied} of {n} images get other logits when asked twice (by up to {largest:.2g} of their range): "
        "the network is random, and a single try of an attack understates the attacker",
        "the same image gets the same answer",
        varied / n if n else 0.0,
        above(varied, n, USUAL / 10) if n else 1.0,
        p_half=at_half(n, USUAL / 10),
        evidence={"varied": varied, "n": n, "largest": largest},
    )


def batch_matters(varied: int, n: int, largest: float) -> Suspicion:
    """An image's answer depends on the others in its batch."""
    return Suspicion(
        "batch",
        "Answers do not depend on the batch",
        f"{varied} of {n} images get other logits in other company (by up to {largest:.2g} of their range): "
        "normalisation is in training mode, or images are compared with one another",
        "an image's answer does not depend on the others in its batch",
        varied / n if n else 0.0,
        above(varied, n, USUAL / 10) if n else 1.0,
        p_half=at_half(n, USUAL / 10),
        evidence={"varied": varied, "n": n, "largest": largest},
    )


def seen_before(found: Mapping[str, int], n: int) -> Suspicion:
    """Images that the network was trained on, or chosen by, are among those it is judged on.

    Args:
        found: a part ("training", "selection") to how many of the n images are in it, pixel by pixel.
    """
    title = "Images it has not seen"
    if not found:
        return not_run(
            "seen_data",
            title,
            "not known which images it was trained on, so they were not looked for; give the recipe that trained it "
            "with --recipe, or in Python training=(x, y)",
        )
    worst = max(found.values())
    where = ", ".join(f"{count} in the {part} data" for part, count in found.items())
    return Suspicion(
        "seen_data",
        title,
        f"of {n} images, pixel by pixel, {where}: the figures say how well it remembers",
        f"of {n} images, pixel by pixel, {where}",
        worst / n,
        above(worst, n, USUAL),
        p_half=at_half(n, USUAL),
        evidence=dict(found),
    )


def adaptive_attacks(
    covered: Mapping[str, Sequence[str]], missing: Mapping[str, str], spared: Sequence[str] = (), *, known: bool
) -> Suspicion:
    """Every ingredient of the recipe was attacked by someone who knows it.

    Args:
        spared: ingredients whose attacks found nothing left to attack when their turn came.
    """
    title = "An attacker who knows the defence"
    if not known:
        return not_run(
            "adaptive",
            title,
            "the recipe is not known, so no attack was made for this defence; give it with --recipe if there is one",
        )
    why = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
    names = {name: list(attacks) for name, attacks in covered.items()}
    said = []
    if names:
        by = "; ".join(f"{name} by {', '.join(attacks)}" for name, attacks in names.items())
        said.append(f"attacked by someone who knows {by}")
    if spared:
        said.append(f"no image was left for the attacks that know {' and '.join(spared)}")
    return Suspicion(
        "adaptive",
        title,
        f"adaptive attack missing for {why}",
        "; ".join(said) or "there is no defence to know",
        1.0 if missing else 0.0,
        evidence={"covered": names, "missing": dict(missing), "spared": list(spared)},
    )


def clean_accuracy_low(right: int, n: int, n_classes: int) -> Suspicion:
    """It is hardly right on clean images: the labels, their order or the range of the pixels may be wrong."""
    from art_ext.evaluation.statistics import binomial_interval

    low = binomial_interval(right, n)[1] < min(0.5, 2 / n_classes)
    return Suspicion(
        "clean",
        "Clean accuracy",
        f"only {right} of {n} clean images are right: are the labels, their order and the range of the pixels those "
        "that it was trained with?",
        f"{right} of {n} clean images are right",
        1.0 if low else 0.0,
        severity="warn",
        evidence={"right": right, "n": n},
    )
