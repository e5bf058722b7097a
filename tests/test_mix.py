"""mix: a weighted sum of maps that are never stacked, and the mean of their sum."""

import pytest
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, SHAPES, Contract, Op, make_x
from planes import (
    LAYOUTS,
    STRIDES,
    acc_dtype,
    assert_same,
    assert_same_on_any_threads,
    strided_like,
)
from torch.profiler import ProfilerActivity, profile

import attn_kernels as ak
from attn_kernels.reference import mix as formula
from attn_kernels.reference import mix_squeeze as mean_formula
from attn_kernels.reference.mix import sums

mix = ak.functional.mix
mix_squeeze = ak.functional.mix_squeeze
mix_squeeze_gate = ak.functional.mix_squeeze_gate
ops = torch.ops.attn_kernels


def eager(x, s, *, residual=None, activation="identity"):
    """As a user would write it."""
    maps = x.chunk(s.shape[1], 1) if isinstance(x, torch.Tensor) else x
    y = sum(map * s[:, m, :, None, None] for m, map in enumerate(maps))
    y = y if residual is None else y + residual
    return torch.relu(y) if activation == "relu" else y


def eager_mean(x, parts=1):
    maps = x.chunk(parts, 1) if isinstance(x, torch.Tensor) else x
    return sum(maps).mean((2, 3), keepdim=True)


def maps_and_s(shape, dtype, layout, maps, joined):
    """M maps, separate or in one, slices of larger allocations; and s."""
    n, c, h, w = shape
    if joined:
        x = make_x((n, maps * c, h, w), dtype, layout)
    else:
        x = [make_x(shape, dtype, layout) for _ in range(maps)]
    return x, torch.randn(n, maps, c, dtype=torch.float64).to(
        acc_dtype(torch.empty(0, dtype=dtype))
    )


def as_list(x):
    return [x] if isinstance(x, torch.Tensor) else list(x)


def called(function, x, s, residual, dy, activation="identity"):
    """y, and the gradients of all maps, of s and of the residual."""
    tensors = [t.detach().clone().requires_grad_() for t in as_list(x)]
    others = [t.detach().clone().requires_grad_() for t in (s, residual) if t is not None]
    y = function(
        tensors[0] if isinstance(x, torch.Tensor) else tensors,
        others[0],
        residual=others[1] if len(others) > 1 else None,
        activation=activation,
    )
    return [y.detach(), *torch.autograd.grad(y, [*tensors, *others], dy.to(y.dtype))]


def wide(x):
    return x.double() if isinstance(x, torch.Tensor) else [t.double() for t in x]


def term_size(x, dy):
    """Of the terms of d_s."""
    largest = max((t.double().abs().max() for t in as_list(x) if t.numel()), default=0)
    return float((dy.double().abs() * largest).sum((2, 3)).max()) if dy.numel() else 0.0


@pytest.mark.parametrize("joined", [False, True], ids=["separate", "joined"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 5, 50, 61), (2, 1100, 2, 3)], ids=str)
def test_accuracy(shape, layout, dtype, joined):
    for maps in (1, 2, 3, 5) if shape == SHAPES[0] else (2,):
        x, s = maps_and_s(shape, dtype, layout, maps, joined)
        dy, residual = make_x(shape, dtype), make_x(shape, dtype)
        size = term_size(x, dy)
        for r in (None, residual):
            truth = called(
                formula, wide(x), s.double(), None if r is None else r.double(), dy.double()
            )
            plain = called(eager, x, s.to(dtype), r, dy)
            ours = called(mix, x, s, r, dy)
            for i, results in enumerate(zip(ours, plain, truth, strict=True)):
                kind = GRADIENT if i else FORWARD
                scale = size if i == len(as_list(x)) + 1 else 0.0
                assert_accurate(i, *results, kind, scale)
        first = as_list(x)[0]
        assert ours[0].is_contiguous(memory_format=ak.ops.memory_format(first))
        parts = maps if joined else 1
        found = [f(x, parts) for f in (mix_squeeze, eager_mean)]
        assert_accurate("mean", *found, mean_formula(wide(x), parts), FORWARD, 1.0)


