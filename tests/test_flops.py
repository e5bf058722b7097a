"""torch.utils.flop_counter counts in our ops what it counts in the eager modules."""

import subprocess
import sys

import pytest
import torch
from calls import modules
from gam import eager_gate, gam_parameters
from spatial import eager_map, eager_pool, spatial_parameters
from test_squeeze_excite import eager as eager_excitation
from test_squeeze_excite import parameters as excitation_parameters
from torch.utils.flop_counter import FlopCounterMode

import attn_kernels as ak
from attn_kernels.flops import FORMULAS

X = torch.randn(3, 8, 6, 5)
STENCIL = spatial_parameters(8, X.dtype, "cpu", k=7)
MLP = gam_parameters(8, X.dtype, "cpu")
AFFINE = [torch.randn(8), torch.randn(8)]


def eager_scale_gate(x, a, scale, shift):
    return x * torch.sigmoid(a * scale[:, None, None] + shift[:, None, None])


PAIRS = {
    "channel_pool": (ak.functional.channel_pool, eager_pool, []),
    "spatial_attention": (ak.functional.spatial_attention, eager_map, STENCIL),
    "spatial_gate": (
        ak.functional.spatial_gate,
        lambda x, *stencil: x * eager_map(x, *stencil),
        STENCIL,
    ),
    "gam_channel_gate": (ak.functional.gam_channel_gate, eager_gate, MLP),
    "squeeze_excite": (
        ak.functional.squeeze_excite,
        eager_excitation,
        excitation_parameters(8, X.dtype, "cpu"),
    ),
    "scale_gate": (ak.functional.scale_gate, eager_scale_gate, [X, *AFFINE]),
}


def counted(function, *arguments, backward):
    arguments = [t.clone().requires_grad_(backward) for t in arguments]
    with FlopCounterMode(display=False) as counter:
        y = function(*arguments)
        if backward:
            y.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_as_in_eager(name, backward):
    ours, eager, parameters = PAIRS[name]
    found = counted(ours, X, *parameters, backward=backward)
    assert found == counted(eager, X, *parameters, backward=backward)
    assert (found > 0) == (name in FORMULAS)


def test_a_stencil_and_an_mlp_in_numbers():
    pixels = 3 * 6 * 5
    forward = counted(ak.functional.spatial_gate, X, *STENCIL, backward=False)
    assert forward == 2 * 2 * 7 * 7 * pixels
    assert counted(ak.functional.gam_channel_gate, X, *MLP, backward=False) == 2 * 32 * pixels


def test_one_weight_for_each_image():
    weight = STENCIL[0].repeat(3, 1, 1, 1)
    with FlopCounterMode(display=False) as counter:
        torch.ops.attn_kernels.spatial_gate(X, weight, None, None, None, None, "identity")
    assert counter.get_total_flops() == 2 * 2 * 7 * 7 * 3 * 6 * 5


@pytest.mark.parametrize("name", modules())
def test_modules(name):
    """The counter hangs hooks on all modules; under those children are called, and counted."""
    module = modules()[name]
    with FlopCounterMode(display=False) as counter:
        module(torch.randn(2, 4, 6, 5))
    assert counter.get_total_flops() > 0


@pytest.mark.parametrize(
    "imports",
    ["attn_kernels, torch.utils.flop_counter", "torch.utils.flop_counter, attn_kernels"],
)
def test_in_any_order_of_imports(imports):
    code = f"""
import torch
import {imports}
gate = attn_kernels.functional.spatial_gate
with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
    gate(torch.ones(1, 4, 5, 5), torch.ones(1, 2, 3, 3))
print(counter.get_total_flops())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == [str(2 * 2 * 9 * 25)], result.stderr
