"""Which attacks run on a network, in order: those that checks compare, the suite's, and the informed adversary's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from art_ext.entries import AttackEntry, EvaluationContext, Family
from art_ext.errors import ArtExtError, ConfigError
from art_ext.evaluation.evading import evasions, raised_by
from art_ext.evaluation.identity import fingerprint
from art_ext.evaluation.probes import Averaged, RandomSearch, rescaled_ce
from art_ext.evaluation.suites import Suite, Wanted
from art_ext.evaluation.threat import Threat
from art_ext.ingredient import explain
from art_ext.parts.attacks import PGD, Attack, ZeroStart, for_evaluation
from art_ext.parts.detectors import Detector
from art_ext.parts.norms import Norm, norm_named
from art_ext.parts.objectives import Objective, ce, cw
from art_ext.plan import Plan

ANSWERS: tuple[Family, ...] = ("black-box", "transfer", "corruption")
"""What needs no gradients of the network under attack."""
ONE_STEP, MANY_STEPS, MARGIN, RESCALED = "fgsm", "pgd20", "pgd20_margin", "pgd20_rescaled"
HALF, RANDOM, EFFORT = "half_eps", "random_search", "more_steps"
STEPS = 20
Options = Mapping[str, Any]
Named = str | tuple[str, Options]
"""An attack's entry by name, or with options of its own."""
WHITE_BOX: tuple[Family, ...] = ("gradient", "informed")


@dataclass(frozen=True)
class Planned:
    """One attack of an evaluation.

    Attributes:
        everywhere: on all images that are right when clean; else on those that still stand.
        wrong_too: on all images, those that are wrong when clean included, which a detector may reject.
        of: the ingredient that it is the adaptive attack of.
    """

    name: str
    attack: Attack
    family: Family
    everywhere: bool = False
    of: str | None = None
    wrong_too: bool = False

    def bounded(self, threat: Threat) -> bool:
        """Whether it says that it stays in the threat's ball."""
        norm = getattr(self.attack, "norm", None) or getattr(self.attack, "within", None)
        return isinstance(norm, Norm) and norm.name == threat.norm and norm.largest <= threat.eps * (1 + 1e-6)

    @cached_property
    def identity(self) -> str:
        """Equal for attacks that do the same: their classes and all their fields, whatever they are called."""
        return fingerprint(self.attack)

    @property
    def cost(self) -> float:
        """Passes for each image, roughly and at most."""
        cost = getattr(self.attack, "cost", None)
        return float(cost) if isinstance(cost, int | float) else 500.0

    @property
    def work(self) -> float:
        """The same with a backward pass beside each forward one, which counts as two, where it needs gradients."""
        return self.cost * (1 if self.family in ANSWERS else 3)


@dataclass
class Lineup:
    """The attacks in order, and what could not be among them.

    Attributes:
        listed: names of those that were asked for besides the suite's.
        notes: a sentence for each attack that the suite names and that is not there.
        missing: ingredients without an adaptive attack, each with the reason.
        covered: ingredients with the names of the attacks that know them.
    """

    planned: list[Planned] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    covered: dict[str, list[str]] = field(default_factory=dict)

    def add(self, new: Planned) -> str:
        """Adds an attack, once: one that is there already counts for its ingredient too. Returns its name."""
        for place, old in enumerate(self.planned):
            if old.identity == new.identity:
                self.planned[place] = replace(
                    old,
                    of=old.of or new.of,
                    everywhere=old.everywhere or new.everywhere,
                    wrong_too=old.wrong_too or new.wrong_too,
                )
                return old.name
        taken = {planned.name for planned in self.planned}
        name, number = new.name, 2
        while name in taken:
            name, number = f"{new.name}_{number}", number + 1
        self.planned.append(replace(new, name=name))
        return name

    def inform(self, ingredient: str, name: str) -> None:
        names = self.covered.setdefault(ingredient, [])
        names += [name] if name not in names else []


