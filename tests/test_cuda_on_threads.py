"""The CUDA kernels, run on threads of the CPU (tests/cuda_on_cpu), against PyTorch in float64."""

import itertools

import pytest
import torch
from cuda_on_cpu import build, check

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
OPS = ["channel_pool", "spatial_gate", "spatial_attention"]
ALL_OPS = OPS + [f"{op}_backward" for op in OPS]
NAN, INF = float("nan"), float("inf")

# Vectors of 8, 4 and 1; fewer pixels or channels than a vector; more channels than threads.
SHAPES = [
    ((1, 1, 1, 1), 1),
    ((2, 6, 5, 7), 3),
    ((1, 3, 9, 11), 7),
    ((2, 16, 4, 6), 5),
    ((1, 4, 2, 2), 3),
    ((3, 1, 2, 3), 7),
    ((1, 150, 1, 1), 3),
    ((1, 24, 8, 17), 7),
    ((1, 5, 3, 23), 15),
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
def test_pointers_that_are_not_aligned(module, dtype, channels_last):
    given = check.random_inputs((1, 8, 4, 6), 3, dtype, channels_last)
    check.assert_right(check.Kernels(module, skew=1), given)


LARGE = [
    ((1, 1, 363, 364), 3, False),  # more tiles than blocks of the weight gradient
    ((1, 700, 2, 4), 7, False),  # more channels than a block streams
    ((1, 700, 2, 4), 7, True),
]


@pytest.mark.parametrize(("shape", "k", "channels_last"), LARGE, ids=str)
def test_more_work_than_a_block_takes_at_once(module, shape, k, channels_last):
    given = check.random_inputs(shape, k, torch.float32, channels_last)
    check.assert_right(check.Kernels(module), given)


def ties(shape, generator):
    return torch.randint(-1, 2, shape, generator=generator).float()


def all_equal(shape, generator):
    return torch.full(shape, -2.0)


def lowest(shape, generator):
    return torch.full(shape, -INF)


def one_value(value):
    def values(shape, generator):
        x = torch.randn(shape, generator=generator)
        x[0, 1::3, 2, 3] = value
        return x

    return values


SPECIAL = [ties, all_equal, lowest, one_value(NAN), one_value(INF), one_value(-INF)]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("values", SPECIAL, ids=["ties", "equal", "lowest", "nan", "inf", "-inf"])
def test_special_values(module, values, dtype, channels_last):
    """Ties go to the lowest channel; NaN and inf appear where PyTorch has them."""
    given = check.random_inputs((2, 8, 5, 8), 3, dtype, channels_last, values=values)
    check.assert_right(check.Kernels(module), given)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_same_bits_in_any_order_of_blocks(module, channels_last):
    given = check.random_inputs((3, 12, 9, 12), 7, torch.float32, channels_last)

    def run(order, alive):
        kernels = check.Kernels(module, order=order, alive=alive)
        results = list(kernels.channel_pool(given.x, given.d_pooled).values())
        results += kernels.spatial(
            "spatial_gate", given.x, given.weight, given.bias, given.dy
        ).values()
        results += kernels.spatial(
            "spatial_attention", given.x, given.weight, given.bias, given.d_pooled[:, :1]
        ).values()
        return [check.to_bytes(result) for result in results]

    expected = run("forward", 1)
    for order, alive in [("forward", 3), ("reverse", 2), ("shuffled", 3)]:
        assert run(order, alive) == expected


def test_empty_batch(module):
    given = check.random_inputs((0, 3, 4, 5), 3)
    results = check.Kernels(module).spatial(
        "spatial_gate", given.x, given.weight, given.bias, given.dy
    )
    assert results["y"].shape == given.x.shape
    assert not results["d_weight"].any()
    assert not results["d_bias"].any()


SIZES = [(8, 64, 112, 112), (8, 256, 56, 56), (8, 512, 28, 28), (8, 1024, 14, 14), (8, 2048, 7, 7)]
EXTREMES = [(1, 1, 1, 1), (65536, 3, 1, 1), (1, 1, 46341, 46341), (2, 2**20, 32, 33), (0, 3, 4, 5)]


@pytest.mark.parametrize("op", ALL_OPS)
@pytest.mark.parametrize("shape", SIZES + EXTREMES, ids=str)
def test_launches_fit_every_gpu(module, op, shape):
    """512 threads, 48 KB of shared memory without asking for more, 2^31 - 1 blocks."""
    kinds = itertools.product(["float32", "float16", "float64"], [False, True], [False, True])
    for (dtype, channels_last, aligned), k in itertools.product(kinds, (1, 7, 15)):
        launches = module.geometry(op, dtype, shape, channels_last, k, aligned)
        assert launches
        for blocks, threads, shared_bytes in launches:
            assert 1 <= threads <= 512
            assert 0 < shared_bytes <= 48 * 1024
            assert 0 <= blocks < 2**31
        if op.startswith("spatial_gate"):  # conv_gate and d_input are compiled for 256 threads
            assert launches[1][1] <= 256


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_small_maps_fill_a_gpu_too(module, shape, channels_last):
    """Whatever touches all of x runs at least 20,000 threads, on 48 multiprocessors or more."""
    for dtype in ("float32", "float16"):
        pool, gate = module.geometry("spatial_gate", dtype, shape, channels_last, 7, True)
        d_logit, d_input, *_ = module.geometry(
            "spatial_gate_backward", dtype, shape, channels_last, 7, True
        )
        for blocks, threads, _ in (pool, gate, d_logit, d_input):
            assert blocks >= 48, (dtype, blocks, threads)
            assert blocks * threads >= 20_000, (dtype, blocks, threads)


@pytest.mark.parametrize("sanitizer", sorted(build.SANITIZERS))
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

    def run(self, op, x, inputs, outputs, k=0):
        taken = getattr(self.module, op)(*inputs)
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
    """With gradients of any strides, and both biases."""
    for bias in (False, True):
        given = check.random_inputs((2, 8, 3, 4), 3, dtype, channels_last, bias)
        check.assert_right(HostKernels(host_ops), given)
    for strides in (
        given.dy.transpose(2, 3).contiguous().transpose(2, 3),
        given.dy[:1, :1, :1, :1],
    ):
        given.dy = strides.expand_as(given.x)
        given.d_pooled = given.dy[:, :2]
        check.assert_right(HostKernels(host_ops), given)


def test_host_side_takes_an_empty_batch(host_ops):
    given = check.random_inputs((0, 3, 4, 5), 3)
    saved = host_ops.spatial_gate(given.x, given.weight, given.bias)
    assert saved[0].shape == given.x.shape
    gradients = host_ops.spatial_gate_backward(given.dy, given.x, given.weight, *saved[1:])
    assert gradients[0].shape == given.x.shape
    assert not any(gradient.any() for gradient in gradients)


def test_host_side_copies_other_strides(host_ops):
    given = check.random_inputs((2, 4, 3, 4), 3)
    sliced = torch.cat([given.x, given.x], 3)[..., :4]
    expected = host_ops.spatial_gate(given.x, given.weight, given.bias)
    results = host_ops.spatial_gate(sliced, given.weight, given.bias)
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=0, atol=0)


def test_host_side_refuses(host_ops):
    given = check.random_inputs((2, 4, 3, 4), 3)
    x, weight, bias = given.x, given.weight, given.bias
    y, map, pooled = host_ops.spatial_gate(x, weight, bias)
    refused = [
        ("x must be", lambda: host_ops.channel_pool(x[0])),
        ("x must be", lambda: host_ops.channel_pool(x.int())),
        ("C, H and W", lambda: host_ops.channel_pool(x[:, :0])),
        ("weight must be", lambda: host_ops.spatial_gate(x, weight[..., :2, :2], bias)),
        ("weight must be", lambda: host_ops.spatial_gate(x, weight.double(), bias)),
        ("bias must be", lambda: host_ops.spatial_gate(x, weight, torch.zeros(2))),
        ("dy must", lambda: host_ops.spatial_gate_backward(y[:1], x, weight, map, pooled)),
        ("statistic", lambda: host_ops.spatial_gate_backward(y, x, weight, pooled, pooled)),
        ("statistic", lambda: host_ops.channel_pool_backward(map, x)),
    ]
    for message, call in refused:
        with pytest.raises(RuntimeError, match=message):
            call()
