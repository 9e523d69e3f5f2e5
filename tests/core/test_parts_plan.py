"""Plans: who may set what, in which order, and what a contradiction says."""

import dataclasses
from typing import ClassVar

import pytest
import torch

from art_ext.api import (
    PGD,
    Augment,
    Clean,
    ComposeError,
    ConfigError,
    Criterion,
    CrossEntropy,
    Facts,
    Ingredient,
    Linf,
    Madry,
    Mixed,
    Objective,
    Outputs,
    Plan,
    Problem,
    Progress,
    Risk,
    Scores,
    Target,
    View,
    Views,
    ce,
    of_criterion,
    worst_case,
)
from art_ext.plan import clean_accuracy

FACTS = Facts(3, (1, 8, 8))


def make(label, do):
    """An ingredient of a few words."""
    kind = type(f"Make_{label}", (Ingredient,), {"name": label, "apply": lambda self, plan: do(plan, self)})
    return kind()


class Hinge(Criterion):
    name = "hinge"
    own = Objective("hinge_term", lambda out, y: out.logits[:, 0])
    adversaries = (own,)


class Soft(Target):
    gives_distributions = True

    def __str__(self):
        return "soft labels"


class Outside:
    """An update around another."""

    def __init__(self, then, label):
        self.then, self.label = then, label

    def __call__(self, step):
        step.append(self.label)
        self.then(step)

    def __str__(self):
        return self.label


class Core:
    def __call__(self, step):
        step.append("core")

    def __str__(self):
        return "core"


madry = make("madry", lambda plan, me: plan.fill(me, attack=PGD(Linf(0.1), 3), risk=Madry()))
hinge = make("hinge", lambda plan, me: plan.fill(me, criterion=Hinge()))
soften = make("soften", lambda plan, me: plan.fill(me, target=Soft()))


def wrapper(label, stratum="step", needs=()):
    return make(label, lambda plan, me: plan.wrap(me, lambda then: Outside(then, label), stratum, needs))


def problems(*ingredients):
    with pytest.raises(ComposeError) as caught:
        Plan.of(ingredients, FACTS)
    return caught.value.problems


def test_an_empty_plan_is_ordinary_training():
    parts = Plan.of([], FACTS).compose()
    assert isinstance(parts.criterion, CrossEntropy)
    assert isinstance(parts.risk, Clean)
    assert parts.attack is None
    assert parts.selection is clean_accuracy


def test_a_slot_filled_twice_names_both():
    other = make("other", lambda plan, me: plan.fill(me, attack=PGD(Linf(0.2), 2)))
    (problem,) = problems(madry, other)
    assert problem.names == ("madry", "other")
    assert problem.message == "madry and other both set the attack; remove one of them"


def test_all_contradictions_are_told_at_once():
    again = make("again", lambda plan, me: plan.fill(me, attack=PGD(Linf(0.2), 2), criterion=Hinge()))
    found = problems(madry, hinge, again, soften)
    assert {frozenset(p.names) for p in found} == {
        frozenset({"madry", "again"}),
        frozenset({"hinge", "again"}),
        frozenset({"hinge", "soften"}),
    }


def test_the_same_ingredient_twice():
    (problem,) = problems(madry, madry)
    assert problem.message == "madry is listed twice; keep one"


def test_unknown_slots_are_refused_everywhere():
    plan = Plan(FACTS)
    for verb in (
        lambda: plan.fill(madry, atack=None),
        lambda: plan.alter(madry, "atack", lambda part: part),
        lambda: plan.phase(madry, 3, atack=None),
        lambda: plan.phase(madry, 0, atack=None),
    ):
        with pytest.raises(ConfigError, match="unknown slot 'atack'; did you mean attack"):
            verb()


def test_the_update_is_wrapped_and_never_altered():
    """It is composed once for the whole fit, so a change by phase would be lost silently."""
    for verb in (
        lambda: Plan(FACTS).alter(madry, "update", lambda part: part),
        lambda: Plan(FACTS).phase(madry, 3, update=Core()),
    ):
        with pytest.raises(ConfigError, match="wrap it instead"):
            verb()


def test_alterations_may_come_before_what_they_alter():
    halve = make(
        "halve", lambda plan, me: plan.alter(me, "attack", lambda a: dataclasses.replace(a, norm=Linf(a.norm.eps / 2)))
    )
    more = make("more", lambda plan, me: plan.alter(me, "attack", lambda a: dataclasses.replace(a, steps=a.steps + 1)))
    for order in ([halve, madry, more], [madry, more, halve], [more, halve, madry]):
        plan = Plan.of(order, FACTS)
        assert plan.compose().attack == PGD(Linf(0.05), 4)
        assert plan.owner("attack") == "madry"
    with pytest.raises(ComposeError, match="halve changes the attack of a training, but nothing sets one"):
        Plan.of([halve], FACTS)


