"""Runs an op of csrc/cuda on the CPU and holds it against PyTorch in float64.

The error may be at most FORWARD (BACKWARD for gradients) times the error of PyTorch in the dtype
of x, plus one unit in the last place of the largest value (for the weight's gradient: of the sum of
its terms' sizes, since terms of both signs cancel); the L2 error likewise. For float64, whose own
error float64 cannot show, it is that of PyTorch in float32, scaled to the longer mantissa.
"""

from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

FORWARD = 2
BACKWARD = 3


def acc_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def to_bytes(tensor: torch.Tensor) -> bytes:
    dense = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    return dense.view(torch.uint8).numpy().tobytes()


@dataclass
class Inputs:
    """Inputs of all ops, as PyTorch would see them; parameters are exact in x's dtype.

    scale, shift (N, C): an affine view of x, or None. residual, of x's shape, or None.
    """

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    dy: torch.Tensor
    d_pooled: torch.Tensor
    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    relu: bool = False


@dataclass
class Kernels:
    """The ops of csrc/cuda, on CPU tensors."""

    module: ModuleType
    skew: int = 0
    order: str = "forward"
    alive: int = 2

    def run(self, op, x, inputs, outputs, weight=None, relu=False):
        """inputs and outputs: tensors; those of x's shape travel in x's memory format."""
        channels_last = not x.is_contiguous()

        def lay_out(tensor):
            is_map = tensor.shape == x.shape and tensor.dtype == x.dtype
            return tensor.permute(0, 2, 3, 1) if channels_last and is_map else tensor

        name = str(x.dtype).removeprefix("torch.")
        given = [b"" if t is None else to_bytes(lay_out(t)) for t in inputs]
        groups, k = (1, 0) if weight is None else (weight.shape[0], weight.shape[-1])
        shape = list(x.shape)
        taken = self.module.run(
            op,
            name,
            shape,
            channels_last,
            k,
            given,
            self.skew,
            self.order,
            self.alive,
            groups,
            relu,
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

    def view_gradients(self, given):
        """What d_scale and d_shift are written to."""
        size = (0,) if given.scale is None else given.scale.shape
        return [torch.empty(size, dtype=acc_dtype(given.x.dtype)) for _ in range(2)]

    def channel_pool(self, given):
        x, view = given.x, [given.scale, given.shift]
        pooled = self.planes(x, 2, x.dtype)
        self.run("channel_pool", x, [x, *view], [pooled])
        dx, d_view = torch.empty_like(x), self.view_gradients(given)
        d_pooled = given.d_pooled.to(acc_dtype(x.dtype))
        self.run("channel_pool_backward", x, [d_pooled, x, *view], [dx, *d_view])
        return results(given, pooled=pooled, dx=dx, d_scale=d_view[0], d_shift=d_view[1])

    def spatial_attention(self, given):
        x, weight, bias, view = given.x, given.weight, given.bias, [given.scale, given.shift]
        map, pooled = self.planes(x, 1), self.planes(x, 2)
        self.run("spatial_attention", x, [x, weight, bias, *view], [map, pooled], weight)
        gradients = self.gradients(given)
        d_map = given.d_pooled[:, :1].to(weight.dtype)
        inputs = [d_map, x, weight, map, pooled, *view]
        self.run("spatial_attention_backward", x, inputs, list(gradients.values()), weight)
        return results(given, map=map, pooled=pooled, **gradients)

    def spatial_gate(self, given):
        x, weight, view = given.x, given.weight, [given.scale, given.shift]
        y, map, pooled = torch.empty_like(x), self.planes(x, 1), self.planes(x, 2)
        inputs = [x, weight, given.bias, *view, given.residual]
        self.run("spatial_gate", x, inputs, [y, map, pooled], weight, given.relu)
        gradients = self.gradients(given)
        dr = torch.empty_like(x) if given.relu else torch.empty(0, dtype=x.dtype)
        inputs = [given.dy, x, weight, map, pooled, *view, y if given.relu else None]
        self.run("spatial_gate_backward", x, inputs, [*gradients.values(), dr], weight)
        gradients["d_residual"] = dr if given.relu else given.dy
        return results(given, y=y, map=map, pooled=pooled, **gradients)

    def gradients(self, given):
        """What the gradients that both spatial ops have are written to, in order."""
        weight = given.weight
        d_scale, d_shift = self.view_gradients(given)
        return {
            "dx": torch.empty_like(given.x),
            "d_weight": torch.empty_like(weight),
            "d_bias": torch.empty(weight.shape[0], dtype=weight.dtype),
            "d_scale": d_scale,
            "d_shift": d_shift,
        }


def results(given, **named):
    """The results whose inputs are given."""
    absent = {"d_bias": given.bias, "d_scale": given.scale, "d_shift": given.shift}
    absent["d_residual"] = given.residual
    return {k: v for k, v in named.items() if k not in absent or absent[k] is not None}


@dataclass
class Eager:
    """What users would write, all of it in `dtype`: its error is the yardstick, float64 the truth.

    terms: for results that are sums of terms of both signs, the sum of the terms' sizes.
    """

    given: Inputs
    dtype: torch.dtype
    terms: dict = field(default_factory=dict)

    def __post_init__(self):
        names = ("x", "weight", "bias", "scale", "shift", "residual")
        values = {name: getattr(self.given, name) for name in names}
        self.leaves = {
            name: value.to(self.dtype).detach().requires_grad_()
            for name, value in values.items()
            if value is not None
        }
        self.f = self.leaves["x"]
        if self.given.scale is not None:
            scale, shift = (self.leaves[name][..., None, None] for name in ("scale", "shift"))
            self.f = self.f * scale + shift

    def pooled(self):
        return torch.cat([self.f.mean(1, keepdim=True), self.f.max(1, keepdim=True).values], 1)

    def map(self):
        weight, bias = self.leaves["weight"], self.leaves.get("bias")
        groups, padding = weight.shape[0], weight.shape[-1] // 2
        maps = [
            F.conv2d(
                p, weight[g : g + 1], None if bias is None else bias[g : g + 1], padding=padding
            )
            for g, p in enumerate(self.pooled().chunk(groups))
        ]
        return torch.sigmoid(torch.cat(maps))

    def backward(self, out, gradient, without=()):
        leaves = {k: v for k, v in self.leaves.items() if k not in without}
        wanted = [*leaves.values(), self.f]
        *gradients, df = torch.autograd.grad(
            out, wanted, gradient.to(self.dtype), retain_graph=True
        )
        if self.given.scale is not None:
            x = self.leaves["x"].detach()
            self.terms.update(d_scale=(df * x).abs().sum((2, 3)), d_shift=df.abs().sum((2, 3)))
        names = {name: f"d_{name}" if name != "x" else "dx" for name in leaves}
        return {names[k]: v for k, v in zip(leaves, gradients, strict=True)}

    def add_weight_terms(self, map, d_map_size):
        """The sizes of the terms of d_weight and d_bias, in which d_map is such a sum itself."""
        weight = self.given.weight
        size = d_map_size * map * (1 - map)
        groups = zip(self.pooled().abs().chunk(len(weight)), size.chunk(len(weight)), strict=True)
        shape, padding = (1, *weight.shape[1:]), weight.shape[-1] // 2
        d_weight = [conv2d_weight(p, shape, d, padding=padding) for p, d in groups]
        d_bias = torch.stack([d.sum() for d in size.chunk(len(weight))])
        self.terms.update(d_weight=torch.cat(d_weight), d_bias=d_bias)

    def channel_pool(self):
        pooled = self.pooled()
        without = ("weight", "bias", "residual")
        return {"pooled": pooled, **self.backward(pooled, self.given.d_pooled, without)}

    def spatial_attention(self):
        map, d_map = self.map(), self.given.d_pooled[:, :1]
        gradients = self.backward(map, d_map, without=("residual",))
        self.add_weight_terms(map.detach(), d_map.to(self.dtype).abs())
        return {"map": map, "pooled": self.pooled(), **gradients}

    def spatial_gate(self):
        map = self.map()
        y = self.f * map
        if self.given.residual is not None:
            y = y + self.leaves["residual"]
        if self.given.relu:
            y = torch.relu(y)
        gradients = self.backward(y, self.given.dy)
        d_map = (self.given.dy.to(self.dtype) * self.f).abs().sum(1, keepdim=True)
        self.add_weight_terms(map.detach(), d_map.detach())
        return {"y": y, "map": map, "pooled": self.pooled(), **gradients}


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


def assert_all_as_accurate(ours, yardstick, truth, terms):
    assert ours.keys() == truth.keys()
    for name in ours:
        yard, true = yardstick[name].detach(), truth[name].detach()
        assert_as_accurate(name, ours[name], yard, true, terms.get(name, true).detach())


def random_inputs(
    shape,
    k,
    dtype=torch.float32,
    channels_last=False,
    bias=True,
    values=None,
    view=False,
    relu=False,
    residual=False,
    groups=1,
):
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator).to(dtype)

    n, c, h, w = shape
    x = normal(*shape) if values is None else values(torch.Size(shape), generator).to(dtype)
    dy, acc = normal(*shape), acc_dtype(dtype)
    added = normal(*shape) if residual else None
    if channels_last:
        x, dy = (t.to(memory_format=torch.channels_last) for t in (x, dy))
    weight, offset = normal(groups, 2, k, k).to(acc) / 4, normal(groups).to(acc)
    # Powers of two keep ties what they are, and halves of eager exact.
    scale = torch.tensor([1.0, -2.0, 0.5, 1.0]).repeat(n, c)[:, :c] * (1 + torch.arange(n)[:, None])
    scale, shift = scale.to(acc).contiguous(), torch.arange(n * c).reshape(n, c).to(acc) % 3 / 2
    d_pooled = normal(n, 2, h, w)
    affine = (scale, shift) if view else (None, None)
    return Inputs(x, weight, offset if bias else None, dy, d_pooled, *affine, added, relu)


def assert_right(kernels: Kernels, given: Inputs):
    """Every op, forward and backward, on these inputs."""
    dtype = torch.float32 if given.x.dtype == torch.float64 else given.x.dtype
    for op in ("channel_pool", "spatial_gate", "spatial_attention"):
        truth = Eager(given, torch.float64)
        right = getattr(truth, op)()
        yardstick = getattr(Eager(given, dtype), op)()
        assert_all_as_accurate(getattr(kernels, op)(given), yardstick, right, truth.terms)
