"""DTensor: ops and modules on a mesh of two processes give what one process gives."""

import copy
import functools
import itertools
import subprocess
import sys

import calls
import processes
import pytest
import torch
from calls import C, H, W
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
    init_device_mesh,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import attn_kernels as ak
from attn_kernels.distributed import SHARED

WEIGHT = torch.randn(1, 2, 3, 3)
IN_PLACE = {"squeeze_backward_add_"}  # only what is known to be a plain tensor is written on


def test_every_op_says_what_its_images_share():
    names = {name for name in torch._C._dispatch_get_all_op_names() if "attn_kernels::" in name}
    assert {name.removeprefix("attn_kernels::") for name in names} == set(SHARED) | IN_PLACE
    for name, shared in SHARED.items():
        schema = getattr(torch.ops.attn_kernels, name).default._schema
        operands = {a.name for a in schema.arguments}
        gradients = {result.name for result in schema.returns}
        for one in shared:
            assert one in operands or f"d_{one}" in gradients, (name, one)


def test_import_brings_no_dtensor():
    code = "import sys, attn_kernels; assert 'torch.distributed.tensor' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# What follows runs in both processes.


@functools.cache
def mesh(*shape):
    return init_device_mesh("cpu", shape or (processes.WORLD,))


def gradients(module, x, distributed=None):
    """Outputs, and gradients of x and of the parameters, whole; x is distributed by a function."""
    x = x.clone().requires_grad_() if distributed is None else distributed(x).requires_grad_()
    outputs = tree_leaves(module(x))
    torch.manual_seed(1)
    d_outputs = [torch.randn(y.shape, dtype=y.dtype) for y in outputs]
    pairs = [(y, d) for y, d in zip(outputs, d_outputs, strict=True) if y.requires_grad]
    if distributed is not None:
        pairs = [(y, distribute_tensor(d, y.device_mesh, y.placements)) for y, d in pairs]
    torch.autograd.backward(*zip(*pairs, strict=True))
    found = [*outputs, x.grad, *(p.grad for p in module.parameters()), *module.buffers()]
    return [t.full_tensor() if isinstance(t, DTensor) else t for t in found]


def assert_same(module, x, placements, on=None):
    """The module, distributed, on x placed so, against the module itself."""
    on = on or mesh()
    twin = distribute_module(copy.deepcopy(module), on)
    ours = gradients(twin, x, lambda x: distribute_tensor(x, on, placements))
    expected = gradients(copy.deepcopy(module), x)
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


class Seen(TorchDispatchMode):
    """Our ops that went by, as DTensor's local calls."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "attn_kernels":
            self.names.add(func._schema.name.removeprefix("attn_kernels::"))
        return func(*args, **(kwargs or {}))


def modules():
    found = calls.every() | calls.channel_gates()
    del found["GSoP"]  # its convolution of the map is PyTorch's own, which takes no split channels
    for module in found.values():
        for p in module.parameters():
            torch.nn.init.normal_(p)
    return {name: module.double() for name, module in found.items()}


def check_modules():
    """Split by images, whole, by channels, by rows, of every op and module; and no op is missed."""
    with Seen() as seen:
        for module, placement in itertools.product(
            modules().values(), (Shard(0), Replicate(), Shard(1), Shard(2))
        ):
            assert_same(module, torch.randn(4, C, H, W, dtype=torch.float64), [placement])
    assert seen.names - IN_PLACE == set(SHARED)


def check_batches_that_do_not_divide():
    for n in (1, 3):
        for module in (ak.SpatialGate(3).double(), ak.SqueezeExcite(C, 3).double()):
            assert_same(module, torch.randn(n, C, H, W, dtype=torch.float64), [Shard(0)])


def check_meshes_of_two_dimensions():
    x = torch.randn(4, C, H, W, dtype=torch.float64)
    for placements in ([Shard(0), Shard(0)], [Replicate(), Shard(0)], [Shard(0), Shard(1)]):
        assert_same(ak.SpatialGate(3).double(), x, placements, mesh(2, 1))
        assert_same(ak.SpatialGate(3).double(), x, placements, mesh(1, 2))


def check_channels_last_and_half():
    gate = distribute_module(ak.SpatialGate(), mesh())
    for dtype in (torch.float32, torch.bfloat16):
        local = torch.randn(2, C, H, W, dtype=dtype).to(memory_format=torch.channels_last)
        x = DTensor.from_local(local, mesh(), [Shard(0)])
        y = gate(x)
        assert y.dtype == dtype
        assert y.to_local().is_contiguous(memory_format=torch.channels_last)
        weight = gate.conv1.weight.full_tensor()
        expected = ak.functional.spatial_gate(x.full_tensor(), weight)
        assert torch.equal(y.full_tensor(), expected)


def check_where_things_lie():
    """The batch stays where it is, statistics with it; parameters' gradients are parts of sums."""
    x = distribute_tensor(torch.randn(4, C, H, W), mesh(), [Shard(0)]).requires_grad_()
    scale = distribute_tensor(torch.rand(4, C), mesh(), [Shard(0)]).requires_grad_()
    shift = distribute_tensor(torch.rand(C), mesh(), [Replicate()]).requires_grad_()
    weight = distribute_tensor(WEIGHT, mesh(), [Replicate()]).requires_grad_()
    y = ak.functional.spatial_gate(x, weight, scale=scale, shift=shift)
    y.backward(distribute_tensor(torch.ones(y.shape), mesh(), [Shard(0)]))
    for t in (y, x.grad, scale.grad):
        assert t.placements == (Shard(0),)
    for t in (weight.grad, shift.grad):
        assert t.placements == (Partial(),)
    for statistic in ak.functional.squeeze(x, ("mean", "max")):
        assert statistic.placements == (Shard(0),)


