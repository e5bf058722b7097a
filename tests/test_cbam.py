"""CBAM: a channel gate as the view of a spatial gate, and one gradient of x through both."""

import copy
import pickle

import eager_gates
import pytest
import torch
import torch.nn.functional as F
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, Contract, Op, make_x
from spatial import eager_map
from test_squeeze_gate import Maps
from torch import nn

import attn_kernels as ak
from attn_kernels.functional.operands import product_dtype
from attn_kernels.functional.squeeze_mix_gate import View, squeeze_mix_gate

C = 32


def mixed(mean, max, w1, w2):
    def mlp(t):
        return F.conv2d(torch.relu(F.conv2d(t, w1.to(t.dtype))), w2.to(t.dtype))

    return torch.sigmoid(mlp(mean) + mlp(max))


def fused(x, w1, w2, weight):
    """With a mix as wide as the statistics: a scale rounded to half precision would change which
    channel is a pixel's maximum.
    """

    def view(found):
        scale = mixed(*(found[name][..., None, None] for name in ("mean", "max")), w1, w2)
        return View(scale, None, product_dtype(x, scale))

    return squeeze_mix_gate(x, ("mean", "max"), view, (weight, None))


def reference(x, w1, w2, weight):
    scale = mixed(*ak.reference.squeeze(x, ("mean", "max")), w1, w2)
    return ak.reference.spatial_gate(x, weight, scale=scale.flatten(1))


def eager(x, w1, w2, weight):
    mean, max = x.mean((2, 3), keepdim=True), x.flatten(2).max(2).values[..., None, None]
    x1 = x * mixed(mean, max, w1, w2)
    return x1 * eager_map(x1, weight.to(x.dtype), None)


def parameters(channels, dtype, device):
    hidden = max(channels // 4, 1)
    shapes = (hidden, channels, 1, 1), (channels, hidden, 1, 1), (1, 2, 7, 7)
    return [
        (torch.randn(shape, dtype=torch.float64) / shape[1] ** 0.5).to(dtype).to(device)
        for shape in shapes
    ]


def opcheck(x, parameters):
    acc = ak.ops.acc_dtype(x)
    scale, shift = torch.randn(2, *x.shape[:2]).to(x.device, acc)
    operands = (x, parameters[2], None, scale, shift, x, "relu", *ak.ops.nothing(x))
    return [(torch.ops.attn_kernels.spatial_gate_carried.default, operands)]


def term_sizes(x, parameters, dy):
    """Size of the terms in the parameters' gradients, whose signs cancel."""
    if x.numel() == 0:
        return [0.0] * 3
    terms = (dy * x).abs()
    return [terms.sum((2, 3)).sum(0).max()] * 2 + [terms.sum()]


class TestCBAM(Contract):
    op = Op(
        "spatial_gate",
        fused,
        reference,
        eager,
        parameters,
        opcheck,
        saved_bytes_per_pixel=3 * 4,  # map, pooled
        saved_bytes_per_channel=2 * (8 + 16 * 4),  # argmax; most of it is the mix's own
        scales=term_sizes,
        same_on_any_threads=False,  # the mix's convolutions are PyTorch's
        forward_ops=("squeeze_carried", "spatial_gate_carried"),
        backward_ops=("spatial_gate_backward", "squeeze_backward"),
    )


def twins(dtype=torch.float64, kernel_size=7, device="cpu"):
    torch.manual_seed(3)
    ours, theirs = (
        make(C, ratio=4, kernel_size=kernel_size) for make in (ak.CBAM, eager_gates.CBAM)
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours.to(device, dtype), theirs.to(device, dtype)


def trained(module, x, dy):
    x = x.detach().clone().requires_grad_()
    y = module(x)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], dy)]


def test_published_keys():
    ours, theirs = twins()
    keys = ["ca.sharedMLP.0.weight", "ca.sharedMLP.2.weight", "sa.conv.weight"]
    assert list(ours.state_dict()) == list(theirs.state_dict()) == keys
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert ours.state_dict()["sa.conv.weight"].shape == (1, 2, 7, 7)
    assert "unfused" not in repr(ours)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_as_eager(layout, dtype, device):
    """Value and every gradient against the float64 truth, judged by eager's error."""
    x, dy = (make_x((3, C, 13, 9), dtype, layout, device) for _ in range(2))
    ours, theirs = twins(dtype, device=device)
    truths = trained(copy.deepcopy(theirs).double(), x.double(), dy.double())
    results = zip(trained(ours, x, dy), trained(theirs, x, dy), truths, strict=True)
    sums = term_sizes(x.double(), None, dy.double())
    for i, (found, plain, truth) in enumerate(results):
        assert found.dtype == dtype
        bounds = (GRADIENT, sums[i - 2] if i > 1 else 0.0) if i else (FORWARD, 0.0)
        assert_accurate(i, found, plain, truth, *bounds)
    assert ours(x).is_contiguous(memory_format=ak.ops.memory_format(x))


def test_halves_are_modules_of_their_own():
    ours, theirs = twins()
    x = make_x((2, C, 6, 5), torch.float64)
    torch.testing.assert_close(ours.ca(x), theirs.ca(x))
    torch.testing.assert_close(ours.sa(x), theirs.sa(x))


