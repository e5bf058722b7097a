from types import SimpleNamespace

import pytest
import torch
from contract import (
    DTYPES,
    SHAPES,
    Contract,
    NarrowParametersContract,
    Op,
    assert_deterministic,
    assert_right,
    make_x,
    output_gradient,
    run,
)
from derivatives import gradients_after_a_change
from gam import eager_gate, gam_parameters

import attn_kernels as ak
import triton_ops
from attn_kernels import ops
from attn_kernels.backends import backend_for

ACTIVATIONS = ("identity", "sigmoid")


def opcheck(x, parameters):
    y, hidden = ops.gam_channel_gate(x, *parameters, "identity")
    w1, _, w2, b2 = parameters
    saved = (x, hidden, w1, w2, b2)
    return [
        (ops.gam_channel_gate, (x, *parameters, "sigmoid")),
        (ops.gam_channel_gate_backward, (y, *saved, "identity")),
        (ops.gam_channel_gate_backward, (y[:1].expand_as(x), *saved, "sigmoid")),
    ]


def scales(x, parameters, dy):
    """Size of the terms in the parameters' gradients, whose signs cancel."""
    if x.numel() == 0:
        return [0.0] * 4
    w1, b1, w2, _ = parameters
    d_gate = (dy * x).abs()
    hidden = torch.relu(torch.einsum("rc,nchw->nrhw", w1, x) + b1.view(-1, 1, 1))
    d_pre = torch.einsum("cr,nchw->nrhw", w2.abs(), d_gate) * (hidden > 0)
    return [
        torch.einsum("nrhw,nchw->rc", d_pre, x.abs()).max(),
        d_pre.sum((0, 2, 3)).max(),
        torch.einsum("nchw,nrhw->cr", d_gate, hidden).max(),
        d_gate.sum((0, 2, 3)).max(),
    ]


def op_with(activation: str) -> Op:
    return Op(
        "gam_channel_gate",
        lambda *tensors: ak.functional.gam_channel_gate(*tensors, activation=activation),
        lambda *tensors: ak.reference.gam_channel_gate(*tensors, activation),
        lambda *tensors: eager_gate(*tensors, activation),
        gam_parameters,
        opcheck,
        saved_bytes_per_pixel=0.27 * 64 * 4,  # of 64 channels in float32
        scales=scales,
        same_on_any_threads=False,  # a library's matrix products
    )


LARGE = [
    ((2, 64, 40, 41), "identity"),
    ((3, 256, 23, 23), "sigmoid"),
    ((1, 700, 20, 21), "identity"),
    ((5, 1024, 21, 22), "sigmoid"),
    ((1, 520, 96, 95), "identity"),
]
# Several of them are brought together in one tile, which the last ones do not fill.
SMALL_IMAGES = [
    ((600, 24, 7, 7), "identity"),
    ((517, 16, 2, 2), "sigmoid"),
    ((261, 33, 3, 3), "identity"),
    ((70, 520, 4, 4), "identity"),
    ((300, 257, 1, 1), "sigmoid"),
]


