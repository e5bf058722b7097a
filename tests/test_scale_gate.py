import pytest
import torch
from contract import Contract, NarrowParametersContract, Op, assert_right, make_x, output_gradient
from derivatives import gradients_after_a_change, leaves, loss

import attn_kernels as ak


def with_branch(gate):
    """The gate with a branch of x as its second map: a function of x and parameters alone."""

    def function(x, weight, scale, shift):
        a = x.roll(1, 1) * weight.to(x.dtype).view(-1, 1, 1)
        return gate(x, a, scale, shift)

    return function


def eager(x, a, scale, shift):
    scale, shift = (p.to(x.dtype).view(-1, 1, 1) for p in (scale, shift))
    return x * torch.sigmoid(a * scale + shift)


def parameters(channels, dtype, device):
    weight, scale, shift = torch.randn(3, channels, dtype=torch.float64)
    return [t.to(dtype).to(device) for t in (weight, scale, shift / 2)]


def opcheck(x, parameters):
    ops = torch.ops.attn_kernels
    a, dy = x.flip(1), torch.randn_like(x)
    strided = a.transpose(2, 3).contiguous().transpose(2, 3)
    return [
        (ops.scale_gate.default, (x, strided, *parameters[1:])),
        (ops.scale_gate_backward.default, (dy, x, a, *parameters[1:])),
        (ops.scale_gate_backward.default, (dy[:1].expand_as(x), x, strided, *parameters[1:])),
    ]


def scales(x, parameters, dy):
    """Size of the terms in the parameters' gradients, whose signs cancel."""
    if x.numel() == 0:
        return [0.0] * 3
    weight, scale, shift = (p.view(-1, 1, 1) for p in parameters)
    a = x.roll(1, 1) * weight
    map = torch.sigmoid(a * scale + shift)
    d_logit = (dy * x * map * (1 - map)).abs()
    terms = (d_logit * scale * x.roll(1, 1), d_logit * a, d_logit)
    return [t.abs().sum((0, 2, 3)).max() for t in terms]


class TestScaleGate(Contract, NarrowParametersContract):
    op = Op(
        "scale_gate",
        with_branch(ak.functional.scale_gate),
        with_branch(ak.reference.scale_gate),
        with_branch(eager),
        parameters,
        opcheck,
        saved_bytes_per_pixel=2 * 64 * 4,  # a, and what the branch's own product saves
        saved_bytes_per_channel=4,  # the copy of shift
        scales=scales,
    )

    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    def test_large_planes(self, layout, device):
        """Many units of pixels, and planes longer than one running sum."""
        x = make_x((2, 5, 120, 121), torch.float32, layout, device)
        own = parameters(5, torch.float32, device)
        assert_right(self.op, x, own, output_gradient(self.op, x, own))


def test_second_derivatives_after_a_change_of_shift():
    """They find their way to shift through the copy that the backward reads."""
    inputs = leaves([torch.randn(2, 3, 4, 3).double(), *parameters(3, torch.float64, "cpu")])

    def found(op):
        used = [t * 1 for t in inputs]  # a leaf cannot be changed in place
        y = op(*used)
        with torch.no_grad():
            used[-1].mul_(2)
        first = torch.autograd.grad(loss(y), inputs, create_graph=True)
        return torch.autograd.grad(sum(loss(t) for t in first), inputs)

    op = TestScaleGate.op
    torch.testing.assert_close(found(op.fused), found(op.reference))


@pytest.mark.parametrize("wide", ["x", "a"])
def test_maps_of_different_dtypes(wide, device):
    """The wider dtype serves, and each gradient comes back in its own."""
    x, a = make_x((2, 6, 5, 4), device=device), make_x((2, 6, 5, 4), device=device)
    x, a = (x, a.bfloat16()) if wide == "x" else (x.bfloat16(), a)
    vectors = parameters(6, torch.float32, device)[1:]
    x.requires_grad_()
    a.requires_grad_()
    y = ak.functional.scale_gate(x, a, *vectors)
    y.sum().backward()
    assert y.dtype == torch.float32
    assert (x.grad.dtype, a.grad.dtype) == (x.dtype, a.dtype)
    torch.testing.assert_close(y, eager(x.float(), a.float(), *vectors))
    torch.testing.assert_close(y, ak.reference.scale_gate(x, a, *vectors))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("logit", [-1e4, -200.0, 200.0, 1e4])
def test_saturated(logit, layout, device):
    x = make_x((1, 4, 3, 5), layout=layout, device=device).requires_grad_()
    a = torch.full_like(x, logit).requires_grad_()
    y = ak.functional.scale_gate(x, a, torch.ones(4, device=device), torch.zeros(4, device=device))
    y.sum().backward()
    torch.testing.assert_close(y, x * (logit > 0), rtol=0, atol=1e-37)
    assert not a.grad.any()


X, V = torch.randn(2, 4, 6, 6), torch.ones(4)
BAD = [
    (TypeError, "x: expected a torch.Tensor, got int", (1, X, V, V)),
    (ValueError, r"x: expected a 4-dimensional", (X[0], X, V, V)),
    (ValueError, r"a: expected shape \(2, 4, 6, 6\), got \(2, 1, 6, 6\)", (X, X[:, :1], V, V)),
    (TypeError, "a: .*got torch.int64", (X, X.long(), V, V)),
    (ValueError, r"scale: expected shape \(4,\), got \(3,\)", (X, X, V[:3], V)),
    (ValueError, r"shift: expected shape \(4,\), got \(4, 1\)", (X, X, V, V[:, None])),
    (ValueError, "shift: expected a tensor on cpu", (X, X, V, V.to("meta"))),
]


@pytest.mark.parametrize(("error", "message", "arguments"), BAD, ids=[m for _, m, _ in BAD])
def test_bad_input(error, message, arguments):
    with pytest.raises(error, match=message):
        ak.functional.scale_gate(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("scale_gate", (X[0], X[0], V, V)),
        ("scale_gate", (X, X[:1], V, V)),
        ("scale_gate", (X, X.double(), V, V)),
        ("scale_gate", (X, X, V.double(), V)),
        ("scale_gate_backward", (X[:1], X, X, V, V)),
    ],
)
def test_direct_callers_of_the_ops_are_stopped_too(name, arguments):
    with pytest.raises(RuntimeError, match="attn_kernels"):
        getattr(torch.ops.attn_kernels, name)(*arguments)


def test_a_shift_may_change_before_the_backward():
    """Eager's backward does not read it; ours keeps a copy."""
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    inputs = (x, x.flip(1), *torch.randn(2, 4, dtype=torch.float64))
    ours = gradients_after_a_change(ak.functional.scale_gate, inputs, 3)
    torch.testing.assert_close(ours, gradients_after_a_change(eager, inputs, 3))