def check_parts_of_sums():
    """A map that is a sum over processes is added up first."""
    part = torch.randn(4, C, H, W)
    x = DTensor.from_local(part, mesh(), [Partial()])
    weight = distribute_tensor(WEIGHT, mesh(), [Replicate()])
    expected = ak.functional.spatial_gate(x.full_tensor(), WEIGHT)
    torch.testing.assert_close(ak.functional.spatial_gate(x, weight).full_tensor(), expected)


def check_sets_of_weights():
    """Half of the images with one weight, half with the other: not to be split by images alone."""
    x, weights = torch.randn(4, C, H, W), torch.randn(2, 2, 3, 3)
    op = torch.ops.attn_kernels.spatial_gate.default
    expected, *_ = op(x, weights, None, None, None, None, "identity")
    placed = (
        distribute_tensor(x, mesh(), [Shard(0)]),
        distribute_tensor(weights, mesh(), [Shard(0)]),
    )
    y, *_ = op(*placed, None, None, None, None, "identity")
    assert torch.equal(y.full_tensor(), expected)


def check_second_derivatives():
    """Of a backward op whose other results have no gradient: those may not become plain zeros."""
    x = torch.randn(4, C, H, W, dtype=torch.float64)

    def second(gate, x):
        (dx,) = torch.autograd.grad(gate(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), x)[0]

    for gate in (ak.SpatialGate(3), ak.GAMChannelGate(C), ak.SqueezeExcite(C, 3)):
        expected = second(gate.double(), x.clone().requires_grad_())
        twin = distribute_module(copy.deepcopy(gate), mesh())
        ours = second(twin, distribute_tensor(x, mesh(), [Shard(0)]).requires_grad_())
        torch.testing.assert_close(ours.full_tensor(), expected)


def check_compiled():
    gate, x = ak.SpatialGate(3), torch.randn(4, C, H, W)
    twin = distribute_module(copy.deepcopy(gate), mesh())
    placed = distribute_tensor(x, mesh(), [Shard(0)])
    y = torch.compile(twin, backend="aot_eager", fullgraph=True)(placed)
    torch.testing.assert_close(y.full_tensor(), gate(x))


def check_refusals():
    x, weight = torch.randn(4, C, H, W), WEIGHT
    placed = distribute_tensor(x, mesh(), [Shard(0)])
    for f in (ak.functional.spatial_gate, ak.functional.spatial_attention):
        with pytest.raises(TypeError, match=r"weight: expected a DTensor \(as x\), got a plain"):
            f(placed, weight)
        with pytest.raises(TypeError, match=r"weight: expected a plain tensor \(as x\), got a DT"):
            f(x, distribute_tensor(weight, mesh(), [Replicate()]))
    with pytest.raises(TypeError, match=r"weight: expected a DTensor"):
        ak.SpatialGate()(placed)
    with pytest.raises(TypeError, match=r"w1: expected a DTensor"):
        ak.GAMChannelGate(C)(placed)
    with pytest.raises(TypeError, match=r"scale: expected a DTensor"):
        ak.functional.affine_gate(placed, torch.ones(C))
    with pytest.raises(TypeError, match=r"residual: expected a DTensor"):
        ak.functional.affine_gate(
            placed, distribute_tensor(torch.ones(C), mesh(), [Replicate()]), residual=x
        )
    with pytest.raises(TypeError, match=r"a: expected a DTensor"):
        ak.functional.scale_gate(placed, x, torch.ones(C), torch.ones(C))
    with pytest.raises(TypeError, match=r"mix's scale: expected a DTensor"):
        ak.functional.squeeze_gate(placed, lambda mean: torch.ones(4, C, 1, 1))


CHECKS = [f for name, f in dict(globals()).items() if name.startswith("check_")]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return processes.run(CHECKS, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_two_processes(check, outcomes):
    processes.assert_passed(outcomes[check])
