"""Twins for crafting: exact where folded, never touching the source, following its weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_ext.engine.freeze import Crafter, frozen
from art_ext.engine.net import Net


class PreAct(nn.Module):
    """A pre-activation block: the norm in front has no layer before it, the inner one has."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.bn1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return self.head(x.mean((2, 3)))


class SharedNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.bn = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 5, 3), nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(F.relu(self.bn(self.b(F.relu(self.bn(self.a(x)))))).mean((2, 3)))


class TwoReaders(nn.Module):
    """What the convolution wrote is read a second time, beside the norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Linear(5, 4)

    def forward(self, x):
        x = self.conv(x)
        return self.head((self.bn(x) + x).relu().mean((2, 3)))


class TiedConvolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3)
        self.a, self.b = nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.b.weight = self.a.weight
        self.bn, self.head = nn.BatchNorm2d(5), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.b(self.bn(self.a(self.stem(x))).relu()).mean((2, 3)))


def tail(width):
    return [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)]


def timm_resnet():
    import timm

    return timm.create_model("test_resnet", num_classes=4, in_chans=2)


NETS = {
    # how many of the norms can be folded
    "conv bn": (1, lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), *tail(5))),
    "no bias, no affine": (
        1,
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5, affine=False), *tail(5)),
    ),
    "grouped and strided": (
        2,
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), *tail(6)
        ),
    ),
    "linear bn": (1, lambda: nn.Sequential(nn.Flatten(), nn.Linear(162, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))),
    "pre-activation": (1, PreAct),  # the shortcut reads what the stem wrote, so only the inner norm
    "timm's norm with activation": (None, timm_resnet),
    "shared norm": (0, SharedNorm),
    "two readers": (0, TwoReaders),
    "tied convolutions": (1, TiedConvolutions),
    "relu in place between": (
        0,
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(5), *tail(5)),
    ),
    "norm first": (0, lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 5, 3), *tail(5))),
    "group norm": (0, lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.GroupNorm(2, 6), *tail(6))),
    "no running statistics": (
        0,
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5, track_running_stats=False), *tail(5)),
    ),
    "dropout": (1, lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5), *tail(5))),
}
each_net = pytest.mark.parametrize(("folds", "build"), NETS.values(), ids=NETS)


def made(build, dtype=torch.float64):
    """A net in train mode with statistics and weights that are not the initial ones."""
    torch.manual_seed(0)
    net = Net(build(), mean=torch.full((2, 1, 1), 0.4), std=torch.full((2, 1, 1), 0.3)).to(dtype)
    stir(net)
    return net.train()


def stir(net, seed=0):
    """Moves every parameter and statistic in place, as training does."""
    generator = torch.Generator().manual_seed(seed)

    def like(tensor, low, high):
        return torch.rand(tensor.shape, generator=generator).mul(high - low).add(low).to(tensor)

    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(like(parameter, -0.1, 0.1))
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.copy_(like(module.running_mean, -0.5, 0.5))
                module.running_var.copy_(like(module.running_var, 0.5, 2.0))


def images(n=5, dtype=torch.float64):
    size = 9
    return torch.rand(n, 2, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)


def plain(net, x):
    """Logits and input gradient of the source itself in eval mode, on a copy."""
    net = copy.deepcopy(net).eval()
    x = x.clone().requires_grad_()
    logits = net(x).logits
    (grad,) = torch.autograd.grad(logits.square().sum(), x)
    return logits.detach(), grad


def crafted(crafter, net, x, bn="eval"):
    x = x.clone().requires_grad_()
    with crafter(net, bn, x.detach()) as forward:
        logits = forward(x).logits
        (grad,) = torch.autograd.grad(logits.square().sum(), x)
    return logits.detach(), grad


def assert_same(got, expected, tolerance=1e-9):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


@each_net
def test_twins_give_the_source_s_logits_and_gradients(folds, build):
    net, x, crafter = made(build), images(), Crafter()
    expected = plain(net, x)
    before = copy.deepcopy(net.state_dict())
    assert_same(crafted(crafter, net, x), expected)
    assert crafter.fold
    if folds is None:
        assert crafter.folded >= 3
    else:
        assert crafter.folded == folds
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


@each_net
def test_twins_follow_weights_and_statistics_updated_in_place(folds, build):
    net, x, crafter = made(build), images(), Crafter()
    crafted(crafter, net, x)
    twin = crafter._twin
    stir(net, seed=7)
    assert_same(crafted(crafter, net, x), plain(net, x))
    assert crafter._twin is twin


@pytest.mark.parametrize("replaced", ["data", "parameter", "statistics", "module", "added", "dropped"])
def test_twins_are_remade_after_tensors_were_replaced(replaced):
    net, x, crafter = made(NETS["conv bn"][1]), images(), Crafter()
    crafted(crafter, net, x)
    twin = crafter._twin
    assert not twin.stale
    conv, bn = net.module[0], net.module[1]
    if replaced == "data":
        conv.weight.data = conv.weight.data * 2
    elif replaced == "parameter":
        conv.weight = nn.Parameter(conv.weight.detach() * 2)
    elif replaced == "statistics":
        bn.running_mean = bn.running_mean + 1
    elif replaced == "module":
        net.module[0] = copy.deepcopy(conv)
        net.module[0].weight.data.mul_(2)
    elif replaced == "added":
        conv.register_parameter("bias", nn.Parameter(torch.ones(conv.out_channels, dtype=conv.weight.dtype)))
    else:
        net.module[1] = nn.Identity()
    assert twin.stale
    assert_same(crafted(crafter, net, x), plain(net, x))
    assert crafter._twin is not twin


def test_loading_a_state_keeps_the_twin_valid():
    net, x, crafter = made(NETS["conv bn"][1]), images(), Crafter()
    crafted(crafter, net, x)
    other = made(NETS["conv bn"][1])
    stir(other, 9)
    net.load_state_dict(other.state_dict())
    assert_same(crafted(crafter, net, x), plain(other, x))


def test_another_network_gets_another_twin():
    crafter, x = Crafter(), images()
    for name in ("conv bn", "pre-activation", "conv bn"):
        net = made(NETS[name][1])
        stir(net, 3)
        assert_same(crafted(crafter, net, x), plain(net, x))


def test_float32_nets_agree_to_rounding():
    net, x = made(timm_resnet, torch.float32), images(dtype=torch.float32)
    assert_same(crafted(Crafter(), net, x), plain(net, x), 1e-4)


class NoCopy(nn.Sequential):
    def __deepcopy__(self, memo):
        raise TypeError("this network cannot be copied")


class Closure(nn.Module):
    """Its forward goes through a closure, which a copy shares with its source."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Linear(5, 4)
        self.body = lambda x: self.bn(self.conv(x)).relu()

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.parametrize("build", [lambda: NoCopy(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), *tail(5)), Closure])
def test_what_cannot_be_copied_is_attacked_as_it_is(build):
    net, x, crafter = made(build), images(), Crafter()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with frozen(net):
        point = x.clone().requires_grad_()
        logits = net(point).logits
        expected = logits.detach(), torch.autograd.grad(logits.square().sum(), point)[0]
    for _ in range(2):
        assert_same(crafted(crafter, net, x), expected)
    assert crafter.folded == 0
    assert not crafter.fold
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_weight_normalised_layers_are_not_folded_wrongly():
    def build():
        conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 5, 3))
        return nn.Sequential(conv, nn.BatchNorm2d(5), *tail(5))

    net, x, crafter = made(build), images(), Crafter()
    assert_same(crafted(crafter, net, x), plain(net, x))
    stir(net, 4)
    assert_same(crafted(crafter, net, x), plain(net, x))


