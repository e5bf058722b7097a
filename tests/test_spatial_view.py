"""The ops of spatial attention with all that they take: affine view, residual, ReLU, groups of
weights. Every result, against plain PyTorch in float64."""

import pytest
import torch
import torch.nn.functional as F
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES, make_x
from spatial import eager_pool
from threads import threads

ops = torch.ops.attn_kernels

SHAPES = (
    (2, 3, 5, 7),
    (2, 130, 9, 1),
    (4, 17, 1, 33),
    (2, 64, 14, 14),
    (6, 300, 1, 1),
    (2, 5, 40, 41),
)
RESULTS = ("y", "map", "pooled", "dx", "d_weight", "d_bias", "d_scale", "d_shift", "d_residual")


def gate(x, weight, bias, scale, shift, residual, activation):
    """y, map and pooled by the formula, in the dtype of its arguments."""
    f = x if scale is None else scale[:, :, None, None] * x + shift[:, :, None, None]
    pooled = eager_pool(f)
    groups = zip(pooled.chunk(len(weight)), weight, bias, strict=True)
    logit = [F.conv2d(p, w[None], b[None], padding=w.shape[-1] // 2) for p, w, b in groups]
    map = torch.sigmoid(torch.cat(logit))
    y = f * map
    if residual is not None:
        y = y + residual
    return torch.relu(y) if activation == "relu" else y, map, pooled


def by_autograd(arguments, dy, dtype):
    """All results by autograd in `dtype`; what is not given has none."""
    tensors = [
        None if t is None else t.detach().to(dtype, copy=True).requires_grad_()
        for t in arguments[:-1]
    ]
    y, map, pooled = gate(*tensors, arguments[-1])
    given = [t for t in tensors if t is not None]
    gradients = iter(torch.autograd.grad(y, given, dy.to(dtype)))
    found = [None if t is None else next(gradients) for t in tensors]
    found = [*(t.detach() for t in (y, map, pooled)), *found]
    return dict(zip(RESULTS, found, strict=True))


def by_ops(arguments, dy):
    x, weight, _, scale, shift, _, activation = arguments
    y, map, pooled = ops.spatial_gate(*arguments)
    relu = activation == "relu"
    gradients = list(
        ops.spatial_gate_backward(dy, x, weight, map, pooled, scale, shift, y if relu else None)
    )
    if not relu:
        assert gradients[-1].shape == (0,)
        gradients[-1] = dy
    if scale is None:
        assert gradients[3].shape == gradients[4].shape == (0,)
    return dict(zip(RESULTS, (y, map, pooled, *gradients), strict=True))


def make_arguments(x, groups=1, view=True, residual=True, activation="relu", k=7):
    n, c, h, w = x.shape
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    weight = torch.randn(groups, 2, k, k, dtype=torch.float64).to(acc) / k
    bias, scale, shift = (
        torch.randn(size, dtype=torch.float64).to(acc) for size in ((groups,), (n, c), (n, c))
    )
    added = torch.randn(n, h, c, w, dtype=torch.float64).to(x.dtype).transpose(1, 2)
    return [
        x,
        weight,
        bias,
        scale if view else None,
        shift if view else None,
        added if residual else None,
        activation,
    ]


def assert_right(arguments):
    x = arguments[0]
    acc = arguments[1].dtype
    dy = torch.randn(x.shape, dtype=torch.float64).to(x.dtype)
    ours = by_ops(arguments, dy)
    truth, plain = by_autograd(arguments, dy, torch.float64), by_autograd(arguments, dy, acc)
    absolute = by_absolute_values(arguments, dy, truth)
    for name in RESULTS:
        if truth[name] is None:
            continue
        assert ours[name].dtype == (x.dtype if name in ("y", "dx", "d_residual") else acc)
        assert_accurate(
            name,
            ours[name],
            plain[name].to(ours[name].dtype),
            truth[name],
            FORWARD if name in ("y", "map", "pooled") else GRADIENT,
            absolute.get(name, 0.0),
        )


def by_absolute_values(arguments, dy, truth):
    """The size of the terms that are summed into those gradients in which signs cancel."""
    x, weight, _, scale, shift, *_ = (None if t is None else t.double() for t in arguments[:-1])
    f = x if scale is None else scale[:, :, None, None] * x + shift[:, :, None, None]
    map = truth["map"]
    d_logit = (dy.double() * f).abs().sum(1, True) * map * (1 - map)
    d_weight = torch.nn.grad.conv2d_weight(
        truth["pooled"].abs(),
        (1, *weight.shape[1:]),
        d_logit,
        padding=weight.shape[-1] // 2,
    )
    sizes = {"d_weight": d_weight.max(), "d_bias": d_logit.sum()}
    if scale is not None:
        df = (truth["dx"] / scale[:, :, None, None]).abs()
        sizes["d_shift"] = df.sum((2, 3)).max()
        sizes["d_scale"] = (df * x.abs()).sum((2, 3)).max()
    return sizes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_result(shape, layout, dtype):
    assert_right(make_arguments(make_x(shape, dtype, layout), groups=2))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("view", [False, True])
def test_every_combination(view, residual, activation, layout):
    x = make_x((4, 20, 11, 13), layout=layout)
    assert_right(make_arguments(x, 1, view, residual, activation, k=5))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_chunks_of_rows(layout):
    """Images larger than the cache are walked in chunks: no seam may show."""
    for shape in ((1, 64, 112, 90), (3, 600, 33, 31)):
        assert_right(make_arguments(make_x(shape, layout=layout)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_the_map_alone(layout, dtype):
    """spatial_attention and channel_pool see the same view."""
    x = make_x((4, 37, 9, 11), dtype, layout)
    arguments = make_arguments(x, groups=2, residual=False, activation="identity")
    _, weight, bias, scale, shift, *_ = arguments
    _, expected_map, expected_pooled = ops.spatial_gate(*arguments)
    map, pooled = ops.spatial_attention(x, weight, bias, scale, shift)
    assert torch.equal(map, expected_map)
    assert torch.equal(pooled, expected_pooled)
    assert torch.equal(ops.channel_pool(x, scale, shift), pooled.to(dtype))

    d_map, d_pooled = torch.randn_like(map), torch.randn_like(pooled)
    for ours, function in (
        (
            ops.spatial_attention_backward(d_map, x, weight, map, pooled, scale, shift),
            lambda *tensors: (gate(*tensors, None, "identity")[1] * d_map.to(tensors[0])).sum(),
        ),
        (
            ops.channel_pool_backward(d_pooled, x, scale, shift),
            lambda *tensors: (gate(*tensors, None, "identity")[2] * d_pooled.to(tensors[0])).sum(),
        ),
    ):
        truth, plain = (
            torch.func.grad(function, argnums=(0, 1, 2, 3, 4))(
                *(t.to(wide) for t in (x, weight, bias, scale, shift))
            )
            for wide in (torch.float64, map.dtype)
        )
        if len(ours) == 3:
            truth, plain = ([t[i] for i in (0, 3, 4)] for t in (truth, plain))
        for got, eager, expected in zip(ours, plain, truth, strict=True):
            scale_of_terms = 0.0 if got.shape == x.shape else 10 * expected.abs().max()
            assert_accurate(
                "gradient", got, eager.to(got.dtype), expected, GRADIENT, scale_of_terms
            )


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_the_maximum_is_that_of_the_view(layout):
    """Under a negative scale the least x wins; where all are equal, the lowest channel."""
    x = make_x((3, 40, 6, 5), torch.float64, layout)
    scale = torch.ones(3, 40, dtype=torch.float64)
    scale[0], scale[1] = -2, 0
    shift = torch.full_like(scale, 0.5)
    d_pooled = torch.zeros(3, 2, 6, 5, dtype=torch.float64)
    d_pooled[:, 1] = 1
    dx, _, d_shift = ops.channel_pool_backward(d_pooled, x, scale, shift)
    winners = torch.stack([x[0].argmin(0), torch.zeros(6, 5, dtype=torch.int64), x[2].argmax(0)])
    expected = F.one_hot(winners, 40).permute(0, 3, 1, 2).double()
    assert torch.equal(dx, expected * scale[:, :, None, None])
    assert torch.equal(d_shift, expected.sum((2, 3)))
    pooled = ops.channel_pool(x, scale, shift)
    assert torch.equal(
        pooled[:, 1],
        torch.stack([0.5 - 2 * x[0].amin(0), torch.full((6, 5), 0.5).double(), x[2].amax(0) + 0.5]),
    )


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("where", ["x", "weight", "scale", "shift", "residual"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_spreads_as_in_eager(value, where, layout):
    arguments = make_arguments(make_x((2, 20, 9, 18), layout=layout), k=3)
    named = dict(
        zip(("x", "weight", "bias", "scale", "shift", "residual"), arguments, strict=False)
    )
    target = named[where]
    (target[:, 3] if target.dim() == 2 else target[:1, 1, :1, -1]).fill_(value)
    dy = torch.randn_like(arguments[0])
    ours, eager = by_ops(arguments, dy), by_autograd(arguments, dy, torch.float32)
    for name in RESULTS:
        for kind in (torch.isnan, torch.isinf):
            assert torch.equal(kind(ours[name]), kind(eager[name])), (name, kind)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_nan_passes_the_mask_of_the_relu(layout):
    """As in threshold_backward: a NaN is not at most zero."""
    arguments = make_arguments(make_x((2, 20, 9, 18), layout=layout), k=3)
    arguments[5][0, 1, 2, 3] = float("nan")
    dy = torch.randn_like(arguments[0])
    ours, eager = by_ops(arguments, dy), by_autograd(arguments, dy, torch.float32)
    assert ours["y"][0, 1, 2, 3].isnan()
    assert ours["d_residual"][0, 1, 2, 3] == dy[0, 1, 2, 3]
    assert torch.equal(ours["d_residual"][0, 1, 2], eager["d_residual"][0, 1, 2])


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", [(5, 70, 23, 19), (1, 64, 112, 90), (3, 5, 1, 300)])
def test_the_same_bits_on_any_threads(shape, layout):
    arguments = make_arguments(make_x(shape, layout=layout))
    dy = torch.randn_like(arguments[0])
    d_pooled = torch.randn(shape[0], 2, *shape[2:])
    found = []
    for count in (1, 2, 3, 4):
        with threads(count):
            found.append(by_ops(arguments, dy))
            pool = ops.channel_pool_backward(d_pooled, arguments[0], *arguments[3:5])
        found[-1] |= dict(
            zip(("dx of pool", "d_scale of pool", "d_shift of pool"), pool, strict=True)
        )
    for other in found[1:]:
        for name, result in other.items():
            assert torch.equal(found[0][name], result), name


def test_short_sums_over_pixels():
    """A million terms of one sign: a sum without parts loses digits."""
    arguments = make_arguments(make_x((1, 2, 1000, 1000)).abs(), residual=False, k=3)
    arguments[3].abs_()
    arguments[4].abs_()
    arguments[0] = arguments[0].contiguous()
    dy = torch.rand_like(arguments[0])
    ours, truth = by_ops(arguments, dy), by_autograd(arguments, dy, torch.float64)
    for name in ("d_weight", "d_bias", "d_scale", "d_shift"):
        error = (ours[name] - truth[name]).abs().max() / truth[name].abs().max()
        assert error < 1e-6, (name, error)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("view", [False, True])
def test_an_empty_batch_of_any_groups(view, layout):
    x = make_x((0, 6, 5, 4), layout=layout)
    results = by_ops(make_arguments(x, 3, view), torch.empty_like(x))
    assert results["d_weight"].shape == (3, 2, 7, 7)
    assert all(not t.any() for t in results.values())


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_opcheck(layout):
    arguments = make_arguments(make_x((4, 5, 6, 7), torch.float16, layout), groups=2)
    x, weight, bias, scale, shift, _, _ = arguments
    y, map, pooled = ops.spatial_gate(*arguments)
    view = (scale, shift)
    for overload, args in (
        (ops.spatial_gate.default, arguments),
        (ops.spatial_gate_backward.default, (y, x, weight, map, pooled, *view, y)),
        (ops.spatial_gate_backward.default, (y, x, weight, map, pooled, None, None, None)),
        (ops.spatial_attention.default, (x, weight, bias, *view)),
        (ops.spatial_attention_backward.default, (map, x, weight, map, pooled, *view)),
        (ops.channel_pool.default, (x, *view)),
        (ops.channel_pool_backward.default, (pooled, x, *view)),
    ):
        torch.library.opcheck(overload, args)