def test_alterations_of_a_default_are_shown():
    other = make("other", lambda plan, me: plan.alter(me, "criterion", lambda c: Hinge()))
    plan = Plan.of([other], FACTS)
    assert isinstance(plan.compose().criterion, Hinge)
    assert ("criterion", "hinge", "the default, altered by other") in plan.describe()


def test_wrappers_nest_in_order_and_averages_stay_outermost():
    fill = make("core", lambda plan, me: plan.fill(me, update=Core()))
    for order in (
        [fill, wrapper("a"), wrapper("ema", "average"), wrapper("b")],
        [wrapper("ema", "average"), wrapper("a"), wrapper("b"), fill],
    ):
        plan = Plan.of(order, FACTS)
        calls = []
        plan.compose().update(calls)
        assert calls == ["ema", "b", "a", "core"]
        assert [owner for owner, _ in plan.wraps()] == ["core", "a", "b", "ema"]
    calls = []
    Plan.of([fill, wrapper("b"), wrapper("a")], FACTS).compose().update(calls)
    assert calls == ["a", "b", "core"]


def test_a_wrapper_that_needs_adversarial_rows():
    needy = wrapper("needy", needs=["adversarial rows"])
    (problem,) = problems(needy)
    assert "needs adversarial examples" in problem.message
    assert problem.names[0] == "needy"
    assert Plan.of([needy, madry], FACTS)


def test_a_risk_without_an_attack():
    (problem,) = problems(make("mix", lambda plan, me: plan.fill(me, risk=Mixed(0.5))))
    assert problem.message.startswith("mix needs adversarial examples, but nothing sets an attack")


def test_distributions_need_a_criterion_that_takes_them():
    (problem,) = problems(hinge, soften)
    assert problem.names == ("hinge", "soften")
    assert problem.message.startswith("hinge needs one true class per example, but soften supplies class distributions")
    assert Plan.of([soften], FACTS)


def test_a_contradiction_inside_a_phase_is_found():
    """The criterion after the warm-up takes no distributions; nor may the warm-up's one refuse them."""
    late = make("late", lambda plan, me: plan.fill(me, criterion=Hinge()).phase(me, 4, criterion=CrossEntropy()))
    early = make("early", lambda plan, me: plan.phase(me, 4, criterion=Hinge()))
    assert problems(late, soften)
    assert problems(early, soften)


class OwnLoss(Madry):
    uses_criterion: ClassVar[bool] = False


class Compares(Madry):
    compares_outputs: ClassVar[bool] = True


class Saturates(Criterion):
    name = "saturates"
    saturates_softmax = True


def test_risks_and_criteria_that_ignore_or_starve_each_other():
    def with_risk(label, risk):
        return make(label, lambda plan, me: plan.fill(me, attack=PGD(Linf(0.1), 3), risk=risk))

    (ignored,) = problems(hinge, with_risk("own", OwnLoss()))
    assert ignored.names == ("own", "hinge")
    assert "ignore the criterion" in ignored.message
    saturated = make("saturated", lambda plan, me: plan.fill(me, criterion=Saturates()))
    (starved,) = problems(saturated, with_risk("compare", Compares()))
    assert starved.names == ("compare", "saturated")
    assert Plan.of([with_risk("own", OwnLoss())], FACTS)


def test_phases_hold_until_their_epoch():
    warm = make(
        "warm",
        lambda plan, me: plan.fill(me, criterion=Hinge()).phase(
            me, 2, reset_optimizer=True, criterion=CrossEntropy(), risk=Clean()
        ),
    )
    plan = Plan.of([madry, warm], FACTS)
    assert [type(plan.compose(epoch).criterion) for epoch in (0, 1, 1.9, 2, None)] == [
        CrossEntropy,
        CrossEntropy,
        CrossEntropy,
        Hinge,
        Hinge,
    ]
    assert isinstance(plan.compose(1).risk, Clean)
    assert isinstance(plan.compose(2).risk, Madry)
    assert plan.warmup_epochs() == 2
    skipped = make("skip", lambda plan, me: plan.phase(me, 0, criterion=Hinge()))
    assert Plan.of([skipped], FACTS).phases == ()


class Late(Outside):
    warmup_epochs = 3


