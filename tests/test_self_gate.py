"""self_gate: a polynomial of every element, with the shuffle of channels in its store."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, SHAPES, Contract, Op, make_x
from planes import LAYOUTS, STRIDES, acc_dtype, assert_same_on_any_threads, strided_like

import attn_kernels as ak
from attn_kernels.reference import self_gate as formula

self_gate = ak.functional.self_gate
self_squeeze_gate = ak.functional.self_squeeze_gate
ops = torch.ops.attn_kernels
# Of p1, p2, center; the center of a constant is nothing.
SUBSETS = [s for s in itertools.product((False, True), repeat=3) if s != (False, False, True)]


def eager(x, p0, p1=None, p2=None, *, center=None, groups=1):
    """As a user would write it."""
    p0, p1, p2, center = (
        t if t is None or t.dim() == 4 else t[..., None, None] for t in (p0, p1, p2, center)
    )
    d = x if center is None else x - center
    u = p0.expand_as(x)
    u = u if p1 is None else u + p1 * d
    u = u if p2 is None else u + p2 * d.square()
    y = x * torch.sigmoid(u)
    if groups == 1:
        return y
    return torch.empty_like(y).copy_(F.channel_shuffle(y.contiguous(), groups))


def coefficients(x, subset=(True, True, True)):
    """p0, p1, p2, center, those that are wanted."""
    given = [torch.randn(x.shape[:2], dtype=torch.float64).to(x.dtype) for _ in range(4)]
    return [t for t, wanted in zip(given, (True, *subset), strict=True) if wanted]


def called(function, x, given, subset, dy, groups):
    """y, and all gradients."""
    inputs = [t.detach().clone().requires_grad_() for t in (x, *given)]
    names = ["p0", *itertools.compress(("p1", "p2", "center"), subset)]
    y = function(inputs[0], **dict(zip(names, inputs[1:], strict=True)), groups=groups)
    return [y.detach(), *torch.autograd.grad(y, inputs, dy.to(y.dtype))]


def divisor(channels):
    return next((g for g in (2, 3, 5) if channels % g == 0), 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 6, 50, 61), (2, 540, 3, 2)], ids=str)
def test_accuracy(shape, layout, dtype):
    x, dy = make_x(shape, dtype, layout), make_x(shape, dtype)
    for subset in SUBSETS if shape == SHAPES[0] else [(True, True, True), (True, False, True)]:
        given = coefficients(x, subset)
        for groups in {1, divisor(shape[1])}:
            args = (subset, dy.double(), groups)
            truth = called(formula, x.double(), [t.double() for t in given], *args)
            plain = called(eager, x, given, *args)
            ours = called(self_gate, x, given, *args)
            size = ((x.double().abs() + 3) ** 3 * dy.double().abs()).sum((2, 3)).max()
            for i, results in enumerate(zip(ours, plain, truth, strict=True)):
                assert results[0].dtype == dtype
                kind = GRADIENT if i else FORWARD
                assert_accurate(i, *results, kind, size if i > 1 else 0.0)
            assert ours[0].is_contiguous(memory_format=ak.ops.memory_format(x))


def test_far_from_zero():
    """A center takes off what the polynomial would lose."""
    x = 1000 + torch.randn(2, 3, 20, 20)
    p0, p2, center = torch.zeros(3), torch.ones(3), torch.full((3,), 1000.0)
    truth = formula(x.double(), p0.double(), p2=p2.double(), center=center.double())
    torch.testing.assert_close(self_gate(x, p0, p2=p2, center=center), truth.float())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [2, 6, 8, 70, 540])
def test_shuffle(channels, layout):
    """Any number of groups, and vectors that do not end with them: as PyTorch's own."""
    x = make_x((2, channels, 3, 2), layout=layout)
    for groups in (g for g in range(1, channels + 1) if channels % g == 0):
        y = self_gate(x, torch.full((channels,), 100.0), groups=groups)
        assert torch.equal(y, F.channel_shuffle(x.contiguous(), groups))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("view", STRIDES.values(), ids=STRIDES)
def test_any_strides(view, layout):
    x = view(make_x((4, 18, 8, 10), torch.float64))
    given, dy = coefficients(x), make_x(x.shape, torch.float64, layout)
    groups = divisor(x.shape[1])
    expected = called(eager, x, given, (True,) * 3, dy, groups)
    ours = called(self_gate, x, given, (True,) * 3, strided_like(dy), groups)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 70, 23, 19), (1, 30, 70, 71), (17, 2, 5, 4)], ids=str)
def test_same_on_any_threads(shape, layout):
    x, dy = make_x(shape, layout=layout), make_x(shape)
    given = coefficients(x)
    assert_same_on_any_threads(lambda: called(self_gate, x, given, (True,) * 3, dy, 2))


# ---- The contract --------------------------------------------------------------------------------


def parameters(channels, dtype, device):
    return list(torch.randn(2, channels, dtype=dtype, device=device))


