"""The ordered launch of the spatial gate, on threads: the same bits as launches one by one."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cuda_on_cpu import build, check

# Of L2: less than x has below, while the images between both looks fit.
L2 = 22 * 1024
CASES = {
    "plain": {},
    "view": {"view": True},
    "tail": {"residual": True, "relu": True},
    "view and tail": {"view": True, "residual": True, "relu": True},
}


@pytest.fixture(scope="module")
def module():
    return build.load_module(build.module_path())


def inputs(dtype=torch.float32, channels_last=False, shape=(16, 8, 6, 8), k=7, **more):
    return check.random_inputs(shape, k, dtype, channels_last, **more)


def results(module, given, **how):
    kernels = check.Kernels(module, **how)
    return {name: check.to_bytes(value) for name, value in kernels.spatial_gate(given).items()}


def launches(module, op, shape, l2, dtype="float32", **how):
    how = {"channels_last": False, "k": 7, "aligned": True, "view": False, **how}
    found = module.geometry_on(op, dtype, shape, *how.values(), 1, l2)
    return [kernel for kernel, *_ in found]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_same_bits(module, dtype, channels_last, case):
    shape = (16, 8 * 4 // dtype.itemsize, 6, 8)  # as many bytes in each dtype
    given = inputs(dtype, channels_last, shape, **CASES[case])
    name = str(dtype).removeprefix("torch.")
    how = {"channels_last": channels_last, "view": "view" in case}
    if name != "bfloat16":
        assert launches(module, "spatial_gate", shape, L2, name, **how) == ["ordered_kernel"]
        backward = launches(module, "spatial_gate_backward", shape, L2, name, **how)
        assert backward[0] == "ordered_kernel"
    assert results(module, given, machine=(1, L2)) == results(module, given)


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffled"])
@pytest.mark.parametrize("alive", [1, 3])
def test_in_any_order_of_blocks_and_with_one_alive(module, order, alive):
    given = inputs(view=True, residual=True, relu=True)
    expected = results(module, given)
    assert results(module, given, machine=(3, L2), order=order, alive=alive) == expected


def test_two_at_once(module):
    """As on two streams: each launch has counters of its own."""
    given = [inputs(shape=(16, c, 6, 8), relu=True) for c in (8, 12)]
    expected = [results(module, g) for g in given]
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda g: results(module, g, machine=(1, L2)), given))
    assert both == expected


H200 = (132, 50 * 2**20)


@pytest.mark.parametrize(
    ("shape", "pays"),
    [
        ((256, 64, 112, 112), True),
        ((256, 256, 56, 56), True),
        ((8, 256, 56, 56), False),  # all of x is in L2
        ((4, 512, 224, 224), False),  # an image alone fills L2
    ],
)
def test_when_it_pays(module, shape, pays):
    found = module.geometry_on("spatial_gate", "float16", shape, False, 7, True, False, *H200)
    kernels = {kernel: how for kernel, *how in found}
    assert ("gate_kernel" in kernels) != pays
    if pays:
        blocks, threads, shared_bytes = kernels["ordered_kernel"]
        assert blocks == 2 * H200[0]
        assert threads >= 224
        assert shared_bytes <= 48 * 1024
