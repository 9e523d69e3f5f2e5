"""The worst case over all attacks, its costs, and evaluations that are interrupted, shared out, or cut short."""


from dataclasses import replace

import pytest
import torch
from evaluated import EPS, TINY, data, evaluation, trained
from pydantic import BaseModel
from torch import nn

from art_ext.api import L2, PGD, Adversarial, Linf, ce
from art_ext.engine.net import Net
from art_ext.entries import AttackEntry
from art_ext.errors import ConfigError, DataError, ModelError
from art_ext.evaluation.lineup import Planned
from art_ext.evaluation.record import read_evaluation
from art_ext.evaluation.settling import Question, groups
from art_ext.evaluation.suites import SUITES, Wanted, suite_named
from art_ext.evaluation.threat import Threat
from art_ext.evaluation.verdict import two_lines


@pytest.fixture(scope="module")
def module():
    return trained()


@pytest.fixture(scope="module")
def whole(module):
    done = evaluation(module)
    return done, done.run()


def rid(record):
    """The record without what differs from run to run: times."""
    plain = record.as_record()
    for attack in plain["attacks"]:
        attack["seconds"] = 0
    return {**plain, "seconds": 0}


def test_the_worst_case_is_what_stands_under_every_attack(whole):
    done, record = whole
    campaign = done.campaign
    stands = campaign.right.clone()
    for trial in campaign.found.values():
        stands &= ~trial.fell(campaign.y)
    assert record.worst_case.accuracy == float(stands.double().mean())
    assert 0 < record.worst_case.accuracy < min(attack.accuracy for attack in record.attacks) + 1e-9
    assert record.clean.accuracy > 0.9
    assert record.verdict.robust_accuracy == record.worst_case.accuracy
    assert record.complete


def test_cheap_attacks_run_on_all_that_is_right_and_others_on_what_stands(whole):
    _, record = whole
    right = round(record.clean.accuracy * record.clean.n)
    for name in ("fgsm", "pgd20", "pgd20_margin", "half_eps", "random_search"):
        assert record.attack(name).attacked == right
    late = record.attack("more_steps")
    assert late.attacked < right
    assert late.accuracy == record.worst_case.accuracy


def test_passes_are_counted_as_the_network_sees_them(module):
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            seen.append(len(x))
            return self.inner(x)

    done = evaluation(Watched(), n=30)
    done.evaluator.crafter.fold = False  # the twin of a network counts for itself
    (fgsm,) = [planned for planned in done.campaign.planned if planned.name == "fgsm"]
    seen.clear()
    trial = done.campaign.trials.run(fgsm, torch.arange(30))
    assert trial.forwards == sum(seen) == 3 * 30  # the step, where it led to, and the judgement
    assert trial.backwards == 30


def test_perturbations_stay_inside_the_ball_and_outside_ones_do_not_count(module):
    far = Planned("far", PGD(Linf(0.5), 5, keep="best"), "gradient")
    other = Planned("other", PGD(L2(0.3), 5, keep="best"), "gradient")
    done = evaluation(module, n=60, extra=(far, other))
    record = done.run()
    for name in ("far", "other"):
        assert record.attack(name).bounded is False
    assert record.attack("far").accuracy < 0.1
    assert record.worst_case.accuracy > 0.2
    lost = done.campaign.right & ~done.campaign.standing
    for trial in done.campaign.found.values():
        near = trial.norm[trial.done & trial.inside]
        assert bool((near <= EPS * 1.001).all())
    assert int(lost.sum()) == round((record.clean.accuracy - record.worst_case.accuracy) * 60)


def test_an_interrupted_evaluation_goes_on_and_comes_to_the_same(module, whole, tmp_path):
    first = evaluation(module, folder=tmp_path, batch_size=32)
    calls = []

    def stop(tick):
        calls.append(tick)
        if len(calls) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluation(module, folder=tmp_path, batch_size=32, progress=stop).run()
    half = sorted((tmp_path / "partial").glob("*.jsonl"))[0]
    half.write_text(half.read_text()[:-40])  # as a process that died leaves it
    record = first.run()
    assert rid(record)["worst_case"] == rid(whole[1])["worst_case"]
    for one, other in zip(record.attacks, whole[1].attacks, strict=True):
        assert (one.name, one.accuracy, one.attacked) == (other.name, other.accuracy, other.attacked)
    again = evaluation(module, folder=tmp_path)
    forwards = again.evaluator.spent.forwards
    again.attack()
    assert again.evaluator.spent.forwards == forwards  # nothing was attacked again
    assert [attack.forwards for attack in again.campaign.results()] == [attack.forwards for attack in record.attacks]
    assert read_evaluation(tmp_path) == record


