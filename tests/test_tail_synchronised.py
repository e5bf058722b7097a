"""Tail with nn.SyncBatchNorm: two processes are one on the joined batch."""

import pytest
import torch
from torch import distributed, multiprocessing, nn

import attn_kernels as ak

C = 8


def tail_of(norm):
    torch.manual_seed(1)
    tail = ak.nn.Tail(norm(C), ak.CBAM(C, 2))
    nn.init.uniform_(tail.norm.weight, -2, 2)
    return tail.double()


def trained(tail, z, dy):
    z = z.clone().requires_grad_()
    y = tail(z, z)
    d_z, *gradients = torch.autograd.grad(y, [z, *tail.parameters()], dy)
    return y.detach(), d_z, gradients, list(tail.norm.buffers())


def process(rank, init, sizes, z, dy, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=init, rank=rank, world_size=len(sizes))
    tail = tail_of(nn.SyncBatchNorm)
    assert "unfused" not in repr(tail)
    part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    results[rank] = trained(tail, z[part], dy[part])
    tail.eval()(z[part], z[part])  # asks nobody
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.parametrize("sizes", [(2, 3), (4, 1), (3, 0)], ids=str)
def test_as_one_process(sizes, tmp_path):
    z, dy = torch.randn(2, sum(sizes), C, 5, 4, dtype=torch.float64)
    z += 3
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        arguments = f"file://{tmp_path}/init", sizes, z, dy, results
        multiprocessing.spawn(process, arguments, nprocs=len(sizes))
        parts = [results[rank] for rank in range(len(sizes))]
    y, d_z, gradients, buffers = trained(tail_of(nn.BatchNorm2d), z, dy)
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), y)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), d_z)
    summed = [sum(found) for found in zip(*(part[2] for part in parts), strict=True)]
    torch.testing.assert_close(summed, gradients)
    for part in parts:
        torch.testing.assert_close(part[3], buffers)


def test_alone():
    """Without processes it is a batch norm, as in PyTorch."""
    z, dy = torch.randn(2, 3, C, 5, 4, dtype=torch.float64)
    results = (trained(tail_of(norm), z, dy) for norm in (nn.SyncBatchNorm, nn.BatchNorm2d))
    torch.testing.assert_close(*results)
