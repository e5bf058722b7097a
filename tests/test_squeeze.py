"""The ops squeeze and squeeze_backward: statistics over the pixels, and the final pass of dx."""

import pytest
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, SHAPES, Contract, Op, make_x
from planes import (
    LAYOUTS,
    STRIDES,
    acc_dtype,
    assert_same_on_any_threads,
    assert_same_with,
    coefficients,
    strided_like,
)

import attn_kernels as ak
from attn_kernels.reference.squeeze import STATISTICS, extreme, forward, statistic

squeeze = torch.ops.attn_kernels.squeeze
squeeze_backward = torch.ops.attn_kernels.squeeze_backward
squeeze_backward_add_ = torch.ops.attn_kernels.squeeze_backward_add_
ALL = 15
NAN, INF = float("nan"), float("inf")
LONG = (2, 5, 120, 121)  # several blocks of pixels, the last of them not whole


def assert_right(x, squeeze=squeeze):
    """Every statistic and place, judged by plain PyTorch's error."""
    *values, argmax, argmin = squeeze(x, ALL)
    for name, ours in zip(STATISTICS, values, strict=True):
        assert ours.dtype == acc_dtype(x)
        truth = statistic(x.double(), name)
        assert_accurate(name, ours, statistic(x, name), truth, FORWARD)
    for name, at in (("max", argmax), ("min", argmin)):
        assert torch.equal(at, extreme(x.flatten(2), name)[1]), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, LONG, (2, 1500, 3, 3)], ids=str)
def test_accuracy(shape, layout, dtype):
    assert_right(make_x(shape, dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("statistics", range(1, 16))
def test_any_subset(statistics, layout):
    """What is asked for has the bits of the whole; what is not is empty."""
    x = make_x((3, 21, 40, 31), layout=layout)
    bits = (1, 2, 4, 8, 4, 8)
    for bit, some, whole in zip(bits, squeeze(x, statistics), squeeze(x, ALL), strict=True):
        if statistics & bit:
            assert torch.equal(some, whole)
        else:
            assert some.shape == (0,)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("first", [0.0, 1e4], ids=["from 0", "level"])
def test_a_large_mean_costs_no_digits(first, layout):
    """A million pixels around 1e4, in float32; in one case after a quarter that is 0."""
    x = make_x((1, 3, 1000, 1000), torch.float64, layout) + 1e4
    x[:, :, :250] += first - 1e4
    x = x.float()
    mean, var, *_ = squeeze(x, 3)
    truth = [statistic(x.double(), name) for name in ("mean", "var")]
    # One unit in the last place for the mean; a few for the variance, whose terms are all positive.
    torch.testing.assert_close(mean.double(), truth[0], rtol=1.2e-7, atol=0)
    torch.testing.assert_close(var.double(), truth[1], rtol=5e-7, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 37, 6, 9), LONG], ids=str)
