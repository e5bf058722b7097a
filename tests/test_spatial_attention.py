import pytest
import torch
from contract import Contract, MaximumContract, Op, assert_right, make_x, output_gradient
from spatial import eager_map, spatial_parameters, spatial_scales, view_of

import attn_kernels as ak


def opcheck(x, parameters):
    ops = torch.ops.attn_kernels
    weight, bias = parameters
    none, view = (None, None), view_of(x)
    map, pooled = ops.spatial_attention(x, weight, bias, *view)
    backward = ops.spatial_attention_backward.default
    return [
        (ops.spatial_attention.default, (x, weight, bias, *view)),
        (ops.spatial_attention.default, (x, weight, None, *none)),
        (backward, (map, x, weight, map, pooled, *none)),
        (backward, (map.to(x.dtype), x, weight, map, pooled, *view)),
    ]


class TestSpatialAttention(Contract, MaximumContract):
    op = Op(
        "spatial_attention",
        ak.functional.spatial_attention,
        ak.reference.spatial_attention,
        eager_map,
        spatial_parameters,
        opcheck,
        saved_bytes_per_pixel=16,
        scales=spatial_scales,
    )

    @pytest.mark.parametrize("k", range(1, 16, 2))
    def test_every_kernel_size(self, k, device):
        x = make_x((2, 20, 11, 13), device=device)
        parameters = spatial_parameters(20, torch.float32, device, k)
        assert_right(self.op, x, parameters, output_gradient(self.op, x, parameters))
