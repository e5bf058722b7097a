"""Runs an op of csrc/cuda on threads and holds it against PyTorch in float64.

The error may be at most FORWARD (BACKWARD for gradients) times the error of PyTorch in the dtype
of x, plus one unit in the last place of the largest value (for the weight's gradient: of the sum of
its terms' sizes, since terms of both signs cancel); the L2 error likewise. For float64, whose own
error float64 cannot show, it is that of PyTorch in float32, scaled to the longer mantissa.
"""

from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import torch
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from attn_kernels import reference

FORWARD = 2
BACKWARD = 3


def acc_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def to_bytes(tensor: torch.Tensor) -> bytes:
    dense = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    return dense.view(torch.uint8).numpy().tobytes()


@dataclass
class Kernels:
    """The ops of csrc/cuda, on CPU tensors."""

    module: ModuleType
    skew: int = 0
    order: str = "forward"
    alive: int = 2

    def run(self, op, x, inputs, outputs, k=0):
        """inputs and outputs: tensors; those of x's shape travel in x's memory format."""
        channels_last = not x.is_contiguous()

        def lay_out(tensor):
            is_map = tensor.shape == x.shape and tensor.dtype == x.dtype
            return tensor.permute(0, 2, 3, 1) if channels_last and is_map else tensor

        name = str(x.dtype).removeprefix("torch.")
        given = [b"" if t is None else to_bytes(lay_out(t)) for t in inputs]
        taken = self.module.run(
            op, name, list(x.shape), channels_last, k, given, self.skew, self.order, self.alive
        )
        assert len(taken) == len(outputs)
        for data, output in zip(taken, outputs, strict=True):
            view = lay_out(output)
            assert len(data) == view.numel() * view.element_size()
            if data:
                view.copy_(
                    torch.frombuffer(bytearray(data), dtype=output.dtype).reshape(view.shape)
                )
        return outputs

    def planes(self, x, count, dtype=None):
        n, _, h, w = x.shape
        return torch.empty(n, count, h, w, dtype=dtype or acc_dtype(x.dtype))

    def channel_pool(self, x, d_pooled):
        pooled = self.planes(x, 2, x.dtype)
        self.run("channel_pool", x, [x], [pooled])
        dx = torch.empty_like(x)
        self.run("channel_pool_backward", x, [d_pooled.to(acc_dtype(x.dtype)), x], [dx])
        return {"pooled": pooled, "dx": dx}

    def spatial(self, op, x, weight, bias, gradient):
        """spatial_gate or spatial_attention, and its backward."""
        k = weight.shape[-1]
        map, pooled = self.planes(x, 1), self.planes(x, 2)
        y = [torch.empty_like(x)] if op == "spatial_gate" else []
        self.run(op, x, [x, weight, bias], [*y, map, pooled], k)
        dx, d_weight = torch.empty_like(x), torch.empty_like(weight)
        d_bias = torch.empty(1, dtype=weight.dtype)
        given = [gradient if y else gradient.to(weight.dtype), x, weight, map, pooled]
        self.run(f"{op}_backward", x, given, [dx, d_weight, d_bias], k)
        results = {"map": map, "pooled": pooled, "dx": dx, "d_weight": d_weight}
        return {
            **({"y": y[0]} if y else {}),
            **results,
            **({} if bias is None else {"d_bias": d_bias}),
        }


def eager_channel_pool(x):
    return torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], 1)


def eager_attention(x, weight, bias):
    padding = weight.shape[-1] // 2
    return torch.sigmoid(F.conv2d(eager_channel_pool(x), weight, bias, padding=padding))


# What users would write, all of it in the dtype of x: its error is the yardstick.
eager = SimpleNamespace(
    channel_pool=eager_channel_pool,
    spatial_attention=eager_attention,
    spatial_gate=lambda x, weight, bias: x * eager_attention(x, weight, bias),
)


def torch_channel_pool(formulas, x, d_pooled, dtype):
    """What Kernels.channel_pool does, by `eager` or `attn_kernels.reference`, in `dtype`."""
    x = x.to(dtype).requires_grad_()
    pooled = formulas.channel_pool(x)
    (dx,) = torch.autograd.grad(pooled, x, d_pooled.to(dtype))
    return {"pooled": pooled.detach(), "dx": dx}


