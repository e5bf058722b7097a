"""Gates of broadcast factors and of polynomials, as modules, against their eager twins."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, make_x
from test_channel_gates import EagerChannelSE
from torch import nn

import attn_kernels as ak


class EagerSpatialSE(nn.Module):
    """As published."""

    def __init__(self, channels):
        super().__init__()
        self.Conv1x1 = nn.Conv2d(channels, 1, kernel_size=1, bias=False)
        self.norm = nn.Sigmoid()

    def forward(self, x):
        return x * self.norm(self.Conv1x1(x))


class EagerSpatialChannelSE(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.cSE = EagerChannelSE(channels)
        self.sSE = EagerSpatialSE(channels)

    def forward(self, x):
        return self.cSE(x) + self.sSE(x)


class EagerBAM(nn.Module):
    """As published, but for maps of any shape."""

    def __init__(self, channels, reduction=16, dilation=4):
        super().__init__()
        hidden = channels // reduction
        c, s = nn.Sequential(), nn.Sequential()
        c.add_module("flatten", nn.Flatten())
        c.add_module("gate_c_fc_0", nn.Linear(channels, hidden))
        c.add_module("gate_c_bn_1", nn.BatchNorm1d(hidden))
        c.add_module("gate_c_relu_1", nn.ReLU())
        c.add_module("gate_c_fc_final", nn.Linear(hidden, channels))
        s.add_module("gate_s_conv_reduce0", nn.Conv2d(channels, hidden, 1))
        s.add_module("gate_s_bn_reduce0", nn.BatchNorm2d(hidden))
        s.add_module("gate_s_relu_reduce0", nn.ReLU())
        for i in range(2):
            conv = nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation)
            s.add_module(f"gate_s_conv_di_{i}", conv)
            s.add_module(f"gate_s_bn_di_{i}", nn.BatchNorm2d(hidden))
            s.add_module(f"gate_s_relu_di_{i}", nn.ReLU())
        s.add_module("gate_s_conv_final", nn.Conv2d(hidden, 1, 1))
        self.channel_att, self.spatial_att = nn.Module(), nn.Module()
        self.channel_att.gate_c, self.spatial_att.gate_s = c, s

    def forward(self, x):
        channels = self.channel_att.gate_c(x.mean((2, 3)))[:, :, None, None].expand_as(x)
        pixels = self.spatial_att.gate_s(x).expand_as(x)
        return (1 + torch.sigmoid(channels * pixels)) * x


class EagerCoordinateAttention(nn.Module):
    """As published."""

    def __init__(self, channels, out_channels=None, reduction=32, bias=True):
        super().__init__()
        hidden = max(8, channels // reduction)
        self.conv1 = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv_h = nn.Conv2d(hidden, out_channels or channels, 1, bias=bias)
        self.conv_w = nn.Conv2d(hidden, out_channels or channels, 1, bias=bias)

    def forward(self, x):
        h, w = x.shape[2:]
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        both = F.hardswish(self.bn1(self.conv1(torch.cat([rows, columns], 2))))
        rows, columns = torch.split(both, [h, w], 2)
        a_w = torch.sigmoid(self.conv_w(columns.permute(0, 1, 3, 2)))
        return x * a_w * torch.sigmoid(self.conv_h(rows))


class EagerSimAM(nn.Module):
    """As published."""

    def __init__(self, e_lambda=1e-4):
        super().__init__()
        self.e_lambda = e_lambda

    def forward(self, x):
        n = x.shape[2] * x.shape[3] - 1
        d = (x - x.mean((2, 3), keepdim=True)).pow(2)
        return x * torch.sigmoid(d / (4 * (d.sum((2, 3), keepdim=True) / n + self.e_lambda)) + 0.5)


class EagerShuffleAttention(nn.Module):
    """As published."""

    def __init__(self, channels, groups):
        super().__init__()
        self.groups, half = groups, channels // (2 * groups)
        self.cweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.cbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.sweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.sbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.gn = nn.GroupNorm(half, half)

    @staticmethod
    def channel_shuffle(x, groups):
        b, _, h, w = x.shape
        return x.reshape(b, groups, -1, h, w).permute(0, 2, 1, 3, 4).reshape(b, -1, h, w)

    def forward(self, x):
        b, _, h, w = x.shape
        x0, x1 = x.reshape(b * self.groups, -1, h, w).chunk(2, 1)
        xn = self.cweight * x0.mean((2, 3), keepdim=True) + self.cbias
        xs = self.sweight * self.gn(x1) + self.sbias
        out = torch.cat([x0 * torch.sigmoid(xn), x1 * torch.sigmoid(xs)], 1)
        return self.channel_shuffle(out.reshape(b, -1, h, w), 2)


PAIRS = {
    "sSE": (lambda: ak.SpatialSE(48), lambda: EagerSpatialSE(48)),
    "csSE": (lambda: ak.SpatialChannelSE(48), lambda: EagerSpatialChannelSE(48)),
    "BAM": (lambda: ak.BAM(48), lambda: EagerBAM(48)),
    "BAM of 8, 2": (lambda: ak.BAM(48, 8, 2), lambda: EagerBAM(48, 8, 2)),
    "coordinate": (lambda: ak.CoordinateAttention(48), lambda: EagerCoordinateAttention(48)),
    "coordinate, no biases, one gate": (
        lambda: ak.CoordinateAttention(48, 1, 4, bias=False),
        lambda: EagerCoordinateAttention(48, 1, 4, bias=False),
    ),
    "SimAM": (ak.SimAM, EagerSimAM),
    "shuffle": (lambda: ak.ShuffleAttention(48, 4), lambda: EagerShuffleAttention(48, 4)),
}
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def twins(pair):
    """Ours and the eager module, with the same parameters, none of them 0 or 1."""
    ours, eager = (make() for make in pair)
    with torch.no_grad():
        for p in eager.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    ours.load_state_dict(eager.state_dict(), strict=True)
    return ours, eager


def trained(module, x, dy):
    """The output, and the gradients of x and of the parameters."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], dy)]


