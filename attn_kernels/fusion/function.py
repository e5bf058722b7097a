"""A graph as a function of the module that it was traced from: source text, which pickles."""

from __future__ import annotations

import functools
import hashlib
import linecache
from collections.abc import Callable
from typing import Any

from torch import fx
from torch.fx.graph_module import _format_import_block
from torch.package import sys_importer


class Function:
    """Called as ``call(module, *inputs)``: children are called through the module, as ever."""

    def __init__(self, imports: str, source: str) -> None:
        self.imports, self.source = imports, source
        self.call: Callable[..., Any] = _compiled(f"{imports}\n{source}")

    @classmethod
    def of(cls, graph: fx.Graph) -> Function:
        for node in graph.nodes:
            node.type = None
        code = graph.python_code("self")
        return cls(_format_import_block(code.globals, sys_importer), code.src)

    def __reduce__(self) -> tuple[Any, ...]:
        return Function, (self.imports, self.source)

    def __deepcopy__(self, memo: dict[int, Any]) -> Function:
        return self


@functools.cache  # gates of one class share their code, as they did: torch.compile counts by it
def _compiled(text: str) -> Callable[..., Any]:
    name = f"<attn_kernels.fusion {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    names: dict[str, Any] = {}
    exec(compile(text, name, "exec"), names)
    return names["forward"]
