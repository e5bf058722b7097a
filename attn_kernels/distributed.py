"""DTensor: how every op is split over the devices of a mesh.

The images of a batch are independent, so that an op on a part of them is the op itself. What all
images share, the parameters, every device has whole, and its gradient there is a part of a sum. An
input that is split otherwise (channels, rows, parts of a sum) is redistributed by DTensor first,
as for PyTorch's own convolutions and norms.

`torch.distributed.tensor` is imported by whoever makes a DTensor; `checks` calls `register` when it
sees the first one.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch

from .libraries import missing

# op -> what its images share. Of all other operands and results each image has its own part; a
# result d_foo is the gradient of foo, a sum over images if they share foo.
SHARED: dict[str, tuple[str, ...]] = {
    "affine_gate": (),
    "affine_gate_carried": (),
    "affine_gate_sums": (),
    "channel_pool": (),
    "channel_pool_backward": (),
    "gam_channel_gate": ("w1", "b1", "w2", "b2"),
    "gam_channel_gate_backward": ("w1", "b1", "w2", "b2"),
    "scale_gate": ("scale", "shift"),
    "scale_gate_backward": ("scale", "shift"),
    "spatial_attention": ("weight", "bias"),
    "spatial_attention_backward": ("weight", "bias"),
    "spatial_gate": ("weight", "bias"),
    "spatial_gate_backward": ("weight", "bias"),
    "spatial_gate_carried": ("weight", "bias"),
    "squeeze": (),
    "squeeze_backward": (),
    "squeeze_carried": (),
    "squeeze_excite": ("w1", "b1", "w2", "b2"),
    "squeeze_excite_backward": ("w1", "b1", "w2", "b2"),
}


def is_dtensor(t: torch.Tensor) -> bool:
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(t, module.DTensor)


def register() -> None:
    """Tells DTensor, once, the splits of every op."""
    _register()


# Dynamo is to run it, not to trace it: what its decorator assume_constant_result sets.
register._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _register() -> None:
    from torch.distributed.tensor.experimental import register_sharding

    if missing["cpu"] is None:
        for name, shared in SHARED.items():
            op = getattr(torch.ops.attn_kernels, name).default
            register_sharding(op)(functools.partial(_splits, op._schema, shared))


def _splits(schema: Any, shared: tuple[str, ...], *args: Any) -> list[tuple[list[Any], list[Any]]]:
    """What DTensor asks for: pairs of the results' and the operands' placements on one dimension of
    the mesh; args are specs where the op takes tensors.
    """
    from torch.distributed.tensor import Partial, Replicate, Shard
    from torch.distributed.tensor._dtensor_spec import DTensorSpec

    operands = dict(zip((argument.name for argument in schema.arguments), args, strict=True))

    def placed(place) -> list[Any]:
        return [place(name) if isinstance(t, DTensorSpec) else None for name, t in operands.items()]

    whole = [Replicate()] * len(schema.returns), placed(lambda name: Replicate())
    weight = operands.get("weight")
    if weight is not None and weight.shape[0] > 1:
        return [whole]  # sets of weights: which one an image has depends on where it lies in N
    sums = {f"d_{name}" for name in shared}
    by_image = (
        [Partial() if result.name in sums else Shard(0) for result in schema.returns],
        placed(lambda name: Replicate() if name in shared else Shard(0)),
    )
    return [whole, by_image]