@pytest.mark.parametrize("fold", [True, False])
def test_statistics_stand_still_in_eval_mode_and_move_in_train_mode(fold):
    net, x, crafter = made(NETS["conv bn"][1]), images(), Crafter(fold)
    bn = net.module[1]
    for mode, moves in (("eval", False), ("train", True)):
        before = bn.running_mean.clone(), bn.num_batches_tracked.clone()
        crafted(crafter, net, x, mode)
        assert torch.equal(bn.running_mean, before[0]) is not moves
        assert int(bn.num_batches_tracked - before[1]) == int(moves)
        assert net.training


def test_train_mode_crafting_uses_the_batch_s_statistics():
    net, x = made(NETS["conv bn"][1]), images()
    logits, _ = crafted(Crafter(), net, x, "train")
    torch.testing.assert_close(logits, copy.deepcopy(net).train()(x).logits.detach())
    assert not torch.allclose(logits, plain(net, x)[0])


def test_crafting_without_folding_is_the_same():
    net, x = made(PreAct), images()
    assert_same(crafted(Crafter(fold=False), net, x), plain(net, x))


def mixed_modes():
    net = made(PreAct)
    net.module.bn1.eval()
    net.module.head.bias.requires_grad_(False)
    modes = {name: module.training for name, module in net.named_modules()}
    flags = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    return net, modes, flags


@pytest.mark.parametrize("bn", ["eval", "train"])
def test_frozen_sets_and_restores_modes_and_flags(bn):
    net, modes, flags = mixed_modes()
    with frozen(net, bn):
        assert all(module.training is (bn == "train") for module in net.modules())
        assert not any(parameter.requires_grad for parameter in net.parameters())
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == flags


def test_frozen_and_crafters_restore_after_an_exception():
    for context in (frozen, lambda net: Crafter(fold=False)(net, "train", images()), lambda net: Crafter()(
        net, "eval", images())):
        net, modes, flags = mixed_modes()
        with pytest.raises(KeyError, match="inside"), context(net):
            raise KeyError("inside")
        assert {name: module.training for name, module in net.named_modules()} == modes
        assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == flags
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())
