"""What parts of larger maps come back as, and how results are rounded and summed."""

import pytest
import torch
from accuracy import FORWARD, assert_accurate
from contract import make_x
from spatial import eager_pool, spatial_parameters

import attn_kernels as ak
from attn_kernels.ops import memory_format

ops = torch.ops.attn_kernels

PARTS = {
    "channels": lambda t: t[:, :5],
    "every other channel": lambda t: t[:, ::2],
    "columns": lambda t: t[..., 1:-1],
    "every other column": lambda t: t[..., ::2],
    "rows": lambda t: t[:, :, 2:],
    "one row": lambda t: t[:, :, 2:3],
    "one image many times": lambda t: t[:1, :7].expand(3, -1, -1, -1),
}


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_parts_of_a_map_keep_its_format(part, layout):
    """As eager's product of x and the map does; the values are those of a dense x."""
    x = part(make_x((4, 12, 6, 8), layout=layout))
    weight, bias = spatial_parameters(x.shape[1], torch.float32, "cpu")
    plain = (None, None, None, "identity")
    y, map, pooled = ops.spatial_gate(x, weight, bias, *plain)
    saved = (x, weight, map, pooled, None, None)
    results = {
        "y": y,
        "dx of the gate": ops.spatial_gate_backward(y, *saved, None)[0],
        "dx of the map": ops.spatial_attention_backward(map, *saved)[0],
        "dx of the pool": ops.channel_pool_backward(pooled, x, None, None)[0],
    }
    for name, result in results.items():
        assert result.stride() == (x * map).stride(), name
        assert result.is_contiguous(memory_format=memory_format(x)), name
    dense = x.contiguous(memory_format=memory_format(x)).clone(memory_format=torch.preserve_format)
    assert torch.equal(y, ops.spatial_gate(dense, weight, bias, *plain)[0])
    y = ak.functional.spatial_gate(x, weight, bias)
    torch.testing.assert_close(y, ak.reference.spatial_gate(x, weight, bias))
    assert y.stride() == (x * map).stride()


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_stores_round_ties_to_even(dtype, layout):
    """The mean of two values is exact in float32, and often midway between two of `dtype`."""
    x = make_x((3, 2, 9, 11), dtype, layout)
    pooled = ops.channel_pool(x, None, None)
    assert torch.equal(pooled, ak.reference.channel_pool(x))
    mean = x.double().mean(1)
    below, above = (torch.nextafter(pooled[:, 0], pooled[:, 0] + d).double() for d in (-1, 1))
    ties = ((mean - below).abs() == (mean - pooled[:, 0]).abs() * 3) | (
        (above - mean).abs() == (mean - pooled[:, 0]).abs() * 3
    )
    assert ties.sum() > 20


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_a_mean_of_many_channels(layout):
    x = make_x((1, 4096, 9, 11), layout=layout).abs()
    pooled = ops.channel_pool(x, None, None)
    assert_accurate("pooled", pooled, eager_pool(x), eager_pool(x.double()), FORWARD)
    error = (pooled[:, 0] / x.double().mean(1) - 1).square().mean().sqrt()
    assert error < 1e-7


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_one_pixel_images(layout):
    """There both memory formats are one: the passes are those of channels_last."""
    x = make_x((7, 70, 1, 1), layout=layout)
    pooled = ops.channel_pool(x, None, None)
    torch.testing.assert_close(pooled, eager_pool(x))
    dx, *_ = ops.channel_pool_backward(pooled, x, None, None)
    assert dx.stride() == x.stride()
    winners = x == x.amax(1, keepdim=True)
    torch.testing.assert_close(dx, pooled[:, :1] / 70 + winners * pooled[:, 1:])