def core(threat: Threat, tries: int, *, random: bool = False) -> list[Planned]:
    """The attacks that every evaluation runs on all images, since the trust checks compare them.

    Args:
        tries: of the random search.
        random: the network's answers vary, so an attack on their mean is added.
    """
    ball, clip = threat.ball(), threat.clip
    pgd = PGD(ball, STEPS, clip=clip)
    half = replace(pgd, norm=threat.half(), steps=STEPS // 2, objective=cw)
    one_step = PGD(ball, 1, threat.eps, start=ZeroStart(), clip=clip)
    found = [
        Planned(ONE_STEP, for_evaluation(one_step), "gradient", True),
        Planned(MANY_STEPS, for_evaluation(pgd), "gradient", True),
        Planned(MARGIN, for_evaluation(pgd, objective=cw), "gradient", True),
        Planned(RESCALED, for_evaluation(pgd, objective=rescaled_ce), "gradient", True),
        Planned(HALF, for_evaluation(half), "gradient", True),
        Planned(RANDOM, RandomSearch(ball, tries, clip), "black-box", True),
    ]
    if random:
        found.append(Planned(f"{MARGIN}_averaged", Averaged(for_evaluation(pgd, objective=cw)), "informed", True))
    return found


def effort(threat: Threat, steps: int, restarts: int) -> list[Planned]:
    """More steps and other starts, on what stood everything: what an evaluation that is not done would find.

    One start more than `restarts`, since the first is that of the attacks before; with two or more, also on
    cross-entropy.
    """
    pgd = PGD(threat.ball(), steps, restarts=restarts + 1, clip=threat.clip)
    objectives = [(EFFORT, cw), (f"{EFFORT}_ce", ce)][: 1 if restarts < 2 else 2]
    return [Planned(name, for_evaluation(pgd, objective=objective), "gradient") for name, objective in objectives]


def build_lineup(
    plan: Plan,
    threat: Threat,
    suite: Suite,
    entries: Mapping[str, AttackEntry],
    context: EvaluationContext,
    *,
    extra: Sequence[Planned] = (),
    adaptive: Mapping[str, Sequence[Named]] | None = None,
    random: bool = False,
    gradients: bool = True,
    confidence: Detector | None = None,
) -> Lineup:
    """The attacks of a suite on what a plan trained.

    Args:
        entries: the attacks that the plugins offer, by name.
        extra: attacks besides the suite's.
        adaptive: an ingredient to the entries that know it, besides those that say so.
        random: the network's answers vary.
        gradients: False keeps those that need answers alone.
        confidence: of a network that rejects nothing itself, attacked as if it did.
    """
    lineup = Lineup()
    if not gradients:
        return _by_answers(lineup, plan, threat, suite, entries, context, extra)
    for planned in core(threat, suite.tries, random=random):
        lineup.add(planned)
    for planned in extra:
        lineup.listed.append(lineup.add(_before_detectors(planned) if context.detectors else planned))
    _inform(lineup, plan, threat, suite, entries, context, adaptive or {})
    if confidence is not None:
        base = PGD(threat.ball(), STEPS, clip=threat.clip)
        for name, attack in evasions(confidence, None, base, suite.confidence, plan.facts.n_classes):
            lineup.add(Planned(name, attack, "informed", everywhere=True, wrong_too=True))
    for wanted in suite.wanted:
        _want(lineup, wanted, entries, context)
    if suite.other_norms:
        for planned in _other_norms(threat, plan):
            lineup.add(planned)
    return lineup


def _by_answers(
    lineup: Lineup,
    plan: Plan,
    threat: Threat,
    suite: Suite,
    entries: Mapping[str, AttackEntry],
    context: EvaluationContext,
    extra: Sequence[Planned],
) -> Lineup:
    """The attacks on a classifier that gives answers and no gradients."""
    wanted = [planned for planned in (*core(threat, suite.tries), *extra) if planned.family in ANSWERS]
    for planned in wanted:
        lineup.add(planned)
    for one in suite.answers:
        _want(lineup, one, entries, context)
    lineup.missing = dict.fromkeys(plan.used, "its adaptive attack needs gradients")
    return lineup


def _before_detectors(planned: Planned) -> Planned:
    """An attack that goes on after success, as its paper runs it, and also on images that are wrong when clean."""
    attack, name = planned.attack, planned.name
    if isinstance(attack, PGD) and attack.stop_when_wrong and attack.steps > 1:
        attack = replace(attack, stop_when_wrong=False)
        name += "_on" if name in (MANY_STEPS, MARGIN) else ""  # which are there already, and stop
    return replace(planned, name=name, attack=attack, wrong_too=True)


def _want(lineup: Lineup, wanted: Wanted, entries: Mapping[str, AttackEntry], context: EvaluationContext) -> None:
    entry = entries.get(wanted.name)
    if entry is None:
        if not wanted.optional:
            lineup.notes.append(f"the attack {wanted.name} is not installed, so it did not run")
        return
    try:
        built = entry.build(_options(entry, wanted.options), context)
    except ArtExtError as error:
        if not wanted.optional:
            lineup.notes.append(f"the attack {wanted.name} did not run: {error}")
        return
    for name, attack in built:
        lineup.add(Planned(name, attack, family_of(attack, entry), wanted.everywhere))


def family_of(attack: Attack, entry: AttackEntry) -> Family:
    """What an attack knows: its own word, since an entry may build attacks of several kinds, else its entry's."""
    family: Family = getattr(attack, "family", entry.family)
    return family


def _options(entry: AttackEntry, wished: Mapping[str, Any]) -> Any:
    known = entry.options.model_fields
    try:
        return entry.options(**{name: value for name, value in wished.items() if name in known})
    except ValidationError as error:
        raise ConfigError("; ".join(explain(error, entry.name, entry.options, wished))) from None


def _capped(entry: AttackEntry, given: Mapping[str, Any], caps: Mapping[str, int]) -> Any:
    """An entry's options, those given and else its own defaults, at most the caps.

    Raises:
        ConfigError: for options that it does not have, or values out of range.
    """
    try:
        usual = entry.options(**given)
    except ValidationError as error:
        raise ConfigError("; ".join(explain(error, entry.name, entry.options, given))) from None
    lowered = {
        name: cap
        for name, cap in caps.items()
        if isinstance(getattr(usual, name, None), int) and getattr(usual, name) > cap
    }
    return entry.options(**{**given, **lowered})


def _known(used: str, entries: Mapping[str, AttackEntry], adaptive: Sequence[Named]) -> list[tuple[str, Options]]:
    """Names and options of the entries that know an ingredient: those that say so, and those that it names."""
    informed: list[tuple[str, Options]] = [(entry.name, {}) for entry in entries.values() if used in entry.informs]
    named = [(one, {}) if isinstance(one, str) else one for one in adaptive]
    return informed + [one for one in named if one not in informed]


def _inform(
    lineup: Lineup,
    plan: Plan,
    threat: Threat,
    suite: Suite,
    entries: Mapping[str, AttackEntry],
    context: EvaluationContext,
    adaptive: Mapping[str, Sequence[Named]],
) -> None:
    """Each ingredient's adaptive attacks, or why it has none."""
    parts, steps = plan.compose(), min(suite.caps["steps"], 100)
    base = PGD(threat.ball(), steps, clip=threat.clip)
    own = own_attack(parts.attack, threat, steps)
    if own is not None and raised_by(own, parts.detectors):  # it goes on after success, to be kept
        own = replace(own, stop_when_wrong=False)
    for used in plan.used:
        why, rejects = "", plan.owner("detectors") == used and bool(parts.detectors)
        knowing: list[Planned] = []
        dear: list[str] = []
        known = _known(used, entries, adaptive.get(used, ()))
        for name, options in known:
            try:
                if name not in entries:
                    raise ConfigError("it is not installed")
                entry = entries[name]
                built = entry.build(_capped(entry, options, suite.caps), context)
            except ArtExtError as error:
                why = f"its attack {name} did not run: {error}"
                continue
            for attack_name, attack in built:
                family = family_of(attack, entry)
                kind: Family = family if family in ANSWERS else "informed"
                new = Planned(attack_name, attack, kind, rejects, used, wrong_too=rejects)
                if hasattr(attack, "cost") and new.cost > suite.dearest:
                    dear.append(f"{attack_name} ({new.cost:,.0f} passes an image)")
                else:
                    knowing.append(new)
        if plan.owner("criterion") == used:
            for objective in parts.criterion.adversaries:
                attack = for_evaluation(base, objective=objective)
                name = f"pgd{steps}_{objective.name}"
                knowing.append(Planned(name, attack, "informed", rejects, used, wrong_too=rejects))
        if plan.owner("attack") == used and own is not None:
            knowing.append(Planned(f"{used}_attack", own, "informed", rejects, used, wrong_too=rejects))
        for detector in context.detectors if rejects else ():
            found = evasions(detector, own, base, suite.evasion, plan.facts.n_classes)
            knowing += [Planned(name, attack, "informed", rejects, used, wrong_too=True) for name, attack in found]
        for new in knowing:
            name = lineup.add(new)
            lineup.inform(used, name)
            if rejects and not new.bounded(threat):
                lineup.listed.append(name)
        if dear:
            left = f"the {suite.name} suite leaves out attacks of who knows {used}: {', '.join(dear)}"
            lineup.notes.append(left)
            why = why or left
        silent = [detector.name for detector in parts.detectors if not detector.adversaries] if rejects else []
        if silent and not known:
            lineup.missing[used] = f"its detector {silent[0]} names no adversary, and no installed attack knows it"
        elif used not in lineup.covered:
            if why or rejects or used in {owner for owner, _ in plan.surgery}:
                lineup.missing[used] = why or "no installed attack says that it knows what this changes at test time"
            else:  # it changes how weights are found and nothing that runs at test time
                lineup.inform(used, MARGIN)


def own_attack(attack: Attack | None, threat: Threat, steps: int) -> PGD | None:
    """A plan's own crafting as an evaluation's attack: in the threat's ball, of `steps` steps or its own if more."""
    if not isinstance(attack, PGD):
        return None
    return for_evaluation(
        replace(attack, norm=threat.ball(), steps=max(steps, attack.steps), step_size=None, tau=None), clip=threat.clip
    )


def _other_norms(threat: Threat, plan: Plan) -> list[Planned]:
    """PGD in the norms that the threat is not stated in, at radii of comparable reach; beside the worst case.

    With D pixels: half the L2 norm of a corner of the L-inf ball, an eighth of its L1 norm, and back.
    """
    channels, height, width = plan.facts.input_shape
    d = channels * height * width
    corner = {"linf": 1.0, "l2": d**0.5 / 2, "l1": d / 8}
    if threat.norm not in corner:
        return []
    unit = threat.eps / corner[threat.norm]
    return [
        Planned(f"pgd100_{name}", for_evaluation(_margin_pgd(norm_named(name, unit * reach), threat)), "gradient", True)
        for name, reach in corner.items()
        if name != threat.norm
    ]


def _margin_pgd(ball: Norm, threat: Threat, objective: Objective = cw) -> PGD:
    return PGD(ball, 100, objective=objective, clip=threat.clip)
