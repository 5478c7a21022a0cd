"""Networks by name. Each is a function that gives layer tables, so that it prints as a spec.

Neurons have no parameters of their own: the config's neuron table sets them for the whole network.
Every convolution reads spikes or the input, so that a chip can run it; where the published code of a
pre-activation network convolves the membrane-side stream in its shortcuts, ours convolves the spikes
of the same block, as He et al. (ECCV 2016) do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sca_deploy.errors import UsageError, unknown_name
from sca_deploy.nn.spec import Shape

Table = dict[str, Any]
NORM, LIF, FLATTEN = {"type": "batch_norm"}, {"type": "lif"}, {"type": "flatten"}
AVG_POOL, MAX_POOL = {"type": "avg_pool", "kernel": 2}, {"type": "max_pool", "kernel": 2}


def layers_of(name: str, classes: int, input_shape: Shape) -> list[Table]:
    """The layer tables of a named network.

    Args:
        name: one of NETWORKS.
        classes: features of the read-out.
        input_shape: (channels, height, width).

    Raises:
        UsageError: if there is no network of that name, or the input is not a map.
    """
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS)
    if len(input_shape) != 3:
        raise UsageError(f"network '{name}' reads maps (channels, height, width), the input has shape {input_shape}")
    return [dict(table) for table in NETWORKS[name](classes, input_shape)]


def _conv(channels: int, kernel: int = 3, stride: int = 1, **more: Any) -> Table:
    """A convolution that keeps the map's size, but for its stride."""
    return {"type": "conv", "channels": channels, "kernel": kernel, "stride": stride, "padding": kernel // 2, **more}


def _linear(features: int, bias: bool = True) -> Table:
    return {"type": "linear", "features": features, "bias": bias}


def _plain(widths: Sequence[int | None], pool: Table) -> list[Table]:
    """Convolutions with batch-norm and neurons; None stands for a pooling."""
    layers: list[Table] = []
    for width in widths:
        layers += [pool] if width is None else [_conv(width), NORM, LIF]
    return layers


_VGG16 = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512, None)


def vgg16_bn(classes: int, input_shape: Shape) -> list[Table]:
    """The SCA paper's VGG16: max-pooling, two hidden layers of 512; 15,250,378 parameters for CIFAR-10."""
    hidden = [_linear(512, bias=False), NORM, LIF]
    return [*_plain(_VGG16, MAX_POOL), FLATTEN, *hidden, *hidden, _linear(classes)]


def vgg16_avg(classes: int, input_shape: Shape) -> list[Table]:
    """The criticality paper's VGG16: average pooling, no bias, one fully connected layer."""
    return [*_plain(_VGG16, AVG_POOL), FLATTEN, _linear(classes, bias=False)]


def six_conv_two_fc(classes: int, input_shape: Shape) -> list[Table]:
    """The CIFAR network of Grad R (Chen et al., IJCAI 2021) and STDS (Chen et al., ICML 2022).

    256C3 x 3, MP2, 256C3 x 3, MP2, 2048FC as in their code (Yanqi-Chen/Gradient-Rewiring); their second fully
    connected layer is 100 neurons that vote by tens, ours is the read-out.
    """
    convolutions = _plain((256, 256, 256, None, 256, 256, 256, None), MAX_POOL)
    return [
        *convolutions,
        FLATTEN,
        {"type": "dropout", "p": 0.5},
        _linear(2048, bias=False),
        LIF,
        _linear(classes, bias=False),
    ]


def preresnet18(classes: int, input_shape: Shape) -> list[Table]:
    """The SCA paper's PreResNet18: stem 64, two pre-activation blocks each of 64, 128, 256 and 512 channels."""
    return _preactivation(64, ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2)), classes, input_shape)


def resnet19(classes: int, input_shape: Shape) -> list[Table]:
    """The criticality paper's ResNet19: stem 64, pre-activation stages 128, 256, 512 of 3, 3 and 2 blocks.

    Every stage halves the map, as in its released code.
    """
    return _preactivation(64, ((128, 3, 2), (256, 3, 2), (512, 2, 2)), classes, input_shape)


def dvs_cifar10(classes: int, input_shape: Shape) -> list[Table]:
    """64C3-AP2-128C3-AP2-128C3-AP2-256C3-AP2-256C3-AP2-FC, for events of two polarities."""
    return [*_plain((64, None, 128, None, 128, None, 256, None, 256, None), AVG_POOL), FLATTEN, _linear(classes)]


