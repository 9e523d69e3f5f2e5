"""Trust checks as pure functions of counts, with figures that can be checked on paper."""

import math

import pytest
import torch

from art_ext.evaluation import trust
from art_ext.evaluation.statistics import holm, mcnemar
from art_ext.evaluation.trust import Suspicion, judge

N = 200


def first(count, n=N):
    return torch.arange(n) < count


def last(count, n=N):
    return torch.arange(n) >= n - count


def status(*suspicions):
    return [check.status for check in judge(suspicions)]


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1.0), (5, 0, 1 / 32), (0, 5, 1.0), (3, 1, 5 / 16), (10, 10, 0.5 + 184756 / 2**21)],
)
def test_mcnemar_is_the_binomial_tail(only_first, only_second, p):
    assert mcnemar(only_first, only_second) == pytest.approx(p)


def test_holm_multiplies_the_smallest_by_all_and_never_falls():
    # Holm (1979): 0.01 * 3, then max(0.03, 0.02 * 2), then max(0.04, 0.04 * 1)
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_check_needs_both_significance_and_a_share():
    def suspicion(share, p):
        return Suspicion("a", "A", "alarm", "calm", share, p)

    assert status(suspicion(0.5, 1e-9)) == ["fail"]
    assert status(suspicion(0.019, 1e-9)) == ["pass"]
    assert status(suspicion(0.5, 0.02)) == ["pass"]
    # 0.006 is below 0.01 alone, and not among two tests
    assert status(suspicion(0.5, 0.006)) == ["fail"]
    assert status(suspicion(0.5, 0.006), suspicion(0.0, 1.0)) == ["pass", "pass"]
    check = judge([suspicion(0.5, 0.006), suspicion(0.0, 1.0)])[0]
    assert (check.p, check.sentence) == (pytest.approx(0.012), "calm")


def test_facts_need_no_test_and_what_was_not_run_says_so():
    fact = Suspicion("a", "A", "alarm", "calm", 1.0)
    warning = Suspicion("b", "B", "alarm", "calm", 1.0, severity="warn")
    unknown = trust.not_run("c", "C", "not known")
    assert status(fact, warning, unknown) == ["fail", "warn", "not_run"]
    assert [check.sentence for check in judge([fact, unknown])] == ["alarm", "not known"]
    assert judge([unknown])[0].share is None


PAIRS = {
    "one_step": lambda a, b: trust.one_step_beats_many(a, b),
    "black_box": lambda a, b: trust.black_box_beats_white_box(a, b, ["square"]),
    "transfer": lambda a, b: trust.transfer_beats_white_box(a, b, ["transfer"]),
    "random_search": lambda a, b: trust.random_beats_gradients(a, b, 50),
    "eps_order": lambda a, b: trust.smaller_ball_beats_larger(a, b),
    "saturated_logits": lambda a, b: trust.saturated_logits(a, b, 0.5, 200.0),
}


@pytest.mark.parametrize("name", PAIRS)
def test_paired_checks_look_at_what_only_the_weaker_attack_finds(name):
    check = PAIRS[name]
    assert status(check(first(40), first(20))) == ["fail"]  # 20 images that the stronger one leaves
    assert status(check(first(20), first(40))) == ["pass"]
    # what the stronger one finds elsewhere does not make up for them: a part of the images may be masked
    partial = check(first(28), last(100))
    assert mcnemar(28, 100) == pytest.approx(1.0)
    assert (partial.evidence["only_first"], partial.evidence["only_second"]) == (28, 100)
    assert status(partial) == ["fail"]
    assert "28 of 200 images" in partial.alarm
    assert status(check(first(23), first(20))) == ["pass"]  # 1.5%
    assert status(check(first(5), last(40))) == ["pass"]  # what goes astray on honest networks too


@pytest.mark.parametrize("name", PAIRS)
def test_a_pass_says_what_it_saw(name):
    (found,) = judge([PAIRS[name](first(3), last(40))])
    assert found.status == "pass"
    wanted = ["3 more of 200"] if name == "saturated_logits" else [" 3 ", "40 of 200 images"]
    assert all(word in found.sentence for word in wanted)


@pytest.mark.parametrize(("name", "usual"), [("black_box", 0.01), ("one_step", 0.02)])
def test_the_weaker_attack_is_held_against_the_rate_of_honest_networks(name, usual):
    """P(Bin(200, usual) >= k), added up term by term."""
    for count in (4, 9, 12):
        tail = sum(math.comb(N, k) * usual**k * (1 - usual) ** (N - k) for k in range(count, N + 1))
        assert PAIRS[name](first(count), last(40)).p == pytest.approx(tail)


def test_a_gap_of_ten_points_between_losses_is_usual():
    assert status(trust.losses_disagree(first(40), first(20))) == ["pass"]  # 10 points
    assert status(trust.losses_disagree(first(50), first(10))) == ["fail"]  # 20 points of 200 images
    assert status(trust.losses_disagree(first(50), last(40))) == ["fail"]
    calm = trust.losses_disagree(first(10), last(14)).calm
    assert "10 of 200 images that cross-entropy leaves, and leaves 14 that this changes" in calm


