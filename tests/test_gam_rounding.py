"""Single bits of GAM's channel gate and scale_gate: stores, hidden units, NaN and inf."""

import os
import subprocess
import sys

import pytest
import torch
from contract import make_x, run
from gam import eager_gate, gam_parameters

import attn_kernels as ak
from attn_kernels import ops

HALVES = (torch.float16, torch.bfloat16)
LAYOUTS = ("nchw", "channels_last")


def awkward_values(dtype: torch.dtype) -> torch.Tensor:
    """float32 values on a number of `dtype`, at a tie between two and just beside one; the largest,
    the smallest, those that overflow, inf and NaN: 16 * 37 of them.
    """
    shift = 23 - {torch.float16: 10, torch.bfloat16: 7}[dtype]
    low, high = (torch.tensor(v).view(torch.int32).item() for v in (1e-3, 1e3))
    base = torch.randint(low, high, (70,)) >> shift << shift
    tie = 1 << (shift - 1)
    patterns = torch.cat([base + d for d in (0, 1, tie - 1, tie, tie + 1, 2 * tie - 1)])
    values = patterns.to(torch.int32).view(torch.float32)
    info = torch.finfo(dtype)
    special = [info.max, info.tiny, info.smallest_normal / 2, info.max * 1.01, 3e38, 1e-42]
    special += [0.0, float("inf"), float("nan")]
    values = torch.cat([values, torch.tensor(special)])
    values = torch.cat([values, -values])
    return values.repeat(2)[: 16 * 37]