def test_no_second_gradient_of_x():
    """The forward makes y alone: x1 is never stored; the backward x's gradient through the gate,
    in which the last pass adds its part through the statistics.
    """
    ours, _ = twins()
    x = make_x((2, C, 20, 20), torch.float64).requires_grad_()
    with Maps(x) as forward:
        y = ours(x)
    assert forward.made == ["attn_kernels.spatial_gate_carried.default"]
    dy = torch.randn_like(y)
    with Maps(x) as backward:
        torch.autograd.grad(y, [x, *ours.parameters()], dy)
    made = ["attn_kernels.spatial_gate_backward.default"]
    assert backward.made == made
    x.requires_grad_(False)
    y = ours(x)
    with Maps(x) as backward:
        torch.autograd.grad(y, list(ours.parameters()), dy)
    assert backward.made == made


@pytest.mark.parametrize("frozen", ["x", "ca", "sa", "all but x"])
def test_frozen(frozen):
    x, dy = (make_x((2, C, 6, 5), torch.float64) for _ in range(2))
    results = []
    for module in twins():
        given = x.clone().requires_grad_(frozen != "x")
        module.ca.requires_grad_(frozen not in ("ca", "all but x"))
        module.sa.requires_grad_(frozen not in ("sa", "all but x"))
        inputs = [t for t in (given, *module.parameters()) if t.requires_grad]
        results.append(torch.autograd.grad(module(given), inputs, dy))
    torch.testing.assert_close(*results)


CHANGES = {
    "hook on ca": lambda module: module.ca.register_forward_hook(lambda m, i, y: y * 1.5),
    "hook on sa": lambda module: module.sa.register_forward_hook(lambda m, i, y: y * 0.5),
    "hook on sa.conv": lambda module: module.sa.conv.register_forward_hook(lambda m, i, y: y * 2),
    "another map": lambda module: setattr(module, "sa", nn.Sequential(module.sa, nn.Sigmoid())),
}


@pytest.mark.parametrize("change", CHANGES)
def test_children_that_are_not_plain_are_called(change):
    x, dy = (make_x((2, C, 6, 5), torch.float64) for _ in range(2))
    both = twins()
    for module in both:
        CHANGES[change](module)
    results = [trained(module, x, dy) for module in both]
    torch.testing.assert_close(*results)
    assert "unfused: sa" in repr(both[0]) or "unfused: ca has hooks" in repr(both[0])


def test_layers_of_the_mlp_are_called():
    both = twins()
    for module in both:
        module.ca.sharedMLP[1].register_forward_hook(lambda m, i, y: y * 1.5)
    x, dy = (make_x((2, C, 6, 5), torch.float64) for _ in range(2))
    torch.testing.assert_close(*(trained(module, x, dy) for module in both))
    assert "unfused" not in repr(both[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(dtype):
    ours, theirs = twins(torch.float32)
    x = make_x((2, C, 6, 5), dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = ours(x), theirs(x)
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=0.03, atol=0.03)  # bfloat16's two digits


def test_copies_traces_and_inference():
    ours, _ = twins()
    x = make_x((2, C, 6, 5), torch.float64)
    with torch.inference_mode():
        y = ours(x)
    traced = torch.fx.symbolic_trace(ours)
    assert str(traced.graph).count("functional.squeeze") == 1
    exported = torch.export.export(ours, (x,)).module()
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), exported):
        assert torch.equal(other(x), y)
    torch.testing.assert_close(traced(x), y)  # its MLP is called
    with ak.use_backend("reference"):
        torch.testing.assert_close(ours(x), y)


BAD = [
    (TypeError, "channels: expected an int, got 4.0", lambda: ak.CBAM(4.0)),
    (ValueError, "channels: expected at least 1, got 0", lambda: ak.CBAM(0)),
    (ValueError, r"ratio: expected at most channels \(8\), got 16", lambda: ak.CBAM(8)),
    (TypeError, "kernel_size: expected an int, got '7'", lambda: ak.CBAM(8, 2, "7")),
    (ValueError, "kernel_size: .*odd and from 1 to 15, got 4", lambda: ak.CBAM(8, 2, 4)),
    (TypeError, "x: expected a torch.Tensor, got int", lambda: ak.CBAM(8, 2)(1)),
    (ValueError, "x: expected a 4-dimensional", lambda: ak.CBAM(8, 2)(torch.ones(8, 3, 3))),
    (RuntimeError, "shapes", lambda: ak.CBAM(8, 2)(torch.ones(2, 6, 3, 3))),  # PyTorch's words
]


@pytest.mark.parametrize(("error", "message", "call"), BAD, ids=[b[1] for b in BAD])
def test_bad_input(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_export_with_any_batch():
    gate, batch = ak.CBAM(4, 2, 3).eval(), {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(gate, (torch.randn(2, 4, 6, 5),), dynamic_shapes=batch)
    x = torch.randn(5, 4, 6, 5)
    assert torch.equal(program.module()(x), gate(x))
