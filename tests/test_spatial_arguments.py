"""The public functions of spatial attention with what may be there or not: bias, affine view,
residual, ReLU. Values and gradients are those of the reference.
"""

from itertools import product

import pytest
import torch
from spatial import spatial_parameters, view_of

import attn_kernels as ak

BOTH = (False, True)


def assert_same(name, x, weight, optional, **options):
    """`optional`: tensors by name, or None where they are not given."""
    results = []
    for module in (ak.functional, ak.reference):
        given = {key: t for key, t in optional.items() if t is not None}
        tensors = {"x": x, "weight": weight} | given
        own = {key: t.detach().clone().requires_grad_() for key, t in tensors.items()}
        y = getattr(module, name)(**own, **options)
        dy = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)
        gradients = torch.autograd.grad(y, list(own.values()), dy)
        results.append(dict(zip(own, gradients, strict=True)) | {"y": y.detach()})
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize(("bias", "view", "residual"), list(product(BOTH, repeat=3)))
def test_the_gate(bias, view, residual, activation):
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    weight, own_bias = spatial_parameters(5, torch.float64, "cpu", 3)
    scale, shift = view_of(x) if view else (None, None)
    optional = {"bias": own_bias if bias else None, "scale": scale, "shift": shift}
    optional["residual"] = torch.randn_like(x) if residual else None
    assert_same("spatial_gate", x, weight, optional, activation=activation)


@pytest.mark.parametrize(("bias", "view"), list(product(BOTH, repeat=2)))
def test_the_map(bias, view):
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    weight, own_bias = spatial_parameters(5, torch.float64, "cpu", 3)
    scale, shift = view_of(x) if view else (None, None)
    optional = {"bias": own_bias if bias else None, "scale": scale, "shift": shift}
    assert_same("spatial_attention", x, weight, optional)