@pytest.mark.parametrize(
    ("wait", "part"),
    [
        (lambda plan, me: plan.fill(me, criterion=Hinge()).phase(me, 3, criterion=CrossEntropy()), "criterion"),
        (lambda plan, me: plan.wrap(me, lambda then: Late(then, "late")), "update"),
    ],
    ids=["phase", "update"],
)
def test_a_warm_up_that_swallows_the_training_is_refused(wait, part):
    plan = Plan.of([make("late", wait)], FACTS)
    plan.check_epochs(4, "epochs")
    for epochs in (1, 3):
        with pytest.raises(ConfigError) as error:
            plan.check_epochs(epochs, "epochs")
        assert str(error.value) == (
            f"late warms up for 3 epochs and epochs is {epochs}, so its {part} would never be used; "
            f"set epochs above 3, or the warm-up of late below {epochs}"
        )


def test_a_rise_that_ends_after_the_training_is_refused():
    plan = Plan.of([make("slow", lambda plan, me: plan.rise(me, 3, "radius"))], FACTS)
    plan.check_epochs(3, "epochs")
    with pytest.raises(ConfigError) as error:
        plan.check_epochs(2, "epochs")
    assert str(error.value) == (
        "slow warms up for 3 epochs and epochs is 2, so the full radius would never be used; set epochs to 3, or the "
        "warm-up of slow to 2 or less"
    )


def test_remarks_are_about_some_lengths_of_a_training():
    short = make("short", lambda plan, me: plan.remark(lambda epochs: f"{epochs} are few" if epochs < 5 else ""))
    plan = Plan.of([short], FACTS)
    assert plan.remarks(4) == ["4 are few"]
    assert plan.remarks(5) == []


def test_the_attack_follows_the_criterion_of_the_moment():
    follow = make(
        "follow", lambda plan, me: plan.fill(me, attack=PGD(Linf(0.1), 3, objective=of_criterion), risk=Madry())
    )
    warm = make("warm", lambda plan, me: plan.fill(me, criterion=Hinge()).phase(me, 2, criterion=CrossEntropy()))
    plan = Plan.of([follow, warm], FACTS)
    assert plan.compose(0).attack.objective is ce
    assert plan.compose(2).attack.objective is Hinge.own


def test_settings_that_differ_are_a_contradiction():
    a = make("a", lambda plan, me: plan.tune(me, weight_decay=5e-4))
    b = make("b", lambda plan, me: plan.tune(me, weight_decay=2e-4))
    c = make("c", lambda plan, me: plan.tune(me, weight_decay=5e-4))
    (problem,) = problems(a, b)
    assert problem.names == ("a", "b")
    assert problem.message == "a sets train.weight_decay to 0.0005 and b to 0.0002; remove one of them"
    assert Plan.of([a, c], FACTS).settings["weight_decay"][1] == 5e-4


def test_verbs_leave_the_plan_they_are_called_on():
    plan = Plan(FACTS)
    madry.apply(plan)
    plan.wrap(madry, Outside)
    plan.tune(madry, epochs=3)
    plan.object_to(Problem("no"))
    assert plan == Plan(FACTS)


def test_objections_of_a_plugin_are_problems():
    picky = make("picky", lambda plan, me: plan.object_to(Problem("picky wants an ensemble", ("picky",))))
    assert problems(picky)[0].message == "picky wants an ensemble"


class Ramp(Risk):
    def __init__(self, share=0.0):
        self.share = share

    def rows(self, n):
        return Madry().rows(n)

    def at(self, progress):
        return Ramp(progress.epoch / progress.epochs)


def test_parts_that_depend_on_progress_are_asked_for_their_present_form():
    ramp = make("ramp", lambda plan, me: plan.fill(me, risk=Ramp(), attack=PGD(Linf(0.1), 3)))
    parts = Plan.of([ramp], FACTS).compose()
    assert parts.at(Progress(3, 10)).risk.share == pytest.approx(0.3)
    still = Plan.of([madry], FACTS).compose()
    assert still.at(Progress(3, 10)) == still


def test_describe_names_every_part_and_its_owner():
    warm = make(
        "warm",
        lambda plan, me: plan.fill(me, criterion=Hinge())
        .phase(me, 2, reset_optimizer=True, criterion=CrossEntropy())
        .tune(me, epochs=5)
        .reshape(me, lambda model, facts: model)
        .help(me, "mask", torch.nn.Linear(1, 1), torch.optim.SGD),
    )
    lines = Plan.of([madry, warm, wrapper("outer")], FACTS).describe()
    by_slot = {slot: (part, owner) for slot, part, owner in lines}
    assert by_slot["attack"] == (str(PGD(Linf(0.1), 3)), "madry")
    assert by_slot["criterion"] == ("hinge", "warm")
    assert by_slot["risk"] == ("adversarial rows", "madry")
    assert by_slot["target"] == ("labels", "the default")
    assert by_slot["update"] == ("outer around descend", "outer around the default")
    assert by_slot["selection"] == ("worst_case", "the default")
    assert by_slot["until epoch 2"] == ("criterion ce, then a fresh optimizer and schedule", "warm")
    assert by_slot["train.epochs"] == ("5", "warm")
    assert by_slot["helper mask"] == ("Linear", "warm")
    assert "surgery 1" in by_slot


