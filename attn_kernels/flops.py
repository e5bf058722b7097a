"""What `torch.utils.flop_counter` counts for our ops.

Counted is what `FlopCounterMode` counts in the eager modules: two for each multiply-add of a
convolution or a matrix product, padding included. Poolings, affine views, sigmoids, residuals and
products of maps count nothing there, so `channel_pool`, `scale_gate` and their like have no formula
here; nor has the product that GAM's backward does again where eager has saved it. A backward op
gives the gradients of the map and of the weights, and counts both.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Callable
from typing import Any

import torch

_COUNTER = "torch.utils.flop_counter"


def stencil(x, weight, *_others, **_out_shape) -> int:
    """x (N, C, H, W), weight (G, 2, K, K): one of the G for each image."""
    n, _, h, w = x
    _, planes, k, _ = weight
    return 2 * n * h * w * planes * k * k


def stencil_backward(_d_out, x, weight, *_others, **_out_shape) -> int:
    return 2 * stencil(x, weight)


def mlp(x, w1, *_others, **_out_shape) -> int:
    """x (N, C, H, W), w1 (R, C): two products for each pixel."""
    n, c, h, w = x
    return 2 * (2 * n * h * w * c * w1[0])


def mlp_backward(_dy, x, _hidden, w1, *_others, **_out_shape) -> int:
    return 2 * mlp(x, w1)


def excitation(x, w1, *_others, **_out_shape) -> int:
    """x (N, C, H, W), w1 (R, C, 1, 1): two products for each image."""
    n, c, _, _ = x
    return 2 * (2 * n * c * w1[0])


def excitation_backward(_dy, x, w1, *_others, **_out_shape) -> int:
    return 2 * excitation(x, w1)


# Op -> a formula that gets the shapes of the op's arguments.
FORMULAS: dict[str, Callable[..., int]] = {
    "spatial_attention": stencil,
    "spatial_attention_backward": stencil_backward,
    "spatial_gate": stencil,
    "spatial_gate_carried": stencil,
    "spatial_gate_backward": stencil_backward,
    "gam_channel_gate": mlp,
    "gam_channel_gate_backward": mlp_backward,
    "squeeze_excite": excitation,
    "squeeze_excite_backward": excitation_backward,
}


def register_formulas() -> None:
    """With the counter if it is there, else as soon as somebody imports it: its import takes longer
    than that of this library, and brings triton along.
    """
    if _COUNTER in sys.modules:
        _register(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _Registrar())


def _register(counter: Any) -> None:
    for name, formula in FORMULAS.items():
        counter.register_flop_formula(getattr(torch.ops.attn_kernels, name))(formula)


class _Registrar(importlib.abc.MetaPathFinder):
    """Finds the counter where the others find it, and registers the formulas once it has run."""

    def find_spec(self, name, path=None, target=None):
        if name != _COUNTER:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((s for s in found if s is not None), None)
        loader = spec and spec.loader
        if loader is not None:
            execute = loader.exec_module

            def execute_and_register(module):
                execute(module)
                _register(module)

            loader.exec_module = execute_and_register
        return spec