def of_parameters(gate):
    return lambda x, p1, p2: gate(
        x, p1.flip(-1), p1, p2, center=p2.flip(-1), groups=divisor(x.shape[1])
    )


def from_statistics(gate):
    """Coefficients of a user's own, from mean and variance."""

    def function(x, p1, p2):
        def mix(mean, var):
            a, b = (p.to(mean.dtype)[:, None, None] for p in (p1, p2))
            return a * mean, a * var.tanh(), b / (1 + var), mean

        return gate(x, mix, divisor(x.shape[1]))

    return function


def carried(x, mix, groups):
    return self_squeeze_gate(x, mix, ("mean", "var"), groups=groups)


def in_two_calls(gate):
    def function(x, mix, groups):
        wide = x.to(acc_dtype(x)) if gate is formula else x
        mean, var = ak.reference.squeeze(wide, ("mean", "var"))
        p0, p1, p2, center = mix(mean, var)
        return gate(x, p0, p1, p2, center=center, groups=groups)

    return function


def opcheck(x, parameters):
    acc = acc_dtype(x)
    center, p2, p1, p0 = torch.randn(4, *x.shape[:2], dtype=acc)
    return [
        (ops.self_gate.default, (x, center, p2, p1, p0, 3)),
        (ops.self_gate.default, (x, None, None, None, p0, 1)),
        (ops.self_gate_sums.default, (strided_like(x), x, center, p2, p1, p0, 3)),
        (ops.self_gate_backward.default, (x, x, center, p2, p1, p0, p1, p2, 3)),
        (ops.self_gate_backward.default, (x, x, None, None, None, p0, None, None, 1)),
        (ops.self_squeeze_carried.default, (x, 3, 3)),
    ]


def term_sizes(x, parameters, dy):
    if x.numel() == 0:
        return [0.0, 0.0]
    size = (dy.abs() * (x.abs() + 4) ** 3).sum((0, 2, 3)).max()
    return [size, size]


class TestSelfGate(Contract):
    op = Op(
        "self_gate",
        of_parameters(self_gate),
        of_parameters(formula),
        of_parameters(eager),
        parameters,
        opcheck,
        saved_bytes_per_pixel=0,
        saved_bytes_per_channel=2 * 4 * 4,
        scales=term_sizes,
        backward_ops=("self_gate_sums", "self_gate_backward"),
    )


class TestSelfSqueezeGate(Contract):
    op = Op(
        "self_gate",
        from_statistics(carried),
        from_statistics(in_two_calls(formula)),
        from_statistics(in_two_calls(eager)),
        parameters,
        opcheck,
        saved_bytes_per_pixel=0,
        saved_bytes_per_channel=2 * 4 * 12,  # most of it is the mix's own
        scales=term_sizes,
        forward_ops=("self_squeeze_carried", "self_gate_carried"),
        backward_ops=("self_gate_sums", "self_gate_backward"),
    )


X, P = torch.randn(2, 4, 6, 5), torch.ones(4)
BAD = [
    (TypeError, "p0: expected a torch.Tensor, got NoneType", lambda: self_gate(X, None)),
    (ValueError, r"p1: expected shape \(4,\)", lambda: self_gate(X, P, P[:3])),
    (ValueError, r"center: expected shape \(4,\)", lambda: self_gate(X, P, center=X)),
    (ValueError, "groups: expected a divisor of x's channels", lambda: self_gate(X, P, groups=3)),
    (ValueError, "groups: expected at least 1, got 0", lambda: self_gate(X, P, groups=0)),
    (TypeError, "mix: expected a callable", lambda: self_squeeze_gate(X, X)),
    (TypeError, "mix: expected it to return", lambda: self_squeeze_gate(X, lambda m, v: m)),
    (
        ValueError,
        r"mix's p2: expected shape \(4,\)",
        lambda: self_squeeze_gate(X, lambda m, v: (m, None, v[:, :1], None)),
    ),
    (
        ValueError,
        "squeeze: expected some of mean, var, got 'max'",
        lambda: self_squeeze_gate(X, lambda m: m, ("max",)),
    ),
]


@pytest.mark.parametrize(("error", "message", "call"), BAD, ids=[b[1] for b in BAD])
def test_bad_input(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (ops.self_gate, (X, None, None, None, torch.ones(1, 4), 1)),
        (ops.self_gate, (X, None, None, None, torch.ones(2, 4), 3)),
        (ops.self_gate, (X, None, None, torch.ones(2, 4).double(), torch.ones(2, 4), 1)),
        (ops.self_gate_sums, (X[:1], X, None, None, None, torch.ones(2, 4), 1)),
        (ops.self_gate_backward, (X, X, None, None, None, torch.ones(2, 4), P, None, 1)),
    ],
)
def test_direct_callers_of_the_ops_are_stopped(op, arguments):
    with pytest.raises(RuntimeError, match="attn_kernels"):
        op(*arguments)
