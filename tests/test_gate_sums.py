"""Long sums in GAM's channel gate and scale_gate: how right, and the same on any threads."""

import pytest
import torch
from accuracy import GRADIENT, assert_accurate
from contract import assert_right, make_x, output_gradient, parameters_like
from test_gam_channel_gate import op_with
from test_scale_gate import eager, scales
from test_scale_gate import parameters as scale_gate_parameters
from threads import threads

import attn_kernels as ak
from attn_kernels import ops

LAYOUTS = ("nchw", "channels_last")


def scale_gate_gradients(function, x, a, dy, vectors):
    vectors = [v.clone().requires_grad_() for v in vectors]
    return torch.autograd.grad(function(x, a, *vectors), vectors, dy)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 3, 1000, 1000), (3, 2, 499, 701)], ids=str)
def test_scale_gate_over_a_million_pixels(shape, layout):
    """Terms of one sign: every rounding error counts, and eager's own sums are short ones."""
    x, a, dy = (make_x(shape, layout=layout).abs_() for _ in range(3))
    vectors = [v.abs() for v in scale_gate_parameters(shape[1], torch.float32, "cpu")[1:]]
    wide = [t.double() for t in (x, a, dy)]
    truth = scale_gate_gradients(eager, *wide, [v.double() for v in vectors])
    plain = scale_gate_gradients(eager, x, a, dy, vectors)
    ours = scale_gate_gradients(ak.functional.scale_gate, x, a, dy, vectors)
    for name, *gradients in zip(("d_scale", "d_shift"), ours, plain, truth, strict=True):
        error = [
            (g.double() - gradients[2]).abs().max() / gradients[2].max() for g in gradients[:2]
        ]
        assert error[0] <= 2e-7, f"{name}: {error[0]:.1e}, eager's {error[1]:.1e}"
        assert_accurate(name, *gradients, GRADIENT)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scale_gate_of_many_channels(layout):
    x = make_x((2, 4096, 7, 7), layout=layout)
    own = scale_gate_parameters(4096, torch.float32, "cpu")
    a, dy = torch.randn_like(x), torch.randn_like(x)
    truth = scale_gate_gradients(
        eager, *(t.double() for t in (x, a, dy)), [v.double() for v in own[1:]]
    )
    plain = scale_gate_gradients(eager, x, a, dy, own[1:])
    ours = scale_gate_gradients(ak.functional.scale_gate, x, a, dy, own[1:])
    terms = scales(x.double(), [v.double() for v in own], dy.double())[1:]
    for name, *gradients, size in zip(
        ("d_scale", "d_shift"), ours, plain, truth, terms, strict=True
    ):
        assert_accurate(name, *gradients, GRADIENT, size)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 4096, 5, 5), (1, 8, 1000, 1000)], ids=str)
def test_gam_of_many_channels_and_of_a_million_pixels(shape, layout):
    op = op_with("identity")
    x = make_x(shape, layout=layout)
    parameters = parameters_like(op, x)
    assert_right(op, x, parameters, output_gradient(op, x, parameters))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 8, 1000, 1000), (600, 24, 7, 7)], ids=str)
def test_sums_of_gams_biases(shape, layout):
    """d_b2 is the sum of dy * x: terms of one sign, where every rounding error counts."""
    x, dy = (make_x(shape, layout=layout).abs_() for _ in range(2))
    channels = shape[1]
    parameters = (torch.zeros(2, channels), torch.zeros(channels, 2))
    hidden = torch.ones(shape[0], 2, *shape[2:])
    b2 = torch.zeros(channels)
    *_, d_b2 = ops.gam_channel_gate_backward(dy, x, hidden, *parameters, b2, "identity")
    truth = (dy.double() * x.double()).sum((0, 2, 3))
    assert ((d_b2 - truth).abs() / truth).max() <= 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 70, 23, 19), (2, 3, 160, 151), (700, 24, 1, 1)], ids=str)
def test_scale_gate_gives_the_same_bits_on_any_threads(shape, layout):
    """No sum is grouped by thread, in either memory format."""
    x, a, dy = (make_x(shape, layout=layout) for _ in range(3))
    vectors = scale_gate_parameters(shape[1], torch.float32, "cpu")[1:]
    found = []
    for count in (1, 2, 3, 4, 7):
        with threads(count):
            found.append(ops.scale_gate_backward(dy, x, a, *vectors))
    for again in found[1:]:
        torch.testing.assert_close(again, found[0], rtol=0, atol=0)
