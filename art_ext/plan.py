"""The plan: a record of parts in typed slots, with the ingredient that set each.

Ingredients build a plan by `fill`, `reshape`, `alter`, `wrap`, `phase`, `help`, `tune` and others, in
any order; each returns a new plan. `compose` checks it and gives the parts the engine asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import nn

from art_ext.errors import ArtExtError, ComposeError, ConfigError, PartError, Problem, unknown
from art_ext.parts.attacks import Attack
from art_ext.parts.criteria import Criterion, CrossEntropy
from art_ext.parts.detectors import Detector
from art_ext.parts.objectives import of_criterion
from art_ext.parts.risks import Clean, Risk
from art_ext.parts.surgery import Surgery
from art_ext.parts.targets import Target
from art_ext.types import Facts, Outputs, Progress

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from art_ext.engine.step import Step
    from art_ext.ingredient import Ingredient


class Update(Protocol):
    """What one batch does to the weights, in terms of the step's verbs.

    An update says what goes with it by attributes, of which it may leave out any:
        reads_attack (None): for one that crafts by itself, the attack's options that it looks at.
        wrappable (True): False where it takes several steps of its own, which a wrapper would see as one.
        recrafts (False): it moves the weights and then attacks them anew, within one batch.
        holds_craft (False): it needs the batch's one craft from before the update inside it to after
            that; so nothing inside it may recraft.
        moves_weights (False): the update inside it runs at weights that were moved for that alone.
        reads_weights (False): it looks at the network beside its descents, and means the weights that
            are kept; so nothing around it may move them.
        warmup_epochs (0): epochs in which it does what the update inside it does.
        updates (1, and 0 of one that goes around another): of the weights, that it makes of a batch itself.
    One that keeps state from batch to batch has `state_dict()` and `load_state_dict(state)`; where
    each process has a state of its own, `per_rank` is True.
    One that averages the weights has `averaged(net)`, a context in which the net has the averages and
    after which it has its own weights again; the net is judged there, and ends with them.
    """

    def __call__(self, step: Step) -> None: ...


class Descend:
    """One descent on the risk: the default update."""

    def __call__(self, step: Step) -> None:
        step.descend(step.risk())

    def __str__(self) -> str:
        return "descend"


@dataclass(frozen=True)
class Scores:
    """What an epoch is judged by, on held-out data, in [0, 1]."""

    clean: float
    robust: float | None = None
    """Worst case under the method's own adversary; None without a threat."""
    n: int = 0
    thresholded: float | None = None
    """1 minus the robust error of what a detector keeps (Stutz et al., ICML 2020); None without one."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """What ingredients measure under the same adversary, by name: means over the held-out examples."""


Selection = Callable[[Scores], tuple[float, ...]]


def worst_case(scores: Scores) -> tuple[float, ...]:
    """Robust accuracy first; clean accuracy settles ties, and stands alone without a threat."""
    return (scores.clean if scores.robust is None else scores.robust, scores.clean)


def thresholded_worst_case(scores: Scores) -> tuple[float, ...]:
    """What is right among the inputs a detector keeps, at worst; clean accuracy settles ties.

    Where no detector was judged, it is `worst_case`.
    """
    return worst_case(scores) if scores.thresholded is None else (scores.thresholded, scores.clean)


def clean_accuracy(scores: Scores) -> tuple[float, ...]:
    """Clean accuracy alone: ordinary training does not look at attacks."""
    return (scores.clean,)


Wrap = Callable[[Update], Update]
Pace = Callable[[Progress, int], float]
"""(where the fit stands, rows in a full batch) to a factor of every learning rate."""
Arrange = Callable[["Optimizer", nn.Module], Callable[[], None]]
"""(optimizer, net): changes the optimizer in place before the first step, and returns what undoes that at the end."""
Measure = Callable[[Outputs], "Tensor"]
"""Outputs of N adversarial examples to (N,) values, whose mean is a metric."""
Remark = Callable[[int], str]
"""Epochs of a training to what its user should know about it, in one line; "" where there is nothing to say."""
Stratum = Literal["step", "average"]
SLOTS = ("attack", "criterion", "risk", "target", "update", "detectors", "selection")


@dataclass(frozen=True)
class Phase:
    """Parts that hold until an epoch and then give way to the filled slots."""

    owner: str
    until_epoch: int
    slots: Mapping[str, Any]
    reset_optimizer: bool = False


@dataclass(frozen=True)
class Helper:
    """An extra network that is trained beside the classifier and dropped after it."""

    owner: str
    name: str
    module: nn.Module
    optimizer: Callable[[Iterable[nn.Parameter]], Any] | None


@dataclass(frozen=True)
class _Alteration:
    owner: str
    slot: str
    change: Callable[[Any], Any]
    around: bool
    optional: bool


@dataclass(frozen=True)
class _Wrapper:
    owner: str
    make: Wrap
    stratum: Stratum
    needs: frozenset[str]
    optional: bool = False


@dataclass(frozen=True)
class _Rise:
    owner: str
    epochs: float
    what: str


@dataclass(frozen=True)
class Parts:
    """The composed plan: what the engine asks for."""

    criterion: Criterion
    risk: Risk
    target: Target
    update: Update
    selection: Selection
    attack: Attack | None = None
    detectors: tuple[Detector, ...] = ()
    layers: tuple[tuple[str, Update], ...] = ()
    """What the update is made of, from the innermost out, each with its owner."""

    @property
    def needs(self) -> frozenset[str]:
        """Extra outputs that the parts read."""
        objective = None if self.attack is None else self.attack.objective
        needs = self.criterion.needs | self.risk.needs | frozenset().union(*(d.needs for d in self.detectors))
        return needs if objective is None else needs | objective.needs

    @property
    def updates(self) -> int:
        """Updates of the weights that a batch is good for."""
        return sum(getattr(update, "updates", int(depth == 0)) for depth, (_, update) in enumerate(self.layers))

    def at(self, progress: Progress) -> Parts:
        """The parts at a moment; those that depend on progress have `at(progress)`."""
        changed = {}
        for slot in ("attack", "criterion", "risk", "target"):
            part = getattr(self, slot)
            if hasattr(part, "at"):
                changed[slot] = part.at(progress)
        return replace(self, **changed) if changed else self


def _applied(ingredient: Ingredient, plan: Plan) -> Plan:
    """The plan with an ingredient; one that fails, or gives something else, is named."""
    try:
        found: object = ingredient.apply(plan)
    except ArtExtError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise PartError(
            f"{ingredient.name} failed in apply ({type(error).__name__}: {said}); remove it, or update its plugin"
        ) from error
    if not isinstance(found, Plan):
        raise PartError(
            f"{ingredient.name} gave a {type(found).__name__} from apply, and a plan is needed; remove it, or update "
            "its plugin"
        )
    return found


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Plan:
    """A training method, as a value. Built fresh for every fit."""

    facts: Facts
    slots: Mapping[str, Any] = field(default_factory=_empty)
    owners: Mapping[str, str] = field(default_factory=_empty)
    defaults: Mapping[str, tuple[str, Any]] = field(default_factory=_empty)
    surgery: tuple[tuple[str, Surgery], ...] = ()
    alterations: tuple[_Alteration, ...] = ()
    wrappers: tuple[_Wrapper, ...] = ()
    phases: tuple[Phase, ...] = ()
    helpers: tuple[Helper, ...] = ()
    settings: Mapping[str, tuple[str, Any]] = field(default_factory=_empty)
    paces: tuple[tuple[str, Pace], ...] = ()
    arrangements: tuple[tuple[str, Arrange], ...] = ()
    measures: tuple[tuple[str, str, Measure], ...] = ()
    """(owner, name, what it measures on held-out adversarial examples)."""
    rises: tuple[_Rise, ...] = ()
    said: tuple[Remark, ...] = ()
    problems: tuple[Problem, ...] = ()
    used: tuple[str, ...] = ()

    @classmethod
    def of(cls, ingredients: Sequence[Ingredient], facts: Facts) -> Plan:
        """Applies the ingredients in order.

        Raises:
            ComposeError: with every problem, each naming the ingredients it is about.
        """
        plan = cls(facts)
        for ingredient in ingredients:
            if ingredient.name in plan.used:
                plan = plan._problem(f"{ingredient.name} is listed twice; keep one", ingredient.name)
                continue
            plan = replace(_applied(ingredient, plan), used=(*plan.used, ingredient.name))
        problems = plan.check()
        if problems:
            raise ComposeError(problems)
        return plan

    def fill(self, by: Ingredient, **parts: Any) -> Plan:
        """Fills slots; a slot that another ingredient filled is a problem that names both."""
        plan = self
        for slot, part in parts.items():
            if slot not in SLOTS:
                raise ConfigError(unknown("slot", slot, SLOTS))
            owner = plan.owners.get(slot)
            if owner is not None:
                plan = plan._problem(
                    f"{owner} and {by.name} both set the {slot}; remove one of them", owner, by.name
                )
                continue
            plan = replace(plan, slots={**plan.slots, slot: part}, owners={**plan.owners, slot: by.name})
        return plan

    def default(self, by: Ingredient, **parts: Any) -> Plan:
        """Parts for slots that no ingredient fills, whatever the order; of two defaults the first holds."""
        for slot in parts:
            if slot not in SLOTS:
                raise ConfigError(unknown("slot", slot, SLOTS))
        return replace(self, defaults={**{slot: (by.name, part) for slot, part in parts.items()}, **self.defaults})

    def reshape(self, by: Ingredient, *surgery: Surgery) -> Plan:
        """Changes the network before training; surgeries of all ingredients run in order."""
        return replace(self, surgery=(*self.surgery, *((by.name, cut) for cut in surgery)))

    def alter(
        self,
        by: Ingredient,
        slot: str,
        change: Callable[[Any], Any],
        *,
        around: bool = False,
        optional: bool = False,
    ) -> Plan:
        """Changes a part that another ingredient owns, or will own: kept until the plan is composed.

        With `around` it comes after all other changes: it puts the part into another one, whose
        options are not the part's own. An `optional` change may find nothing to change.
        """
        _held_in_a_slot(slot)
        return replace(self, alterations=(*self.alterations, _Alteration(by.name, slot, change, around, optional)))

    def wrap(
        self,
        by: Ingredient,
        make: Wrap,
        stratum: Stratum = "step",
        needs: Iterable[str] = (),
        *,
        optional: bool = False,
    ) -> Plan:
        """Wraps the update; later wraps go outside, and stratum "average" (EMA, SWA) is outermost.

        `needs` may hold "adversarial rows". An `optional` wrapper is left out where they are missing, or
        where the update inside it takes several steps of its own.
        """
        wrapper = _Wrapper(by.name, make, stratum, frozenset(needs), optional)
        return replace(self, wrappers=(*self.wrappers, wrapper))

    def measure(self, by: Ingredient, **measures: Measure) -> Plan:
        """Adds metrics of held-out examples under the held-out adversary, each the mean of what is measured.

        They are logged each epoch as "held_out/NAME", where the run states a threat.
        """
        for name in measures:
            owner = next((owner for owner, known, _ in self.measures if known == name), None)
            if owner is not None:
                return self._problem(f"{owner} and {by.name} both measure {name}; remove one of them", owner, by.name)
        return replace(self, measures=(*self.measures, *((by.name, name, what) for name, what in measures.items())))

    def phase(self, by: Ingredient, until_epoch: int, *, reset_optimizer: bool = False, **parts: Any) -> Plan:
        """Other parts until an epoch; then the filled slots, with a fresh optimizer and schedule if asked."""
        for slot in parts:
            _held_in_a_slot(slot)
        if until_epoch <= 0:
            return self
        return replace(self, phases=(*self.phases, Phase(by.name, until_epoch, parts, reset_optimizer)))

    def help(
        self, by: Ingredient, name: str, module: nn.Module, optimizer: Callable[..., Any] | None = None
    ) -> Plan:
        """Adds a helper network; the engine moves, wraps, schedules and saves it.

        One on the meta device (made at no cost, for plans that are only looked at) gets its weights
        when the fit begins, from the run's seed. Its optimizer is one like the classifier's, with the
        same options, unless `optimizer(parameters)` makes another; its rates follow the same schedule.
        """
        return replace(self, helpers=(*self.helpers, Helper(by.name, name, module, optimizer)))

    def tune(self, by: Ingredient, **settings: Any) -> Plan:
        """Proposes train settings; the recipe's own `train:` wins over them."""
        plan = self
        for key, value in settings.items():
            owner, known = plan.settings.get(key, (None, value))
            if owner is not None and known != value:
                plan = plan._problem(
                    f"{owner} sets train.{key} to {known} and {by.name} to {value}; remove one of them", owner, by.name
                )
                continue
            plan = replace(plan, settings={**plan.settings, key: (by.name, value)})
        return plan

    def pace(self, by: Ingredient, factor: Pace) -> Plan:
        """Multiplies all learning rates, whatever schedule sets them; factors of several ingredients multiply."""
        return replace(self, paces=(*self.paces, (by.name, factor)))

    def paced(self, progress: Progress, rows: int) -> float:
        """The factor of every learning rate at a moment."""
        return math.prod(factor(progress, rows) for _, factor in self.paces)

    def rise(self, by: Ingredient, epochs: float, what: str) -> Plan:
        """Says that `what` has its full size from epoch `epochs` - 1 on, as `warm_up` has it.

        A training that ends before is refused by `check_epochs`.
        """
        return replace(self, rises=(*self.rises, _Rise(by.name, epochs, what)))

    def remark(self, say: Remark) -> Plan:
        """Adds something to say about trainings of some lengths: a warning, where `rise` and `phase` refuse."""
        return replace(self, said=(*self.said, say))

    def remarks(self, epochs: int) -> list[str]:
        """What the ingredients say about a training of so many epochs, a line each."""
        return [line for line in (say(epochs) for say in self.said) if line]

    def arrange(self, by: Ingredient, change: Arrange) -> Plan:
        """Changes the optimizer for the time of a fit: its groups, or hooks on its steps."""
        return replace(self, arrangements=(*self.arrangements, (by.name, change)))

    def object_to(self, *problems: Problem) -> Plan:
        """Records objections, of an ingredient or of a plugin's `art_ext_check_plan`."""
        return replace(self, problems=(*self.problems, *problems))

    def operate(self, model: nn.Module, seed: int = 0) -> nn.Module:
        """Runs the surgery of all ingredients on a network, in order; mostly in place.

        New weights are drawn from the seed; torch's global generator stays as it was.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not those of other devices: weights are drawn here
            for _, cut in self.surgery:
                model = cut(model, self.facts)
        return model

    def owner(self, slot: str) -> str:
        """Who set a slot, or "the default"."""
        by, _ = self.defaults.get(slot, ("the default", None))
        return self.owners.get(slot, by)

    def wraps(self, *, averages: bool = True) -> list[tuple[str, Update]]:
        """The update's layers from the innermost out, each with its owner; without those that average, if asked."""
        update: Update = self._filled().get("update", Descend())
        layers = [(self.owner("update"), update)]
        ordered = sorted(self.wrappers, key=lambda w: w.stratum == "average")
        for wrapper in ordered:
            if wrapper.stratum == "average" and not averages:
                break
            if wrapper.optional and not self._serves(wrapper, layers):
                continue
            update = wrapper.make(update)
            layers.append((wrapper.owner, update))
        return layers

    def _serves(self, wrapper: _Wrapper, inside: Sequence[tuple[str, Update]]) -> bool:
        """Whether a wrapper finds what it needs, in every phase, around updates that it goes with."""
        risks = [self._filled().get("risk", Clean()), *(p.slots["risk"] for p in self.phases if "risk" in p.slots)]
        rows = "adversarial rows" not in wrapper.needs or all(risk.needs_adversarial for risk in risks)
        return rows and all(getattr(update, "wrappable", True) for _, update in inside)

    def compose(self, epoch: float | None = None) -> Parts:
        """The parts that hold at an epoch, or after all phases."""
        slots = self._filled()
        for phase in self._active(epoch):
            slots.update(phase.slots)
        slots.setdefault("criterion", CrossEntropy())
        slots.setdefault("risk", Clean())
        slots.setdefault("target", Target())
        slots.setdefault("selection", worst_case if self.used or self.owners else clean_accuracy)
        for change in sorted(self.alterations, key=lambda a: a.around):
            if change.slot in slots:
                slots[change.slot] = self._altered(change, slots[change.slot])
        attack = slots.get("attack")
        if attack is not None and attack.objective is of_criterion:
            slots["attack"] = replace(attack, objective=slots["criterion"].adversaries[0])
        known = {f.name for f in fields(Parts)}
        layers = tuple(self.wraps())
        kept = {slot: part for slot, part in slots.items() if slot in known and slot != "update"}
        return Parts(**kept, update=layers[-1][1], layers=layers)

    def warmup_epochs(self) -> int:
        """Epochs before the last phase ends; they are left out of the choice of the best epoch."""
        return max((phase.until_epoch for phase in self.phases), default=0)

    def check_epochs(self, epochs: int, name: str) -> None:
        """Refuses a training that ends before a phase, an update or anything that rises gets out of its warm-up.

        Args:
            name: what the user calls the number of epochs.

        Raises:
            ConfigError: naming the ingredient and both numbers.
        """
        warm = [(phase.owner, phase.until_epoch, ", ".join(phase.slots)) for phase in self.phases]
        warm += [(owner, getattr(update, "warmup_epochs", 0), "update") for owner, update in self.wraps()]
        for owner, until, parts in warm:
            if until >= epochs:
                raise ConfigError(
                    f"{owner} warms up for {until} epochs and {name} is {epochs}, so its {parts} would never be used; "
                    f"set {name} above {until}, or the warm-up of {owner} below {epochs}"
                )
        for rise in self.rises:
            if rise.epochs - 1 >= epochs:
                raise ConfigError(
                    f"{rise.owner} warms up for {rise.epochs:g} epochs and {name} is {epochs}, so the full {rise.what} "
                    f"would never be used; set {name} to {math.ceil(rise.epochs)}, or the warm-up of {rise.owner} to "
                    f"{epochs} or less"
                )

    def check(self) -> list[Problem]:
        """All reasons why this plan cannot be trained."""
        found = list(self.problems)
        for epoch in (None, *(phase.until_epoch - 1 for phase in self.phases)):
            try:
                problems = list(self._contradictions(self.compose(epoch)))
            except ComposeError as error:
                problems = list(error.problems)
            found += [problem for problem in problems if problem not in found]
        averages = [wrapper.owner for wrapper in self.wrappers if wrapper.stratum == "average"]
        if len(averages) > 1:
            one, other = averages[:2]
            found.append(Problem(f"{one} and {other} both average the weights; remove one of them", (one, other)))
        return [*found, *self._quarrels(), *self._misplaced_updates()]

    def _altered(self, change: _Alteration, part: Any) -> Any:
        try:
            return change.change(part)
        except ConfigError as error:
            owner, why = self.owner(change.slot), str(error).removeprefix(f"{change.owner}: ")
            if change.slot in self._filled():
                message = f"{change.owner} cannot change the {change.slot} of {owner}: {why}; remove one of them"
            else:  # there is nothing else to remove
                message = f"{change.owner} cannot change the default {change.slot}: {why}"
            raise ComposeError([Problem(message, (change.owner, owner))]) from None

    def _contradictions(self, parts: Parts) -> Iterable[Problem]:
        criterion, risk, target = (self.owner(slot) for slot in ("criterion", "risk", "target"))
        if parts.target.gives_distributions and not parts.criterion.takes_distributions:
            yield Problem(
                f"{criterion} needs one true class per example, but {target} supplies class distributions; "
                "remove one of them, or use the criterion ce",
                (criterion, target),
            )
        if parts.target.gives_distributions and not parts.risk.uses_criterion:
            yield Problem(
                f"{risk} brings its own loss of the labels and would ignore the class distributions of {target}; "
                "remove one of them",
                (risk, target),
            )
        if parts.risk.needs_adversarial and parts.attack is None:
            yield Problem(f"{risk} needs adversarial examples, but nothing sets an attack; add one that does", (risk,))
        if "criterion" in self.owners and not parts.risk.uses_criterion:
            yield Problem(
                f"{risk} brings its own loss and would ignore the criterion of {criterion}; remove one of them",
                (risk, criterion),
            )
        if parts.risk.compares_outputs and parts.criterion.saturates_softmax:
            yield Problem(
                f"{risk} compares softmax outputs, but the logits of {criterion} saturate them, so its gradient is 0; "
                "use a risk that applies the criterion to adversarial rows instead",
                (risk, criterion),
            )
        for change in self.alterations:
            if change.slot == "attack" and parts.attack is None and not change.optional:
                yield Problem(
                    f"{change.owner} changes the attack of a training, but nothing sets one; "
                    "add an ingredient that trains on an attack",
                    (change.owner,),
                )
        yield from self._idle_alterations()
        for wrapper in self.wrappers:
            if "adversarial rows" in wrapper.needs and not wrapper.optional and not parts.risk.needs_adversarial:
                yield Problem(
                    f"{wrapper.owner} needs adversarial examples, but {risk} trains on clean rows; "
                    "add an ingredient that trains on an attack",
                    (wrapper.owner, risk),
                )

    def _idle_alterations(self) -> Iterable[Problem]:
        """Changes of an attack that the update, which takes its steps itself, would never look at."""
        reads, attack = getattr(self._filled().get("update"), "reads_attack", None), self._filled().get("attack")
        if reads is None or attack is None:
            return
        owner = self.owner("update")
        for change in self.alterations:
            if change.slot != "attack" or change.around or change.optional:
                continue
            changed = self._altered(change, attack)
            if all(getattr(changed, name, None) == getattr(attack, name) for name in reads):
                yield Problem(
                    f"{owner} takes the steps of the attack itself, so what {change.owner} changes in the attack would "
                    "do nothing; remove one of them",
                    (owner, change.owner),
                )

    def _quarrels(self) -> Iterable[Problem]:
        """Alterations of the same option of a part: the later one would silently win."""
        slots = self._filled()
        changed: dict[tuple[str, str], str] = {}
        for change in self.alterations:
            before = slots.get(change.slot)
            if before is None or change.around:
                continue
            try:
                slots[change.slot] = after = self._altered(change, before)
            except ComposeError:  # reported where the plan is composed
                continue
            if not is_dataclass(before) or type(after) is not type(before):
                continue
            for option in fields(before):
                if getattr(before, option.name) == getattr(after, option.name):
                    continue
                other = changed.setdefault((change.slot, option.name), change.owner)
                if other != change.owner:
                    yield Problem(
                        f"{other} and {change.owner} both change the {change.slot}'s {option.name}; remove one of them",
                        (other, change.owner),
                    )

    def _misplaced_updates(self) -> Iterable[Problem]:
        """Wrappers that the update inside them does not go with; averages go around anything."""
        layers = self.wraps(averages=False)
        for number, (outer, update) in enumerate(layers):
            for inner, inside in layers[:number]:
                if not getattr(inside, "wrappable", True):
                    yield Problem(
                        f"{outer} goes around one step a batch, but {inner} takes several of its own; "
                        "remove one of them",
                        (outer, inner),
                    )
                elif getattr(update, "holds_craft", False) and getattr(inside, "recrafts", False):
                    yield Problem(
                        f"{outer} needs the batch's adversarial examples to the end, but {inner} inside it moves the "
                        f"weights and makes new ones; list {inner} after {outer}, so that it goes around",
                        (outer, inner),
                    )
                elif getattr(update, "moves_weights", False) and getattr(inside, "reads_weights", False):
                    yield Problem(
                        f"{inner} looks at the network after its step, but {outer} around it has moved the weights "
                        f"for the step alone; list {inner} after {outer}, so that it goes around",
                        (outer, inner),
                    )

    def _filled(self) -> dict[str, Any]:
        """The slots that an ingredient fills, or gives a default."""
        return {**{slot: part for slot, (_, part) in self.defaults.items()}, **self.slots}

    def _active(self, epoch: float | None) -> list[Phase]:
        return [] if epoch is None else [phase for phase in self.phases if epoch < phase.until_epoch]

    def _problem(self, message: str, *names: str) -> Plan:
        return self.object_to(Problem(message, names))

    def describe(self) -> list[tuple[str, str, str]]:
        """(slot, part, owner) of every slot, phases and settings included: what `explain` prints."""
        parts = self.compose()
        lines = [(f"surgery {i + 1}", _name(cut), owner) for i, (owner, cut) in enumerate(self.surgery)]
        for slot in ("attack", "criterion", "risk", "target"):
            part = getattr(parts, slot)
            lines.append((slot, _name(part), self.owner(slot) if part is None else self._owners_of(slot)))
        lines.append(("update", " around ".join(_name(u) for _, u in reversed(self.wraps())), self._update_owners()))
        lines += [("detector", _name(d), self.owner("detectors")) for d in parts.detectors]
        lines.append(("selection", _name(parts.selection), self.owner("selection")))
        for phase in self.phases:
            held = ", ".join(f"{slot} {_name(part)}" for slot, part in phase.slots.items())
            fresh = ", then a fresh optimizer and schedule" if phase.reset_optimizer else ""
            lines.append((f"until epoch {phase.until_epoch}", held + fresh, phase.owner))
        lines += [(f"helper {h.name}", type(h.module).__name__, h.owner) for h in self.helpers]
        lines += [(f"train.{key}", str(value), owner) for key, (owner, value) in self.settings.items()]
        lines += [("optimizer", _name(change), owner) for owner, change in self.arrangements]
        lines += [("learning rate", _name(factor), owner) for owner, factor in self.paces]
        lines += [("held out", name, owner) for owner, name, _ in self.measures]
        return lines

    def _owners_of(self, slot: str) -> str:
        altered = [a.owner for a in self.alterations if a.slot == slot and a.owner != self.owner(slot)]
        return ", altered by ".join([self.owner(slot), *altered])

    def _update_owners(self) -> str:
        return " around ".join(owner for owner, _ in reversed(self.wraps()))


def _held_in_a_slot(slot: str) -> None:
    """Refuses slots that are unknown, and `update`, which is composed once for the whole fit."""
    if slot not in SLOTS:
        raise ConfigError(unknown("slot", slot, SLOTS))
    if slot == "update":
        raise ConfigError("the update is neither altered nor changed between phases; wrap it instead")


def _name(part: object) -> str:
    if part is None:
        return "none"
    if type(part).__str__ is not object.__str__ and not callable(getattr(part, "__code__", None)):
        text = str(part)
        if not text.startswith("<"):
            return text
    return getattr(part, "__name__", type(part).__name__)
