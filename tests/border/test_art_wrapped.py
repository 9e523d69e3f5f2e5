"""ART's own attacks within an evaluation: named, bounded, counted, and found by a recipe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool
from art.estimators.classification import PyTorchClassifier
from pydantic import ValidationError
from torch import nn

from art_ext.api import ConfigError, EvaluationContext, Facts, Plan
from art_ext.border.art_wrapped import wrapped
from art_ext.engine.net import Net
from art_ext.evaluation.lineup import Planned
from art_ext.evaluation.suite import Evaluator
from art_ext.evaluation.threat import Threat
from art_ext.evaluation.trials import Trials
from art_ext.host.manager import default_manager

FACTS = Facts(3, (1, 6, 6))


def context(norm="linf", eps=0.1):
    return EvaluationContext(Plan(FACTS), norm, eps, (0.0, 1.0))


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).eval()


def trial(attack, module, x, y, eps=0.1, norm="linf"):
    trials = Trials(Evaluator(Net(module), x, y), Threat(norm, eps), {})
    return trials.run(Planned("art", attack, attack.family), torch.arange(len(x)))


def images(n=16):
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2


def test_it_does_what_art_does_on_its_own():
    module, x = linear(), images()
    y = module(x).argmax(1)
    attack = wrapped("DeepFool", {"max_iter": 20}, context("l2", 10.0))
    found = trial(attack, module, x, y, 10.0, "l2")
    assert found.error is None
    classifier = PyTorchClassifier(module, nn.CrossEntropyLoss(), (1, 6, 6), 3, clip_values=(0, 1), device_type="cpu")
    theirs = DeepFool(classifier, max_iter=20, verbose=False).generate(x.numpy(), y.numpy())
    distances = np.linalg.norm((theirs - x.numpy()).reshape(len(x), -1), axis=1)
    assert found.norm.numpy() == pytest.approx(distances, rel=1e-3)
    assert int(found.changed(y).sum()) >= len(x) - 2  # it ends on the boundary, where rounding decides
    assert found.backwards > 0  # passes count as those of any attack


def test_the_threat_bounds_it():
    module, x = linear(), images()
    y = module(x).argmax(1)
    found = trial(wrapped("DeepFool", {}, context(eps=0.02)), module, x, y, eps=0.02)
    assert int(found.fell(y).sum()) < int(found.changed(y).sum())  # what it finds further away does not count
    pgd = wrapped("ProjectedGradientDescent", {"max_iter": 5}, context(eps=0.2))
    assert (pgd.options["eps"], pgd.options["norm"], pgd.options["eps_step"]) == (0.2, np.inf, pytest.approx(0.02))
    assert "ART's ProjectedGradientDescent(" in str(pgd)
    assert wrapped("ProjectedGradientDescent", {"eps": 0.1}, context("l2", 1.0)).options["norm"] == 2
    assert (pgd.family, wrapped("HopSkipJump", {}, context()).family) == ("gradient", "black-box")


def test_it_draws_the_same_numbers_each_time_and_leaves_the_generator_alone():
    module, x = linear(), images()
    y = module(x).argmax(1)
    attack = wrapped("SquareAttack", {"max_iter": 20}, context(eps=0.05))
    np.random.seed(5)
    expected = np.random.rand(3)
    np.random.seed(5)
    first = trial(attack, module, x, y, 0.05)
    assert np.array_equal(np.random.rand(3), expected)
    assert first.error is None
    assert float(first.norm.max()) > 0
    assert torch.equal(first.norm, trial(attack, module, x, y, 0.05).norm)


def test_names_and_options_that_art_does_not_have_are_refused():
    for attack, options, norm, said in (
        ("DeepFol", {}, "linf", "unknown evasion attack of ART 'DeepFol'; did you mean DeepFool"),
        ("DecisionTreeAttack", {}, "linf", "unknown evasion attack of ART 'DecisionTreeAttack'"),  # for trees alone
        ("DeepFool", {"max_iters": 3}, "linf", "unknown option of ART's DeepFool 'max_iters'; did you mean max_iter"),
        ("DeepFool", {"classifier": 3}, "linf", "unknown option"),
        ("ProjectedGradientDescent", {}, "l0", "knows the norms linf, l2, l1, not l0"),
    ):
        with pytest.raises(ConfigError, match=said):
            wrapped(attack, options, context(norm, 3.0 if norm == "l0" else 0.1))


def test_a_recipe_names_it():
    entry = default_manager().catalogue.attacks["art"]
    ((name, attack),) = entry.build(entry.options(attack="ElasticNet", options={"max_iter": 3}), context())
    assert name == "art_ElasticNet"
    assert attack.options["max_iter"] == 3
    with pytest.raises(ValidationError, match="attack"):
        entry.options()
