"""The op squeeze_excite: its contract, its results one by one, its guards."""

import pytest
import torch
import torch.nn.functional as F
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, SHAPES, Contract, Op, make_x
from gam import gam_parameters
from planes import LAYOUTS, STRIDES, assert_same, assert_same_on_any_threads, assert_same_with

import attn_kernels as ak
from attn_kernels.reference import squeeze_excite as reference
from attn_kernels.reference.squeeze_excite import backward, forward

squeeze_excite = torch.ops.attn_kernels.squeeze_excite
squeeze_excite_backward = torch.ops.attn_kernels.squeeze_excite_backward
ACTIVATIONS = {"relu": F.relu, "silu": F.silu, "identity": lambda t: t}
GATES = {"sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid}
KINDS = [(activation, gate) for activation in ACTIVATIONS for gate in GATES]
# Image by image and in phases, one pixel, more units than a task has, ends of every kind.
MORE = [(4, 33, 17, 18), (3, 200, 6, 7), (5, 700, 1, 1), (2, 1100, 5, 5), (130, 9, 4, 3)]
NAN, INF = float("nan"), float("inf")


def parameters(channels, dtype, device):
    """w1, b1, w2, b2, with hidden units away from the kink."""
    w1, b1, w2, b2 = gam_parameters(channels, dtype, device)
    return [w1[:, :, None, None], b1, w2[:, :, None, None], b2]


def eager(x, w1, b1, w2, b2, activation="relu", gate="sigmoid"):
    mean = x.mean((2, 3), keepdim=True)
    return x * GATES[gate](F.conv2d(ACTIVATIONS[activation](F.conv2d(mean, w1, b1)), w2, b2))


def opcheck(x, parameters):
    w1, _, w2, _ = parameters
    y, *saved = squeeze_excite(x, *parameters, "relu", "sigmoid")
    strided = y.transpose(2, 3).contiguous().transpose(2, 3)
    return [
        (squeeze_excite.default, (x, *parameters, "relu", "sigmoid")),
        (squeeze_excite.default, (x, w1, None, w2, None, "silu", "hardsigmoid")),
        (squeeze_excite_backward.default, (y, x, w1, w2, *saved, "relu", "sigmoid")),
        (squeeze_excite_backward.default, (strided, x, w1, w2, *saved, "silu", "hardsigmoid")),
    ]


def term_sizes(x, parameters, dy):
    """Size of the terms in the parameters' gradients, whose signs cancel."""
    if x.numel() == 0:
        return [0.0] * 4
    _, _, w2, _ = parameters
    _, scale, mean, hidden = forward(x, *parameters, "relu", "sigmoid")
    d_logit = (dy * x).abs().sum((2, 3)) * scale * (1 - scale)
    d_hidden = (d_logit @ w2.flatten(1).abs()) * (hidden > 0)
    d_w2, d_w1 = d_logit.mT @ hidden.relu(), d_hidden.mT @ mean.abs()
    return [t.max() for t in (d_w1, d_hidden.sum(0), d_w2, d_logit.sum(0))]


class TestSqueezeExcite(Contract):
    op = Op(
        "squeeze_excite",
        ak.functional.squeeze_excite,
        reference,
        eager,
        parameters,
        opcheck,
        saved_bytes_per_pixel=0,
        saved_bytes_per_channel=2 * (4 + 4 + 1),  # scale, mean, hidden of two images
        scales=term_sizes,
    )


def operands(shape, dtype=torch.float32, layout="nchw"):
    """dy, x and parameters in the accumulate dtype."""
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    dy, x = (make_x(shape, dtype, layout) for _ in range(2))
    return dy, x, parameters(shape[1], acc, "cpu")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("activation", "gate"), KINDS)