def test_other_options_do_not_meet_in_the_ledger(module, tmp_path):
    evaluation(module, n=20, folder=tmp_path).attack()
    other = evaluation(module, n=20, folder=tmp_path, seed=1)
    other.attack()
    assert all(trial.forwards > 0 for trial in other.campaign.found.values() if bool(trial.done.any()))


def test_shards_and_batches_give_the_very_same_numbers(module, whole, tmp_path):
    for rank in range(3):
        evaluation(module, folder=tmp_path, shard=(rank, 3), batch_size=17).attack()
    merged = evaluation(module, folder=tmp_path)
    began = merged.evaluator.spent.forwards
    merged.attack()
    assert merged.evaluator.spent.forwards == began
    for name, trial in whole[0].campaign.found.items():
        assert torch.equal(merged.campaign.found[name].done, trial.done), name
        assert torch.equal(merged.campaign.found[name].predicted, trial.predicted), name
    assert torch.equal(merged.campaign.standing, whole[0].campaign.standing)


class NoOptions(BaseModel):
    pass


class Broken:
    objective, bn = ce, "eval"
    norm = Linf(EPS)

    def craft(self, net, x, score, keys, mask=None):
        raise RuntimeError("no luck")

    def __str__(self):
        return "broken"


def test_an_attack_that_fails_is_named_and_the_others_are_kept(module):
    entry = AttackEntry("broken", "fails", NoOptions, lambda options, context: [("broken", Broken())])
    suite = replace(TINY, wanted=(Wanted("broken"), Wanted("absent"), Wanted("elsewhere", optional=True)))
    record = evaluation(module, n=40, suite=suite, attacks={"broken": entry}).run()
    assert record.attack("broken").error == "RuntimeError: no luck"
    assert record.attack("pgd20").attacked > 30
    assert not record.verdict.trusted
    assert "broken failed" in record.verdict.reasons
    assert "the attack absent is not installed, so it did not run" in record.notes
    assert not any("elsewhere" in note for note in record.notes)


class Nan:
    objective, bn, norm = ce, "eval", Linf(EPS)

    def craft(self, net, x, score, keys, mask=None):
        made = torch.full_like(x, float("nan"))
        return Adversarial(made, made - x)


def test_an_attack_that_gives_nan_changes_nothing(module):
    done = evaluation(module, n=20, extra=(Planned("nan", Nan(), "gradient", True),))
    record = done.run()
    assert record.attack("nan").accuracy == record.clean.accuracy


def test_a_budget_that_ends_keeps_what_was_computed(module, tmp_path):
    record = evaluation(module, n=40, folder=tmp_path, minutes=1e-6).run()
    assert not record.complete
    assert not record.verdict.trusted
    (note,) = [note for note in record.notes if "budget" in note]
    assert "more_steps" in note
    assert read_evaluation(tmp_path) == record


def test_smallest_eps_of_a_linear_network_is_its_margin_over_the_norm_of_its_weights():
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    x = 0.4 + 0.2 * torch.rand(30, 1, 6, 6)  # far from the clip range, which the closed form does not know
    with torch.no_grad():
        logits = linear(x)
        y = logits.argmax(1)
        weight = linear[1].weight
        exact = torch.stack(
            [
                torch.stack(
                    [(logits[:, k] - logits[:, j]) / (weight[k] - weight[j]).abs().sum() for j in range(3) if j != k], 1
                ).amin(1)
                for k in range(3)
            ],
            1,
        ).gather(1, y[:, None])[:, 0]
    ordered = exact.sort().values
    gap = int((ordered[9:21] - ordered[8:20]).argmax()) + 8
    eps = float(ordered[gap : gap + 2].mean())  # no image lies on the edge
    done = evaluation(linear, rows=(x, y), eps=eps, suite=replace(TINY, curve=(10, 10)))
    record = done.run()
    assert record.worst_case.accuracy == pytest.approx((29 - gap) / 30)
    smallest, curve = done._curve()
    reached = smallest.isfinite()
    assert torch.equal(reached, exact <= 4 * eps)
    ratio = smallest[reached] / exact[reached]
    assert bool((ratio > 0.9999).all())  # an upper bound
    assert float(ratio.median()) < 1.01
    assert float((ratio < 1.02).double().mean()) > 0.75  # where the margin's steepest class is not the nearest, above
    assert curve[10].accuracy == record.worst_case.accuracy


