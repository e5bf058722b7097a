"""blend: two maps weighed against each other by a third."""

import pytest
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, SHAPES, Contract, Op, make_x
from planes import LAYOUTS, STRIDES, acc_dtype, assert_same_on_any_threads, strided_like

import attn_kernels as ak
from attn_kernels.reference import blend as formula

blend = ak.functional.blend
ops = torch.ops.attn_kernels


def eager(x, y, a, scale, shift, g=None, *, factor=1.0):
    """As a user would write it."""
    scale, shift, g = (
        t if t is None or t.dim() == 4 else t[..., None, None] for t in (scale, shift, g)
    )
    logit = a * scale + shift
    w = torch.sigmoid(logit if g is None else logit + g)
    return factor * x * w + factor * y * (1 - w)


def operands(shape, dtype, layout="nchw"):
    """x, y, a, scale, shift, g."""
    maps = [make_x(shape, dtype, layout) for _ in range(3)]
    acc = acc_dtype(maps[0])
    scale, shift = torch.randn(2, shape[1], dtype=acc)
    return *maps, scale, shift, torch.randn(*shape[:2], 1, 1, dtype=acc)


def called(function, given, dz, factor):
    """z, and all gradients."""
    inputs = [t.detach().clone().requires_grad_() for t in given]
    z = function(*inputs, factor=factor)
    return [z.detach(), *torch.autograd.grad(z, inputs, dz.to(z.dtype))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 6, 50, 61), (2, 1100, 3, 2)], ids=str)
def test_accuracy(shape, layout, dtype):
    given, dz = operands(shape, dtype, layout), make_x(shape, dtype)
    for count in (5, 6):
        truth = called(formula, [t.double() for t in given[:count]], dz.double(), 2)
        plain = called(eager, [t.to(dtype) for t in given[:count]], dz, 2)
        ours = called(blend, given[:count], dz, 2)
        x, y, a = (t.double().abs() for t in given[:3])
        size = (dz.double().abs() * (x + y) * (1 + a)).sum((2, 3)).sum(0).max()
        for i, results in enumerate(zip(ours, plain, truth, strict=True)):
            kind = GRADIENT if i else FORWARD
            assert_accurate(i, *results, kind, size if i > 3 else 0.0)
        assert ours[0].is_contiguous(memory_format=ak.ops.memory_format(given[0]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("view", STRIDES.values(), ids=STRIDES)
def test_any_strides(view, layout):
    maps = [view(make_x((4, 18, 8, 10), torch.float64, layout)) for _ in range(3)]
    maps[1] = strided_like(maps[1])
    given = [*maps, *operands(maps[0].shape, torch.float64)[3:]]
    dz = make_x(maps[0].shape, torch.float64)
    expected = called(eager, given, dz, 0.5)
    torch.testing.assert_close(called(blend, given, strided_like(dz), 0.5), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 70, 23, 19), (1, 30, 70, 71), (17, 2, 5, 4)], ids=str)
def test_same_on_any_threads(shape, layout):
    given, dz = operands(shape, torch.float32, layout), make_x(shape)
    assert_same_on_any_threads(lambda: called(blend, given, dz, 2))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("logit", [-1e4, -200.0, 200.0, 1e4])
def test_saturated(logit, layout):
    """One of both maps is left, and the branch gets no gradient."""
    x, y, a, *_ = operands((1, 4, 3, 5), torch.float32, layout)
    a = torch.full_like(a, logit).requires_grad_()
    z = blend(x, y, a, torch.ones(4), torch.zeros(4), factor=2)
    z.sum().backward()
    torch.testing.assert_close(z, 2 * (x if logit > 0 else y), rtol=0, atol=1e-30)
    assert not a.grad.any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_special_values(value, layout):
    """An element is spoilt exactly where eager's is, sums, too."""
    for i in range(3):
        given = operands((2, 5, 7, 9), torch.float64, layout)
        given[i][1, 3, 4, 5] = value
        dz = make_x((2, 5, 7, 9), torch.float64)
        ours, expected = (called(f, given, dz, 2) for f in (blend, formula))
        for found, truth in zip(ours, expected, strict=True):
            torch.testing.assert_close(found, truth, equal_nan=True)


def test_shapes_of_factors():
    x, y, a, scale, shift, g = operands((2, 4, 3, 5), torch.float64)
    expected = blend(x, y, a, scale, shift, g)
    for p, q, r in (
        (scale.view(1, 4, 1, 1), shift.expand(2, 4), g.flatten(1)),
        (scale.expand(2, 4), shift.view(1, 4, 1, 1), g),
        (scale.expand(2, 4)[..., None, None], shift, g.flatten(1)),
    ):
        torch.testing.assert_close(blend(x, y, a, p, q, r), expected)
    torch.testing.assert_close(blend(x, y, a, scale, shift), eager(x, y, a, scale, shift))