def assert_same_bits(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert ours.dtype == expected.dtype
    assert torch.equal(ours.isnan(), expected.isnan())
    assert torch.equal(ours.nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [37, 16])
def test_stores_of_scale_gate_round_as_pytorch(channels, layout, dtype):
    """With a gate of one half, da is a quarter of scale: any float32 value, rounded once."""
    values = awkward_values(dtype)
    for scale in values.split(channels):
        c = scale.numel()
        x = make_x((1, c, 5, 7), dtype, layout).fill_(2.0)
        a, dy = torch.zeros_like(x), torch.full_like(x, 2.0)
        _, da, _, _ = ops.scale_gate_backward(dy, x, a, scale, torch.zeros(c))
        finite = scale.isfinite()  # 0 * inf is no gate of one half
        expected = scale.to(dtype).view(1, -1, 1, 1).expand_as(x)
        assert_same_bits(da[:, finite], expected[:, finite])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_stores_of_gam_round_as_pytorch(layout, dtype):
    """Without weights the hidden units are relu(b1), and y is x times b2."""
    values = awkward_values(dtype)
    channels, hidden_units = 37, 16
    for biases in values.split(channels):
        if biases.numel() < channels:
            continue
        b1, b2 = biases[:hidden_units].nan_to_num(0.0, 1.0, 1.0), biases
        x = make_x((2, channels, 5, 7), dtype, layout).fill_(1.0)
        weights = torch.zeros(hidden_units, channels), torch.zeros(channels, hidden_units)
        # An infinite hidden unit times a weight of zero is NaN, in everybody's product.
        b1 = torch.where(b1.to(dtype).isinf(), 1.0, b1)
        y, hidden = ops.gam_channel_gate(x, weights[0], b1, weights[1], b2, "identity")
        assert_same_bits(y, b2.to(dtype).view(1, -1, 1, 1).expand_as(y))
        assert_same_bits(hidden, b1.relu().to(dtype).view(1, -1, 1, 1).expand_as(hidden))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("hidden", [1 + 2**-12, 1.01, 7e4, 1e-9, 3e-5], ids=str)
def test_forward_and_backward_see_the_same_hidden_units(hidden, layout, dtype):
    """Rounded once, to x's dtype: also where that overflows or underflows."""
    x = make_x((2, 5, 3, 4), dtype, layout)
    w1, w2, b2 = torch.zeros(2, 5), torch.linspace(1, 3, 10).view(5, 2), torch.zeros(5)
    parameters = [w1, torch.full((2,), hidden), w2, b2]
    ours = run(ak.functional.gam_channel_gate, x, parameters, torch.ones_like(x))
    truth = run(ak.reference.gam_channel_gate, x, parameters, torch.ones_like(x))
    torch.testing.assert_close(ours[0], truth[0], rtol=0, atol=0, equal_nan=True)
    for got, expected in zip(ours[1], truth[1], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-6, equal_nan=True)
    is_zero = torch.tensor(hidden).to(dtype) == 0
    assert is_zero == (not ours[1][1].any())  # a unit that is zero takes no gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 12, 9, 11), (40, 12, 2, 2), (3, 12, 1, 1)], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_gam_is_spoilt_where_eager_is(value, shape, layout, dtype):
    """NaN and inf in x or in dy, through the hidden units: ReLU's mask lets NaN pass."""
    for spoilt in ("x", "dy"):
        x = make_x(shape, dtype, layout)
        dy = torch.randn(shape, dtype=torch.float64).to(dtype)
        (x if spoilt == "x" else dy)[1, 3, shape[2] // 2, 0] = value
        parameters = gam_parameters(12, dtype, "cpu")
        ours, grads = run(ak.functional.gam_channel_gate, x, parameters, dy)
        eager, eagers = run(eager_gate, x, parameters, dy)
        for got, expected in zip((ours, *grads), (eager, *eagers), strict=True):
            assert torch.equal(got.isnan(), expected.isnan())
            assert torch.equal(got.isinf(), expected.isinf())


def test_nan_hidden_units_pass_gradients_on():
    """As threshold_backward: a NaN is not at most zero."""
    x = torch.ones(1, 4, 1, 1)
    hidden = torch.tensor([float("nan"), 0.0, 2.0]).view(1, 3, 1, 1)
    parameters = torch.ones(3, 4), torch.ones(4, 3), torch.zeros(4)
    _, _, d_b1, _, _ = ops.gam_channel_gate_backward(
        torch.ones_like(x), x, hidden, *parameters, "identity"
    )
    assert d_b1.tolist() == [4.0, 0.0, 4.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spoilt", ["x", "a", "dy", "scale", "shift"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scale_gate_is_spoilt_where_eager_is(value, spoilt, layout, dtype):
    """Planes and channels that fill no whole vector: what a vector holds beyond them is no NaN."""
    shape = (2, 5, 3, 7)
    inputs = {name: make_x(shape, dtype, layout) for name in ("x", "a", "dy")}
    inputs |= {name: torch.randn(5, dtype=torch.float64).to(dtype) for name in ("scale", "shift")}
    wrong = inputs[spoilt]
    wrong[(1, 2, 1, 3) if wrong.dim() == 4 else 2] = value
    dy = inputs.pop("dy")

    def eager(x, a, scale, shift):
        return x * torch.sigmoid(a * scale.view(-1, 1, 1) + shift.view(-1, 1, 1))

    x, *others = inputs.values()
    ours, grads = run(ak.functional.scale_gate, x, others, dy)
    expected, expecteds = run(eager, x, others, dy)
    for got, truth in zip((ours, *grads), (expected, *expecteds), strict=True):
        assert not (got.isnan() & ~truth.isnan()).any()
        assert torch.equal(got.isinf(), truth.isinf())


@pytest.mark.parametrize(
    "tests",
    ["test_accuracy", pytest.param("not opcheck", marks=pytest.mark.exhaustive)],
)
def test_products_in_bfloat16_on_any_machine(tests):
    """The way of processors with matrix instructions: all tests of bfloat16 maps hold on it, but
    for those of what PyTorch knows about the op.
    """
    files = ("tests/test_gam_channel_gate.py", "tests/test_gam_rounding.py")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    command += ["-k", f"bfloat16 and {tests} and not on_any_machine"]
    environment = os.environ | {"ATTN_KERNELS_MATRIX_INSTRUCTIONS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
