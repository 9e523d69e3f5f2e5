"""Networks in timm's registry, networks as data, heads, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import nn

from art_ext.border import networks
from art_ext.border.timm import (
    Pixels,
    architecture,
    build_model,
    check_network,
    count_parameters,
    find_head,
    rebuild,
)
from art_ext.errors import ConfigError, ModelError

NAMES = sorted(networks.default_cfgs)
SMALL = ("lenet5", "small_cnn", "vgg13_small", "preact_resnet18", "resnet18_cifar", "resnet20_cifar", "resnet56_cifar")


def on_meta(name: str, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


@cache
def shapes_of(name: str) -> nn.Module:
    """For looking at only."""
    return on_meta(name)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Layers this small are slower on several threads, and hundreds of times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ----------------------------------------------------------------------------- the networks


@pytest.mark.parametrize(
    ("name", "channels", "expected"),
    [
        ("lenet5", 1, 61_706),  # the modern count of LeCun's "60,000 trainable parameters"
        ("cnn4_stride", 1, 379_702),  # of convolutions 64,992, then 3136-100-10
        ("cnn4_pool", 1, 312_202),  # of convolutions 64,992, then 1024-200-200-10
        ("vgg13_small", 3, 9_416_010),  # configuration B with biases and batch norm, head 512-10
        ("preact_resnet18", 3, 11_172_170),
        ("resnet18_cifar", 3, 11_173_962),
        ("wrn_28_10", 3, 36_479_194),  # 36.5 M, Zagoruyko & Komodakis, table 4
        ("wrn_34_10", 3, 46_160_474),
        ("wrn_34_20", 3, 184_531_674),
        ("resnet20_cifar", 3, 269_722),  # 0.27 M, He et al., table 6
        ("resnet56_cifar", 3, 853_018),  # 0.85 M, the same
    ],
)
def test_parameters_are_the_papers(name: str, channels: int, expected: int) -> None:
    assert count_parameters(on_meta(name, num_classes=10, in_chans=channels)) == expected


def test_the_table_in_the_docstring_is_true() -> None:
    rows = re.findall(r"^(\w+) .* (\d+\.\d\d) M  (\d+)x\d+$", networks.__doc__ or "", re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == NAMES
    for name, millions, smallest in rows:
        model = shapes_of(name)
        assert f"{count_parameters(model) / 1e6:.2f}" == millions, name
        assert model.smallest == int(smallest) == model.pretrained_cfg["min_input_size"][1], name


@pytest.mark.parametrize("name", NAMES)
def test_timms_conventions(name: str) -> None:
    model = on_meta(name, num_classes=7, in_chans=1)
    cfg = model.pretrained_cfg
    assert cfg["architecture"] == name
    assert not {"url", "hf_hub_id", "file"} & set(cfg)
    assert model.default_cfg == cfg
    assert model.num_classes == 7
    assert model.get_classifier() is model.get_submodule(cfg["classifier"])
    first = model.get_submodule(cfg["first_conv"])
    assert first.in_channels == 1
    x = torch.zeros(2, 1, 32, 32, device="meta")
    maps = model.forward_features(x)
    assert maps.shape[:2] == (2, model.num_features)
    features = model.forward_head(maps, pre_logits=True)
    assert features.shape == (2, model.head_hidden_size)
    assert model.get_classifier().in_features == model.head_hidden_size
    assert model(x).shape == (2, 7)
    model.reset_classifier(3)
    assert (model.num_classes, model(x).shape) == (3, (2, 3))
    assert model.fc.weight.is_meta
    model.reset_classifier(0)
    assert model(x).shape == (2, model.head_hidden_size)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(8, 8), (16, 20), (28, 28), (32, 32), (33, 47), (64, 64)])
def test_sizes(name: str, size: tuple[int, int]) -> None:
    model = shapes_of(name)
    x = torch.zeros(2, 3, *size, device="meta")
    if min(size) < model.smallest:
        with pytest.raises(ModelError, match=rf"^{name} needs images of at least {model.smallest}x"):
            model(x)
    else:
        assert model(x).shape == (2, 10)


def test_too_small_or_other_channels_is_one_line() -> None:
    model = timm.create_model("small_cnn", in_chans=1)
    with pytest.raises(ModelError, match="small_cnn needs images of at least 8x8 pixels and got 4x6") as caught:
        model(torch.zeros(1, 1, 4, 6))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"built for images of 1 channels.*in_chans"):
        model(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("name", NAMES)
def test_no_pretrained_weights(name: str) -> None:
    with pytest.raises(ModelError, match=f"^{name} has no pretrained weights") as caught:
        timm.create_model(name, pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SMALL)
def test_same_seed_same_weights_and_finite_gradients(name: str) -> None:
    size = max(8, timm.get_pretrained_cfg(name).min_input_size[1])
    first, second, other = (
        build_model(name, num_classes=10, input_shape=(1, size, size), seed=seed) for seed in (1, 1, 2)
    )
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    x = torch.rand(4, 1, size, size, requires_grad=True)
    logits = first.train()(x)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert logits.shape == (4, 10)
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    for key, parameter in first.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", [n for n in SMALL if n != "lenet5"])
def test_signals_keep_their_size_at_the_start(name: str) -> None:
    model = build_model(name, num_classes=10, input_shape=(3, 16, 16), seed=0).train()
    logits = model(torch.randn(8, 3, 16, 16))
    assert 0.05 < float(logits.detach().std()) < 20


def test_preactivation_units_are_the_papers() -> None:
    """x + f(x) in plain units; project(relu(BN(x))) + f(x) where the shape changes and behind the stem."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    for channels, width, stride, first in ((4, 4, 1, False), (4, 4, 1, True), (4, 8, 2, False)):
        unit = networks.PreActBlock(channels, width, stride, first).eval()
        with torch.no_grad():
            unit.bn1.running_mean.normal_()
            unit.bn2.running_mean.normal_()
            a = torch.relu(unit.bn1(x))
            f = unit.conv2(torch.relu(unit.bn2(unit.conv1(a))))
            skip = x if not first and stride == 1 else unit.shortcut(a.clone())
            assert torch.allclose(unit(x.clone()), skip + f, atol=1e-6)