@pairs
def test_state_dicts_go_both_ways(pair):
    """The published keys, and the same weights from the same seed."""
    modules = []
    for make in pair:
        torch.manual_seed(3)
        modules.append(make())
    ours, eager = modules
    assert list(ours.state_dict()) == list(eager.state_dict())
    torch.testing.assert_close(ours.state_dict(), eager.state_dict(), rtol=0, atol=0)
    eager.load_state_dict(ours.state_dict(), strict=True)


@pairs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", [(3, 48, 13, 9), (1, 48, 7, 16)], ids=str)
def test_as_eager(shape, layout, dtype, pair, device):
    """Value and every gradient against the float64 truth, judged by eager's error; a batch of one
    with the norms' running statistics, as PyTorch's own norms of one value ask for."""
    x, dy = (make_x(shape, dtype, layout, device) for _ in range(2))
    ours, eager = (m.to(device, dtype).train(shape[0] > 1) for m in twins(pair))
    truths = trained(copy.deepcopy(eager).double(), x.double(), dy.double())
    values = trained(ours, x, dy)
    assert values[0].is_contiguous(memory_format=ak.ops.memory_format(x))
    results = zip(values, trained(eager, x, dy), truths, strict=True)
    sums = (dy.double() * x.double()).abs().sum((2, 3)).sum(0).max() * 48
    for i, (found, plain, truth) in enumerate(results):
        assert found.dtype == dtype
        # What passes a batch norm or a group norm is as large as the norm makes it.
        scale = sums if i > 1 else 4.0 if i == 1 else 0.0
        assert_accurate(i, found, plain, truth, GRADIENT if i else FORWARD, scale)
    torch.testing.assert_close(
        [b.double() for b in ours.buffers()], [b.double() for b in eager.buffers()],
        rtol=0.02, atol=0.02,
    )  # fmt: skip


