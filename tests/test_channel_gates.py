"""The modules whose gate is a mix of channel means, against their eager twins."""

import copy
import math
import pickle
import re

import pytest
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, make_x
from pasted_gates import ChannelAttention as EagerChannelAttention
from test_squeeze_gate import Maps
from torch import nn

import attn_kernels as ak
from attn_kernels.nn.gsop import covariance


class EagerSqueezeExcite(nn.Module):
    """As in timm."""

    def __init__(self, channels, hidden, bias=True, activation=nn.ReLU, gate=nn.Sigmoid):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.act = activation(inplace=True)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=bias)
        self.gate = gate()

    def forward(self, x):
        mean = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.fc2(self.act(self.fc1(mean))))


class HardSigmoid(nn.Module):
    """As MobileNetV3's own code has it. torch's takes a sixth in float32 for the gradient."""

    def forward(self, x):
        return torch.nn.functional.relu6(x + 3) / 6


class EagerEfficientChannelAttention(nn.Module):
    """As published."""

    def __init__(self, k):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, k, padding=(k - 1) // 2, bias=False)

    def forward(self, x):
        y = self.conv(self.avg_pool(x).squeeze(-1).transpose(-1, -2))
        return x * torch.sigmoid(y.transpose(-1, -2).unsqueeze(-1)).expand_as(x)


class EagerChannelSE(nn.Module):
    """As published."""

    def __init__(self, channels):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.Conv_Squeeze = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.Conv_Excitation = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.norm = nn.Sigmoid()

    def forward(self, x):
        return x * self.norm(self.Conv_Excitation(self.Conv_Squeeze(self.avgpool(x))))


class EagerGSoP(nn.Module):
    """As published, channel attention alone."""

    def __init__(self, channels, reduced):
        super().__init__()
        self.conv_for_DR = nn.Conv2d(channels, reduced, 1, bias=False)
        self.bn_for_DR = nn.BatchNorm2d(reduced)
        self.row_bn = nn.BatchNorm2d(reduced)
        self.row_conv_group = nn.Conv2d(reduced, 4 * reduced, (reduced, 1), groups=reduced)
        self.fc_adapt_channels = nn.Conv2d(4 * reduced, channels, 1)

    def forward(self, x):
        pixels = torch.relu(self.bn_for_DR(self.conv_for_DR(x))).flatten(2)
        m = pixels.shape[2]
        centre = (torch.eye(m).double() - 1 / m).to(pixels) / m
        rows = (pixels @ centre @ pixels.mT).unsqueeze(3)
        return x * torch.sigmoid(self.fc_adapt_channels(self.row_conv_group(self.row_bn(rows))))


PAIRS = {
    "SE": (lambda: ak.SqueezeExcite(40), lambda: EagerSqueezeExcite(40, 8)),
    "SE of EfficientNet": (
        lambda: ak.SqueezeExcite(40, 10, activation="silu"),
        lambda: EagerSqueezeExcite(40, 10, activation=nn.SiLU),
    ),
    "SE of MobileNetV3, no biases": (
        lambda: ak.SqueezeExcite(40, 12, bias=False, gate="hardsigmoid"),
        lambda: EagerSqueezeExcite(40, 12, bias=False, gate=HardSigmoid),
    ),
    "ECA": (lambda: ak.EfficientChannelAttention(40), lambda: EagerEfficientChannelAttention(3)),
    "ECA of 5": (
        lambda: ak.EfficientChannelAttention(kernel_size=5),
        lambda: EagerEfficientChannelAttention(5),
    ),
    "cSE": (lambda: ak.ChannelSE(40), lambda: EagerChannelSE(40)),
    "GSoP": (lambda: ak.GSoP(40, 12), lambda: EagerGSoP(40, 12)),
    "CBAM's map": (
        lambda: ak.ChannelAttention(40, 8),
        lambda: EagerChannelAttention(40, 8),
    ),
}
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def twins(pair):
    """Ours and the eager module, from the same seed."""
    modules = []
    for make in pair:
        torch.manual_seed(3)
        modules.append(make())
    return modules