@pytest.mark.parametrize("joined", [False, True], ids=["separate", "joined"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_relu(layout, dtype, joined):
    """The mask is that of the result, NaN passes."""
    x, s = maps_and_s((2, 17, 9, 11), dtype, layout, 3, joined)
    as_list(x)[0][1, 3, 4, 5] = float("nan")
    residual, dy = make_x((2, 17, 9, 11), dtype), make_x((2, 17, 9, 11), dtype)
    y, *gradients = called(mix, x, s, residual, dy, "relu")
    plain = formula(x, s, residual=residual, activation="relu")
    assert torch.equal(y.isnan(), plain.isnan())
    assert y.isnan().sum() == 1
    operands = [*as_list(x), *[None] * 3][:4]
    d_s, dr = sums(dy, *operands, y, 3 if joined else 1)
    assert torch.equal(gradients[-1], dr)
    there = ~d_s.isnan()
    torch.testing.assert_close(gradients[-2][there], d_s[there], rtol=1e-4, atol=1e-4)
    assert torch.equal(gradients[-2].isnan(), d_s.isnan())


# ---- Where maps lie ------------------------------------------------------------------------------


def copies(function):
    """Results, and how often PyTorch copied something."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        found = function()
    names = ("aten::copy_", "aten::clone", "aten::contiguous", "aten::cat", "aten::stack")
    return found, sum(e.count for e in profiler.key_averages() if e.key in names)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (3, 4, 1, 1), (2, 6, 1, 9), (2, 6, 9, 1)], ids=str)
def test_slices_are_read_where_they_are(shape, layout):
    """Of channels of one map: nothing is copied, and no bit differs."""
    n, c, h, w = shape
    base = make_x((n, 3 * c, h, w), torch.float64, layout)
    slices = list(base.chunk(3, 1))
    s = torch.randn(n, 3, c, dtype=torch.float64)
    for function in (lambda x: mix(x, s), lambda x: mix_squeeze(x)):
        found, count = copies(lambda f=function: f(slices))
        assert count == 0
        dense = [t.contiguous(memory_format=ak.ops.memory_format(t)) for t in slices]
        assert_same(found, function(dense))
    found, count = copies(lambda: mix(base, s))
    assert count == 0
    assert_same(found, mix(slices, s))
    assert_same(mix_squeeze(base, 3), mix_squeeze(slices))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("view", STRIDES.values(), ids=STRIDES)
def test_any_strides(view, layout):
    x = [view(make_x((4, 18, 8, 10), torch.float64, layout)) for _ in range(2)]
    x[1] = strided_like(x[1])
    s = torch.randn(x[0].shape[0], 2, x[0].shape[1], dtype=torch.float64)
    dy, residual = make_x(x[0].shape, torch.float64), view(make_x((4, 18, 8, 10), torch.float64))
    expected = called(eager, x, s, residual, dy)
    torch.testing.assert_close(called(mix, x, s, residual, strided_like(dy)), expected)
    torch.testing.assert_close(mix_squeeze(x), eager_mean(x))
    assert mix(x, s).stride() == eager(x, s).stride()


@pytest.mark.parametrize("joined", [False, True], ids=["separate", "joined"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 70, 23, 19), (1, 30, 70, 71), (17, 2, 5, 4)], ids=str)
def test_same_on_any_threads(shape, layout, joined):
    x, s = maps_and_s(shape, torch.float32, layout, 2, joined)
    dy = make_x(shape)
    assert_same_on_any_threads(
        lambda: [*called(mix, x, s, dy, dy, "relu"), mix_squeeze(x, 2 if joined else 1)]
    )


def test_shapes_of_s():
    x = [torch.randn(2, 4, 3, 5) for _ in range(3)]
    s = torch.randn(1, 3, 4)
    expected = mix(x, s.expand(2, 3, 4))
    for given in (s, s[..., None, None], s.expand(2, 3, 4)[..., None, None], s.double()):
        torch.testing.assert_close(mix(x, given), expected)


@pytest.mark.parametrize("joined", [False, True], ids=["separate", "joined"])
def test_gradients_of_some_maps_and_of_s_alone(joined):
    base = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    s = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    x = base if joined else list(base.chunk(2, 1))
    (found,) = torch.autograd.grad(mix(x, s).sum(), s)
    torch.testing.assert_close(found, base.unflatten(1, (2, 3)).sum((3, 4)))
    a, b = (t.clone() for t in base.chunk(2, 1))
    a.requires_grad_()
    (found,) = torch.autograd.grad(mix_squeeze_gate([a, b], lambda m: s.detach()).sum(), a)
    torch.testing.assert_close(found, s[:, 0, :, None, None].expand_as(a))
    (found,) = torch.autograd.grad(mix_squeeze([a, b]).sum(), a)
    torch.testing.assert_close(found, torch.full_like(a, 1 / 20))


# ---- The contract --------------------------------------------------------------------------------


def parameters(channels, dtype, device):
    return list(torch.randn(2, channels, dtype=torch.float64).to(dtype).to(device))


def of_two_maps(gate):
    """The second made of the first."""
    return lambda x, p, q: gate([x, x.flip(1)], torch.stack([p, q])[None].to(x.dtype))


def divisor(channels):
    return next((m for m in (2, 3, 5) if channels % m == 0), 1)


def of_parts(gate):
    """With a residual."""

    def function(x, p, q):
        maps = divisor(x.shape[1])
        s = (p + q).to(x.dtype).view(1, maps, -1)
        return gate(x, s, residual=x.chunk(maps, 1)[-1].flip(2))

    return function


def selected(gate):
    """By the mean, among two maps."""

    def function(x, p, q):
        def select(mean):
            p_of, q_of = (t.to(mean.dtype) for t in (p, q))
            first = torch.sigmoid(mean[:, :, 0, 0] * p_of + q_of)  # of two, what softmax is
            return torch.stack([first, 1 - first], 1)

        return gate([x, x.flip(1)], select)

    return function


def in_two_calls(gate, squeeze):
    return lambda x, select: gate(x, select(squeeze(x)))


def in_eagers_dtypes(x, select):
    return eager(x, select(eager_mean(x)))


def opcheck(x, parameters):
    (n, c), acc = x.shape[:2], acc_dtype(x)
    both = torch.cat([x, x], 1)
    slices = both.chunk(2, 1)
    s, of_three, offset = (
        torch.randn(n, 2, c, dtype=acc),
        torch.randn(n, 3, c // 3, dtype=acc),
        s_like(x),
    )
    none = (None,) * 3
    return [
        (ops.mix.default, (x, strided_like(x), None, None, s, strided_like(x), "relu")),
        (ops.mix.default, (*slices, None, None, s, None, "identity")),
        (ops.mix.default, (x, *none, of_three, None, "identity")),
        (ops.mix_sums.default, (strided_like(x), *slices, None, None, None, 1)),
        (ops.mix_sums.default, (x[:, :3], x, *none, x[:, 3:6], 3)),
        (ops.mix_squeeze.default, (x, x, x, x, 1)),
        (ops.mix_squeeze.default, (x, *none, 3)),
        (ops.mix_backward.default, (strided_like(x), x, s, offset, 2, 1)),
        (ops.mix_backward.default, (None, x, None, offset, 3, 1)),
        (ops.mix_backward.default, (x[:, :3], x, of_three, None, 1, 3)),
        (ops.mix_squeeze_carried.default, (x, x, None, None, 1)),
    ]


def s_like(x):
    return torch.randn(x.shape[:2], dtype=acc_dtype(x))


def term_sizes(x, parameters, dy):
    if x.numel() == 0:
        return [0.0, 0.0]
    return [(dy.abs().sum((2, 3)).sum(0).max() * x.abs().max())] * 2


class TestMix(Contract):
    op = Op(
        "mix",
        of_two_maps(mix),
        of_two_maps(formula),
        of_two_maps(eager),
        parameters,
        opcheck,
        saved_bytes_per_pixel=4 * 64,  # the second map
        saved_bytes_per_channel=2 * 4 * 2,  # s
        scales=term_sizes,
        backward_ops=("mix_sums", "mix_backward"),
    )


class TestMixOfParts(Contract):
    op = Op(
        "mix",
        of_parts(mix),
        of_parts(formula),
        of_parts(eager),
        parameters,
        opcheck,
        saved_bytes_per_pixel=0,
        saved_bytes_per_channel=2 * 4 * 2,
        scales=term_sizes,
        backward_ops=("mix_sums", "mix_backward"),
    )


class TestMixSqueezeGate(Contract):
    op = Op(
        "mix",
        selected(mix_squeeze_gate),
        selected(in_two_calls(formula, mean_formula)),
        selected(in_eagers_dtypes),
        parameters,
        opcheck,
        saved_bytes_per_pixel=4 * 64,
        saved_bytes_per_channel=2 * 4 * 12,  # most of it is the user's own
        scales=term_sizes,
        forward_ops=("mix_squeeze_carried", "mix_carried"),
        backward_ops=("mix_sums", "mix_backward"),
    )


# ---- Bad input -----------------------------------------------------------------------------------

X, S = torch.randn(2, 4, 6, 5), torch.ones(2, 2, 4)
BAD = [
    (TypeError, "x: expected a tensor or a list of tensors, got int", lambda: mix(1, S)),
    (ValueError, "x: expected at least one map, got none", lambda: mix([], S)),
    (TypeError, r"x\[1\]: expected a torch.Tensor, got int", lambda: mix([X, 1], S)),
    (ValueError, r"x\[1\]: expected shape \(2, 4, 6, 5\), got", lambda: mix([X, X[:, :3]], S)),
    (TypeError, r"x\[1\]: expected torch.float32 \(as x\[0\]\)", lambda: mix([X, X.half()], S)),
    (ValueError, r"s: expected shape \(2 or 1, 2, 4\)", lambda: mix([X, X], S[:, :, :3])),
    (ValueError, r"s: expected shape \(2 or 1, 3, 4\)", lambda: mix([X, X, X], S)),
    (ValueError, r"s: expected shape \(2 or 1, M, 4 / M\)", lambda: mix(X, S)),
    (ValueError, r"residual: expected shape \(2, 2, 6", lambda: mix(X, S[..., :2], residual=X)),
    (ValueError, "activation: expected one of", lambda: mix([X, X], S, activation="gelu")),
    (ValueError, "parts: expected a divisor of x's channels", lambda: mix_squeeze(X, 3)),
    (ValueError, "parts: expected 1 for a list of maps, got 2", lambda: mix_squeeze([X], 2)),
    (TypeError, "parts: expected an int", lambda: mix_squeeze(X, 2.0)),
    (TypeError, "select: expected a callable", lambda: mix_squeeze_gate([X, X], S)),
    (
        ValueError,
        r"select's s: expected shape \(2 or 1, 2, 2\)",
        lambda: mix_squeeze_gate(X, lambda m: m[:, None], 2),
    ),
    (
        TypeError,
        "select's s: expected torch.float32",
        lambda: mix_squeeze_gate([X, X], lambda m: S.double()),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "call"), BAD, ids=[b[1] for b in BAD])
def test_bad_input(error, message, call):
    with pytest.raises(error, match=message):
        call()


NONE = (None,) * 3


REFUSED = [
    (ops.mix, (X, *NONE, S, None, "identity")),
    (ops.mix, (X, X, None, None, S.double(), None, "identity")),
    (ops.mix, (X, X[:1], None, None, S, None, "identity")),
    (ops.mix, (X, X, None, None, S, X[:1], "identity")),
    (ops.mix, (X, X, None, None, S, None, "gelu")),
    (ops.mix, (X, X, None, None, S[:, :, :3], None, "identity")),
    (ops.mix_sums, (X, X, *NONE, None, 2)),
    (ops.mix_sums, (X, X, *NONE, X.double(), 1)),
    (ops.mix_squeeze, (X, *NONE, 3)),
    (ops.mix_squeeze, (X, *NONE, 0)),
    (ops.mix_backward, (X, X, None, None, 2, 1)),
    (ops.mix_backward, (X, X, S, None, 1, 1)),
    (ops.mix_backward, (X, X, S, S[:, 0].double(), 2, 1)),
    (ops.mix_backward, (None, X, None, S[:, 0], 5, 1)),
]


@pytest.mark.parametrize(("op", "arguments"), REFUSED)
def test_direct_callers_of_the_ops_are_stopped(op, arguments):
    with pytest.raises(RuntimeError, match="attn_kernels"):
        op(*arguments)
