"""Where the spatial gates of a model look."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .nn import SpatialAttention

GATES = (SpatialAttention,)  # their child `key` gives the map before its sigmoid


@torch.no_grad()
def attention_maps(model: nn.Module, images: Any) -> dict[str, torch.Tensor]:
    """The maps of every spatial gate in the model: what their sigmoids give for these images.

    The model is run on them once, in evaluation mode; afterwards modes and hooks are as they were.

    Args:
        model: any module; its spatial gates are found wherever they are: `SpatialGate`,
            `SpatialAttention` and all that are made with it.
        images: what the model is called with, as a rule (N, C, H, W).

    Returns:
        Path of the gate, as in `model.named_modules()`, to (N, 1, h, w), in the order of the calls;
        of a gate that is called more than once, the last map.

    Raises:
        TypeError: model is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    found: dict[str, torch.Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(child, inputs, logit):
            found.pop(path, None)  # so that the order is that of the last calls
            found[path] = torch.sigmoid(logit)

        return hook

    modes = {module: module.training for module in model.modules()}
    hooks = []
    try:
        for path, module in model.named_modules():
            if isinstance(module, GATES):
                # A child that has a hook is called, in every gate: see nn/children.py.
                child = module.get_submodule(module.key)
                hooks.append(child.register_forward_hook(keep(path)))
        model.eval()
        with _uncompiled():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return found


def _uncompiled() -> contextlib.AbstractContextManager:
    """Compiled code knows nothing of new hooks."""
    if "torch._dynamo" in sys.modules:
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()
