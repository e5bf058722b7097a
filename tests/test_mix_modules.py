"""SelectiveKernel, SplitAttention, AFF and IAFF against their eager twins."""

import copy
import pickle

import pytest
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, make_x
from torch import nn

import attn_kernels as ak

C = 48


def hidden_units(value, divisor=8, least=8):
    """timm's rounding."""
    rounded = max(least, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class EagerSelectiveKernel(nn.Module):
    def __init__(self, i, o=None, sizes=(3, 5), stride=1, groups=1, keep_3x3=True, split=True):
        super().__init__()
        o = i if o is None else o
        self.split = split
        of_path = i // len(sizes) if split else i
        self.paths = nn.ModuleList()
        for k in sizes:
            k, d = (3, (k - 1) // 2) if keep_3x3 else (k, 1)
            path = nn.Module()
            padding = (stride - 1 + d * (k - 1)) // 2
            path.conv = nn.Conv2d(of_path, o, k, stride, padding, d, groups, bias=False)
            path.bn = nn.BatchNorm2d(o)
            self.paths.append(path)
        self.attn = nn.Module()
        hidden = hidden_units(o / 16)
        self.attn.fc_reduce = nn.Conv2d(o, hidden, 1, bias=False)
        self.attn.bn = nn.BatchNorm2d(hidden)
        self.attn.fc_select = nn.Conv2d(hidden, o * len(sizes), 1, bias=False)

    def forward(self, x):
        inputs = x.chunk(len(self.paths), 1) if self.split else [x] * len(self.paths)
        maps = [torch.relu(p.bn(p.conv(t))) for p, t in zip(self.paths, inputs, strict=True)]
        stack, attn = torch.stack(maps, 1), self.attn
        mean = stack.sum(1).mean((2, 3), keepdim=True)
        logits = attn.fc_select(torch.relu(attn.bn(attn.fc_reduce(mean))))
        weights = logits.view(len(x), len(maps), -1, 1, 1).softmax(1)
        return (stack * weights).sum(1)


class EagerSplitAttention(nn.Module):
    def __init__(self, i, o=None, groups=1, radix=2, stride=1, norm=nn.BatchNorm2d):
        super().__init__()
        o = i if o is None else o
        self.groups, self.radix = groups, radix
        hidden = hidden_units(i * radix / 4, least=32)
        self.conv = nn.Conv2d(i, o * radix, 3, stride, 1, groups=groups * radix, bias=False)
        self.bn0 = norm(o * radix)
        self.fc1 = nn.Conv2d(o, hidden, 1, groups=groups)
        self.bn1 = norm(hidden)
        self.fc2 = nn.Conv2d(hidden, o * radix, 1, groups=groups)

    def forward(self, x):
        x = torch.relu(self.bn0(self.conv(x)))
        n, c, h, w = x.shape
        branches = x.view(n, self.radix, c // self.radix, h, w)
        mean = branches.sum(1).mean((2, 3), keepdim=True)
        logits = self.fc2(torch.relu(self.bn1(self.fc1(mean))))
        if self.radix == 1:
            return x * torch.sigmoid(logits)
        by_group = logits.view(n, self.groups, self.radix, -1).transpose(1, 2).softmax(1)
        return (branches * by_group.reshape(n, self.radix, -1, 1, 1)).sum(1)


def attention(channels, hidden, *first):
    return nn.Sequential(
        *first,
        nn.Conv2d(channels, hidden, 1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, channels, 1),
        nn.BatchNorm2d(channels),
    )


class EagerAFF(nn.Module):
    def __init__(self, channels, r=4):
        super().__init__()
        self.local_att = attention(channels, channels // r)
        self.global_att = attention(channels, channels // r, nn.AdaptiveAvgPool2d(1))

    def forward(self, x, y):
        both = x + y
        w = torch.sigmoid(self.local_att(both) + self.global_att(both))
        return 2 * x * w + 2 * y * (1 - w)


class EagerIAFF(nn.Module):
    def __init__(self, channels, r=4):
        super().__init__()
        hidden = channels // r
        self.local_att = attention(channels, hidden)
        self.global_att = attention(channels, hidden, nn.AdaptiveAvgPool2d(1))
        self.local_att2 = attention(channels, hidden)
        self.global_att2 = attention(channels, hidden, nn.AdaptiveAvgPool2d(1))

    def forward(self, x, y):
        both = x + y
        w = torch.sigmoid(self.local_att(both) + self.global_att(both))
        z = x * w + y * (1 - w)
        w = torch.sigmoid(self.local_att2(z) + self.global_att(z))
        return x * w + y * (1 - w)


PAIRS = {
    "SK": (lambda: ak.SelectiveKernel(C), lambda: EagerSelectiveKernel(C)),
    "SK of three": (
        lambda: ak.SelectiveKernel(C, 24, [3, 5, 7], stride=2, groups=2),
        lambda: EagerSelectiveKernel(C, 24, (3, 5, 7), stride=2, groups=2),
    ),
    "SK, whole": (
        lambda: ak.SelectiveKernel(C, kernel_size=5, keep_3x3=False, split_input=False),
        lambda: EagerSelectiveKernel(C, sizes=(5, 5), keep_3x3=False, split=False),
    ),
    "split": (lambda: ak.SplitAttention(C), lambda: EagerSplitAttention(C)),
    "split, groups": (
        lambda: ak.SplitAttention(C, 24, groups=2, radix=3, stride=2),
        lambda: EagerSplitAttention(C, 24, groups=2, radix=3, stride=2),
    ),
    "split in one": (
        lambda: ak.SplitAttention(C, radix=1),
        lambda: EagerSplitAttention(C, radix=1),
    ),
    "split, no norms": (
        lambda: ak.SplitAttention(C, norm_layer=None),
        lambda: EagerSplitAttention(C, norm=nn.Identity),
    ),
    "AFF": (lambda: ak.AFF(C), lambda: EagerAFF(C)),
    "IAFF": (lambda: ak.IAFF(C, 2), lambda: EagerIAFF(C, 2)),
}
pairs = pytest.mark.parametrize("pair", PAIRS)


def twins(pair):
    """Ours and the eager one with the same parameters and statistics, none of them trivial."""
    make_ours, make_eager = PAIRS[pair]
    ours, eager = make_ours(), make_eager()
    with torch.no_grad():
        for name, t in ours.state_dict().items():
            if name.endswith("running_var"):
                t.uniform_(0.5, 2)
            elif t.is_floating_point() and t.dim() == 1:
                t.uniform_(-1, 1)
    eager.load_state_dict(ours.state_dict(), strict=True)
    return ours, eager


def inputs_for(pair, shape, dtype=torch.float32, layout="nchw", device="cpu"):
    return [make_x(shape, dtype, layout, device) for _ in range(2 if "AFF" in pair else 1)]


def trained(module, inputs, seed=1):
    """The output, and the gradients of the inputs and of the parameters that have one."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    y = module(*inputs)
    torch.manual_seed(seed)
    dy = torch.randn(y.shape, dtype=torch.float64).to(y)
    found = torch.autograd.grad(y, [*inputs, *module.parameters()], dy, allow_unused=True)
    return [y.detach(), *(t for t in found if t is not None)]


@pairs
def test_state_dicts_go_both_ways(pair):
    """The published keys, and the same weights from the same seed."""
    modules = []
    for make in PAIRS[pair]:
        torch.manual_seed(3)
        modules.append(make())
    ours, eager = modules
    assert list(ours.state_dict()) == list(eager.state_dict())
    torch.testing.assert_close(ours.state_dict(), eager.state_dict(), rtol=0, atol=0)
    ours.load_state_dict(eager.state_dict(), strict=True)


@pairs
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", [(3, C, 13, 9), (4, C, 6, 16), (1, C, 7, 5)], ids=str)
def test_as_eager(shape, layout, training, pair, device):
    """Values, all gradients and the norms' statistics in float64; a batch of one where the norms
    of one value per channel use their running statistics."""
    ours, eager = (m.to(device).double().train(training) for m in twins(pair))
    if training and shape[0] == 1 and pair != "split, no norms":
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            ours(*inputs_for(pair, shape, torch.float64, layout, device))
        return
    inputs = inputs_for(pair, shape, torch.float64, layout, device)
    found, expected = trained(ours, inputs), trained(eager, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ours.state_dict(), eager.state_dict(), rtol=1e-10, atol=1e-12)
    format = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
    assert found[0].is_contiguous(memory_format=format)  # of a stack eager makes NCHW


@pairs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_every_dtype(layout, dtype, pair, device):
    """Against the float64 truth, judged by eager's error."""
    ours, eager = (m.to(device, dtype).eval() for m in twins(pair))
    inputs = inputs_for(pair, (3, C, 9, 12), dtype, layout, device)
    truths = trained(copy.deepcopy(eager).double(), [t.double() for t in inputs])
    values = trained(ours, inputs)
    results = zip(values, trained(eager, inputs), truths, strict=True)
    for i, (found, plain, truth) in enumerate(results):
        assert found.dtype == dtype
        # Sums over pixels, whose signs cancel.
        scale = 3 * 9 * 12 * 2.0 if i > len(inputs) else 0.0
        assert_accurate(i, found, plain, truth, GRADIENT if i else FORWARD, scale)


@pairs
def test_two_steps_of_an_optimiser(pair):
    ours, eager = (m.double() for m in twins(pair))
    for module in (ours, eager):
        optimiser = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
        for step in range(2):
            torch.manual_seed(step)
            inputs = inputs_for(pair, (4, C, 7, 6), torch.float64)
            optimiser.zero_grad()
            module(*inputs).square().mean().backward()
            optimiser.step()
    torch.testing.assert_close(ours.state_dict(), eager.state_dict(), rtol=1e-8, atol=1e-10)


@pairs
def test_compiled(pair):
    """One graph, forward and backward, in float64: norms of three values magnify rounding errors.
    (What Inductor makes of the ops is seen by their contracts.)
    """
    ours, eager = (m.double() for m in twins(pair))
    inputs = inputs_for(pair, (3, C, 6, 5), torch.float64)
    torch._dynamo.reset()
    found = trained(torch.compile(ours, fullgraph=True, backend="aot_eager"), inputs)
    torch.testing.assert_close(found, trained(eager, inputs), rtol=1e-7, atol=1e-9)


@pairs
def test_autocast(pair):
    """Eager's dtypes, but where eager narrows a map that ours does not have."""
    ours, eager = (m.eval() for m in twins(pair))
    inputs = inputs_for(pair, (2, C, 6, 5))
    for given in (inputs, [t.bfloat16() for t in inputs]):
        with torch.autocast("cpu", torch.bfloat16):
            y, truth = ours(*given), eager(*given)
        torch.testing.assert_close(y.float(), truth.float(), rtol=0.05, atol=0.08)
        assert y.dtype == truth.dtype


@pairs
def test_children_with_hooks_are_called(pair):
    ours, eager = (m.double() for m in twins(pair))
    inputs = inputs_for(pair, (3, C, 6, 5), torch.float64)
    names = [
        name for name, m in ours.named_modules() if next(m.parameters(False), None) is not None
    ]
    for name in names:
        own, theirs, calls = copy.deepcopy(ours), copy.deepcopy(eager), []
        for module in (own, theirs):

            def doubled(m, inputs, output, calls=calls):
                calls.append(m)
                return 2 * output

            module.get_submodule(name).register_forward_hook(doubled)
        found, expected = trained(own, inputs), trained(theirs, inputs)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
        assert len(calls) % 2 == 0
        assert calls or "global_att2" in name


def test_attention_with_hooks_is_called_on_the_stack():
    ours, eager = (m.double() for m in twins("SK"))
    shapes = []

    def halved(module, inputs, output):
        shapes.append((inputs[0].shape, output.shape))
        return output / 2

    handle = ours.attn.register_forward_hook(halved)
    x = make_x((2, C, 5, 4), torch.float64)
    torch.testing.assert_close(2 * ours(x), eager(x))
    assert shapes == [((2, 2, C, 5, 4), (2, 2, C, 1, 1))]
    assert "unfused: attn has hooks" in repr(ours)
    handle.remove()
    assert "unfused" not in repr(ours)


@pytest.mark.parametrize("last", [nn.Identity(), nn.GroupNorm(4, C), nn.InstanceNorm2d(C)])
def test_other_last_layers_of_a_branch(last):
    ours, eager = (m.double() for m in twins("AFF"))
    for module in (ours, eager):
        module.local_att[4] = copy.deepcopy(last).double()
    inputs = inputs_for("AFF", (2, C, 5, 4), torch.float64)
    torch.testing.assert_close(trained(ours, inputs), trained(eager, inputs))
    assert f"unfused: local_att 4 is a {type(last).__name__}" in repr(ours)


@pairs
def test_copies_and_inference(pair):
    ours, _ = twins(pair)
    ours.eval()
    inputs = inputs_for(pair, (2, C, 6, 5))
    with torch.inference_mode():
        y = ours(*inputs)
    for other in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(*inputs), y)


@pairs
def test_second_derivatives(pair):
    ours, eager = (m.double() for m in twins(pair))
    inputs = [t.requires_grad_() for t in inputs_for(pair, (2, C, 3, 4), torch.float64)]

    def twice(module):
        used = [p for name, p in module.named_parameters() if "global_att2" not in name]
        first = torch.autograd.grad(module(*inputs).sin().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(t.square().sum() for t in first), [*inputs, *used])

    torch.testing.assert_close(twice(ours), twice(eager), rtol=1e-7, atol=1e-7)


@pairs
def test_fx(pair):
    """Traced, the module is its layers and our functions."""
    ours, _ = twins(pair)
    ours.eval()
    inputs = inputs_for(pair, (2, C, 6, 5))
    traced = torch.fx.symbolic_trace(ours)
    torch.testing.assert_close(traced(*inputs), ours(*inputs))
    names = {"blend"} if "AFF" in pair else {"mix", "mix_squeeze"}
    assert names <= {getattr(node.target, "__name__", None) for node in traced.graph.nodes}


X = torch.randn(2, 8, 4, 4)
SK, SPLIT = ak.SelectiveKernel, ak.SplitAttention
BAD = [
    (ValueError, r"in_channels: expected a multiple of the paths \(2\)", lambda: SK(7)),
    (ValueError, "kernel_size: expected odd numbers", lambda: SK(8, kernel_size=4)),
    (ValueError, "kernel_size: expected at least one", lambda: SK(8, kernel_size=[])),
    (ValueError, "groups: expected a divisor", lambda: SK(8, groups=3)),
    (ValueError, "rd_ratio: expected more than 0", lambda: SK(8, rd_ratio=0)),
    (TypeError, "split_input: expected True or False", lambda: SK(8, split_input=1)),
    (ValueError, r"radix: expected one that, times groups \(1\)", lambda: SPLIT(8, radix=3)),
    (ValueError, "groups: expected a divisor of out", lambda: SPLIT(8, 6, groups=4)),
    (TypeError, "in_channels: expected an int", lambda: SPLIT(8.0)),
    (ValueError, r"r: expected at most channels \(8\), got 16", lambda: ak.AFF(8, 16)),
    (ValueError, "channels: expected at least 1", lambda: ak.IAFF(0)),
    (ValueError, r"y: expected shape \(2, 8, 4, 4\), got", lambda: ak.AFF(8)(X, X[:, :, :1])),
    (TypeError, "x: expected a torch.Tensor", lambda: ak.IAFF(8)(None, X)),
]


@pytest.mark.parametrize(("error", "message", "call"), BAD, ids=[b[1] for b in BAD])
def test_bad_input(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_paths_of_different_shapes():
    """One clear line names the map."""
    module = ak.SelectiveKernel(8)
    module.paths[1].conv.stride = (2, 2)
    with pytest.raises(ValueError, match=r"x\[1\]: expected shape \(2, 8, 4, 4\), got"):
        module(X)
