"""The CUDA kernels, run on the CPU (tests/cuda_on_cpu), against PyTorch in float64."""

import itertools

import pytest
import torch
from cuda_on_cpu import build, check
from torch.nn import functional as F

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
OPS = ["channel_pool", "spatial_gate", "spatial_attention"]
ALL_OPS = OPS + [f"{op}_backward" for op in OPS]
NAN, INF = float("nan"), float("inf")

# Vectors of 16 and 8 bytes and of one element; vectors that straddle channels; fewer pixels or
# channels than a vector; more channels than threads; more columns than a stencil's tile.
SHAPES = [
    ((1, 1, 1, 1), 1),
    ((2, 6, 5, 7), 3),
    ((1, 3, 9, 11), 7),
    ((2, 16, 4, 6), 5),
    ((1, 4, 2, 2), 3),
    ((3, 1, 2, 3), 7),
    ((1, 150, 1, 1), 3),
    ((1, 24, 8, 17), 7),
    ((1, 5, 3, 63), 15),
    ((2, 16, 7, 7), 7),
    ((1, 36, 14, 14), 7),
]
# What a spatial gate may have beside x and weight.
TAILS = [
    {"view": True},
    {"residual": True},
    {"view": True, "residual": True, "relu": True},
    {"relu": True, "groups": 2},
]


@pytest.fixture(scope="module")
def module():
    return build.load_module(build.module_path())


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "k"), SHAPES, ids=str)
def test_as_accurate_as_pytorch(module, shape, k, dtype, channels_last):
    given = check.random_inputs(shape, k, dtype, channels_last, bias=k != 3)
    check.assert_right(check.Kernels(module), given)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tail", TAILS, ids=lambda tail: "-".join(tail))
@pytest.mark.parametrize("shape", [(2, 16, 5, 7), (2, 4, 4, 6), (2, 3, 3, 5)], ids=str)
def test_with_a_view_a_residual_and_a_relu(module, shape, tail, dtype, channels_last):
    """In whole vectors, in vectors that straddle channels, in single elements; in many tiles."""
    given = check.random_inputs(shape, 3, dtype, channels_last, **tail)
    check.assert_right(check.Kernels(module), given)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pointers_that_are_not_aligned(module, dtype, channels_last):
    given = check.random_inputs((1, 8, 4, 6), 3, dtype, channels_last, **TAILS[2])
    check.assert_right(check.Kernels(module, skew=1), given)


LARGE = [
    ((600, 1, 3, 2), 3, False),  # more tiles than blocks of the weight gradient
    ((1, 700, 2, 4), 7, False),  # channels shared out among blocks
    ((1, 1500, 3, 3), 7, False),
    ((1, 700, 2, 4), 7, True),
    ((1, 12, 23, 51), 3, False),  # tiles of pixels in vectors that straddle channels
    ((1, 4, 40, 40), 3, True),
]


@pytest.mark.parametrize(("shape", "k", "channels_last"), LARGE, ids=str)
def test_more_work_than_a_block_takes_at_once(module, shape, k, channels_last):
    tail = TAILS[2] if shape[1] > 1 else {}
    given = check.random_inputs(shape, k, torch.float32, channels_last, **tail)
    check.assert_right(check.Kernels(module), given)


def ties(shape, generator):
    return torch.randint(-1, 2, shape, generator=generator).float()


def all_equal(shape, generator):
    return torch.full(shape, -2.0)


def lowest(shape, generator):
    return torch.full(shape, -INF)


def one_value(value):
    """At a pixel inside, and at one at the edge, which some taps do not reach."""

    def values(shape, generator):
        x = torch.randn(shape, generator=generator)
        x[0, 1::3, 2, 3] = value
        x[1, 2, 0, -1] = value
        return x

    return values


