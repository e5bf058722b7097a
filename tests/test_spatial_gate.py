import pytest
import torch
import torch.nn.functional as F
from accuracy import GRADIENT, assert_accurate
from contract import Contract, MaximumContract, Op, assert_right, make_x, output_gradient, run
from spatial import eager_map, spatial_parameters, spatial_scales

import attn_kernels as ak


def eager(x, weight, bias):
    return x * eager_map(x, weight, bias)


def opcheck(x, parameters):
    ops = torch.ops.attn_kernels
    plain = (None, None, None, "identity")
    y, map, pooled = ops.spatial_gate(x, *parameters, *plain)
    saved = (x, parameters[0], map, pooled, None, None, None)
    return [
        (ops.spatial_gate.default, (x, *parameters, *plain)),
        (ops.spatial_gate.default, (x, parameters[0], None, *plain)),
        (ops.spatial_gate_backward.default, (y, *saved)),
        (ops.spatial_gate_backward.default, (y[:1].expand_as(x), *saved)),
    ]


class TestSpatialGate(Contract, MaximumContract):
    op = Op(
        "spatial_gate",
        ak.functional.spatial_gate,
        ak.reference.spatial_gate,
        eager,
        spatial_parameters,
        opcheck,
        saved_bytes_per_pixel=16,
        scales=lambda x, parameters, dy: spatial_scales(x, parameters, (dy * x).abs().sum(1, True)),
    )

    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    @pytest.mark.parametrize("k", range(1, 16, 2))
    def test_every_kernel_size(self, k, layout, device):
        x = make_x((2, 20, 11, 13), torch.float32, layout, device)
        parameters = spatial_parameters(20, torch.float32, device, k)
        assert_right(self.op, x, parameters, output_gradient(self.op, x, parameters))

    def test_chunks_of_rows(self, device):
        """Images larger than the cache are walked in chunks: no seam may show."""
        for shape in ((1, 64, 112, 90), (3, 600, 33, 31)):
            x = make_x(shape, device=device)
            parameters = spatial_parameters(shape[1], torch.float32, device)
            assert_right(self.op, x, parameters, output_gradient(self.op, x, parameters))

    def test_return_map(self, device):
        x = make_x((2, 8, 6, 5), device=device).requires_grad_()
        weight, bias = spatial_parameters(8, torch.float32, device)
        y, map = ak.functional.spatial_gate(x, weight, bias, return_map=True)
        assert not map.requires_grad
        torch.testing.assert_close(map, ak.functional.spatial_attention(x, weight, bias))
        torch.testing.assert_close(y, x * map)

    def test_the_comparison_notices_every_gradient_term(self):
        """Without any one of its terms, dx and the weight's gradient are called wrong."""
        x = make_x((2, 64, 14, 14), torch.float64)
        weight, bias = spatial_parameters(64, torch.float64, "cpu")
        dy = torch.randn_like(x)
        _, (dx, d_weight, d_bias) = run(ak.reference.spatial_gate, x, [weight, bias], dy)
        _, eagers = run(eager, x.float(), [weight.float(), bias.float()], dy)
        d_logit, d_pooled = self._pixel_gradients(x, weight, bias, dy)
        from_map = dy * eager_map(x, weight, bias)
        from_mean = d_pooled[:, :1].expand_as(x) / 64
        winners = F.one_hot(x.argmax(1), 64).permute(0, 3, 1, 2)
        from_max = winners * d_pooled[:, 1:]
        torch.testing.assert_close(from_map + from_mean + from_max, dx)
        partial = torch.zeros_like(weight)
        partial[..., 0, 0] = d_weight[..., 0, 0]
        cases = [
            *((dx - term, eagers[0], dx) for term in (from_map, from_mean, from_max)),
            (d_weight - partial, eagers[1], d_weight),
            (d_bias - d_logit[0, 0, 0, 0], eagers[2], d_bias),
        ]
        for wrong, eagers_own, truth in cases:
            with pytest.raises(AssertionError, match="error"):
                assert_accurate("wrong", wrong.float(), eagers_own, truth, GRADIENT)

    @staticmethod
    def _pixel_gradients(x, weight, bias, dy):
        pooled = ak.reference.channel_pool(x).requires_grad_()
        logit = F.conv2d(pooled, weight, bias, padding=3)
        (x * torch.sigmoid(logit)).backward(dy, inputs=[pooled])
        map = torch.sigmoid(logit.detach())
        return (dy * x).sum(1, True) * map * (1 - map), pooled.grad