def test_the_curve_falls_from_clean_accuracy_through_the_worst_case(whole):
    record = whole[1]
    values = [point.accuracy for point in record.curve]
    assert values == sorted(values, reverse=True)
    assert values[0] == record.clean.accuracy
    assert values[len(values) // 2] == record.worst_case.accuracy
    assert record.curve[len(values) // 2].eps == pytest.approx(EPS)
    assert values[-1] < 0.6


def test_a_question_is_settled_by_fewer_images_than_there_are(module):
    rows = data(480)
    yes = evaluation(module, rows=rows, until=Question.parse("robust>=0.02"))
    record = yes.run()
    assert yes.answer is True
    assert record.data.n < 480
    assert record.complete
    assert any("is settled: yes" in note for note in record.notes)
    no = evaluation(module, rows=rows, eps=0.5, until=Question.parse("robust >= 40%"))
    record = no.run()
    assert record.data.n == 64
    assert no.answer is False
    # it stopped inside the suite: what is left is an upper bound, and no check speaks of attacks that had no turn
    assert not record.complete
    assert not record.verdict.trusted
    assert "of its attacks had run, so this is an upper bound" in record.verdict.sentence
    ran = {attack.name for attack in record.attacks}
    assert "pgd20" not in ran
    status = {check.name: check.status for check in record.checks}
    assert {status[name] for name in ("one_step", "random_search", "eps_order", "losses", "more_effort")} == {"not_run"}
    unsettled = evaluation(module, n=64, until=Question(yes.run().worst_case.accuracy))
    unsettled.attack()
    assert unsettled.answer is None
    assert "is not settled" in unsettled.notes[-1]


def test_a_warning_is_said_beside_the_reasons_for_doubt(module):
    x, y = data(24)
    record = evaluation(module, rows=(x, (y + 1) % 3)).run()
    record = replace(record, verdict=replace(record.verdict, reasons=("the suite is a short one",)))
    warned = [check.sentence for check in record.checks if check.status == "warn"]
    assert warned
    assert all(sentence in two_lines(record)[1] for sentence in [*warned, *record.verdict.reasons])


def test_a_radius_that_allows_any_image_is_refused():
    with pytest.raises(ConfigError, match=r"eps 8 is more than the range of pixels, 0 to 1.*did you mean 8/255\?"):
        Threat("linf", 8.0)
    with pytest.raises(ConfigError, match=r"eps 300 is more than the range of pixels, 0 to 255, so.* any image$"):
        Threat("linf", 300.0, (0.0, 255.0))
    assert Threat("linf", 1.0).eps == 1.0
    assert Threat("l2", 8.0).eps == 8.0


def test_an_attack_that_had_no_turn_on_some_images_has_a_figure_of_the_others(module):
    part, half = evaluation(module, n=60).campaign, torch.arange(30)
    planned = {attack.name: attack for attack in part.planned}
    part.active[:] = True
    part.trials.run(planned["fgsm"], part.right.nonzero().squeeze(1))
    part.trials.run(planned["pgd20"], half[part.right[half]])
    assert bool(part.owing("pgd20")[30:][part.right[30:]].all())
    assert not bool(part.owing("pgd20")[:30].any())
    (result,) = [result for result in part.results() if result.name == "pgd20"]
    wrong = int((~part.right[30:]).sum())
    assert result.n == 30 + wrong  # wrong when clean: nothing is owed there
    assert result.attacked == int(part.right[:30].sum())


def test_questions_share_the_error_among_all_looks():
    question = Question.parse("robust>=0.5")
    # 36 of 60: the exact 95% interval is 0.465 to 0.724 (scipy), so it is open; 41 of 60 gives 0.550 to 0.797
    assert question.answer(36, 60, 1) is None
    assert question.answer(41, 60, 1) is True
    assert question.answer(41, 60, 50) is None
    assert question.answer(10, 60, 1) is False
    assert Question.parse("robust<0.5").answer(10, 60, 1) is True
    order = torch.cat(groups(200, seed=3))
    assert sorted(order.tolist()) == list(range(200))
    assert not torch.equal(order, torch.cat(groups(200, seed=4)))
    for text in ("robust", "clean>=0.4", "robust>=1.5", "robust>=0", "robust>=40"):
        with pytest.raises(ConfigError, match="is no question"):
            Question.parse(text)


def test_options_that_contradict_each_other_are_refused(module):
    for wrong, said in (
        ({"shard": (2, 2), "folder": "x"}, "RANK/WORLD"),
        ({"shard": (0, 2)}, "name one"),
        ({"batch_size": 0}, "batch_size"),
        ({"minutes": 0}, "minutes"),
    ):
        with pytest.raises(ConfigError, match=said):
            evaluation(module, n=20, **wrong)
    with pytest.raises(ConfigError, match="did you mean quick"):
        suite_named("quik")
    assert set(SUITES) == {"quick", "standard", "full"}


def test_data_that_cannot_be_used_is_one_line(module):
    x, y = data(20)
    with pytest.raises(DataError, match="outside the clip range"):
        evaluation(module, rows=(2 * x, y))
    with pytest.raises(DataError, match="label 7"):
        evaluation(module, rows=(x, torch.where(y == 2, 7, y)))
    with pytest.raises(DataError, match="no images"):
        evaluation(module, rows=(x[:0], y[:0]))


def test_a_data_set_smaller_than_a_batch_or_of_one_image_is_evaluated(module):
    record = evaluation(module, n=1).run()
    assert record.data.n == 1
    assert all(check.status != "fail" for check in record.checks)


def test_nan_and_other_classes_are_refused(module):
    class Answers(nn.Module):
        def __init__(self, change):
            super().__init__()
            self.change = change

        def forward(self, x):
            return self.change(module(x))

    with pytest.raises(ModelError, match="NaN or infinity for image 0"):
        evaluation(Answers(lambda z: z * float("nan")))
    with pytest.raises(ModelError, match="3 classes"):
        evaluation(Answers(lambda z: torch.cat([z, z], 1)))


def test_a_network_that_is_wrong_everywhere_has_nothing_to_attack(module):
    x, _ = data(30)
    with torch.no_grad():
        wrong = (module(x).argmax(1) + 1) % 3
    record = evaluation(module, rows=(x, wrong)).run()
    assert record.worst_case.accuracy == record.clean.accuracy == 0
    assert next(check for check in record.checks if check.name == "clean").status == "warn"


def test_the_undefended_network_stands_beside(module):
    record = evaluation(module, n=60, baseline=Net(trained())).run()
    baseline = record.baseline
    assert baseline.clean.accuracy == record.clean.accuracy
    assert baseline.worst_case.accuracy == pytest.approx(record.worst_case.accuracy, abs=0.05)
    assert {"pgd20", "pgd20_margin"} <= {attack.name for attack in baseline.attacks}
    assert f"the undefended model keeps {baseline.worst_case.accuracy:.1%}" in record.verdict.sentence


def test_the_network_is_left_as_it_was(module):
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.train()
    net = Net(module)
    evaluation(module, n=20, net=net).run()
    assert module.training
    module.eval()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())



def test_the_undefended_network_s_figures_are_each_attack_s_own_where_the_others_are(module):
    record = evaluation(module, n=60, baseline=Net(trained())).run()
    same = {attack.name: attack for attack in record.attacks}
    for undefended in record.baseline.attacks:  # it is the same network
        mine = same[undefended.name]
        assert (undefended.everywhere, undefended.accuracy) == (mine.everywhere, mine.accuracy)
    assert record.attack("half_eps").accuracy > record.attack("pgd20").accuracy
    assert record.attack("half_eps").everywhere
    assert not record.attack("more_steps").everywhere


def test_an_image_that_breaks_the_network_s_arithmetic_counts_as_wrong_and_is_named(module, tmp_path):
    class Breaks(nn.Module):
        """Answers NaN for images that are brighter than all clean ones."""

        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            return self.inner(x) + torch.where(x.flatten(1).amin(1, keepdim=True) > 0.05, torch.nan, 0.0)

    class Brighter:
        objective, bn, norm = ce, "eval", Linf(EPS)

        def craft(self, net, x, score, keys, mask=None):
            made = (x + EPS).clamp(0, 1)
            return Adversarial(made, made - x)

    x, y = data(40)
    x = x.clone()
    x[:, 0, 5, 5] = 0  # no clean image is bright everywhere
    extra = (Planned("brighter", Brighter(), "gradient", True),)
    done = evaluation(Breaks(), rows=(x, y), extra=extra, folder=tmp_path)
    record = done.run()
    assert record.clean.accuracy > 0.9
    assert record.attack("brighter").accuracy == record.worst_case.accuracy == 0
    right = round(record.clean.accuracy * 40)
    (reason,) = [reason for reason in record.verdict.reasons if "NaN or infinity" in reason]
    assert f"for {right} images" in reason
    assert not record.verdict.trusted
    assert bool((done.campaign.found["brighter"].predicted[y == 0] != 0).all())  # NaN is not the first class