class TestGamChannelGate(Contract, NarrowParametersContract):
    op = op_with("identity")

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    @pytest.mark.parametrize(("channels", "hidden"), [(1, 1), (5, 33), (130, 1), (33, 96)])
    def test_any_number_of_hidden_units(self, channels, hidden, layout, activation, device):
        x = make_x((2, channels, 9, 11), torch.float32, layout, device)
        parameters = [
            torch.randn(shape, device=device) / shape[-1] ** 0.5
            for shape in ((hidden, channels), (hidden,), (channels, hidden), (channels,))
        ]
        op = op_with(activation)
        assert_right(op, x, parameters, output_gradient(op, x, parameters))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    @pytest.mark.parametrize(("shape", "activation"), LARGE + SMALL_IMAGES, ids=str)
    def test_many_tiles(self, shape, activation, layout, dtype, device):
        """Tiles of parts of an image and of several, sums of many parts: no seam may show."""
        op = op_with(activation)
        x = make_x(shape, dtype, layout, device)
        parameters = gam_parameters(shape[1], dtype, device)
        assert_right(op, x, parameters, output_gradient(op, x, parameters))

    def test_many_tiles_with_parameters_in_float32(self, device):
        """As under autocast: the products may be in x's dtype, the gradients are not."""
        x = make_x((5, 1024, 21, 22), torch.bfloat16, device=device)
        parameters = gam_parameters(1024, torch.float32, device)
        assert_right(self.op, x, parameters, output_gradient(self.op, x, parameters))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("shape", [shape for shape, _ in LARGE[1:4] + SMALL_IMAGES], ids=str)
    def test_deterministic_in_many_tiles(self, shape, dtype, device):
        assert_deterministic(self.op, make_x(shape, dtype, device=device), repetitions=12)

    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    def test_empty_batch_of_many_channels(self, layout, device):
        x = make_x((0, 1024, 5, 4), layout=layout, device=device)
        parameters = gam_parameters(1024, torch.float32, device)
        y, grads = run(self.op.fused, x, parameters, downstream=torch.sum)
        assert y.shape == x.shape
        assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)

    def test_compile_in_channels_last(self, device):
        """Two hidden units: their map has the format that the compiler was told."""
        x = make_x((2, 8, 6, 5), layout="channels_last", device=device)
        parameters = gam_parameters(8, torch.float32, device)
        gradient = torch.randn_like(x)
        torch._dynamo.reset()
        compiled = torch.compile(lambda *inputs: self.op.fused(*inputs).sin(), fullgraph=True)
        ours = run(compiled, x, parameters, gradient)
        truth = run(lambda *inputs: self.op.fused(*inputs).sin(), x, parameters, gradient)
        torch.testing.assert_close(ours, truth)

    def test_nan_spoils_its_pixel_alone(self, device):
        x = make_x((2, 20, 5, 6), device=device)
        x[1, 7, 2, 3] = float("nan")
        y = self.op.fused(x, *gam_parameters(20, torch.float32, device))
        assert y[1, :, 2, 3].isnan().all()
        y[1, :, 2, 3] = 0
        assert y.isfinite().all()

    def test_the_comparison_notices_every_gradient_term(self):
        """dx without one of its terms is called wrong, so is a weight gradient without a pixel."""
        x = make_x((2, 64, 14, 14), torch.float64)
        parameters = gam_parameters(64, torch.float64, "cpu")
        dy = torch.randn_like(x)

        def without_gate_term(x, *p):
            return x.detach() * self.op.reference(torch.ones_like(x), *p) + 0 * x

        def without_mlp_term(x, *p):
            y = self.op.reference(x, *p)
            return x * (y / x).detach() + (y - y.detach()).detach()

        def without_a_pixel(x, *p):
            y = self.op.reference(x, *p)
            seen = torch.ones_like(y, dtype=torch.bool)
            seen[0, :, 3, 3] = False
            frozen = self.op.reference(x, *(t.detach() for t in p))
            return torch.where(seen, y, frozen)

        for wrong in (without_gate_term, without_mlp_term, without_a_pixel):
            with pytest.raises(AssertionError, match="error"):
                assert_right(self.op, x.float(), [p.float() for p in parameters], dy, wrong)


class TestSigmoid:
    op = op_with("sigmoid")

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    @pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
    def test_accuracy(self, shape, layout, dtype, device):
        Contract.test_accuracy(self, shape, layout, dtype, device)

    @pytest.mark.parametrize("check", ["gradcheck", "gradgradcheck", "deterministic"])
    def test_contract(self, check, device):
        class Sigmoid(Contract):
            op = self.op

        getattr(Sigmoid(), f"test_{check}")(device)

    def test_saved_for_backward(self, device):
        Contract.test_saved_for_backward(self, device)