def trained(module, x, dy):
    """The output, and the gradients of x and of the parameters."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], dy)]


@pairs
def test_state_dicts_go_both_ways(pair):
    """The published keys, and the same weights from the same seed."""
    ours, eager = twins(pair)
    assert list(ours.state_dict()) == list(eager.state_dict())
    torch.testing.assert_close(ours.state_dict(), eager.state_dict(), rtol=0, atol=0)
    ours.load_state_dict(eager.state_dict(), strict=True)
    eager.load_state_dict(ours.state_dict(), strict=True)


def test_published_keys():
    assert list(ak.SqueezeExcite(16).state_dict()) == [
        "fc1.weight",
        "fc1.bias",
        "fc2.weight",
        "fc2.bias",
    ]
    assert list(ak.EfficientChannelAttention().state_dict()) == ["conv.weight"]
    assert list(ak.ChannelAttention(16).state_dict()) == [
        "sharedMLP.0.weight",
        "sharedMLP.2.weight",
    ]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert list(ak.GSoP(16).state_dict()) == [
        "conv_for_DR.weight",
        *(f"bn_for_DR.{name}" for name in norm),
        *(f"row_bn.{name}" for name in norm),
        *("row_conv_group.weight", "row_conv_group.bias"),
        *("fc_adapt_channels.weight", "fc_adapt_channels.bias"),
    ]
    assert list(ak.ChannelSE(6).state_dict()) == ["Conv_Squeeze.weight", "Conv_Excitation.weight"]


@pairs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_as_eager(layout, dtype, pair, device):
    """Value and every gradient against the float64 truth, judged by eager's error."""
    x = make_x((3, 40, 13, 9), dtype, layout, device)
    ours, eager = (module.to(device, dtype) for module in twins(pair))
    dy = torch.randn_like(ours(x))
    truths = trained(copy.deepcopy(eager).double(), x.double(), dy.double())
    results = zip(trained(ours, x, dy), trained(eager, x, dy), truths, strict=True)
    sums = (dy.double() * x.double()).abs().sum((2, 3)).sum(0).max()  # of which gates' are made
    for i, (found, plain, truth) in enumerate(results):
        assert found.dtype == dtype
        scale = sums if i > 1 else 0.0
        assert_accurate(i, found, plain, truth, GRADIENT if i else FORWARD, scale)
    y = ours(x)
    if y.shape == x.shape:
        assert y.is_contiguous(memory_format=ak.ops.memory_format(x))


@pairs
def test_compiled(pair):
    ours, eager = twins(pair)
    x = make_x((2, 40, 6, 5))
    for module in (ours, eager):
        module.eval()
    dy = torch.randn_like(eager(x))
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    x = x.requires_grad_()
    found = torch.autograd.grad(compiled(x), [x, *ours.parameters()], dy)
    torch.testing.assert_close(list(found), trained(eager, x, dy)[1:])


@pairs
def test_autocast(pair):
    """Eager's dtypes."""
    x = make_x((2, 40, 6, 5))
    ours, eager = twins(pair)
    for given in (x, x.bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            y, truth = ours(given), eager(given)
        assert y.dtype == truth.dtype
        torch.testing.assert_close(y, truth, rtol=0.03, atol=0.03)  # bfloat16's two digits


@pairs
def test_layers_are_called(pair):
    """Hooks, and layers that took another's place, do what they do in the eager module."""
    ours, eager = twins(pair)
    x = make_x((2, 40, 6, 5))
    for module in (ours, eager):
        *_, layer = (m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d))
        layer.register_forward_hook(lambda module, inputs, output: 3 * output)
    assert not torch.allclose(ours(x), twins(pair)[0](x))
    torch.testing.assert_close(ours(x), eager(x))


@pairs
def test_copies_and_inference(pair):
    ours, _ = twins(pair)
    x = make_x((2, 40, 6, 5))
    with torch.inference_mode():
        y = ours(x)
    for other in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(x), y)


@pytest.mark.parametrize("channels", [1, 2, 16, 64, 100, 256, 512, 2048])
def test_kernel_size_that_follows_from_channels(channels):
    """As published: t = int(abs((log2(C) + 1) / 2)), the odd one of t and t + 1."""
    t = int(abs((math.log(channels, 2) + 1) / 2))
    k = max(t if t % 2 else t + 1, 3)
    gate = ak.EfficientChannelAttention(channels)
    assert gate.conv.kernel_size == (k,)
    x = make_x((2, channels, 3, 2))
    torch.testing.assert_close(gate.state_dict()["conv.weight"].shape, torch.Size([1, 1, k]))
    eager = EagerEfficientChannelAttention(k)
    eager.load_state_dict(gate.state_dict())
    torch.testing.assert_close(gate(x), eager(x))


def test_default_hidden_units():
    assert ak.SqueezeExcite(64).fc1.weight.shape == (8, 64, 1, 1)
    assert ak.SqueezeExcite(512).fc1.weight.shape == (32, 512, 1, 1)
    assert "activation='silu', gate='sigmoid'" in repr(ak.SqueezeExcite(8, activation="silu"))