def test_parameter_free_shortcut_halves_and_fills_with_zeros() -> None:
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    out = networks.PadShortcut(2, 2)(x)
    assert out[0].tolist() == [[[0, 2], [6, 8]], [[9, 11], [15, 17]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]


@pytest.mark.parametrize("shape", [(6, 6), (6, 4), (5, 7), (2, 2), (1, 1)])
def test_tiles_are_adaptive_pooling(shape: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *shape)
    for layout in (torch.contiguous_format, torch.channels_last):
        expected = nn.functional.adaptive_avg_pool2d(maps, 2)
        assert torch.allclose(networks.tiles(maps.to(memory_format=layout), 2), expected, atol=1e-6)


def test_lenet_sees_a_small_image_in_the_middle_of_its_field() -> None:
    model = timm.create_model("lenet5", in_chans=1).eval()
    x = torch.rand(2, 1, 7, 15)
    field = torch.zeros(2, 1, 32, 32)
    field[..., 9:23, 1:31] = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    with pytest.raises(ModelError):
        model(x)  # 7 pixels are too few
    model.smallest = 7
    assert torch.allclose(model(x), model(field), atol=1e-6)
    assert torch.equal(networks.enlarge(x, 4), x.repeat_interleave(4, -1).repeat_interleave(4, -2))


def test_width_is_an_option() -> None:
    assert timm.create_model("small_cnn", width=4).num_features == 16
    assert on_meta("resnet20_cifar", width=64).num_features == 256


def test_what_norms_add_to_a_variance_is_an_option() -> None:
    def eps(**options: float) -> set[float]:
        network = timm.create_model("resnet20_cifar", **options)
        return {module.eps for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)}

    assert eps() == {1e-5}
    assert eps(bn_eps=1e-3) == {1e-3}


# ------------------------------------------------------------------------------ build_model