def test_gradient_only_of_x(device):
    """Frozen parameters, as in feature extraction."""
    x = make_x((2, 16, 6, 7), torch.float64, device=device)
    parameters = gam_parameters(16, torch.float64, device)
    truth = run(ak.reference.gam_channel_gate, x, parameters, downstream=torch.sum)[1][0]
    x.requires_grad_()
    ak.functional.gam_channel_gate(x, *parameters).sum().backward()
    torch.testing.assert_close(x.grad, truth)


@pytest.mark.parametrize("op", ["gam_channel_gate", "scale_gate"])
def test_triton_serves_cuda(op, monkeypatch):
    """All but float64, which its products lack."""
    for name in (op, f"{op}_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"attn_kernels::{name}", "CUDA")
        monkeypatch.setattr(getattr(triton_ops, op), name, lambda *args: args)
        assert ops._triton_kernel(name)(1, 2) == (1, 2)
    for dtype, backend in ((torch.float16, "triton"), (torch.float64, "reference")):
        x = SimpleNamespace(device=torch.device("cuda"), is_cpu=False, dtype=dtype)
        assert backend_for(op, x) == backend


X = torch.randn(2, 4, 6, 6)
W1, B1, W2, B2 = torch.ones(2, 4), torch.ones(2), torch.ones(4, 2), torch.ones(4)
BAD = [
    (TypeError, "x: expected a torch.Tensor, got list", ([1.0], W1, B1, W2, B2)),
    (ValueError, r"x: expected a 4-dimensional", (X[0], W1, B1, W2, B2)),
    (ValueError, r"w1: expected shape \(R, 4\).*got \(2, 3\)", (X, W1[:, :3], B1, W2, B2)),
    (ValueError, r"w1: .*R of at least 1, got \(0, 4\)", (X, W1[:0], B1[:0], W2[:, :0], B2)),
    (ValueError, r"w1: .*got \(4,\)", (X, B2, B1, W2, B2)),
    (ValueError, r"b1: expected shape \(2,\), got \(4,\)", (X, W1, B2, W2, B2)),
    (ValueError, r"w2: expected shape \(4, 2\), got \(2, 4\)", (X, W1, B1, W1, B2)),
    (ValueError, r"b2: expected shape \(4,\), got \(2,\)", (X, W1, B1, W2, B1)),
    (TypeError, "b2: expected a torch.Tensor, got NoneType", (X, W1, B1, W2, None)),
    (TypeError, "w2: .*got torch.int64", (X, W1, B1, W2.long(), B2)),
    (ValueError, "w1: expected a tensor on cpu", (X, W1.to("meta"), B1, W2, B2)),
    (ValueError, "activation: .*identity, sigmoid, got 'tanh'", (X, W1, B1, W2, B2, "tanh")),
]


@pytest.mark.parametrize(("error", "message", "arguments"), BAD, ids=[m for _, m, _ in BAD])
def test_bad_input(error, message, arguments):
    with pytest.raises(error, match=message):
        ak.functional.gam_channel_gate(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gam_channel_gate", (X[0], W1, B1, W2, B2, "identity")),
        ("gam_channel_gate", (X, W1.double(), B1, W2, B2, "identity")),
        ("gam_channel_gate", (X, W1.t(), B1, W2, B2, "identity")),
        ("gam_channel_gate", (X, W1, B1, W2, B2, "tanh")),
        ("gam_channel_gate_backward", (X[:1], X, X[:, :2], W1, B1, W2, B2, "identity")),
        ("gam_channel_gate_backward", (X, X, X, W1, B1, W2, B2, "identity")),
    ],
)
def test_direct_callers_of_the_ops_are_stopped_too(name, arguments):
    with pytest.raises(RuntimeError, match="attn_kernels"):
        getattr(torch.ops.attn_kernels, name)(*arguments)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [2, 4])
def test_biases_may_change_before_the_backward(bias, activation):
    """Eager's backward does not read them; ours reads a copy of b2."""
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    inputs, op = (x, *gam_parameters(8, torch.float64, "cpu")), op_with(activation)
    ours = gradients_after_a_change(op.fused, inputs, bias)
    torch.testing.assert_close(ours, gradients_after_a_change(op.eager, inputs, bias))