@pytest.mark.parametrize("shape", [*SHAPES[:2], *MORE], ids=str)
def test_every_result(shape, activation, gate, layout, dtype):
    """What the op returns, and its backward, beside the formula, with biases and without."""
    dy, x, (w1, b1, w2, b2) = operands(shape, dtype, layout)
    kind = activation, gate
    wide = [t.double() for t in (dy, x, w1, w2)]
    for biases in ((b1, b2), (None, None)):
        given = x, w1, biases[0], w2, biases[1]
        found = squeeze_excite(*given, *kind)
        plain = forward(*given, *kind)
        truth = forward(*(t if t is None else t.double() for t in given), *kind)
        for name, *results in zip(
            ("y", "scale", "mean", "hidden"), found, plain, truth, strict=True
        ):
            # Sums of values of size 1.
            size = {"mean": 1 / x[0, 0].numel() ** 0.5, "hidden": 1.0}.get(name, 0.0)
            assert_accurate(name, *results, FORWARD, size)
        saved = plain[1:]
        found = squeeze_excite_backward(dy, x, w1, w2, *saved, *kind)
        plain = backward(dy, x, w1, w2, *saved, *kind)
        truth = backward(*wide, *(t.double() for t in saved), *kind)
        sums = (wide[0] * wide[1]).abs().sum((2, 3)).sum(0).max()
        for i, results in enumerate(zip(found, plain, truth, strict=True)):
            assert_accurate(f"gradient {i}", *results, GRADIENT, sums if i else 0.0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(4, 33, 17, 18), *MORE, (8, 70, 23, 19), (1, 300, 9, 9)], ids=str
)
def test_the_same_bits_on_any_threads(shape, layout):
    dy, x, own = operands(shape, layout=layout)
    kind = "silu", "sigmoid"

    def everything():
        y, *saved = squeeze_excite(x, *own, *kind)
        return y, *saved, *squeeze_excite_backward(dy, x, own[0], own[2], *saved, *kind)

    assert_same_on_any_threads(everything)


@pytest.mark.parametrize("stride", STRIDES)
def test_gradients_of_any_strides(stride):
    x = STRIDES[stride](make_x((4, 9, 8, 10)))
    dy = STRIDES[stride](make_x((4, 9, 8, 10)))
    w1, b1, w2, b2 = parameters(x.shape[1], torch.float32, "cpu")
    kind = "relu", "sigmoid"
    saved = squeeze_excite(x, w1, b1, w2, b2, *kind)[1:]
    assert_same_with(lambda dy, x: squeeze_excite_backward(dy, x, w1, w2, *saved, *kind), dy, x)


def test_an_image_is_the_same_in_any_batch():
    """In phases or one by one: what an image gets does not depend on its neighbours."""
    dy, x, (w1, b1, w2, b2) = operands((8, 40, 9, 10))
    kind = "relu", "hardsigmoid"
    y, *saved = squeeze_excite(x, w1, b1, w2, b2, *kind)
    dx = squeeze_excite_backward(dy, x, w1, w2, *saved, *kind)[0]
    for n in (1, 3):
        part = squeeze_excite(x[:n], w1, b1, w2, b2, *kind)
        assert_same(list(part), [t[:n] for t in (y, *saved)])
        own = squeeze_excite_backward(dy[:n], x[:n], w1, w2, *part[1:], *kind)
        assert_same(own[0], dx[:n])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("activation", "gate"), KINDS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_special_values(value, activation, gate, layout):
    """An image is spoilt exactly where the formula's is, forward and backward."""
    dy, x, own = operands((4, 21, 17, 18), layout=layout)
    x[0, 3, 8, 9] = value
    found = squeeze_excite(x, *own, activation, gate)
    truth = forward(x, *own, activation, gate)
    given = (dy, x, own[0], own[2], *truth[1:], activation, gate)
    found += squeeze_excite_backward(*given)
    truth += backward(*given)
    for ours, expected in zip(found, truth, strict=True):
        assert torch.equal(ours.isnan(), expected.isnan())
        assert torch.equal(ours.isinf(), expected.isinf())


def test_a_shut_gate_passes_no_gradient():
    """At the ends of the hard sigmoid, as torch's: at -3 and 3 it is shut already."""
    x = make_x((1, 5, 3, 4)).requires_grad_()
    b2 = torch.tensor([-4.0, -3.0, 0.0, 3.0, 4.0]).requires_grad_()
    w1, w2 = torch.zeros(2, 5, 1, 1), torch.zeros(5, 2, 1, 1)
    y = ak.functional.squeeze_excite(x, w1, None, w2, b2, gate="hardsigmoid")
    torch.testing.assert_close(y, x * torch.tensor([0, 0, 0.5, 1, 1])[:, None, None])
    (found,) = torch.autograd.grad(y.sum(), b2)
    torch.testing.assert_close(found, torch.eye(5)[2] * x.detach()[0, 2].sum() / 6)


@pytest.mark.parametrize("wanted", range(1, 32))
def test_only_what_is_asked_for(wanted):
    """Every subset of arguments that require a gradient; biases that are not there."""
    x = make_x((2, 6, 5, 4), torch.float64)
    inputs = [x, *parameters(6, torch.float64, "cpu")]
    without = [t if i not in (2, 4) else None for i, t in enumerate(inputs)]
    for given in (inputs, without):

        def found(gate, given=given):
            own = [
                t if t is None else t.clone().requires_grad_(bool(wanted >> i & 1))
                for i, t in enumerate(given)
            ]
            leaves = [t for t in own if t is not None and t.requires_grad]
            return torch.autograd.grad(gate(*own).sin().sum(), leaves) if leaves else []

        torch.testing.assert_close(found(ak.functional.squeeze_excite), found(eager))