def test_ties_go_to_the_first_pixel(shape, dtype, layout):
    x = make_x(shape, dtype, layout)
    assert_right(x.copy_(torch.randint(0, 2, shape)))
    assert_right(torch.zeros_like(x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("values", [(NAN, NAN), (INF, INF), (-INF, -INF), (INF, -INF), (INF, NAN)])
def test_special_values(values, dtype, layout):
    """A NaN is the maximum and the minimum, and the first one wins, wherever the blocks end."""
    x = make_x((3, 21, 65, 60), dtype, layout)
    for c, places in enumerate([(3, 7), (0, 3899), (3000, 3001), (7, 3500), (2047, 2048)]):
        for n, swapped in ((0, values), (1, values[::-1])):
            for place, value in zip(places, swapped, strict=True):
                x[n, c, place // 60, place % 60] = value
    x[2, 5:9] = values[0]
    assert_special(x)


def assert_special(x, squeeze=squeeze):
    """NaN and inf, and both places, where PyTorch has them."""
    *results, argmax, argmin = squeeze(x, ALL)
    for name, ours in zip(STATISTICS, results, strict=True):
        truth = statistic(x.double(), name)
        assert torch.equal(ours.isnan(), truth.isnan()), name
        assert torch.equal(ours.isinf(), truth.isinf()), name
        assert torch.equal(ours > 0, truth > 0), name
    for name, at in (("max", argmax), ("min", argmin)):
        assert torch.equal(at, extreme(x.flatten(2), name)[1]), name


@pytest.mark.parametrize("view", STRIDES.values(), ids=STRIDES)
def test_any_strides_of_x(view):
    assert_same_with(lambda x: squeeze(x, ALL), view(make_x((4, 9, 8, 10))))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_single_pixels(layout):
    x = make_x((64, 300, 1, 1), layout=layout)
    mean, var, high, low, argmax, argmin = squeeze(x, ALL)
    for values in (mean, high, low):
        assert torch.equal(values, x[:, :, 0, 0])
    assert not any(zeros.any() for zeros in (var, argmax, argmin))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_single_pixels_that_are_not_finite(dtype):
    """A variance of inf alone is NaN, as the formula has it."""
    x = torch.tensor([NAN, INF, -INF, -0.0, 1.5] * 30, dtype=dtype)[None, :, None, None]
    truth = forward(x, 15)
    torch.testing.assert_close(squeeze(x, ALL), truth, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty_batch(layout):
    x = make_x((0, 6, 5, 4), layout=layout)
    assert all(result.shape == (0, 6) for result in squeeze(x, ALL))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(5, 70, 23, 19), (1, 300, 40, 41), (3, 1100, 9, 8)], ids=str)
def test_same_on_any_threads(shape, layout):
    x = make_x(shape, layout=layout)
    assert_same_on_any_threads(lambda: squeeze(x, ALL))


# ---- The final pass --------------------------------------------------------------------------


TERMS = ("gate", "slope", "offset", "max", "min")


def terms(x, wanted):
    """dr and the coefficients of squeeze_backward, and None for those that are not wanted."""
    argmax, argmin = squeeze(x, 12)[4:]
    scale, slope, offset, d_max, d_min = coefficients(x, 5)
    given = {
        "gate": (torch.randn(x.shape, dtype=torch.float64).to(x.dtype), scale),
        "slope": (slope,),
        "offset": (offset,),
        "max": (argmax, d_max),
        "min": (argmin, d_min),
    }
    dr, scale, slope, offset, argmax, d_max, argmin, d_min = (
        t if name in wanted else None for name, group in given.items() for t in group
    )
    return dr, x, scale, slope, offset, argmax, d_max, argmin, d_min


def final_pass(dr, x, scale, slope, offset, argmax, d_max, argmin, d_min):
    """The formula in plain PyTorch, in the accumulate dtype of x."""
    wide = x.to(acc_dtype(x))
    dx = torch.zeros_like(wide, memory_format=torch.contiguous_format)
    for map, factor in ((dr, scale), (wide, slope), (torch.ones_like(wide), offset)):
        if factor is not None:
            dx = dx + map * factor[:, :, None, None]
    dx = dx.flatten(2)
    for at, gradient in ((argmax, d_max), (argmin, d_min)):
        if at is not None:
            dx = dx.scatter_add(2, at[:, :, None], gradient[:, :, None])
    return dx.view(x.shape)


def as_float64(arguments):
    return [t.double() if t is not None and t.is_floating_point() else t for t in arguments]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, LONG], ids=str)
def test_final_pass(shape, layout, dtype):
    x = make_x(shape, dtype, layout)
    arguments = terms(x, TERMS)
    dx = squeeze_backward(*arguments)
    assert dx.dtype == dtype
    assert dx.is_contiguous(memory_format=ak.ops.memory_format(x))
    truth = final_pass(*as_float64(arguments))
    assert_accurate("dx", dx, final_pass(*arguments).to(dtype), truth, GRADIENT)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "wanted",
    [
        (),
        ("gate",),
        ("slope",),
        ("offset",),
        ("max",),
        ("min",),
        ("gate", "offset"),
        ("max", "min"),
    ],
    ids=str,
)
def test_terms_of_the_final_pass(wanted, layout):
    arguments = terms(make_x((2, 37, 20, 31), torch.float64, layout), wanted)
    torch.testing.assert_close(squeeze_backward(*arguments), final_pass(*arguments))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_pixel_is_both_extremes(layout):
    arguments = terms(torch.ones_like(make_x((2, 6, 4, 5), torch.float64, layout)), ("max", "min"))
    torch.testing.assert_close(squeeze_backward(*arguments), final_pass(*arguments))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_x_is_not_read_without_a_slope(layout):
    dr, x, *rest = terms(make_x((2, 6, 9, 7), layout=layout), ("gate", "offset", "max"))
    nan = torch.full_like(x, NAN)
    assert torch.equal(squeeze_backward(dr, nan, *rest), squeeze_backward(dr, x, *rest))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gradient_of_all_statistics(layout):
    """What autograd makes of x -> scale * x + mean, var, max, min, in one pass."""
    x = make_x((2, 7, 13, 11), torch.float64, layout).requires_grad_()
    scale, d_mean, d_var, d_max, d_min = coefficients(x, 5)
    dr = torch.randn_like(x)
    loss = (scale[:, :, None, None] * x * dr).sum()
    for name, gradient in zip(STATISTICS, (d_mean, d_var, d_max, d_min), strict=True):
        loss = loss + (statistic(x, name) * gradient).sum()
    (truth,) = torch.autograd.grad(loss, x)
    mean, _, _, _, argmax, argmin = squeeze(x.detach(), 13)
    pixels = x.shape[2] * x.shape[3]
    slope = 2 * d_var / pixels
    offset = d_mean / pixels - slope * mean
    dx = squeeze_backward(dr, x.detach(), scale, slope, offset, argmax, d_max, argmin, d_min)
    torch.testing.assert_close(dx, truth)


