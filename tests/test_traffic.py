"""The traffic model of the benchmarks, held against what can be counted without a GPU."""

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import memory, providers, traffic
from benchmarks.ops import OPS, make_inputs

SHAPE = (2, 64, 12, 16)
X = 2 * 64 * 12 * 16 * 4
# With no planes at all, what is left are the multiples of x that DESIGN.md's table gives.
MAPS_ONLY = traffic.Sizes(X=100, P=0, A=0, I=0, H=25)


@pytest.mark.parametrize(
    ("op", "who", "fwd", "bwd"),
    [
        ("spatial_gate", "limit", 2, 3),
        ("spatial_gate", "ours", 3, 4),
        ("spatial_gate", "eager", 4, 14),
        ("spatial_gate", "compile", 3, 6),
        ("spatial_attention", "limit", 1, 1),
        ("channel_pool", "eager", 2, 5),
        ("gam_channel_gate", "limit", 2, 3),
        ("gam_channel_gate", "eager", 8.5, 18),
        ("gam_channel_gate", "compile", 8, 13.75),
        ("scale_gate", "ours", 3, 5),
        ("squeeze_excite", "ours", 3, 4),
        ("cbam", "eager", 8, 28),
        ("cbam", "compile", 4, 11),
        ("cbam", "ours", 4, 7),
        ("spatial_channel_se", "eager", 9, 24),
        ("spatial_channel_se", "ours", 3, 5),
        ("bam", "ours", 4, 9),
        ("coordinate_attention", "eager", 6, 20),
        ("coordinate_attention", "ours", 3, 4),
        ("simam", "ours", 3, 5),
        ("selective_kernel", "eager", 15, 16),
        ("selective_kernel", "ours", 5, 6),
        ("split_attention", "ours", 2.5, 3),
        ("blend", "ours", 4, 7),
        ("iterative_blend", "eager", 32.5, 59),
        ("iterative_blend", "ours", 10.5, 25),
        ("se_tail", "eager", 11, 18),
        ("se_tail", "compile", 5, 11),
        ("se_tail", "ours", 4, 7),
        ("spatial_tail", "ours", 5, 10),
        ("cbam_tail", "eager", 16, 36),
    ],
)
def test_headline_figures(op, who, fwd, bwd):
    found = traffic.MODELS[op][who](MAPS_ONLY)
    assert (found.fwd / 100, found.bwd / 100) == (fwd, bwd)
    assert found.mode("full") == found.fwd + found.bwd


def test_cached_second_readings_are_not_counted():
    without = traffic.spatial_gate_ours(MAPS_ONLY)
    with_reuse = traffic.spatial_gate_ours(traffic.Sizes(100, 0, 0, 0, 25, reuse=True))
    assert (without.fwd - with_reuse.fwd, without.bwd - with_reuse.bwd) == (100, 100)
    tile = traffic.gam_ours(traffic.Sizes(100, 0, 0, 0, 25, reuse=True))
    assert (tile.fwd, tile.bwd) == (225, 325)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("op", OPS)
def test_nobody_moves_less_than_the_limit(op, dtype):
    for mode in ("fwd", "bwd", "full"):
        least = traffic.limit(op, mode, SHAPE, dtype)
        for who in ("ours-cpu", "ours-cuda", "eager", "compile", "timm"):
            assert traffic.moved(op, who, mode, SHAPE, dtype) >= least
    assert traffic.moved(op, "copy", "full", SHAPE, dtype) == 2 * X * dtype.itemsize // 4
    assert traffic.moved(op, "reference", "fwd", SHAPE, dtype) is None


