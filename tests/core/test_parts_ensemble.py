"""Ensembles: the mean of probabilities as logits, members as an extra, and what is no ensemble."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import art_ext
from art_ext.api import Ensemble, Facts, ModelError, find_head, log_mean_softmax
from art_ext.engine.freeze import Twin, frozen
from art_ext.engine.net import Net
from art_ext.engine.offers import check_offers

SHAPE = (1, 6, 6)


def member(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))


def test_it_predicts_by_the_mean_of_probabilities_not_of_logits():
    torch.manual_seed(0)
    members = 5 * torch.randn(6, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(log_mean_softmax(members).exp(), F.softmax(members, 2).mean(1))
    split = torch.tensor([[[9.0, 0.0, 8.0], [-20.0, 1.0, 0.0], [-20.0, 1.0, 0.0]]])
    assert log_mean_softmax(split).argmax(1) == 1
    assert split.mean(1).argmax(1) == 2


def test_saturated_and_half_precision_members_stay_finite():
    members = torch.tensor([[[1e4, -1e4], [1e4, -1e4]]], requires_grad=True)
    value = log_mean_softmax(members)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(members.grad).all()
    assert log_mean_softmax(members.detach().half()).dtype == torch.float32


def test_members_are_offered_to_whoever_asks():
    net, x = Net(art_ext.ensemble([member(0), member(1)]), wanted=frozenset({"members"})), torch.rand(5, *SHAPE)
    out = net.eval()(x)
    assert out.extras["members"].shape == (5, 2, 4)
    torch.testing.assert_close(out.logits, log_mean_softmax(out.extras["members"]))
    assert Net(net.module)(x).extras == {}


def test_crafting_folds_the_norms_of_every_member():
    net, x = Net(art_ext.ensemble([member(0), member(1)])), torch.rand(8, *SHAPE)
    net.train()
    net(x)
    twin = Twin(net, x[:2])
    assert len(twin.folded) == 2
    with frozen(net):
        torch.testing.assert_close(twin.refresh()(x).logits, net(x).logits, rtol=1e-5, atol=1e-5)
    assert all(part.training for part in net.modules())


def test_what_is_no_ensemble_is_refused():
    one = member(0)
    with pytest.raises(ModelError, match="two networks or more, got 1"):
        art_ext.ensemble([one])
    with pytest.raises(ModelError, match="members 0 and 2 of the ensemble are one network"):
        art_ext.ensemble([one, member(1), one])
    with pytest.raises(ModelError, match="members 1 and 2 of the ensemble have the same weights; build them"):
        art_ext.ensemble([one, member(1), member(1)])


def test_it_has_no_single_head():
    with pytest.raises(ModelError, match="an ensemble of 2 networks has a head in each of them"):
        find_head(art_ext.ensemble([member(0), member(1)]), Facts(4, SHAPE))
    assert isinstance(art_ext.ensemble([member(0), member(1)]), Ensemble)


def test_missing_extras_say_who_needs_them_and_where_they_come_from():
    net = Net(member(0), wanted=frozenset({"members", "odd"})).train()
    with pytest.raises(ModelError, match=r"mine needs the members .* but a Sequential has none; .*ensemble\(\["):
        check_offers(net, Facts(4, SHAPE), {"members": "mine"})
    with pytest.raises(ModelError, match=r'let its forward call art_ext.api.offer\("odd", tensor\)'):
        check_offers(net, Facts(4, SHAPE), {"odd": "mine"})
    assert net.module[1].training
    check_offers(net, Facts(4, SHAPE), {})
