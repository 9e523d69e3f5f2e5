"""Networks for small images, in timm's registry: `timm.create_model(name, num_classes=, in_chans=)` builds them.

========================  =================================================  ==========  ========
name                      paper                                              parameters  smallest
========================  =================================================  ==========  ========
lenet5                    LeCun et al., 1998, with ReLU and max pooling          0.06 M  8x8
small_cnn                 none; three layers, for digits                         0.03 M  8x8
cnn4_stride               Huang et al., 2021, CAT's for MNIST                    0.38 M  8x8
cnn4_pool                 Carlini & Wagner, 2017, for MNIST; TRADES' too         0.31 M  16x16
vgg13_small               Simonyan & Zisserman, 2015, with batch norm            9.42 M  16x16
preact_resnet18           He et al., 2016, Identity mappings                    11.17 M  8x8
resnet18_cifar            He et al., 2016, Deep residual learning               11.17 M  8x8
wrn_28_10                 Zagoruyko & Komodakis, 2016                           36.48 M  8x8
wrn_34_10                 Zagoruyko & Komodakis, 2016; Zhang et al., 2019       46.16 M  8x8
wrn_34_20                 Zagoruyko & Komodakis, 2016; Pang et al., 2021       184.53 M  8x8
resnet20_cifar            He et al., 2016, Deep residual learning                0.27 M  8x8
resnet56_cifar            He et al., 2016, Deep residual learning                0.85 M  8x8
========================  =================================================  ==========  ========

Parameters are for 10 classes and 3 channels. All map images (N, C, H, W) to logits (N, K); larger
images than the paper's are pooled more. None has pretrained weights. They follow timm's
conventions: `num_features` channels leave `forward_features`, `head_hidden_size` numbers enter the
head, which `get_classifier` gives and `reset_classifier` replaces. All with batch norms take `bn_eps`,
what these add to a variance: 1e-5, and 1e-3 in networks that came from TensorFlow.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from art_ext.errors import ModelError

__all__ = [
    "VGG",
    "FourLayerCNN",
    "LeNet5",
    "PreActResNet",
    "ResNet",
    "SmallCNN",
    "SmallImageNetwork",
    "cnn4_pool",
    "cnn4_stride",
    "lenet5",
    "preact_resnet18",
    "resnet18_cifar",
    "resnet20_cifar",
    "resnet56_cifar",
    "small_cnn",
    "vgg13_small",
    "wrn_28_10",
    "wrn_34_10",
    "wrn_34_20",
]


# ----------------------------------------------------------------------------------------- base


class SmallImageNetwork(nn.Module):
    """What the networks have in common: a body that gives maps, pooling, and a linear head `fc`.

    Args:
        num_classes: K; 0 for features instead of logits.
        in_chans: C.
        num_features: channels of the maps.
        head_hidden_size: numbers that enter the head.
        drop_rate: dropout before the head.
    """

    smallest = 8
    """Pixels that the shorter side must have."""

    def __init__(
        self, num_classes: int, in_chans: int, num_features: int, head_hidden_size: int, drop_rate: float
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features, self.head_hidden_size = num_features, head_hidden_size
        self.drop_rate = drop_rate

    def body(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to maps (N, num_features, h, w)."""
        raise NotImplementedError

    def pool(self, maps: Tensor) -> Tensor:
        """Maps to (N, head_hidden_size)."""
        return tiles(maps, 1).flatten(1)

    def forward_features(self, x: Tensor) -> Tensor:
        self.check_input(tuple(x.shape[1:]))
        return self.body(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        features: Tensor = self.head_drop(self.pool(x))
        if pre_logits:
            return features
        logits: Tensor = self.fc(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head; the body stays as it is.

        Raises:
            ModelError: for a pooling other than the network's own.
        """
        if global_pool not in (None, "", "avg"):
            raise ModelError(f"{self.name} averages its maps; it cannot pool by {global_pool!r}, leave global_pool out")
        like = next(self.parameters())
        self.num_classes = num_classes
        self.fc = head(self.head_hidden_size, num_classes).to(device=like.device, dtype=like.dtype)

    @property
    def name(self) -> str:
        """The name that timm's registry knows the network by."""
        return str(getattr(self, "pretrained_cfg", {}).get("architecture", type(self).__name__))

    def check_input(self, shape: tuple[int, ...]) -> None:
        """Refuses images that the network cannot take.

        Args:
            shape: (C, H, W) of one image.

        Raises:
            ModelError: for too few pixels or another number of channels.
        """
        if len(shape) != 3 or shape[0] != self.in_chans:
            raise ModelError(
                f"{self.name} was built for images of {self.in_chans} channels, (C, H, W), and got {shape}; "
                "build it with in_chans equal to their channels"
            )
        if min(shape[1:]) < self.smallest:
            raise ModelError(
                f"{self.name} needs images of at least {self.smallest}x{self.smallest} pixels and got "
                f"{shape[1]}x{shape[2]}; enlarge them" + (", or use small_cnn" if self.smallest > 8 else "")
            )

    def _finish(self) -> None:
        """The head and the initial weights; called at the end of each constructor."""
        self.head_drop = nn.Dropout(self.drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Fan out keeps the variance of gradients, and gradients are what attacks live on.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.fc = head(self.head_hidden_size, self.num_classes)


def head(width: int, num_classes: int) -> nn.Module:
    """A linear layer (N, width) to (N, K), Kaiming-initialised without a ReLU's gain; for no classes, nothing."""
    if num_classes <= 0:
        return nn.Identity()
    layer = nn.Linear(width, num_classes)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    nn.init.zeros_(layer.bias)
    return layer


def tiles(maps: Tensor, side: int) -> Tensor:
    """The means of side x side tiles: (N, C, h, w) to (N, C, side, side).

    Plain means wherever the tiles are equal, since the gradient of adaptive pooling has no
    deterministic implementation on CUDA.
    """
    height, width = maps.shape[-2:]
    if height == side == width:
        return maps
    if height % side or width % side:
        return F.adaptive_avg_pool2d(maps, side)
    return maps.reshape(*maps.shape[:2], side, height // side, side, width // side).mean((-3, -1))


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Each pixel becomes a square of factor x factor: (N, C, H, W) to (N, C, factor H, factor W)."""
    if factor <= 1:
        return x
    n, channels, height, width = x.shape
    squares = x[..., :, None, :, None].expand(-1, -1, -1, factor, -1, factor)
    return squares.reshape(n, channels, factor * height, factor * width)


def conv3x3(channels: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)  # a batch norm follows: no bias


def conv1x1(channels: int, width: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 1, stride, bias=False)


# -------------------------------------------------------------------------------- plain networks


class LeNet5(SmallImageNetwork):
    """LeNet-5 (LeCun et al., 1998, fig. 2), with ReLU and max pooling for tanh and trained subsampling.

    As in the paper, images stand in the middle of a field of 32x32: smaller ones are enlarged by the
    whole factor that fits, and get a margin of zeros. Larger ones are pooled to 5x5 maps as well.
    """

    field = 32

    def __init__(self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__(num_classes, in_chans, num_features=16, head_hidden_size=84, drop_rate=drop_rate)
        self.conv1 = nn.Conv2d(in_chans, 6, 5)
        self.act1 = nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.act2 = nn.ReLU(inplace=True)
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.act3 = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(120, 84)
        self.act4 = nn.ReLU(inplace=True)
        self._finish()

    def body(self, x: Tensor) -> Tensor:
        x = enlarge(x, self.field // max(x.shape[-2:]))
        down, right = (max(self.field - side, 0) for side in x.shape[-2:])
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        x = self.pool1(self.act1(self.conv1(x)))
        maps: Tensor = self.pool2(self.act2(self.conv2(x)))
        return maps

    def pool(self, maps: Tensor) -> Tensor:
        x = self.act3(self.fc1(tiles(maps, 5).flatten(1)))
        features: Tensor = self.act4(self.fc2(x))
        return features


class FourLayerCNN(SmallImageNetwork):
    """Four 3x3 convolutions of 32, 32, 64 and 64 channels with ReLU, and hidden layers: networks of papers on MNIST.

    Args:
        pooled: false: padded, and the second and fourth halve the maps by their stride, to 7x7 from
            28x28 (Huang et al., 2021, table 5). true: not padded, with 2x2 max pooling behind the second
            and fourth, to 4x4, and dropout between the hidden layers (Carlini & Wagner, 2017, table 1).
        hidden: units of the layers before the head.
        drop_rate: of that dropout; the head has none.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        pooled: bool = False,
        hidden: Sequence[int] = (100,),
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_chans, num_features=64, head_hidden_size=hidden[-1], drop_rate=0.0)
        self.side = 4 if pooled else 7
        self.smallest = 16 if pooled else 8
        layers: list[nn.Module] = []
        for before, after, halves in ((in_chans, 32, False), (32, 32, True), (32, 64, False), (64, 64, True)):
            stride = 2 if halves and not pooled else 1
            layers += [nn.Conv2d(before, after, 3, stride, padding=0 if pooled else 1), nn.ReLU(inplace=True)]
            if halves and pooled:
                layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        units = [64 * self.side**2, *hidden]
        dense: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise(units)):
            dense += [nn.Dropout(drop_rate)] if number else []
            dense += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        self.dense = nn.Sequential(*dense)
        self._finish()

    def body(self, x: Tensor) -> Tensor:
        maps: Tensor = self.layers(x)
        return maps

    def pool(self, maps: Tensor) -> Tensor:
        features: Tensor = self.dense(tiles(maps, self.side).flatten(1))
        return features


class SmallCNN(SmallImageNetwork):
    """Three layers of 3x3 convolution, batch norm and ReLU, 4x4 means of their maps, and a head.

    The first layer keeps the resolution, the second halves it by its stride: at 8x8, pooling behind
    the first layer costs ten points of PGD accuracy after PGD training, and is no faster.

    Args:
        width: channels of the first layer; the others have twice and four times as many.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, width: int = 16, drop_rate: float = 0.0) -> None:
        super().__init__(num_classes, in_chans, 4 * width, head_hidden_size=64 * width, drop_rate=drop_rate)
        self.layers = nn.Sequential(
            *layer(in_chans, width),
            *layer(width, 2 * width, stride=2),
            *layer(2 * width, 4 * width),
        )
        self._finish()

    def body(self, x: Tensor) -> Tensor:
        maps: Tensor = self.layers(x)
        return maps

    def pool(self, maps: Tensor) -> Tensor:
        # Where a stroke stands tells digits apart. Place by place, as channels-last maps lie in memory:
        # in the other order the gradient comes back transposed, and the pass before it slows by a tenth.
        return tiles(maps, 4).permute(0, 2, 3, 1).flatten(1)


class VGG(SmallImageNetwork):
    """VGG with batch norm for small images (Simonyan & Zisserman, 2015, table 1): one linear layer as its head.

    Args:
        layers: 3x3 convolutions in each of the five stages; (2, 2, 2, 2, 2) is configuration B, VGG-13.
        widths: their channels.
        drop_rate: dropout before the head; the paper's 0.5.
    """

    smallest = 16

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        layers: Sequence[int] = (2, 2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        drop_rate: float = 0.5,
    ) -> None:
        super().__init__(num_classes, in_chans, widths[-1], widths[-1], drop_rate)
        parts: list[nn.Module] = []
        channels = in_chans
        for count, width in zip(layers, widths, strict=True):
            for _ in range(count):
                parts += layer(channels, width, bias=True)
                channels = width
            parts.append(nn.MaxPool2d(2, ceil_mode=True))  # rounding up keeps 28x28 alive through five poolings
        self.features = nn.Sequential(*parts)
        self._finish()

    def body(self, x: Tensor) -> Tensor:
        maps: Tensor = self.features(x)
        return maps


def layer(channels: int, width: int, *, stride: int = 1, bias: bool = False) -> tuple[nn.Module, ...]:
    """3x3 convolution, batch norm, ReLU."""
    conv = nn.Conv2d(channels, width, 3, stride, padding=1, bias=bias)
    return conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)


# ---------------------------------------------------------------------------- residual networks


class PadShortcut(nn.Module):
    """Every `stride`-th pixel, and `extra` channels of zeros: option A of He et al., 2016; no parameters."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class Block(nn.Module):
    """relu(shortcut(x) + BN(conv(relu(BN(conv(x)))))): the unit of He et al., 2016, Deep residual learning.

    Args:
        project: 1x1 convolution and batch norm where the shape changes (option B), else zeros (option A).
    """

    def __init__(self, channels: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if (stride != 1 or channels != width) and project:
            self.shortcut = nn.Sequential(conv1x1(channels, width, stride), nn.BatchNorm2d(width))
        elif stride != 1 or channels != width:
            self.shortcut = PadShortcut(stride, width - channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act1(self.bn1(self.conv1(x)))
        total: Tensor = self.bn2(self.conv2(out)) + self.shortcut(x)
        activated: Tensor = self.act2(total)
        return activated


class PreActBlock(nn.Module):
    """x + conv(relu(BN(conv(relu(BN(x)))))): the full pre-activation unit of He et al., 2016, Identity mappings.

    Where the shape changes, and in the first unit behind the stem, both branches read the first
    activation (their appendix), so that the shortcut is project(relu(BN(x))).
    """

    def __init__(self, channels: int, width: int, stride: int, first: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv1 = conv3x3(channels, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        changes = stride != 1 or channels != width
        self.activates_both = first or changes
        self.shortcut: nn.Module = conv1x1(channels, width, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(x))
        skip: Tensor = self.shortcut(out if self.activates_both else x)
        residual: Tensor = self.conv2(self.act2(self.bn2(self.conv1(out))))
        return skip + residual


class ResNet(SmallImageNetwork):
    """ResNet for small images (He et al., 2016, Deep residual learning): a 3x3 stem and no pooling before the stages.

    Args:
        depths: units in each stage; all stages but the first halve the maps.
        width: channels of the stem and the first stage; doubled from stage to stage.
        project: option B of the paper (a 1x1 convolution where the shape changes) instead of A (zeros).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        depths: Sequence[int] = (3, 3, 3),
        width: int = 16,
        project: bool = False,
        drop_rate: float = 0.0,
    ) -> None:
        last = width * 2 ** (len(depths) - 1)
        super().__init__(num_classes, in_chans, last, last, drop_rate)
        self.conv1 = conv3x3(in_chans, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        units: list[nn.Module] = []
        channels = width
        for stage, depth in enumerate(depths):
            for unit in range(depth):
                stride = 2 if stage > 0 and unit == 0 else 1
                units.append(Block(channels, width * 2**stage, stride, project))
                channels = width * 2**stage
        self.units = nn.Sequential(*units)
        self._finish()

    def body(self, x: Tensor) -> Tensor:
        maps: Tensor = self.units(self.act1(self.bn1(self.conv1(x))))
        return maps


class PreActResNet(SmallImageNetwork):
    """ResNet of pre-activation units (He et al., 2016, Identity mappings), and wide ones (Zagoruyko & Komodakis, 2016).

    Args:
        depths: units in each stage; all stages but the first halve the maps.
        widths: channels of each stage.
        stem: channels of the first convolution.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        depths: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: int = 64,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_chans, widths[-1], widths[-1], drop_rate)
        self.conv1 = conv3x3(in_chans, stem)
        units: list[nn.Module] = []
        channels = stem
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for unit in range(depth):
                stride = 2 if stage > 0 and unit == 0 else 1
                units.append(PreActBlock(channels, width, stride, first=not units))
                channels = width
        self.units = nn.Sequential(*units)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self._finish()

    def body(self, x: Tensor) -> Tensor:
        maps: Tensor = self.act(self.bn(self.units(self.conv1(x))))
        return maps


# ------------------------------------------------------------------------------- timm's registry


def _cfg(paper: str, smallest: int = SmallImageNetwork.smallest, conv: str = "conv1") -> dict[str, Any]:
    """What timm wants to know of a network; mean 0 and std 1, since pixels come in as they are."""
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "min_input_size": (3, smallest, smallest),
        "crop_pct": 1.0,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "first_conv": conv,
        "classifier": "fc",
        "paper_ids": paper,
    }


default_cfgs = {
    "lenet5": _cfg("doi:10.1109/5.726791"),
    "cnn4_stride": _cfg("arXiv:2110.00623", conv="layers.0"),
    "cnn4_pool": _cfg("arXiv:1608.04644", 16, "layers.0"),
    "small_cnn": _cfg("", conv="layers.0"),
    "vgg13_small": _cfg("arXiv:1409.1556", VGG.smallest, "features.0"),
    "preact_resnet18": _cfg("arXiv:1603.05027"),
    "resnet18_cifar": _cfg("arXiv:1512.03385"),
    "wrn_28_10": _cfg("arXiv:1605.07146"),
    "wrn_34_10": _cfg("arXiv:1605.07146"),
    "wrn_34_20": _cfg("arXiv:1605.07146"),
    "resnet20_cifar": _cfg("arXiv:1512.03385"),
    "resnet56_cifar": _cfg("arXiv:1512.03385"),
}


def _build(
    network: type[SmallImageNetwork], name: str, pretrained: bool, given: dict[str, Any], **usual: Any
) -> SmallImageNetwork:
    if pretrained:
        raise ModelError(f"{name} has no pretrained weights; build it with pretrained=False and train it")
    bn_eps = given.pop("bn_eps", None)
    built = build_model_with_cfg(network, name, False, **{**usual, **given})
    assert isinstance(built, network)
    if bn_eps is not None:
        _set_bn_eps(built, name, bn_eps)
    return built


def _set_bn_eps(network: nn.Module, name: str, eps: Any) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not isinstance(eps, int | float) or isinstance(eps, bool) or not 0 < eps < 1:
        raise ModelError(f"bn_eps is a number above 0 and below 1, got {eps!r}; 1e-5 is torch's own")
    if not norms:
        raise ModelError(f"{name} has no batch norms; leave bn_eps out")
    for norm in norms:
        norm.eps = float(eps)


def _wide(name: str, depth: int, factor: int, pretrained: bool, given: dict[str, Any]) -> SmallImageNetwork:
    """A wide ResNet of so many layers, 6 n + 4, `factor` times as wide as the thin one."""
    units = (depth - 4) // 6
    widths = (16 * factor, 32 * factor, 64 * factor)
    return _build(PreActResNet, name, pretrained, given, depths=(units,) * 3, widths=widths, stem=16)


@register_model
def lenet5(pretrained: bool = False, **kwargs: Any) -> SmallImageNetwork:
    """LeNet-5 (LeCun et al., 1998), 61,706 parameters on one channel."""
    return _build(LeNet5, "lenet5", pretrained, kwargs)


@register_model
def cnn4_stride(pretrained: bool = False, **kwargs: Any) -> SmallImageNetwork:
    """CAT's network for MNIST (Huang et al., 2021, table 5)."""
    return _build(FourLayerCNN, "cnn4_stride", pretrained, kwargs)


@register_model
def cnn4_pool(pretrained: bool = False, **kwargs: Any) -> SmallImageNetwork:
    """The network of Carlini & Wagner (2017) for MNIST, with dropout 0.5; TRADES' too."""
    usual = {"pooled": True, "hidden": (200, 200), "drop_rate": 0.5}
    return _build(FourLayerCNN, "cnn4_pool", pretrained, kwargs, **usual)


@register_model
def small_cnn(pretrained: bool = False, **kwargs: Any) -> SmallImageNetwork:
    """Three layers for images of 8x8 to 32x32 pixels; `width` is 16 unless told."""
    return _build(SmallCNN, "small_cnn", pretrained, kwargs)


@register_model
def vgg13_small(pretrained: bool = False, **kwargs: Any) -> SmallImageNetwork:
    """VGG-13 with batch norm, and dropout before its one-layer head (Simonyan & Zisserman, 2015)."""
    return _build(VGG, "vgg13_small", pretrained, kwargs)


@register_model
def preact_resnet18(pretrained: bool = False, **kwargs: Any) -> SmallImageNetwork:
    """Pre-activation ResNet-18 with a 3x3 stem (He et al., 2016, Identity mappings)."""
    return _build(PreActResNet, "preact_resnet18", pretrained, kwargs)


@register_model
def resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> SmallImageNetwork:
    """ResNet-18 with a 3x3 stem and no pooling behind it (He et al., 2016, Deep residual learning)."""
    return _build(ResNet, "resnet18_cifar", pretrained, kwargs, depths=(2, 2, 2, 2), width=64, project=True)


@register_model
def wrn_28_10(pretrained: bool = False, **kwargs: Any) -> SmallImageNetwork:
    """Wide ResNet-28-10 (Zagoruyko & Komodakis, 2016), without dropout."""
    return _wide("wrn_28_10", 28, 10, pretrained, kwargs)


@register_model
def wrn_34_10(pretrained: bool = False, **kwargs: Any) -> SmallImageNetwork:
    """Wide ResNet-34-10, the usual network of adversarial training on CIFAR-10 since TRADES (Zhang et al., 2019)."""
    return _wide("wrn_34_10", 34, 10, pretrained, kwargs)


@register_model
def wrn_34_20(pretrained: bool = False, **kwargs: Any) -> SmallImageNetwork:
    """Wide ResNet-34-20 (Pang et al., 2021, Bag of tricks for adversarial training)."""
    return _wide("wrn_34_20", 34, 20, pretrained, kwargs)


@register_model
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> SmallImageNetwork:
    """ResNet-20 for CIFAR with parameter-free shortcuts (He et al., 2016, section 4.2); `width` 64 is CCAT's."""
    return _build(ResNet, "resnet20_cifar", pretrained, kwargs, depths=(3, 3, 3))


@register_model
def resnet56_cifar(pretrained: bool = False, **kwargs: Any) -> SmallImageNetwork:
    """ResNet-56 for CIFAR with parameter-free shortcuts (He et al., 2016, section 4.2)."""
    return _build(ResNet, "resnet56_cifar", pretrained, kwargs, depths=(9, 9, 9))