def conv2(classes: int, input_shape: Shape) -> list[Table]:
    """32C3-64C3-AP2-128FC-FC: digits in seconds."""
    return [*_plain((32, 64, None), AVG_POOL), FLATTEN, _linear(128, bias=False), NORM, LIF, _linear(classes)]


def conv4(classes: int, input_shape: Shape) -> list[Table]:
    """16C3-16C3-MP2-32C3-32C3-MP2-128FC-FC: 28 x 28 images on two cores."""
    hidden = [_linear(128, bias=False), NORM, LIF]
    return [*_plain((16, 16, None, 32, 32, None), MAX_POOL), FLATTEN, *hidden, _linear(classes)]


def resnet8(classes: int, input_shape: Shape) -> list[Table]:
    """A residual network for two cores: stem 16, one post-activation block each of 16, 32 and 64 channels.

    A block adds its input spikes, or their normalised 1 x 1 convolution, to its second batch-norm (He et al., CVPR
    2016), so the channels of a stage's width are pruned together.
    """
    stream, side = "stem_lif", min(input_shape[1:])
    layers = [_conv(16, name="stem"), NORM | {"name": "stem_norm"}, LIF | {"name": stream}]
    for number, (width, stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
        block, shortcut = f"block{number}", stream
        layers += [_conv(width, stride=stride, name=f"{block}_conv1"), NORM | {"name": f"{block}_norm1"}]
        layers += [LIF | {"name": f"{block}_lif1"}]
        layers += [_conv(width, name=f"{block}_conv2"), NORM | {"name": f"{block}_norm2"}]
        if stride > 1:
            shortcut = f"{block}_shortcut_norm"
            layers += [_conv(width, 1, stride, name=f"{block}_shortcut", **{"from": stream})]
            layers += [NORM | {"name": shortcut}]
        stream = f"{block}_lif2"
        layers += [{"type": "sum", "name": f"{block}_sum", "of": [f"{block}_norm2", shortcut]}]
        layers += [LIF | {"name": stream}]
        side = -(-side // stride)
    return [*layers, *_average(side), FLATTEN, _linear(classes)]


def _preactivation(stem: int, stages: Sequence[tuple[int, int, int]], classes: int, input_shape: Shape) -> list[Table]:
    """Pre-activation blocks; a stage is (channels, blocks, stride of the first of them)."""
    layers, stream, width, side = [_conv(stem, name="stem")], "stem", stem, min(input_shape[1:])
    strides = [(channels, stride if i == 0 else 1) for channels, blocks, stride in stages for i in range(blocks)]
    for number, (channels, stride) in enumerate(strides, start=1):
        block, shortcut = f"block{number}", stream
        layers += [NORM | {"name": f"{block}_norm1"}, LIF | {"name": f"{block}_lif1"}]
        layers += [_conv(channels, stride=stride, name=f"{block}_conv1")]
        layers += [NORM | {"name": f"{block}_norm2"}, LIF | {"name": f"{block}_lif2"}]
        layers += [_conv(channels, name=f"{block}_conv2")]
        if stride > 1 or channels != width:
            shortcut = f"{block}_shortcut"
            layers += [_conv(channels, 1, stride, name=shortcut, **{"from": f"{block}_lif1"})]
        stream = f"{block}_sum"
        layers += [{"type": "sum", "name": stream, "of": [shortcut, f"{block}_conv2"]}]
        width, side = channels, -(-side // stride)
    end = [NORM | {"name": "last_norm"}, LIF | {"name": "last_lif"}]
    return [*layers, *end, *_average(side), FLATTEN, _linear(classes)]


def _average(side: int) -> list[Table]:
    """Average pooling over a whole map, where there is more than one place."""
    return [{"type": "avg_pool", "kernel": side}] if side > 1 else []


NETWORKS: dict[str, Callable[[int, Shape], list[Table]]] = {
    "vgg16-bn": vgg16_bn,
    "vgg16-avg": vgg16_avg,
    "6conv2fc": six_conv_two_fc,
    "preresnet18": preresnet18,
    "resnet19": resnet19,
    "dvs-cifar10": dvs_cifar10,
    "conv2": conv2,
    "conv4": conv4,
    "resnet8": resnet8,
}
