"""Offsets beyond 2^31 elements: half a minute, and 10 GB."""

import pytest
import torch
from spatial import spatial_parameters

import attn_kernels as ak

SHAPE = (33, 64, 1024, 1024)  # 2.2e9 elements; 4.4 GB in bfloat16


@pytest.fixture(scope="module")
def x():
    """Noise in the last image alone: the others are there to be stepped over."""
    x = torch.zeros(SHAPE, dtype=torch.bfloat16)
    x[-1].normal_()
    assert x.numel() > 2**31
    return x


@pytest.mark.exhaustive
def test_forward(x):
    parameters = spatial_parameters(64, torch.float32, "cpu")
    y = ak.functional.spatial_gate(x, *parameters)
    assert torch.equal(y[-1:], ak.functional.spatial_gate(x[-1:], *parameters))
    assert not y[0].any()


@pytest.mark.exhaustive
def test_backward(x):
    d_pooled = torch.ones(SHAPE[0], 2, *SHAPE[2:], dtype=torch.bfloat16)
    backward = torch.ops.attn_kernels.channel_pool_backward
    dx, *_ = backward(d_pooled, x, None, None)
    assert torch.equal(dx[-1:], backward(d_pooled[-1:], x[-1:], None, None)[0])
    assert (dx[0, 0] == 1 + 1 / 64).all()
    assert (dx[0, 1:] == 1 / 64).all()