def test_pixels_are_standardised_inside() -> None:
    plain = build_model("small_cnn", num_classes=10, input_shape=(3, 8, 8), seed=3).eval()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    model = build_model("small_cnn", num_classes=10, input_shape=(3, 8, 8), mean=mean, std=std, seed=3).eval()
    assert isinstance(model, Pixels)
    x = torch.rand(4, 3, 8, 8)
    by_hand = (x - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
    assert torch.allclose(model(x), plain(by_hand), atol=1e-6)
    assert torch.equal(model.forward_head(model.forward_features(x)), model(x))
    assert model.get_classifier() is model.backbone.fc
    assert find_head(model, x) == ("backbone.fc", model.backbone.fc)
    assert (model.num_classes, model.num_features) == (10, 64)
    assert model.pretrained_cfg == model.default_cfg == plain.pretrained_cfg
    model.reset_classifier(4)
    assert model(x).shape == (4, 4)
    one = build_model("small_cnn", num_classes=10, input_shape=(3, 8, 8), mean=0.5, seed=3).eval()
    assert torch.allclose(one(x), plain(x - 0.5), atol=1e-6)


def test_a_seed_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_model("small_cnn", num_classes=10, input_shape=(1, 8, 8), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_vits_get_their_image_size() -> None:
    model = build_model("test_vit", num_classes=5, input_shape=(3, 32, 32), patch_size=8)
    check_network(model, torch.rand(2, 3, 32, 32), 5)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"name": "preact_resnet81"}, ConfigError, r"unknown network 'preact_resnet81'; did you mean preact_resnet18"),
        ({"name": "hf-hub:someone/net"}, ConfigError, r"unknown network 'hf-hub:someone/net'.*list_models"),
        ({"name": "local-dir:/tmp"}, ConfigError, r"unknown network"),
        ({"name": "xyzzy"}, ConfigError, r"unknown network 'xyzzy'; timm.list_models\(\) lists all"),
        ({"num_classes": 1}, ConfigError, r"num_classes is 1; .* num_classes=2"),
        ({"input_shape": (8, 8)}, ConfigError, r"input_shape is \[8, 8\]"),
        ({"mean": (0.5, 0.5)}, ConfigError, r"mean has 2 numbers for 3 channels"),
        ({"std": 0.0}, ConfigError, r"std is \[0.0, 0.0, 0.0\].*positive"),
        ({"in_chans": 3}, ConfigError, r"leave in_chans out"),
        ({"widht": 3}, ModelError, r"timm cannot build small_cnn: .*widht"),
        ({"input_shape": (3, 4, 4)}, ModelError, r"small_cnn needs images of at least 8x8 pixels and got 4x4"),
        ({"pretrained": True}, ModelError, r"small_cnn has no pretrained weights"),
        ({"bn_eps": 0}, ModelError, r"bn_eps is a number above 0 and below 1, got 0; 1e-5 is torch's own"),
        ({"name": "lenet5", "bn_eps": 1e-3}, ModelError, r"lenet5 has no batch norms; leave bn_eps out"),
    ],
)
def test_build_errors(kwargs: dict[str, object], error: type[Exception], message: str) -> None:
    given = {"name": "small_cnn", "num_classes": 10, "input_shape": (3, 8, 8)} | kwargs
    with pytest.raises(error, match=message) as caught:
        build_model(**given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------- networks as data


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("small_cnn", (1, 8, 8), {"width": 4}),
        ("small_cnn", (3, 16, 16), {"mean": (0.5, 0.5, 0.5), "std": 0.25}),
        ("resnet20_cifar", (3, 16, 16), {"depths": (1, 1, 1), "bn_eps": 0.1}),
        ("test_resnet", (3, 32, 32), {"mean": 0.1}),
        ("test_vit", (3, 32, 32), {"patch_size": 8, "act_layer": "relu"}),
    ],
)
def test_rebuilt_networks_give_the_same_logits(name: str, shape: tuple[int, int, int], options: dict[str, Any]) -> None:
    model = build_model(name, num_classes=6, input_shape=shape, **options)
    model(torch.rand(8, *shape))  # statistics of batch norms move
    data = json.loads(json.dumps(architecture(model)))
    again = rebuild(data, model.state_dict())
    x = torch.rand(4, *shape)
    assert torch.equal(model.eval()(x), again.eval()(x))
    assert architecture(again) == architecture(model) == data
    assert (data["name"], data["versions"]["timm"]) == (name, timm.__version__)


def test_a_new_head_is_part_of_the_architecture() -> None:
    model = build_model("small_cnn", num_classes=6, input_shape=(1, 8, 8), mean=0.5)
    model.reset_classifier(4)  # type: ignore[operator]
    again = rebuild(architecture(model), model.state_dict())
    assert again(torch.rand(2, 1, 8, 8)).shape == (2, 4)


def test_a_change_is_done_again_before_the_weights_come() -> None:
    def wider(model: nn.Module) -> nn.Module:
        model.fc = nn.Sequential(nn.Linear(1024, 20), nn.Linear(20, 6))
        return model

    model = wider(build_model("small_cnn", num_classes=6, input_shape=(1, 8, 8)))
    again = rebuild(architecture(model), model.state_dict(), change=wider)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model.eval()(x), again.eval()(x))
    with pytest.raises(ModelError, match="cannot build small_cnn again: ") as caught:
        rebuild(architecture(model), model.state_dict())
    assert "\n" not in str(caught.value)


def test_timms_own_networks_are_recalled_when_timm_remembers_them() -> None:
    model = timm.create_model("small_cnn", num_classes=5, in_chans=1, width=4)
    if not hasattr(model, "_model_args"):
        pytest.skip("this timm does not remember the options of a network")
    again = rebuild(architecture(model, (1, 8, 8)), model.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model.eval()(x), again.eval()(x))
    model.layers[0] = nn.Conv2d(1, 4, 5, padding=2)  # it is another network now
    with pytest.raises(ModelError, match="nobody knows how this SmallCNN was built; build it with"):
        architecture(model, (1, 8, 8))


