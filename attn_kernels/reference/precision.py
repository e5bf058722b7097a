import contextlib

import torch


def widened(t: torch.Tensor) -> torch.Tensor:
    """float16 and bfloat16 as float32; float32 and float64 as they are."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def without_autocast(x: torch.Tensor) -> contextlib.AbstractContextManager:
    """The contract says float32; autocast would narrow convolutions and matrix products."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()
