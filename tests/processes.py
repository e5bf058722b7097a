"""Two processes on the CPU that talk by gloo, as torchrun would start them.

A test file that has checks for them (functions without arguments, which both processes call in the
order given) spawns once for all:

    @pytest.fixture(scope="module")
    def outcomes(tmp_path_factory):
        return processes.run(CHECKS, tmp_path_factory.mktemp("processes"))

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_in_two_processes(check, outcomes):
        processes.assert_passed(outcomes[check])
"""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

WORLD = 2
TIMEOUT = timedelta(seconds=300)


def run(checks, folder) -> dict:
    """check -> "passed", or what went wrong in it or before it."""
    context = multiprocessing.spawn(_work, (checks, folder), nprocs=WORLD, join=False)
    try:
        while not context.join():
            pass
        error = ""
    except (
        multiprocessing.ProcessRaisedException,
        multiprocessing.ProcessExitedException,
    ) as fault:
        error = str(fault)
    passed = sum((folder / f"passed.{check.__name__}").exists() for check in checks)
    outcomes = dict.fromkeys(checks, "was not run: a check before it failed")
    return (
        outcomes
        | dict.fromkeys(checks[:passed], "passed")
        | dict.fromkeys(checks[passed : passed + 1], error)
    )


def assert_passed(outcome: str) -> None:
    if outcome != "passed":
        pytest.fail(outcome, pytrace=False)


def _work(rank, checks, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=WORLD,
        timeout=TIMEOUT,
    )
    for check in checks:
        torch.manual_seed(0)
        check()
        dist.barrier()
        if rank == 0:
            (folder / f"passed.{check.__name__}").touch()
    dist.destroy_process_group()