X = torch.randn(2, 4, 6, 6)
W1, B1, W2, B2 = torch.randn(3, 4, 1, 1), torch.randn(3), torch.randn(4, 3, 1, 1), torch.randn(4)
BAD = [
    (TypeError, "x: expected a torch.Tensor, got int", (1, W1, B1, W2, B2)),
    (ValueError, "x: expected a 4-dimensional", (X[0], W1, B1, W2, B2)),
    (TypeError, "w1: expected a torch.Tensor, got None", (X, None, B1, W2, B2)),
    (ValueError, r"w1: .*\(R, 4, 1, 1\).*got \(3, 4\)", (X, W1[..., 0, 0], B1, W2, B2)),
    (ValueError, r"w1: .*got \(3, 3, 1, 1\)", (X, W1[:, :3], B1, W2, B2)),
    (ValueError, r"w1: .*R of at least 1, got \(0, 4, 1, 1\)", (X, W1[:0], B1, W2, B2)),
    (ValueError, r"w1: .*got \(\)", (X, W1[0, 0, 0, 0], B1, W2, B2)),
    (ValueError, r"w2: expected shape \(4, 3, 1, 1\)", (X, W1, B1, W2[:1], B2)),
    (ValueError, r"b1: expected shape \(3,\), got \(4,\)", (X, W1, B2, W2, B2)),
    (ValueError, r"b2: expected shape \(4,\), got \(3,\)", (X, W1, None, W2, B1)),
    (TypeError, "b2: .*got torch.int64", (X, W1, B1, W2, B2.long())),
    (ValueError, "w1: expected a tensor on cpu", (X, W1.to("meta"), B1, W2, B2)),
    (ValueError, "activation: expected one of relu, silu, identity", (X, W1, B1, W2, B2, "gelu")),
    (ValueError, "gate: expected one of sigmoid, hard", (X, W1, B1, W2, B2, "relu", "tanh")),
]


@pytest.mark.parametrize(("error", "message", "arguments"), BAD, ids=[m for _, m, _ in BAD])
def test_bad_input(error, message, arguments):
    with pytest.raises(error, match=message):
        ak.functional.squeeze_excite(*arguments)


KIND = "relu", "sigmoid"
V, H = torch.ones(2, 4), torch.ones(2, 3)


REFUSED = [
    (squeeze_excite, (X[0], W1, B1, W2, B2, *KIND)),
    (squeeze_excite, (X[:, :, :0], W1, B1, W2, B2, *KIND)),
    (squeeze_excite, (X.long(), W1, B1, W2, B2, *KIND)),
    (squeeze_excite, (X, W1[0], B1, W2, B2, *KIND)),
    (squeeze_excite, (X, W1[:0], B1[:0], W2[:, :0], B2, *KIND)),
    (squeeze_excite, (X, W1[:, :1], B1, W2, B2, *KIND)),
    (squeeze_excite, (X, W1.double(), B1, W2, B2, *KIND)),
    (squeeze_excite, (X, W1, B1[:2], W2, B2, *KIND)),
    (squeeze_excite, (X, W1, B1, W2[:, :2], B2, *KIND)),
    (squeeze_excite, (X, W1, B1, W2, B2.half(), *KIND)),
    (squeeze_excite, (X, W1, B1, W2.transpose(0, 1), B2, *KIND)),
    (squeeze_excite, (X, W1, B1, W2, B2, "gelu", "sigmoid")),
    (squeeze_excite, (X, W1, B1, W2, B2, "relu", "tanh")),
    (squeeze_excite_backward, (X[:1], X, W1, W2, V, V, H, *KIND)),
    (squeeze_excite_backward, (X.half(), X, W1, W2, V, V, H, *KIND)),
    (squeeze_excite_backward, (X, X, W1[:2], W2, V, V, H, *KIND)),
    (squeeze_excite_backward, (X, X, W1, W2, V[:1], V, H, *KIND)),
    (squeeze_excite_backward, (X, X, W1, W2, V, V.double(), H, *KIND)),
    (squeeze_excite_backward, (X, X, W1, W2, V, V, V, *KIND)),
    (squeeze_excite_backward, (X, X, W1, W2, V, V, H, "relu", "identity")),
    (squeeze_excite_backward, (X, X, W1, W2, V, V, H, "tanh", "sigmoid")),
]


@pytest.mark.parametrize(("op", "arguments"), REFUSED)
def test_direct_callers_of_the_ops_are_stopped(op, arguments):
    with pytest.raises(RuntimeError, match="attn_kernels"):
        op(*arguments)