SPECIAL = [ties, all_equal, lowest, one_value(NAN), one_value(INF), one_value(-INF)]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("values", SPECIAL, ids=["ties", "equal", "lowest", "nan", "inf", "-inf"])
def test_special_values(module, values, dtype, channels_last):
    """Ties go to the lowest channel; NaN and inf appear where PyTorch has them."""
    for tail in ({}, TAILS[2]):
        given = check.random_inputs((2, 8, 5, 7), 3, dtype, channels_last, values=values, **tail)
        check.assert_right(check.Kernels(module), given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("value", [NAN, INF])
def test_special_gradients(module, value, dtype):
    """Where the gradient is not finite, the zeros around the image are not multiplied by it."""
    given = check.random_inputs((2, 4, 5, 7), 3, dtype)
    given.d_pooled[0, 0, 0, 0] = value
    ours = check.Kernels(module).spatial_attention(given)

    def d_weight(real):
        """Of the map and the pooled that ours found, and the sizes of the terms summed."""
        map, pooled, d_map = (t.to(real) for t in (ours["map"], ours["pooled"], given.d_pooled))
        d_logit = F.pad(d_map[:, :1] * map * (1 - map), (1, 1, 1, 1))
        sums, sizes = torch.empty(2, *given.weight.shape, dtype=real)
        for ky, kx in itertools.product(range(3), repeat=2):
            terms = d_logit[..., 2 - ky : 7 - ky, 2 - kx : 9 - kx] * pooled
            sums[0, :, ky, kx], sizes[0, :, ky, kx] = (
                terms.sum((0, 2, 3)),
                terms.abs().sum((0, 2, 3)),
            )
        return sums, sizes

    truth, sizes = d_weight(torch.float64)
    assert truth.isfinite().any()
    yardstick, _ = d_weight(torch.float32)
    check.assert_as_accurate("d_weight", ours["d_weight"], yardstick, truth, sizes)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_same_bits_in_any_order_of_blocks(module, channels_last):
    given = check.random_inputs((3, 12, 9, 7), 7, torch.float32, channels_last, **TAILS[2])

    def run(order, alive):
        kernels = check.Kernels(module, order=order, alive=alive)
        results = [getattr(kernels, op)(given) for op in OPS]
        return [check.to_bytes(result) for of_op in results for result in of_op.values()]

    expected = run("forward", 1)
    for order, alive in [("forward", 3), ("reverse", 2), ("shuffled", 3)]:
        assert run(order, alive) == expected


@pytest.mark.parametrize("groups", [1, 2])
def test_empty_batch(module, groups):
    given = check.random_inputs((0, 3, 4, 5), 3, groups=groups, view=True, relu=True)
    results = check.Kernels(module).spatial_gate(given)
    assert results["y"].shape == given.x.shape
    assert not results["d_weight"].any()
    assert not results["d_bias"].any()


SIZES = [(8, 64, 112, 112), (8, 256, 56, 56), (8, 512, 28, 28), (8, 1024, 14, 14), (8, 2048, 7, 7)]
OF_X = ("reduce_kernel", "gate_kernel", "input_gradient_kernel")
EXTREMES = [(1, 1, 1, 1), (65536, 3, 1, 1), (1, 1, 46341, 46341), (2, 2**20, 32, 33), (0, 3, 4, 5)]


@pytest.mark.parametrize("op", ALL_OPS)
@pytest.mark.parametrize("shape", SIZES + EXTREMES, ids=str)
def test_launches_fit_every_gpu(module, op, shape):
    """512 threads, 48 KB of shared memory without asking for more, 2^31 - 1 blocks."""
    flags = itertools.product([False, True], repeat=3)
    kinds = itertools.product(["float32", "float16", "float64"], flags)
    for (dtype, (channels_last, aligned, view)), k in itertools.product(kinds, (1, 7, 15)):
        launches = module.geometry(op, dtype, shape, channels_last, k, aligned, view)
        assert launches
        for kernel, blocks, threads, shared_bytes in launches:
            small = (*OF_X, "map_kernel", "pooled_gradient_kernel")
            assert 1 <= threads <= (256 if kernel in small else 512), kernel
            assert 0 <= shared_bytes <= 48 * 1024, kernel
            assert 0 <= blocks < 2**31, kernel


@pytest.mark.parametrize("shape", [*SIZES, (2, 1024, 14, 14), (32, 2048, 7, 7)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_small_maps_fill_a_gpu_too(module, shape, channels_last):
    """Whatever touches all of x runs at least 20,000 threads in 48 blocks or more."""
    for dtype, op in itertools.product(("float32", "float16"), ALL_OPS):
        for kernel, blocks, threads, _ in module.geometry(
            op, dtype, shape, channels_last, 7, True, False
        ):
            if kernel in OF_X:
                assert blocks >= 48, (dtype, kernel, blocks, threads)
                assert blocks * threads >= 20_000, (dtype, kernel, blocks, threads)


@pytest.mark.parametrize(
    "sanitizer",
    ["thread", "address", pytest.param("address_other_dtypes", marks=pytest.mark.exhaustive)],
)
def test_no_report_from(sanitizer):
    done = build.run_sanitized(sanitizer)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == "every op has run\n"


@pytest.fixture(scope="module")
def host_ops():
    torch.ops.load_library(str(build.host_library()))
    return torch.ops.attn_kernels_on_threads


class HostKernels(check.Kernels):
    """The ops through their host side and torch's dispatcher."""

    def run(self, op, x, inputs, outputs, weight=None, relu=False):
        activation = ["relu" if relu else "identity"] if op == "spatial_gate" else []
        taken = getattr(self.module, op)(*inputs, *activation)
        taken = (taken,) if isinstance(taken, torch.Tensor) else taken
        for result, output in zip(taken, outputs, strict=True):
            assert result.shape == output.shape
            assert result.dtype == output.dtype
            if output.shape == x.shape and output.dtype == x.dtype and x.shape[1] > 1:
                assert result.stride() == output.stride()
            output.copy_(result)
        return outputs


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_host_side(host_ops, dtype, channels_last):
    """With gradients and residuals of any strides, both biases, two groups of weights."""
    for bias, tail in itertools.product((False, True), ({}, TAILS[2])):
        given = check.random_inputs((2, 8, 3, 5), 3, dtype, channels_last, bias, **tail)
        check.assert_right(HostKernels(host_ops), given)
    given = check.random_inputs((2, 8, 3, 4), 3, dtype, channels_last, groups=2, **TAILS[2])
    given.residual = given.residual.transpose(2, 3).contiguous().transpose(2, 3)
    for strides in (
        given.dy.transpose(2, 3).contiguous().transpose(2, 3),
        given.dy[:1, :1, :1, :1],
    ):
        given.dy = strides.expand_as(given.x)
        given.d_pooled = given.dy[:, :2]
        check.assert_right(HostKernels(host_ops), given)


def gate(host_ops, given, *view, activation="identity", residual=None):
    scale, shift = view or (None, None)
    x, weight, bias = given.x, given.weight, given.bias
    return host_ops.spatial_gate(x, weight, bias, scale, shift, residual, activation)


@pytest.mark.parametrize("groups", [0, 1, 3])
def test_host_side_takes_an_empty_batch(host_ops, groups):
    given = check.random_inputs((0, 3, 4, 5), 3, groups=groups)
    saved = gate(host_ops, given)
    assert saved[0].shape == given.x.shape
    view = [None, None, None]
    gradients = host_ops.spatial_gate_backward(given.dy, given.x, given.weight, *saved[1:], *view)
    assert gradients[0].shape == given.x.shape
    assert gradients[1].shape == given.weight.shape
    assert not any(gradient.any() for gradient in gradients)


def test_host_side_takes_statistics_at_odd_addresses(host_ops):
    given = check.random_inputs((2, 4, 3, 4), 3)
    _, map, pooled = gate(host_ops, given)

    def backward(*saved):
        return host_ops.spatial_gate_backward(given.dy, given.x, given.weight, *saved, *[None] * 3)

    def moved(t):
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)

    for result, wanted in zip(
        backward(moved(map), moved(pooled)), backward(map, pooled), strict=True
    ):
        torch.testing.assert_close(result, wanted, rtol=0, atol=0)


def test_host_side_copies_other_strides(host_ops):
    given = check.random_inputs((2, 4, 3, 4), 3)
    sliced = torch.cat([given.x, given.x], 3)[..., :4]
    expected = gate(host_ops, given)
    given.x = sliced
    for result, wanted in zip(gate(host_ops, given), expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=0, atol=0)


def test_host_side_refuses(host_ops):
    given = check.random_inputs((2, 4, 3, 4), 3, view=True)
    x, weight, bias, scale, shift = given.x, given.weight, given.bias, given.scale, given.shift
    y, map, pooled = gate(host_ops, given)

    def pool(x, scale=None, shift=None):
        return host_ops.channel_pool(x, scale, shift)

    def forward(weight=weight, bias=bias, scale=None, shift=None, residual=None, act="identity"):
        return host_ops.spatial_gate(x, weight, bias, scale, shift, residual, act)

    def backward(dy=y, weight=weight, map=map, pooled=pooled, y=None):
        return host_ops.spatial_gate_backward(dy, x, weight, map, pooled, None, None, y)

    refused = [
        ("x must be", lambda: pool(x[0])),
        ("x must be", lambda: pool(x.int())),
        ("C, H and W", lambda: pool(x[:, :0])),
        ("both or not", lambda: pool(x, scale)),
        ("scale must", lambda: pool(x, scale[:1], shift)),
        ("shift must", lambda: pool(x, scale, shift.double())),
        ("scale must", lambda: pool(x, scale[None], shift)),
        ("scale must", lambda: pool(x, scale.t().contiguous().t(), shift)),
        ("weight must be", lambda: forward(weight[..., :2, :2])),
        ("weight must be", lambda: forward(weight[0])),
        ("weight must be", lambda: forward(weight.double())),
        ("weight must be", lambda: forward(weight.expand(3, 2, 3, 3).contiguous())),
        ("bias must be", lambda: forward(bias=torch.zeros(2))),
        ("bias must be", lambda: forward(bias=bias.double())),
        ("residual must", lambda: forward(residual=x[:1])),
        ("residual must", lambda: forward(residual=x.double())),
        ("activation must", lambda: forward(act="tanh")),
        ("dy must", lambda: backward(dy=y[:1])),
        ("y must", lambda: backward(y=y.double())),
        ("weight must be", lambda: backward(weight=weight[:, :1])),
        ("statistic", lambda: backward(map=pooled)),
        ("statistic", lambda: backward(pooled=pooled.double())),
        ("gradient", lambda: host_ops.channel_pool_backward(map, x, None, None)),
    ]
    for message, call in refused:
        with pytest.raises(RuntimeError, match=message):
            call()
