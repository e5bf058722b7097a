"""Which implementation serves an op: the best there is for the tensor's device, or a forced one."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

import torch

from .libraries import missing

BACKENDS = ("cuda", "triton", "cpu", "reference")

# op -> device type -> the backend that has a kernel for it.
KERNELS = {
    "affine_gate": {"cpu": "cpu", "cuda": "cuda"},
    "blend": {"cpu": "cpu", "cuda": "cuda"},
    "broadcast_gate": {"cpu": "cpu", "cuda": "cuda"},
    "broadcast_squeeze": {"cpu": "cpu", "cuda": "cuda"},
    "channel_pool": {"cpu": "cpu", "cuda": "cuda"},
    "gam_channel_gate": {"cpu": "cpu", "cuda": "triton"},
    "mix": {"cpu": "cpu", "cuda": "cuda"},
    "mix_squeeze": {"cpu": "cpu", "cuda": "cuda"},
    "scale_gate": {"cpu": "cpu", "cuda": "triton"},
    "self_gate": {"cpu": "cpu", "cuda": "cuda"},
    "spatial_attention": {"cpu": "cpu", "cuda": "cuda"},
    "spatial_gate": {"cpu": "cpu", "cuda": "cuda"},
    "squeeze": {"cpu": "cpu", "cuda": "cuda"},
    "squeeze_excite": {"cpu": "cpu", "cuda": "cuda"},
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

_VARIABLE = "ATTN_KERNELS_BACKEND"
_from_environment = os.environ.get(_VARIABLE) or None
_forced: ContextVar[str | None] = ContextVar("forced backend", default=None)
_open_blocks = 0  # of use_backend, in all threads: what torch.compile can guard on
_warned: set[str] = set()


def why_not(backend: str) -> str | None:
    """Why `backend` can serve nothing on this machine, with the cure; None if it can."""
    if backend == "reference":
        return None
    reason = missing[backend]
    if reason is None and backend != "cpu" and not torch.cuda.is_available():
        return "PyTorch sees no CUDA device; check the driver with `nvidia-smi`"
    return reason


def available_backends() -> tuple[str, ...]:
    """The backends that can serve on this machine, best first; `reference` is always there."""
    return tuple(backend for backend in BACKENDS if why_not(backend) is None)


@contextlib.contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Force one backend for every op in the block: ``with use_backend("reference"): ...``.

    The choice holds for this thread or task, and for the backward of what ran in the block. The
    environment variable ``ATTN_KERNELS_BACKEND`` forces one for good.

    Raises:
        ValueError: if the backend is unknown or not there on this machine.
    """
    global _open_blocks
    _check_forced(backend)
    token = _forced.set(backend)
    _open_blocks += 1
    try:
        yield
    finally:
        _open_blocks -= 1
        _forced.reset(token)


def _forced_in_block() -> str | None:
    return _forced.get()


# torch.compile cannot look into a context variable. This is what its decorator
# assume_constant_result sets; to call that would import all of torch._dynamo.
_forced_in_block._dynamo_marked_constant = True  # type: ignore[attr-defined]


def backend_for(op: str, x: torch.Tensor) -> str:
    """The backend that serves `op` on `x`; a forced one that cannot raises ValueError."""
    best = KERNELS[op].get("cpu" if x.is_cpu else x.device.type)  # the name takes its time
    if best == "triton" and x.dtype == torch.float64:
        best = None  # its matrix products have no float64
    in_block = _forced_in_block() if _open_blocks else None
    forced = in_block or _from_environment
    if forced is None:
        if best is None:
            return "reference"
        if missing["cpu"] is None and missing.get(best) is None:
            return best
        _say_once(best)
        return "reference"
    _check_forced(forced, "backend" if in_block else _VARIABLE)
    if forced != "reference" and best != forced:
        raise ValueError(
            f"x: the forced backend {forced!r} has no {op} kernel for a {x.dtype} tensor on "
            f"{x.device.type!r}, expected one on {_devices_of(op, forced)}"
        )
    return forced


def _check_forced(backend: str, name: str = "backend") -> None:
    if backend not in BACKENDS:
        raise ValueError(f"{name}: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    reason = why_not(backend)
    if reason is not None:
        raise ValueError(f"{name}: {backend!r} was asked for but cannot serve here: {reason}")


def _devices_of(op: str, backend: str) -> str:
    devices = [device for device, name in KERNELS[op].items() if name == backend]
    return " or ".join(repr(device) for device in devices) or "no device"


def _say_once(backend: str) -> None:
    if backend not in _warned and not torch.compiler.is_compiling():
        _warned.add(backend)
        reason = missing["cpu"] or missing[backend]
        warnings.warn(
            f"attn_kernels: the {backend!r} kernels are not there, plain PyTorch serves instead: "
            f"{reason}",
            stacklevel=4,
        )