def test_scores_are_compared_robust_first():
    ranked = sorted(
        [Scores(0.9, 0.5), Scores(0.8, 0.6), Scores(0.95, 0.5), Scores(0.7, 0.6)], key=worst_case, reverse=True
    )
    assert ranked == [Scores(0.8, 0.6), Scores(0.7, 0.6), Scores(0.95, 0.5), Scores(0.9, 0.5)]
    assert worst_case(Scores(0.9)) == (0.9, 0.9)
    assert clean_accuracy(Scores(0.9, 0.1)) == (0.9,)


def test_an_optional_wrapper_stays_away_where_it_has_nothing_to_do():
    class Around:
        def __init__(self, then):
            self.then = then

    class Several:
        wrappable = False

    looks = make("looks", lambda plan, by: plan.wrap(by, Around, needs=("adversarial rows",), optional=True))
    rows = make("rows", lambda plan, by: plan.fill(by, risk=Madry(), attack=PGD(Linf(0.1))))
    takes = make("takes", lambda plan, by: plan.fill(by, update=Several()))
    late = make("late", lambda plan, by: plan.phase(by, 2, risk=Clean()))

    def owners(*ingredients):
        return [owner for owner, _ in Plan.of(ingredients, FACTS).wraps()]

    assert owners(looks) == ["the default"]
    assert owners(looks, rows) == ["the default", "looks"]
    assert owners(looks, rows, takes) == ["takes"]
    assert owners(looks, rows, late) == ["the default"], "some epochs have no adversarial rows"


def test_a_measure_has_one_owner():
    one, two = (make(name, lambda plan, by: plan.measure(by, spread=lambda out: out.logits)) for name in ("one", "two"))
    assert ("held out", "spread", "one") in Plan.of([one], FACTS).describe()
    with pytest.raises(ComposeError, match="one and two both measure spread; remove one of them"):
        Plan.of([one, two], FACTS)


def test_rows_of_risks():
    assert Mixed(0.25).rows(10) == (slice(0, 2), slice(2, 10))
    assert Mixed(0.5).rows(1) == (slice(0, 0), slice(0, 1))
    for share in (0.0, 1.0, 1.5):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            Mixed(share)


def test_factors_of_the_learning_rate_multiply():
    half = make("half", lambda plan, me: plan.pace(me, lambda progress, rows: 0.5))
    by_rows = make("by_rows", lambda plan, me: plan.pace(me, lambda progress, rows: rows / 128))
    plan = Plan.of([half, by_rows], FACTS)
    assert plan.paced(Progress(0, 1), 64) == 0.25
    assert Plan.of([], FACTS).paced(Progress(0, 1), 64) == 1
    assert ("learning rate", "<lambda>", "half") in plan.describe()


def test_two_averages_contradict_each_other():
    one, other = (
        make(name, lambda plan, me: plan.wrap(me, lambda then: then, stratum="average")) for name in ("one", "other")
    )
    with pytest.raises(ComposeError, match="one and other both average the weights; remove one of them"):
        Plan.of([one, other], FACTS)


def view(losses):
    """Logits of two classes whose cross-entropy at class 0 is each of the losses."""
    gap = torch.tensor(losses, dtype=torch.float64).exp().sub(1).log()
    logits = torch.stack([torch.zeros_like(gap), gap], 1)
    y = torch.zeros(len(losses), dtype=torch.int64)
    return View(Outputs(logits), y, y)


@pytest.mark.parametrize("risk", [Mixed(0.25), Augment()])
def test_each_part_weighs_as_many_rows_as_it_has(risk):
    terms = risk(Views(view([1.0]), view([2.0, 3.0, 5.0])), CrossEntropy())
    assert (float(terms["clean"]), float(terms["adversarial"])) == pytest.approx((1 / 4, 10 / 4))
    (alone,) = risk(Views(None, view([2.0, 4.0])), CrossEntropy()).values()
    assert float(alone) == pytest.approx(3.0)


def test_madry_and_clean_take_the_mean_of_their_rows():
    assert float(Madry()(Views(None, view([2.0, 4.0])), CrossEntropy())["adversarial"]) == pytest.approx(3.0)
    assert float(Clean()(Views(view([2.0, 4.0]), None), CrossEntropy())["clean"]) == pytest.approx(3.0)
