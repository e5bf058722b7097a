"""FSDP2, DDP and distributed checkpoints: networks with our gates train as their eager twins do."""

import copy
import tempfile
from pathlib import Path

import eager_gates
import processes
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from test_channel_gates import EagerSqueezeExcite
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

import attn_kernels as ak

C = 8
STEPS = 3


class Net(nn.Module):
    """Three gates; `extra` has a part in every other call alone."""

    def __init__(self, gates, squeeze_excite):
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        self.spatial = gates.SpatialGate(kernel_size=3, bias=True)
        self.channels = squeeze_excite(C, 4)
        self.gam = gates.GAMAttention(C, rate=2)
        self.extra = gates.SpatialGate()
        self.head = nn.Linear(C, 5)

    def forward(self, x, with_extra=True):
        x = self.gam(self.channels(self.spatial(self.stem(x))))
        x = self.extra(x) if with_extra else x
        return self.head(x.mean((2, 3)))


def twins(dtype=torch.float64):
    """Ours and the eager network, with the same weights."""
    ours, eager = Net(ak, ak.SqueezeExcite), Net(eager_gates, EagerSqueezeExcite)
    eager.load_state_dict(ours.state_dict(), strict=True)
    return ours.to(dtype), eager.to(dtype)


def part(t):
    """This process's part of a batch."""
    return t.chunk(processes.WORLD)[dist.get_rank()]


def full(t):
    return t.full_tensor() if isinstance(t, DTensor) else t


def trained(net, x, extras=(True,) * STEPS, module=None):
    """Losses, and then all that the network holds; `module` is what the wrapper `net` holds."""
    optimizer, losses = torch.optim.SGD(net.parameters(), 0.1), []
    for with_extra in extras:
        loss = net(part(x), with_extra).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses, [full(t) for t in (module or net).state_dict().values()]


# What follows runs in both processes.


def shard_whole(net, **policy):
    return fully_shard(net, mesh=init_device_mesh("cpu", (processes.WORLD,)), **policy)


def shard_gates(net, **policy):
    for gate in (net.spatial, net.channels, net.gam, net.extra):
        shard_whole(gate, **policy)
    return shard_whole(net, **policy)


def shard_leaves(net, **policy):
    for module in list(net.modules()):
        if next(module.parameters(recurse=False), None) is not None:
            shard_whole(module, **policy)
    return shard_whole(net, **policy)


SHARDINGS = (shard_whole, shard_gates, shard_leaves)


def check_fully_shard():
    x = torch.randn(6, 3, 9, 7, dtype=torch.float64)
    for shard in SHARDINGS:
        ours, eager = (trained(shard(net), x) for net in twins())
        torch.testing.assert_close(ours, eager)


def check_what_fully_shard_leaves_fused():
    for shard, fused in zip(SHARDINGS, (True, True, False), strict=True):
        ours = shard(twins()[0])
        for gate in (ours.spatial, ours.gam, ours.extra):
            assert ("unfused" in repr(gate)) != fused


def check_fully_shard_is_one_process():
    """Running means take no part: the batch may be split."""
    x = torch.randn(6, 3, 9, 7, dtype=torch.float64)
    for shard in SHARDINGS:
        ours, eager = (net.eval() for net in twins())
        ours = shard(ours)
        ours(part(x)).sum().backward()
        (eager(x).sum() / processes.WORLD).backward()  # the wrapper means gradients
        for p, q in zip(ours.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(full(p.grad), q.grad)


def check_mixed_precision():
    """The bits of the network in bfloat16, with gradients added up over processes in float32."""
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    x = part(torch.randn(6, 3, 9, 7))
    for shard in SHARDINGS:
        net = twins(torch.float32)[0].eval()
        for buffer in net.buffers():  # which no policy casts, and PyTorch's norms on the CPU
            if buffer.is_floating_point():  # want to have the dtype of the parameters
                buffer.data = buffer.bfloat16()
        narrow = copy.deepcopy(net).bfloat16()
        if shard is shard_leaves:  # which are called, as those with hooks are
            for module in narrow.modules():
                module.register_forward_hook(lambda *_: None)
        y = shard(net, mp_policy=policy)(x)
        expected = narrow(x.bfloat16())
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, expected)
        y.sum().backward()
        expected.sum().backward()
        for p, q in zip(net.parameters(), narrow.parameters(), strict=True):
            mean = q.grad.float()
            dist.all_reduce(mean)
            assert torch.equal(full(p.grad), mean / processes.WORLD)


def check_data_parallel():
    x = torch.randn(6, 3, 9, 7, dtype=torch.float64)
    for options in ({}, {"static_graph": True}, {"find_unused_parameters": True}):
        extras = (True, False, True) if "find_unused_parameters" in options else (True,) * STEPS
        ours, eager = (
            trained(nn.parallel.DistributedDataParallel(net, **options), x, extras, net)
            for net in twins()
        )
        torch.testing.assert_close(ours, eager)


def check_data_parallel_with_never_used_parameters():
    x = torch.randn(6, 3, 9, 7, dtype=torch.float64)
    for options in ({"static_graph": True}, {"find_unused_parameters": True}):
        ours, eager = (
            trained(nn.parallel.DistributedDataParallel(net, **options), x, (False,) * 3, net)
            for net in twins()
        )
        torch.testing.assert_close(ours, eager)


def shared_folder():
    """One folder for all processes."""
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder)
    return Path(folder[0])


def check_checkpoints():
    """What ours wrote, sharded one way, the eager twin reads, sharded another way or not at all."""
    x = torch.randn(6, 3, 9, 7, dtype=torch.float64)
    for ours_first in (True, False):
        for shard in (shard_whole, shard_leaves):
            writer, reader = twins() if ours_first else twins()[::-1]
            writer = shard(writer)
            trained(writer, x)
            for buffer in writer.buffers():  # each process has its own; one is written
                dist.broadcast(buffer, 0)
            folder = shared_folder()
            dcp.save(get_model_state_dict(writer), checkpoint_id=folder)
            for other in (shard_gates, lambda net: net):
                target = other(copy.deepcopy(reader))
                state = get_model_state_dict(target)
                dcp.load(state, checkpoint_id=folder)
                set_model_state_dict(target, state)
                for a, b in zip(
                    target.state_dict().values(), writer.state_dict().values(), strict=True
                ):
                    assert torch.equal(full(a), full(b))
                torch.testing.assert_close(target.eval()(part(x)), writer.eval()(part(x)))
            writer.train()


CHECKS = [f for name, f in dict(globals()).items() if name.startswith("check_")]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return processes.run(CHECKS, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_two_processes(check, outcomes):
    processes.assert_passed(outcomes[check])
