"""What compute-sanitizer watches: every op that has a kernel there, forward and backward, on small
odd maps.

`compute-sanitizer --tool memcheck|racecheck python -m benchmarks.sanitize`. Only kernels of ours
run on the device: inputs are made on the CPU.
"""

import itertools

import torch

from attn_kernels.backends import KERNELS

from .cases import DTYPES, LAYOUTS
from .ops import OPS, make_inputs

# Nothing divides a tile, but for 4 the channels, as shuffle attention wants it; maps of few pixels
# and many channels; one that takes wide loads.
SHAPES = ((2, 12, 9, 11), (3, 68, 7, 7), (2, 32, 16, 16))
DTYPE_NAMES = ("float32", "float16")


def main() -> None:
    ops = [op for op in OPS.values() if "cuda" in KERNELS[op.served_as]]
    for op, shape, dtype, layout in itertools.product(ops, SHAPES, DTYPE_NAMES, LAYOUTS.values()):
        inputs = make_inputs(op, shape, DTYPES[dtype], layout, "cpu")
        tensors = [torch.nn.Parameter(t.detach().cuda()) for t in inputs.tensors]
        y = op.ours(tensors[0], tuple(tensors[1:]))(*tensors)
        torch.autograd.grad(y, tensors, inputs.dy.cuda())
    torch.cuda.synchronize()
    print(f"{len(ops)} ops ran forward and backward")


if __name__ == "__main__":
    main()