@pytest.mark.parametrize("view", STRIDES.values(), ids=STRIDES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_of_the_final_pass(layout, view):
    dr, x, *rest = terms(view(make_x((4, 9, 8, 10), layout=layout)), ("gate", "slope", "max"))
    assert_same_with(lambda dr, x: squeeze_backward(dr, x, *rest), strided_like(dr), x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_final_pass_on_any_threads(layout):
    arguments = terms(make_x((3, 70, 23, 19), layout=layout), ("gate", "slope", "offset", "max"))
    assert_same_on_any_threads(lambda: squeeze_backward(*arguments))


@pytest.mark.parametrize("wanted", [("slope", "offset", "max", "min"), ("offset",), ("max",)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_the_place_of_dr(layout, dtype, wanted):
    """The same bits, also where an extreme is, with one rounding."""
    dr, x, scale, *rest = terms(make_x((2, 37, 20, 31), dtype, layout), ("gate", *wanted))
    dr = dr.contiguous(memory_format=ak.ops.memory_format(x))
    expected = squeeze_backward(dr, x, torch.ones_like(scale), *rest)
    squeeze_backward_add_(dr, x, *rest)
    assert torch.equal(dr, expected)


def test_in_the_place_of_dr_as_an_op():
    dr, x, _, *rest = terms(make_x((2, 3, 5, 4)), TERMS)
    torch.library.opcheck(squeeze_backward_add_.default, (dr, x, *rest))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_places_outside_of_the_map_are_nobodys(layout):
    """A direct caller's own mistake, which must not reach beyond the map."""
    x = make_x((2, 3, 4, 5), layout=layout)
    at = torch.tensor([[-1, 20, 2**62], [-(2**62), 19, 0]])
    dx = squeeze_backward(None, x, None, None, None, at, torch.ones(2, 3), None, None)
    assert dx.count_nonzero() == 2
    assert dx[1, 1, 3, 4] == dx[1, 2, 0, 0] == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_final_pass_of_an_empty_batch(layout):
    arguments = terms(make_x((0, 6, 5, 4), layout=layout), ("gate", "slope", "offset", "max"))
    assert squeeze_backward(*arguments).shape == (0, 6, 5, 4)


# ---- The public function ---------------------------------------------------------------------


def joined(function):
    """All statistics as one tensor."""
    return lambda x: torch.cat(function(x, STATISTICS), 1)


def eager(x, statistics):
    found = {
        "mean": lambda pixels: pixels.mean(2),
        "var": lambda pixels: pixels.var(2, correction=0),
        "max": lambda pixels: pixels.max(2).values,
        "min": lambda pixels: pixels.min(2).values,
    }
    return [found[name](x.flatten(2))[:, :, None, None] for name in statistics]


def opcheck(x, parameters):
    return [
        *((squeeze.default, (x, statistics)) for statistics in (1, 6, ALL)),
        *((squeeze_backward.default, terms(x, wanted)) for wanted in (TERMS, ("offset",))),
    ]


@pytest.mark.filterwarnings("ignore:var.*degrees of freedom:UserWarning")  # eager, empty batch
class TestSqueeze(Contract):
    op = Op(
        "squeeze",
        joined(ak.functional.squeeze),
        joined(ak.reference.squeeze),
        joined(eager),
        lambda channels, dtype, device: [],
        opcheck,
        saved_bytes_per_pixel=0,
        saved_bytes_per_channel=2 * (4 + 8 + 8),  # mean, argmax, argmin
    )


@pytest.mark.parametrize("names", [("min", "mean"), ("var",), ["max", "var"]], ids=str)
def test_the_order_that_was_asked_for(names, device):
    """Values and gradients, in x's dtype."""
    x = make_x((2, 3, 5, 4), torch.float64, device=device)

    def found(function):
        leaf = x.clone().requires_grad_()
        values = function(leaf, names)
        loss = sum(v.sin().sum() * (i + 1) for i, v in enumerate(values))
        return [*values, *torch.autograd.grad(loss, leaf)]

    torch.testing.assert_close(found(ak.functional.squeeze), found(eager))
    assert ak.functional.squeeze(x.bfloat16(), names)[0].dtype == torch.bfloat16


def test_variance_of_the_op_alone():
    """Its backward reads the mean, which was not asked for."""
    x = make_x((2, 3, 5, 4), torch.float64).requires_grad_()
    (dx,) = torch.autograd.grad(squeeze(x, 2)[1].sin().sum(), x)
    (truth,) = torch.autograd.grad(statistic(x, "var").sin().sum(), x)
    torch.testing.assert_close(dx, truth)


BAD_ARGUMENTS = [
    (TypeError, "x: expected a torch.Tensor, got int", 1, ("mean",)),
    (TypeError, "statistics: expected a tuple of names, got 'mean'", None, "mean"),
    (ValueError, "statistics: expected at least one of mean, var, max, min, got none", None, ()),
    (ValueError, "statistics: expected some of mean, .*got 'median'", None, ("mean", "median")),
    (ValueError, "statistics: expected each statistic once", None, ("max", "max")),
]


@pytest.mark.parametrize(
    ("error", "message", "x", "names"), BAD_ARGUMENTS, ids=[b[1] for b in BAD_ARGUMENTS]
)
def test_bad_input(error, message, x, names):
    with pytest.raises(error, match=message):
        ak.functional.squeeze(X if x is None else x, names)


# ---- Direct callers --------------------------------------------------------------------------


X, V = torch.randn(2, 4, 6, 6), torch.ones(2, 4)
AT = V.long()


REFUSED = [
    (squeeze, (X[0], 1)),
    (squeeze, (X, 0)),
    (squeeze, (X, 16)),
    (squeeze, (X, -1)),
    (squeeze, (X.long(), 1)),
    (squeeze, (X[:, :, :0], 4)),
    (squeeze, (X[:, :0], 1)),
    (squeeze_backward, (None, X[..., :0], None, None, V, None, None, None, None)),
    (squeeze_backward, (X, X, None, None, None, None, None, None, None)),
    (squeeze_backward, (None, X, V, None, None, None, None, None, None)),
    (squeeze_backward, (X[:1], X, V, None, None, None, None, None, None)),
    (squeeze_backward, (X.double(), X, V, None, None, None, None, None, None)),
    (squeeze_backward, (X, X, V[:1], None, None, None, None, None, None)),
    (squeeze_backward, (None, X, None, V.double(), None, None, None, None, None)),
    (squeeze_backward, (None, X, None, None, V.t(), None, None, None, None)),
    (squeeze_backward, (None, X, None, None, None, AT, None, None, None)),
    (squeeze_backward, (None, X, None, None, None, None, V, None, None)),
    (squeeze_backward, (None, X, None, None, None, AT.int(), V, None, None)),
    (squeeze_backward, (None, X, None, None, None, None, None, AT[:, :3], V)),
    (squeeze_backward, (None, X, None, None, None, None, None, AT, V[0])),
]
REFUSED_IN_PLACE = [
    (squeeze_backward_add_, (X[..., 1:], X, None, V, None, None, None, None)),
    (squeeze_backward_add_, (X.mT, X, None, V, None, None, None, None)),
]


@pytest.mark.parametrize(("op", "arguments"), REFUSED + REFUSED_IN_PLACE)
def test_direct_callers_of_the_ops_are_stopped(op, arguments):
    with pytest.raises(RuntimeError, match="attn_kernels"):
        op(*arguments)