@pairs
def test_compiled(pair):
    ours, eager = twins(pair)
    x, dy = make_x((2, 48, 6, 5)), make_x((2, 48, 6, 5))
    torch._dynamo.reset()
    found = trained(torch.compile(ours, fullgraph=True, backend="aot_eager"), x, dy)
    torch.testing.assert_close(found, trained(eager, x, dy), rtol=1e-3, atol=1e-4)


@pairs
def test_autocast(pair):
    """Eager's dtypes, but where eager narrows a map that ours does not have."""
    x = make_x((2, 48, 6, 5))
    ours, eager = twins(pair)
    for given in (x, x.bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            y, truth = ours(given), eager(given)
        torch.testing.assert_close(y.float(), truth.float(), rtol=0.03, atol=0.06)
        assert y.dtype in (truth.dtype, given.dtype)


@pairs
def test_children_with_hooks_are_called(pair):
    ours, eager = twins(pair)
    x, dy = make_x((2, 48, 6, 5)), make_x((2, 48, 6, 5))
    names = [
        name for name, m in ours.named_modules() if next(m.parameters(False), None) is not None
    ]
    for name in filter(None, names):
        own, theirs, calls = copy.deepcopy(ours), copy.deepcopy(eager), []
        for module in (own, theirs):

            def doubled(m, inputs, output, calls=calls):
                calls.append(m)
                return 2 * output

            module.get_submodule(name).register_forward_hook(doubled)
        found, expected = trained(own, x, dy), trained(theirs, x, dy)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert len(calls) == 2


@pytest.mark.parametrize("name", ["cSE", "sSE"])
def test_halves_with_hooks_are_called(name):
    ours, eager = twins(PAIRS["csSE"])
    x = make_x((2, 48, 6, 5))
    for module in (ours, eager):
        getattr(module, name).register_forward_hook(lambda m, i, output: 2 * output)
    torch.testing.assert_close(ours(x), eager(x))
    assert f"unfused: {name} has hooks" in repr(ours)


@pairs
def test_copies_and_inference(pair):
    ours, _ = twins(pair)
    ours.eval()
    x = make_x((2, 48, 6, 5))
    with torch.inference_mode():
        y = ours(x)
    for other in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(x), y)


@pairs
def test_second_derivatives_and_fx(pair):
    ours, eager = (m.double() for m in twins(pair))
    x = make_x((2, 48, 3, 4), torch.float64).requires_grad_()

    def twice(module):
        first = torch.autograd.grad(module(x).sin().sum(), x, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), [x, *module.parameters()])

    torch.testing.assert_close(twice(ours), twice(eager), rtol=1e-5, atol=1e-6)


BAD = [
    (ValueError, "channels: expected at least 1, got 0", lambda: ak.SpatialSE(0)),
    (ValueError, "channels: expected at least 2, got 1", lambda: ak.SpatialChannelSE(1)),
    (ValueError, r"reduction: expected at most channels \(8\), got 16", lambda: ak.BAM(8)),
    (ValueError, "dilation: expected at least 1, got 0", lambda: ak.BAM(32, dilation=0)),
    (
        ValueError,
        r"out_channels: expected 1 or in_channels \(8\), got 4",
        lambda: ak.CoordinateAttention(8, 4),
    ),
    (TypeError, "bias: expected True or False", lambda: ak.CoordinateAttention(8, bias=1)),
    (ValueError, r"multiple of 2 \* groups \(128\), got 64", lambda: ak.ShuffleAttention(64)),
    (TypeError, "groups: expected an int", lambda: ak.ShuffleAttention(64, 2.0)),
    (TypeError, "e_lambda: expected a number, got None", lambda: ak.SimAM(None)),
    (ValueError, "e_lambda: expected at least 0, got -1", lambda: ak.SimAM(-1)),
    (
        ValueError,
        r"x: expected more than one pixel, got \(2, 3, 1, 1\)",
        lambda: ak.SimAM()(torch.ones(2, 3, 1, 1)),
    ),
]


@pytest.mark.parametrize(("error", "message", "call"), BAD, ids=[b[1] for b in BAD])
def test_bad_input(error, message, call):
    with pytest.raises(error, match=message):
        call()
