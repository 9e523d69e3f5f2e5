"""What attacks raise: values worked out by hand, gradients that stay finite, references computed once."""

import math

import pytest
import torch
import torch.nn.functional as F

from art_ext.errors import ConfigError
from art_ext.parts.attacks import PGD
from art_ext.parts.criteria import CrossEntropy
from art_ext.parts.noise import Keys
from art_ext.parts.norms import Linf
from art_ext.parts.objectives import (
    OBJECTIVES,
    cross_entropy,
    dlr,
    kl_divergence,
    kl_to_clean,
    largest_other,
    margin,
    objective_named,
    other_confidence,
    unending,
)
from art_ext.types import Outputs

Z = torch.tensor([[1.0, 4.0, 2.0, -1.0], [5.0, 1.0, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
Y = torch.tensor([1, 0, 2])


def test_margin_by_hand():
    assert margin(Z, Y).tolist() == [2 - 4, 5 - 5, 0]
    assert margin(Z, torch.tensor([3, 1, 0])).tolist() == [4 - -1, 5 - 1, 0]


def test_dlr_by_hand():
    # (runner-up - own) / (first - third): (2 - 4) / (4 - 1), and a tie at the top gives 0.
    values = dlr(Z[:2], Y[:2])
    assert values.tolist() == pytest.approx([-2 / 3, 0.0])
    # Misclassified: (4 - 1) / (4 - 1) at y = 0, (4 + 1) / 3 at y = 3.
    assert dlr(Z[:1], torch.tensor([0])).item() == pytest.approx(1.0)
    assert dlr(Z[:1], torch.tensor([3])).item() == pytest.approx(5 / 3)


def test_dlr_ignores_shift_and_scale():
    assert dlr(3 * Z[:1] + 7, Y[:1]).item() == pytest.approx(dlr(Z[:1], Y[:1]).item())


def test_dlr_of_equal_logits_is_finite():
    z = Z[2:].clone().requires_grad_()
    value = dlr(z, Y[2:])
    assert value.item() == 0
    (grad,) = torch.autograd.grad(value.sum(), z)
    assert torch.isfinite(grad).all()


def test_dlr_of_two_classes_is_the_margin():
    z = torch.tensor([[1.0, 3.0]])
    assert dlr(z, torch.tensor([1])).tolist() == [-2.0]
    assert dlr(z, torch.tensor([0])).tolist() == [2.0]


def test_margin_is_positive_exactly_when_misclassified():
    z = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    y = torch.arange(500) % 6
    assert torch.equal(margin(z, y) > 0, z.argmax(1) != y)


def test_largest_other_leaves_its_input_alone():
    z = Z.clone()
    assert largest_other(z, Y).tolist() == [2.0, 5.0, 0.0]
    assert torch.equal(z, Z)


def test_cross_entropy_by_hand():
    z = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    assert cross_entropy(z, torch.tensor([0])).item() == pytest.approx(math.log(4))
    assert cross_entropy(z, torch.tensor([1])).item() == pytest.approx(math.log(4 / 3))


def test_kl_by_hand_and_zero_at_itself():
    p, q = torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[0.9, 0.1]]).double()
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert kl_divergence(p.log(), q.log()).item() == pytest.approx(expected)
    log_p = F.log_softmax(Z, 1)
    assert kl_divergence(log_p, log_p).tolist() == [0.0, 0.0, 0.0]
    assert (kl_divergence(log_p, F.log_softmax(Z.flip(1), 1)) >= 0).all()


@pytest.mark.parametrize("gap", [200.0, 1e4])
def test_kl_is_finite_with_logits_far_apart(gap):
    clean = torch.tensor([[gap, 0.0, -gap]], requires_grad=True)
    adv = torch.tensor([[-gap, 0.0, gap]], requires_grad=True)
    value = kl_divergence(F.log_softmax(clean, 1), F.log_softmax(adv, 1))
    assert value.item() == pytest.approx(2 * gap)
    value.sum().backward()
    assert torch.isfinite(clean.grad).all()
    # d KL(p || q) / d logits of q = q - p.
    torch.testing.assert_close(adv.grad, torch.tensor([[-1.0, 0.0, 1.0]]))


def _net(x):
    return Outputs(x.flatten(1) @ torch.linspace(-1, 1, 24).reshape(4, 6))


@pytest.mark.parametrize("name", ["ce", "margin", "dlr"])
def test_targeted_scores_fall_where_untargeted_rise(name):
    x, y = torch.rand(5, 1, 2, 2), torch.arange(5)
    free, towards = (OBJECTIVES[name].bind(_net, x, y, targeted=targeted) for targeted in (False, True))
    out = _net(x)
    assert torch.equal(towards.value(out), -free.value(out))
    assert torch.equal(towards.wrong(out), out.logits.argmax(1) == y)
    assert torch.equal(free.wrong(out), out.logits.argmax(1) != y)


def test_an_objective_without_a_targeted_form_says_so():
    with pytest.raises(ConfigError, match="kl_to_clean has no targeted form; use ce, margin or dlr"):
        kl_to_clean.bind(_net, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), targeted=True)


def test_the_clean_reference_is_computed_once_a_craft():
    """steps + 1 forwards, not 2 steps; and no gradient flows into the reference."""
    calls = []

    def net(x):
        calls.append(len(x))
        return _net(x)

    x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
    score = kl_to_clean.bind(net, x, y)
    assert not score.reference[0].requires_grad
    PGD(Linf(0.1), steps=7, objective=kl_to_clean).craft(net, x, score, Keys(0, 0, torch.arange(3)))
    assert calls == [3] * 8


def test_a_score_of_rows_is_the_rows_of_the_score():
    x, y = torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 3, 4, 5])
    score, moved = kl_to_clean.bind(_net, x, y), torch.rand(6, 1, 2, 2)
    rows = torch.tensor([4, 1])
    assert torch.equal(score[rows].value(_net(moved[rows])), score.value(_net(moved))[rows])
    assert torch.equal(score[rows].wrong(_net(moved[rows])), score.wrong(_net(moved))[rows])


def test_an_unending_objective_is_never_reached():
    x, y = torch.rand(5, 1, 2, 2), torch.arange(5)
    free, endless = (o.bind(_net, x, y) for o in (other_confidence, unending(other_confidence)))
    out = _net(x)
    assert torch.equal(endless.value(out), free.value(out))
    assert free.wrong(out).any()
    assert not endless.wrong(out).any()
    assert not endless[torch.tensor([1, 3])].wrong(_net(x[[1, 3]])).any()
    assert str(unending(other_confidence)) == "other_confidence"


def test_objectives_have_names():
    assert objective_named("margin") is OBJECTIVES["margin"]
    with pytest.raises(ConfigError, match="unknown objective 'margn'; did you mean margin"):
        objective_named("margn")


def test_cross_entropy_takes_indices_and_distributions():
    target = F.one_hot(Y, 4).double()
    out = Outputs(Z)
    torch.testing.assert_close(CrossEntropy()(out, target), CrossEntropy()(out, Y))
    soft = 0.9 * target + 0.1 / 4
    torch.testing.assert_close(CrossEntropy()(out, soft), -(soft * F.log_softmax(Z, 1)).sum(1))
