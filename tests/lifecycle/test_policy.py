"""Policies read from YAML, and what they find in evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from scipy.stats import binomtest

from art_ext.errors import ConfigError
from art_ext.evaluation.record import Check, EvaluationRecord, ModelInfo, RejectionResult
from art_ext.evaluation.threat import Threat
from art_ext.host.gating import read_policy
from art_ext.lifecycle.gate import decide
from art_ext.lifecycle.policy import Champion, Pairs, Policy, judge, policy_from

Record = Callable[..., EvaluationRecord]
THREAT = {"norm": "linf", "eps": 0.15}


def policy(**changes: Any) -> Policy:
    return policy_from({"threat": THREAT, **changes}, "policy.yaml")


def status(found: list[Any]) -> dict[str, str]:
    return {requirement.name: requirement.status for requirement in found}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threat: {norm: linf, eps: 0.15}\nclean_acuracy: {at_least: 0.9}\n", "yaml:2.*did you mean clean_accuracy"),
        ("threat: {norm: linf, eps: 0.15}\nclean_accuracy: {at_last: 0.9}\n", "yaml:2.*clean_accuracy.at_least"),
        ("suite: standard\n", "threat is missing"),
        ("threat: {norm: l7, eps: 0.15}\n", "policy.yaml:1: threat.norm"),
        ("threat: {norm: linf, eps: 0.15}\nclean_accuracy: {at_least: 90}\n", "clean_accuracy.at_least: .*less than"),
        ("threat: {norm: linf, eps: 0.15}\nimages: 1.5\n", "policy.yaml:2: images"),
        ("threat: {norm: linf, eps: 0.15}\nimages: 1\nimages: 2\n", "set twice"),
        ("threat: !!python/object/apply:os.system [ls]\n", "tag"),
        ("- a\n", "a policy is a mapping"),
    ],
)
def test_a_mistake_in_a_policy_is_one_line_that_names_the_place(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_policy(path)
    assert "\n" not in str(caught.value)


def test_the_policy_that_is_shipped_is_read() -> None:
    found = read_policy(Path(__file__).parents[2] / "docs" / "policies" / "digits.yaml")
    assert (found.threat.eps, found.bound, found.robust_accuracy.below_champion) == (0.15, "low", 0.0)


def test_limits_hold_for_the_lower_end_of_the_interval_or_for_the_value(record: Record) -> None:
    mine = record(clean=360, robust=200)  # 0.900 and 0.500
    low = binomtest(200, 400).proportion_ci(0.95, method="exact").low
    for limit, bound, wanted in (
        (0.5, "value", "pass"),
        (0.5, "low", "fail"),
        (low - 1e-9, "low", "pass"),
        (low + 1e-9, "low", "fail"),
    ):
        found = judge(policy(bound=bound, robust_accuracy={"at_least": limit}), mine)
        assert status(found)["robust_accuracy.at_least"] == wanted
    assert status(judge(policy(clean_accuracy={"at_least": 0.9}), mine))["clean_accuracy.at_least"] == "fail"
    assert "clean_accuracy.at_least" not in status(judge(policy(), mine)), "what is not asked is not judged"


def test_an_evaluation_of_other_weights_does_not_count(record: Record) -> None:
    mine = record()
    assert status(judge(policy(), mine, digest=mine.model.digest))["same_model"] == "pass"
    assert status(judge(policy(), mine, digest="sha256:" + "b" * 64))["same_model"] == "fail"
    assert status(judge(policy(), mine))["same_model"] == "skip"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"threat": Threat("linf", 0.1)}, "threat"),
        ({"threat": Threat("l2", 0.15)}, "threat"),
        ({"suite": "quick"}, "suite"),
        ({"suite": "my own"}, "suite"),
        ({"complete": False}, "complete"),
        ({"checks": (Check("masking", "", "fail", "gradients are masked"),)}, "trust"),
        ({"checks": ()}, "trust"),
        ({"checks": (Check("masking", "", "not_run", "no time"),)}, "trust"),
    ],
)
def test_what_makes_an_evaluation_no_evidence_fails(changes: dict[str, Any], name: str, record: Record) -> None:
    assert {n for n, s in status(judge(policy(), record(**changes))).items() if s == "fail"} == {name}


def test_enough_passes_and_more_than_enough_does_too(record: Record) -> None:
    assert set(status(judge(policy(images=400), record(suite="full"))).values()) == {"pass", "skip"}
    assert status(judge(policy(images=401), record()))["images"] == "fail"


def test_false_positives_of_the_worst_detector_count(record: Record, rejecting: RejectionResult) -> None:
    asked = policy(fpr={"at_most": 0.35})
    assert status(judge(asked, record()))["fpr"] == "fail"
    assert status(judge(asked, record(rejection=(rejecting,))))["fpr"] == "pass"
    worse = replace(rejecting, fpr=0.36)
    assert status(judge(asked, record(rejection=(rejecting, worse))))["fpr"] == "fail"
    elsewhere = replace(worse, asked_tpr=0.95)
    assert status(judge(asked, record(rejection=(rejecting, elsewhere))))["fpr"] == "pass"
    denying = replace(worse, aim="deny")
    assert status(judge(asked, record(rejection=(rejecting, denying))))["fpr"] == "pass"


def test_the_distance_to_the_champion_is_judged_on_equal_evaluations_only(record: Record) -> None:
    asked = policy(robust_accuracy={"below_champion": 0.05})
    mine = record(robust=200)
    assert status(judge(asked, mine))["robust_accuracy.below_champion"] == "skip"
    for robust, wanted in ((220, "pass"), (221, "fail"), (100, "pass")):
        found = judge(asked, mine, champion=Champion("champion", record(robust=robust)))
        assert status(found)["robust_accuracy.below_champion"] == wanted
    for changes in ({"suite": "full"}, {"threat": Threat("linf", 0.1)}, {"data": replace(mine.data, digest="other")}):
        other = Champion("champion", record(robust=100, **changes))
        (found,) = [r for r in judge(asked, mine, champion=other) if r.name.endswith("below_champion")]
        assert found.status == "fail"
        assert "same way" in found.sentence


def test_pairs_have_the_exact_p_value_of_the_sign_test() -> None:
    for won, lost in ((3, 9), (0, 5), (7, 7), (0, 0)):
        exact = binomtest(lost, won + lost, alternative="greater").pvalue if won + lost else 1.0
        assert Pairs(won, lost).p_worse == pytest.approx(exact)


def test_the_answer_is_written_as_junit_and_markdown(record: Record, tmp_path: Path) -> None:
    asked = policy(robust_accuracy={"at_least": 0.9, "below_champion": 0.1})
    check = Check("masking", "", "fail", "p < 0.01 & \x00 <masked> | so")
    decision = decide("models:/digits/3", asked, record(checks=(check,)))
    assert not decision.passed
    decision.write(tmp_path / "out")
    root = ElementTree.fromstring((tmp_path / "out" / "gate.xml").read_text())
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("8", "2", "2")
    cases = {case.get("name"): case for case in suite}
    assert "<masked>" in str(cases["trust"][0].get("message"))
    assert cases["robust_accuracy.below_champion"][0].tag == "skipped"
    text = (tmp_path / "out" / "gate.md").read_text()
    assert text.startswith("# Gate: models:/digits/3 does not pass: trust, robust_accuracy.at_least")
    assert "| worst case, linf 0.15 | 50.0%" in text
    assert all(line.count("|") == 4 for line in text.splitlines() if line.startswith(("| ❌", "| ✅", "| ➖")))


def test_a_model_that_passes_says_so(record: Record) -> None:
    mine = record(model=ModelInfo("m", "sha256:1"))
    decision = decide("m", policy(), mine, digest="sha256:1")
    assert decision.passed
    assert decision.lines()[-1] == "m passes"
