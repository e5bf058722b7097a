"""Triton kernels of attn-kernels, one module per op, each with the functions that launch them.

    from triton_ops.gam_channel_gate import gam_channel_gate, gam_channel_gate_backward
    from triton_ops.scale_gate import scale_gate, scale_gate_backward

Tensors in, tensors out: `attn_kernels` calls these for its backend `triton`; they check no
arguments and know no autograd. Importing needs triton but no GPU, and compiles nothing: a kernel is
compiled when it is first launched, which takes seconds. Without triton the import raises
ImportError, and the other backends serve.
"""

from . import gam_channel_gate, scale_gate

__all__ = ["gam_channel_gate", "scale_gate"]