def test_counts_are_held_against_what_goes_astray_in_honest_evaluations():
    assert status(trust.unbounded_survivors(1, 100, 1.0)) == ["pass"]
    assert status(trust.unbounded_survivors(10, 100, 1.0)) == ["fail"]
    assert status(trust.no_gradients(0, 100, False)) == ["pass"]
    assert status(trust.no_gradients(100, 100, True)) == ["fail"]
    assert "no gradient reaches the image" in trust.no_gradients(100, 100, True).alarm
    assert status(trust.answers_vary(1, 100, 0.1)) == ["pass"]
    assert status(trust.answers_vary(60, 100, 0.1)) == ["fail"]
    assert status(trust.batch_matters(60, 100, 0.1)) == ["fail"]
    assert status(trust.more_effort_finds(2, 100, "PGD")) == ["pass"]
    assert status(trust.more_effort_finds(9, 100, "PGD")) == ["fail"]


def test_images_seen_before_are_counted_and_silence_is_not_a_pass():
    assert status(trust.seen_before({"training": 30, "selection": 0}, 100)) == ["fail"]
    assert status(trust.seen_before({"training": 0}, 100)) == ["pass"]
    assert status(trust.seen_before({}, 100)) == ["not_run"]


def test_a_defence_without_its_attacker_fails_and_an_unknown_recipe_is_said():
    missing = trust.adaptive_attacks({"a": ["pgd"]}, {"b": "nobody knows it"}, known=True)
    assert status(missing) == ["fail"]
    assert "b: nobody knows it" in judge([missing])[0].sentence
    assert status(trust.adaptive_attacks({"a": ["pgd"]}, {}, known=True)) == ["pass"]
    unknown = trust.adaptive_attacks({}, {}, known=False)
    assert status(unknown) == ["not_run"]
    assert "--recipe" in unknown.calm


def test_wrong_labels_are_told_from_a_networks_own_mistakes():
    """Of 400 images: labels of 80 are wrong, wherever the network is sure; its own 80 mistakes are where it is not."""
    assert status(trust.labels_disagree(40, 200, 84, 400)) == ["warn"]
    assert status(trust.labels_disagree(4, 200, 84, 400)) == ["pass"]
    assert status(trust.labels_disagree(2, 200, 2, 400)) == ["pass"]  # all of its few mistakes, by chance
    assert status(trust.labels_disagree(30, 200, 160, 400)) == ["pass"]  # a poor network: fewer where it is sure
    assert "40 have another label than its answer, nearly as often as all (84 of 400)" in (
        trust.labels_disagree(40, 200, 84, 400).alarm
    )
    assert status(trust.labels_disagree(0, 0, 0, 1)) == ["pass"]


def test_guessing_on_clean_images_is_said_and_does_not_fail():
    assert status(trust.clean_accuracy_low(11, 100, 10)) == ["warn"]
    assert status(trust.clean_accuracy_low(60, 100, 10)) == ["pass"]
    assert status(trust.clean_accuracy_low(80, 100, 2)) == ["pass"]


def test_checks_that_so_few_images_could_not_fail_are_not_run():
    for check, n, enough in (
        (trust.more_effort_finds(0, 12, "PGD"), 12, False),  # 0.5^6 = 0.0156
        (trust.more_effort_finds(0, 13, "PGD"), 13, True),  # 0.5^7 = 0.0078
        (trust.unbounded_survivors(0, 2, 1.0), 2, False),  # P(Bin(2, 0.01) >= 1) = 0.0199
        (trust.unbounded_survivors(0, 3, 1.0), 3, True),  # P(Bin(3, 0.01) >= 2) = 0.0003
        (trust.losses_disagree(first(0, 6), first(0, 6)), 6, False),  # P(Bin(6, 0.1) >= 3) = 0.0158
        (trust.losses_disagree(first(0, 7), first(0, 7)), 7, True),  # P(Bin(7, 0.1) >= 4) = 0.0027
    ):
        (found,) = judge([check])
        assert (found.status, found.too_few) == (("pass", False) if enough else ("not_run", True)), (found.name, n)
    assert judge([trust.unbounded_survivors(2, 2, 1.0)])[0].status == "fail"  # both: 0.0001
    assert judge([trust.unbounded_survivors(0, 0, 1.0)])[0].status == "pass"  # nothing was there to attack
    # among seven checks each has a seventh of the level: of 14 images 7 would be chance
    seven = [trust.more_effort_finds(0, 14, "PGD")] * 7
    assert {found.status for found in judge(seven)} == {"not_run"}


def test_images_that_were_never_attacked_are_told_from_those_that_were():
    spared = trust.adaptive_attacks({"a": ["pgd"]}, {}, ["b"], known=True)
    assert status(spared) == ["pass"]
    assert spared.calm == "attacked by someone who knows a by pgd; no image was left for the attacks that know b"