@pytest.mark.parametrize("wide", [0, 1, 2])
def test_maps_of_different_dtypes(wide):
    """The widest dtype serves, and each gradient comes back in its own."""
    *maps, scale, shift, g = operands((2, 6, 5, 4), torch.bfloat16)
    maps[wide] = maps[wide].float()
    maps = [t.detach().requires_grad_() for t in maps]
    z = blend(*maps, scale, shift, g)
    z.sum().backward()
    assert z.dtype == torch.float32
    assert [t.grad.dtype for t in maps] == [t.dtype for t in maps]
    torch.testing.assert_close(z, eager(*(t.float() for t in maps), scale, shift, g))
    torch.testing.assert_close(z, formula(*maps, scale, shift, g))


# ---- The contract --------------------------------------------------------------------------------


def of_one_map(gate):
    """With two maps made of the first."""

    def function(x, scale, shift):
        scale, shift = (t.to(x.dtype) for t in (scale, shift))
        return gate(
            x, x.flip(1), x.roll(1, 1), scale, shift, (scale - shift)[None, :, None, None], factor=2
        )

    return function


def parameters(channels, dtype, device):
    return list(torch.randn(2, channels, dtype=torch.float64).to(dtype).to(device))


def opcheck(x, parameters):
    y, a = x.flip(1), x.roll(1, 1)
    scale, shift = torch.randn(2, *x.shape[:2], dtype=acc_dtype(x))
    return [
        (ops.blend.default, (x, strided_like(y), a, scale, shift, 2.0)),
        (ops.blend_backward.default, (a, x, y, strided_like(a), scale, shift, 1.0)),
        (ops.blend_backward.default, (x[:1].expand_as(x), x, y, a, scale, shift, 0.5)),
    ]


def term_sizes(x, parameters, dz):
    if x.numel() == 0:
        return [0.0, 0.0]
    size = (dz.abs() * (1 + x.abs().max()) ** 2).sum((0, 2, 3)).max()
    return [size, size]


class TestBlend(Contract):
    op = Op(
        "blend",
        of_one_map(blend),
        of_one_map(formula),
        of_one_map(eager),
        parameters,
        opcheck,
        saved_bytes_per_pixel=2 * 64 * 4,  # y and a
        saved_bytes_per_channel=2 * 2 * 4,
        scales=term_sizes,
    )


X, V = torch.randn(2, 4, 6, 5), torch.ones(4)
BAD = [
    (TypeError, "x: expected a torch.Tensor, got int", (1, X, X, V, V)),
    (ValueError, r"y: expected shape \(2, 4, 6, 5\), got", (X, X[:, :3], X, V, V)),
    (ValueError, r"a: expected shape \(2, 4, 6, 5\), got", (X, X, X[:1], V, V)),
    (TypeError, "a: expected one of .* got torch.int64", (X, X, X.long(), V, V)),
    (ValueError, r"scale: expected shape \(4,\)", (X, X, X, V[:3], V)),
    (TypeError, "shift: expected a torch.Tensor, got NoneType", (X, X, X, V, None)),
    (ValueError, r"g: expected shape \(4,\)", (X, X, X, V, V, X)),
    (ValueError, "g: expected a tensor on cpu", (X, X, X, V, V, V.to("meta"))),
]


@pytest.mark.parametrize(("error", "message", "arguments"), BAD, ids=[b[1] for b in BAD])
def test_bad_input(error, message, arguments):
    with pytest.raises(error, match=message):
        blend(*arguments)


def test_factor_is_a_number():
    with pytest.raises(TypeError, match="factor: expected a number, got '2'"):
        blend(X, X, X, V, V, factor="2")


C = torch.ones(2, 4)


REFUSED = [
    (ops.blend, (X, X[:1], X, C, C, 1.0)),
    (ops.blend, (X, X, X.double(), C, C, 1.0)),
    (ops.blend, (X, X, X, C.double(), C, 1.0)),
    (ops.blend, (X, X, X, C, V, 1.0)),
    (ops.blend_backward, (X[:1], X, X, X, C, C, 1.0)),
]


@pytest.mark.parametrize(("op", "arguments"), REFUSED)
def test_direct_callers_of_the_ops_are_stopped(op, arguments):
    with pytest.raises(RuntimeError, match="attn_kernels"):
        op(*arguments)
