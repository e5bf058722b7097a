"""A child that is plain is read; a child that is not is called.

A fused gate computes what its children would, from their parameters, without calling them. That is
right only as long as calling them does nothing else. So every forward asks here, of every child
that it would read, for an *obstacle*: None for a plain child, else words that say what is in the
way. With an obstacle the module composes the gate from its children's own calls.

Children change at any time (hooks come and go, pruning, sharding, adapters), so nothing is cached.
Only attributes of modules decide, never values: `torch.compile` and `torch.fx` trace through.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..distributed import is_dtensor


def obstacle(module: nn.Module, cls: type[nn.Module]) -> str | None:
    """What keeps a call of `module` from being `cls.forward` with its parameters, if anything.

    A parametrisation is no obstacle: it changes what `parameter` reads, and nothing else.
    """
    if type(module) is not cls and type_before_parametrizations(module) is not cls:
        return f"is a {type(module).__name__}"
    own = module.__dict__
    if (
        own["_forward_pre_hooks"]
        or own["_forward_hooks"]
        or own["_backward_pre_hooks"]
        or own["_backward_hooks"]
    ):
        return "has hooks"
    if "forward" in own or "_conv_forward" in own:
        return "has a forward of its own"
    for p in module._parameters.values():
        if p is None or type(p) is nn.Parameter or is_dtensor(p):
            continue
        if is_traceable_wrapper_subclass(p):  # quantised: it has operators of its own
            return f"has parameters of class {type(p).__name__}"
    return "is under global hooks" if _has_any_global_hook() else None


def parameter(module: nn.Module, name: str) -> Any:
    """What the module's own forward would read. A parametrised one is computed by reading it: as
    the forward does, read it once.
    """
    own = module._parameters
    return own[name] if name in own else getattr(module, name)


def is_traced(*tensors: object) -> bool:
    """Whether `torch.fx` passes its proxies through; to `torch.export` all are tensors."""
    return any(isinstance(t, Proxy) for t in tensors)


def unfused(**obstacles: str | None) -> str:
    """For extra_repr: which child keeps a gate from being fused, and why; empty if none does."""
    found = [f"{child} {words}" for child, words in obstacles.items() if words is not None]
    return f"unfused: {'; '.join(found)}" if found else ""