def test_unknown_architectures() -> None:
    with pytest.raises(ModelError, match="nobody knows how this Sequential was built"):
        architecture(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    model = build_model("test_vit", num_classes=3, input_shape=(3, 32, 32), patch_size=8, act_layer=nn.ReLU)
    with pytest.raises(ModelError, match=r"test_vit was built with act_layer=.*, which is no data"):
        architecture(model)


def test_a_strangers_architecture_fetches_nothing() -> None:
    model = build_model("small_cnn", num_classes=10, input_shape=(1, 8, 8))
    good, weights = architecture(model), model.state_dict()
    for change, message in (
        ({"kwargs": {"pretrained": True}}, "names a source of weights"),
        ({"kwargs": {"checkpoint_path": "/x"}}, "names a source of weights"),
        ({"kwargs": {"pretrained_cfg_overlay": {"file": "/x"}}}, "names a source of weights"),
        ({"kwargs": {"seed": 1}}, "has seed among its kwargs"),
        ({"name": "hf-hub:someone/net"}, "unknown network"),
        ({"name": ["x"]}, "unknown network"),
        ({"name": "small_cnn.tag"}, "cannot build small_cnn.tag"),
        ({"kwargs": 3}, "lacks or garbles"),
        ({"input_shape": None}, "lacks or garbles"),
        ({"num_classes": "many"}, "lacks or garbles"),
        ({"mean": "dark"}, "cannot build small_cnn again: mean is 'dark'"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            rebuild(good | change, weights)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="lacks or garbles 'name'"):
        rebuild({}, weights)
    with pytest.raises(ModelError, match=r"again \(saved by timm 0.0, this is .*\): "):
        rebuild(good | {"versions": {"timm": "0.0"}}, {})


# ------------------------------------------------------------------------- any torch network


class Custom(nn.Module):
    """The head is made first and met last; an unused layer comes after it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(5, 3)
        self.body = nn.Linear(64, 5)
        self.unused = nn.Linear(3, 3)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.out(torch.relu(self.body(x.flatten(1))))


def test_heads() -> None:
    x = torch.rand(2, 3, 32, 32)
    for name, path in (("test_resnet", "fc"), ("resnet18_cifar", "fc"), ("test_vit", "head")):
        model = timm.create_model(name, **({"img_size": 32, "patch_size": 8} if name == "test_vit" else {}))
        found = find_head(model, x)
        assert found == (path, model.get_submodule(path))
    image = torch.rand(2, 1, 8, 8)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3), nn.Identity())
    assert find_head(plain, image) == ("3", plain[3])
    custom = Custom()
    assert find_head(custom, image) == ("out", custom.out)
    assert find_head(custom, image, head="body") == ("body", custom.body)
    with pytest.raises(ModelError, match=r"unknown head of the network 'bodi'; did you mean body"):
        find_head(custom, image, head="bodi")
    with pytest.raises(ModelError, match="no get_classifier"):
        find_head(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), image)
    with pytest.raises(ModelError, match=r"Custom fails on images of shape \(1, 9, 9\)"):
        find_head(custom, torch.rand(2, 1, 9, 9))


class Gives(nn.Module):
    def __init__(self, make: object) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor) -> object:
        return self.make(x.flatten(1))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: (x[:, :3], x), r"returns a tuple, but attacks need one tensor of logits \(N, 3\)"),
        (lambda x: {"logits": x[:, :3]}, r"returns a dict, but attacks need"),
        (lambda x: x[:, :1], r"gives a single logit; .* nn.Linear\(..., 2\)"),
        (lambda x: x[:, 0], r"gives a single logit"),
        (lambda x: x[:, :4], r"gives logits of shape \(2, 4\) for 2 images, but 3 classes need \(2, 3\)"),
        (lambda x: x[:1, :3], r"gives logits of shape \(1, 3\)"),
        (lambda x: x[:, :3].argmax(1), r"gives a single logit"),
        (lambda x: x[:, :3].long(), r"gives torch.int64 instead of logits"),
        (lambda x: x[:, :3] / 0, r"gives logits that are not finite"),
        (lambda x: x @ x, r"Gives fails on images of shape \(1, 8, 8\): "),
    ],
)
def test_networks_that_are_refused(make: object, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        check_network(Gives(make), torch.rand(2, 1, 8, 8), 3)
    assert "\n" not in str(caught.value)


def test_checking_leaves_the_network_as_it_was() -> None:
    model = nn.Sequential(Custom(), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model.train()
    model[1].eval()
    model[0].body.weight.requires_grad_(False)
    modes = [part.training for part in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    check_network(model, torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 3)
    with pytest.raises(ModelError):
        check_network(model, torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0)), 3)
    assert [part.training for part in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_parameters_are_counted_once() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(3, 2, bias=False))
    model[3].weight.requires_grad_(False)
    assert count_parameters(model) == 12 + 6
    assert count_parameters(model, trainable=True) == 12
