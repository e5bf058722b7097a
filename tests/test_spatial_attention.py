import pytest
import torch
from contract import Contract, MaximumContract, Op, assert_right, make_x, output_gradient
from spatial import eager_map, spatial_parameters, spatial_scales

import attn_kernels as ak


def opcheck(x, parameters):
    ops = torch.ops.attn_kernels
    map, pooled = ops.spatial_attention(x, *parameters, None, None)
    saved = (x, parameters[0], map, pooled, None, None)
    return [
        (ops.spatial_attention.default, (x, *parameters, None, None)),
        (ops.spatial_attention.default, (x, parameters[0], None, None, None)),
        (ops.spatial_attention_backward.default, (map, *saved)),
        (ops.spatial_attention_backward.default, (map.to(x.dtype), *saved)),
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
