"""Tail with nn.SyncBatchNorm: two processes are one on the joined batch."""

import processes
import pytest
import torch
from torch import distributed, nn

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


def as_one_process(sizes):
    """Each process has so many images."""
    rank = distributed.get_rank()
    z, dy = torch.randn(2, sum(sizes), C, 5, 4, dtype=torch.float64)
    z += 3
    part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    tail = tail_of(nn.SyncBatchNorm)
    assert "unfused" not in repr(tail)
    parts = [None for _ in sizes]
    distributed.all_gather_object(parts, trained(tail, z[part], dy[part]))
    tail.eval()(z[part], z[part])  # asks nobody
    y, d_z, gradients, buffers = trained(tail_of(nn.BatchNorm2d), z, dy)
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), y)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), d_z)
    summed = [sum(found) for found in zip(*(part[2] for part in parts), strict=True)]
    torch.testing.assert_close(summed, gradients)
    for part in parts:
        torch.testing.assert_close(part[3], buffers)


def check_two_and_three_images():
    as_one_process((2, 3))


def check_four_and_one_image():
    as_one_process((4, 1))


def check_three_images_and_none():
    as_one_process((3, 0))


CHECKS = [check_two_and_three_images, check_four_and_one_image, check_three_images_and_none]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return processes.run(CHECKS, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_two_processes(check, outcomes):
    processes.assert_passed(outcomes[check])


def test_alone():
    """Without processes it is a batch norm, as in PyTorch."""
    z, dy = torch.randn(2, 3, C, 5, 4, dtype=torch.float64)
    results = (trained(tail_of(norm), z, dy) for norm in (nn.SyncBatchNorm, nn.BatchNorm2d))
    torch.testing.assert_close(*results)