def torch_spatial(formulas, op, x, weight, bias, gradient, dtype):
    """What Kernels.spatial does, by `eager` or `attn_kernels.reference`, in `dtype`."""
    x, weight = x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
    bias = None if bias is None else bias.to(dtype).requires_grad_()
    gradient = gradient.to(dtype)
    results = {"map": formulas.spatial_attention(x, weight, bias)}
    if op == "spatial_gate":
        results["y"] = formulas.spatial_gate(x, weight, bias)
    out = results["y" if op == "spatial_gate" else "map"]
    wanted = {"dx": x, "d_weight": weight, **({} if bias is None else {"d_bias": bias})}
    gradients = torch.autograd.grad(out, list(wanted.values()), gradient)
    d_map_size = gradient.abs()
    if op == "spatial_gate":
        d_map_size = (gradient * x).abs().sum(1, keepdim=True)
    results["pooled"] = formulas.channel_pool(x)
    results["d_logit_size"] = d_map_size * results["map"] * (1 - results["map"])
    results = {name: value.detach() for name, value in results.items()}
    return {**results, **dict(zip(wanted, gradients, strict=True))}


def sizes_of(truth):
    """The size of each result; for the weight's gradient, that of the terms of its sums."""
    sizes = dict(truth)
    if "d_weight" in truth:
        pooled, d_logit = truth["pooled"].abs(), sizes.pop("d_logit_size")
        shape = truth["d_weight"].shape
        sizes["d_weight"] = conv2d_weight(pooled, shape, d_logit, padding=shape[-1] // 2)
        sizes["d_bias"] = d_logit.sum().reshape(1)
    return sizes


def assert_as_accurate(name, ours, yardstick, truth, size):
    """ours and yardstick have their own dtypes, truth and size are float64."""
    factor = BACKWARD if name.startswith("d") else FORWARD
    unit = torch.finfo(ours.dtype).eps
    ours_is_double = ours.dtype == torch.float64
    scale = unit / torch.finfo(yardstick.dtype).eps if ours_is_double else 1
    ours, yardstick = ours.double(), yardstick.double()
    assert torch.equal(ours.isnan(), truth.isnan()), f"{name}: NaN in other places"
    infinite = truth.isinf()
    assert torch.equal(ours[infinite], truth[infinite]), f"{name}: inf in other places"
    finite = truth.isfinite()
    ours, yardstick, truth = ours[finite], yardstick[finite].nan_to_num(), truth[finite]
    size = size[finite].nan_to_num(posinf=0)
    if truth.numel() == 0:
        return
    for norm in (float("inf"), 2):
        error, allowed, unit_error = (
            torch.linalg.vector_norm(v, norm).item()
            for v in (ours - truth, yardstick - truth, unit * size)
        )
        # The truth, too, has an error where it is in our dtype.
        unit_error *= 2 if ours_is_double else 1
        limit = factor * scale * allowed + unit_error
        assert error <= limit, f"{name}: error {error:.3g} in norm {norm}, at most {limit:.3g}"


def assert_all_as_accurate(ours, yardstick, truth):
    assert ours.keys() == truth.keys() - {"d_logit_size"}
    sizes = sizes_of(truth)
    for name in ours:
        assert_as_accurate(name, ours[name], yardstick[name], truth[name], sizes[name])


@dataclass
class Inputs:
    """Random inputs of all ops, as PyTorch would see them; weights are exact in x's dtype."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    dy: torch.Tensor
    d_pooled: torch.Tensor


def random_inputs(shape, k, dtype=torch.float32, channels_last=False, bias=True, values=None):
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator).to(dtype)

    n, _, h, w = shape
    x = normal(*shape) if values is None else values(torch.Size(shape), generator).to(dtype)
    dy, acc = normal(*shape), acc_dtype(dtype)
    if channels_last:
        x, dy = (t.to(memory_format=torch.channels_last) for t in (x, dy))
    weight, offset = normal(1, 2, k, k).to(acc) / 4, normal(1).to(acc)
    return Inputs(x, weight, offset if bias else None, dy, normal(n, 2, h, w))


def assert_right(kernels: Kernels, given: Inputs):
    """Every op, forward and backward, on these inputs."""
    double = torch.float64
    x = given.x
    dtype = torch.float32 if x.dtype == double else x.dtype
    assert_all_as_accurate(
        kernels.channel_pool(x, given.d_pooled),
        torch_channel_pool(eager, x, given.d_pooled, dtype),
        torch_channel_pool(reference, x, given.d_pooled, double),
    )
    for op in ("spatial_gate", "spatial_attention"):
        gradient = given.dy if op == "spatial_gate" else given.d_pooled[:, :1]
        spatial = (op, x, given.weight, given.bias, gradient)
        ours = kernels.spatial(*spatial)
        assert_all_as_accurate(
            ours,
            torch_spatial(eager, *spatial, dtype),
            torch_spatial(reference, *spatial, double),
        )