class Counter(TorchDispatchMode):
    """Bytes of every operand and result of every kernel that PyTorch launches."""

    VIEWS = ("_unsafe_view", "detach", "empty")
    # Two kernels read the first operand: for input and weight, for elements and sums.
    TWICE = (
        *("convolution_backward", "native_batch_norm_backward", "native_batch_norm"),
        *("native_group_norm_backward", "native_group_norm"),
    )
    FILLS = ("new_zeros", "zeros_like", "ones_like")

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in self.VIEWS:
            operands = () if name in self.FILLS else (args, kwargs)
            self.bytes += sum(map(dense_bytes, tree_leaves((operands, result))))
        if name == "scatter":  # in place where no mode watches: neither reads nor writes the rest
            self.bytes -= 2 * dense_bytes(result)
            self.bytes += dense_bytes(args[3])
        if name in self.TWICE:
            self.bytes += dense_bytes(args[0])
        if name == "native_batch_norm" and not args[5]:  # by given statistics: x is read once
            self.bytes -= dense_bytes(args[0])
        # Of batch norms those by this batch's statistics: x is read twice.
        if (
            name == "native_batch_norm_backward" and args[7]
        ) or name == "native_group_norm_backward":
            self.bytes += dense_bytes(args[1])
        if name == "adaptive_max_pool2d_backward":  # of x it takes the shape
            self.bytes -= dense_bytes(args[1])
        return result


def dense_bytes(leaf) -> int:
    """What of a tensor lies in memory: an expanded dimension does once."""
    if not isinstance(leaf, torch.Tensor):
        return 0
    extents = (size for size, stride in zip(leaf.shape, leaf.stride(), strict=True) if stride)
    return torch.Size(extents).numel() * leaf.element_size()


def inputs_of(op, dtype=torch.float32):
    return make_inputs(OPS[op], SHAPE, dtype, torch.contiguous_format, "cpu")


def parameter_bytes(inputs) -> int:
    """Parameters of less than a map's size: the model leaves them out."""
    return sum(p.numel() * 8 for p in inputs.parameters if p.shape != inputs.x.shape)


def vector_bytes(inputs, count) -> int:
    """Of (N, C) vectors in the accumulate dtype, of which a mix has some."""
    return count * inputs.x[:, :, 0, 0].numel() * 4


@pytest.mark.parametrize("op", OPS)
def test_eager_moves_what_the_model_says(op):
    inputs = inputs_of(op)
    with Counter() as forward, torch.no_grad():
        OPS[op].eager(*inputs.tensors)
    y = OPS[op].eager(*inputs.tensors)
    with Counter() as backward:
        torch.autograd.grad(y, inputs.tensors, inputs.dy)
    for mode, counted in (("fwd", forward.bytes), ("bwd", backward.bytes)):
        modelled = traffic.moved(op, "eager", mode, SHAPE, torch.float32)
        # The model leaves out parameters, their gradients, their statistics, and the vectors of a
        # mix: (N, C) each.
        assert 0 <= counted - modelled <= 2 * parameter_bytes(inputs) + vector_bytes(inputs, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("provider", ["eager", "ours"])
@pytest.mark.parametrize("op", OPS)
def test_saved_bytes_are_what_the_model_says(op, provider, dtype):
    inputs = inputs_of(op, dtype)
    (contestant,) = providers.make(provider, OPS[op], inputs)
    measured = memory.saved_bytes(contestant.fn, inputs.tensors)
    modelled = traffic.saved(op, contestant.name, SHAPE, dtype)
    # Parameters are kept in the accumulate dtype; so are a norm's and a squeeze's statistics.
    assert 0 <= measured - modelled <= parameter_bytes(inputs) + vector_bytes(inputs, 8)


def test_in_maps():
    assert traffic.in_maps(3 * X, SHAPE, torch.float32) == 3


def test_the_readme_shows_the_model():
    readme = (Path(traffic.__file__).parent / "README.md").read_text()
    for op, models in traffic.MODELS.items():
        counts = [models[who](MAPS_ONLY) for who in ("limit", "ours", "compile", "eager")]
        cells = [f"{count.fwd / 100:g} / {count.bwd / 100:g}" for count in counts]
        assert f"| {op} | {' | '.join(cells)} |" in readme