BAD = [
    (TypeError, "channels: expected an int, got 4.0", lambda: ak.SqueezeExcite(4.0)),
    (ValueError, "channels: expected at least 1, got 0", lambda: ak.SqueezeExcite(0)),
    (ValueError, "hidden: expected at least 1, got 0", lambda: ak.SqueezeExcite(4, 0)),
    (TypeError, "hidden: expected an int, got True", lambda: ak.SqueezeExcite(4, True)),
    (TypeError, "bias: expected True or False, got 1", lambda: ak.SqueezeExcite(4, bias=1)),
    (
        ValueError,
        "activation: expected one of relu, silu, got 'tanh'",
        lambda: ak.SqueezeExcite(4, activation="tanh"),
    ),
    (
        ValueError,
        "gate: expected one of sigmoid, hardsigmoid, got 'relu'",
        lambda: ak.SqueezeExcite(4, gate="relu"),
    ),
    (ValueError, "channels: expected at least 1", lambda: ak.EfficientChannelAttention(0)),
    (
        ValueError,
        "kernel_size: expected an odd number, got 4",
        lambda: ak.EfficientChannelAttention(8, 4),
    ),
    (
        ValueError,
        "kernel_size: expected at least 1, got -1",
        lambda: ak.EfficientChannelAttention(kernel_size=-1),
    ),
    (TypeError, "kernel_size: .*got 3.0", lambda: ak.EfficientChannelAttention(kernel_size=3.0)),
    (ValueError, "channels: expected at least 2, got 1", lambda: ak.ChannelSE(1)),
    (
        ValueError,
        r"ratio: expected at most channels \(8\), got 9",
        lambda: ak.ChannelAttention(8, 9),
    ),
    (ValueError, "ratio: expected at least 1, got 0", lambda: ak.ChannelAttention(8, 0)),
    (TypeError, "ratio: expected an int, got 2.0", lambda: ak.ChannelAttention(8, 2.0)),
    (ValueError, "channels: expected at least 1, got 0", lambda: ak.GSoP(0)),
    (ValueError, "reduced: expected at least 1, got 0", lambda: ak.GSoP(8, 0)),
    (TypeError, "reduced: expected an int, got True", lambda: ak.GSoP(8, True)),
    (TypeError, "channels: expected an int, got '8'", lambda: ak.ChannelSE("8")),
]


@pytest.mark.parametrize(("error", "message", "make"), BAD, ids=[re.escape(b[1]) for b in BAD])
def test_bad_input(error, message, make):
    with pytest.raises(error, match=message):
        make()


def test_maps_of_other_channels():
    """Named by the fused gate; where layers are called, in PyTorch's own words."""
    gate, x = ak.SqueezeExcite(8), torch.randn(2, 6, 4, 4)
    with pytest.raises(ValueError, match=r"w1: expected shape \(R, 6, 1, 1\)"):
        gate(x)
    gate.fc1.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="channels"):
        gate(x)


@pytest.mark.parametrize("shape", [(1, 10, 1, 33), (1, 10, 7, 3), (2, 10, 1, 1)], ids=str)
def test_gsop_of_any_map(shape):
    """Rectangular, odd, of one image and of one pixel, whose covariance is 0."""
    x = make_x(shape, torch.float64)
    ours, eager = ak.GSoP(10, 4).double(), EagerGSoP(10, 4).double()
    ours.load_state_dict(eager.state_dict(), strict=True)
    for training in (False, True):
        found = [trained(m.train(training), x, x.cos()) for m in (ours, eager)]
        torch.testing.assert_close(*found)
    torch.testing.assert_close(ours.state_dict(), eager.state_dict())


def test_gsop_of_one_value_per_channel():
    """PyTorch's own clear error."""
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        ak.GSoP(10, 4)(torch.randn(1, 10, 1, 1))


def test_gsop_makes_no_matrix_of_pixels():
    """Its largest tensor is the map, though pixels are many."""
    x = make_x((1, 4, 60, 61)).requires_grad_()
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    ):
        y = ak.GSoP(4, 3)(x)
    y.sum().backward()
    assert max(sizes) == x.numel()


def test_gsop_of_a_large_mean():
    """The covariance is of deviations: a mean of a thousand costs no digits."""
    x = torch.randn(2, 6, 30, 30, dtype=torch.float64)
    truth = torch.stack([torch.cov(image, correction=0) for image in x.flatten(2)])
    found = covariance((x + 1000).float())
    assert (found - truth).abs().max() < 1e-4


def test_channel_attention_reads_x_once():
    """One squeeze forward, one pass for both gradients of x."""
    x = make_x((2, 32, 20, 20)).requires_grad_()
    with Maps(x) as forward:
        y = ak.ChannelAttention(32)(x)
    with Maps(x) as backward:
        y.sum().backward()
    assert forward.made == []
    assert backward.made == ["attn_kernels.squeeze_backward.default"]


@pytest.mark.parametrize(
    "gate",
    [ak.SqueezeExcite(40), ak.EfficientChannelAttention(40), ak.ChannelSE(40)],
    ids=lambda gate: type(gate).__name__,
)
def test_mix_is_the_gate(gate):
    """What tails build on: the statistics that `squeeze` names, and `mix`, which makes scale."""
    x = make_x((2, 40, 6, 5))
    scale = gate.mix(*ak.functional.squeeze(x, gate.squeeze))
    assert scale.shape == (2, 40, 1, 1)
    torch.testing.assert_close(gate(x), x * scale)
