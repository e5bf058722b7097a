"""What the tests of the Triton kernels share: where the kernels run, how inputs lie, how results
are judged.

The kernels run natively on a GPU, and on any machine under Triton's interpreter. The interpreter
must be chosen by TRITON_INTERPRET=1 before triton is imported, and then serves the whole process:
so a test file runs itself again, in a child process, and no other test ever sees the variable
(`test_triton_compile.py` needs the compiler).
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
# A class of kernel tests says `__test__ = RUNS_KERNELS`: without a GPU it belongs to the child
# process alone.
RUNS_KERNELS = INTERPRETED or DEVICE == "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def run_under_interpreter(test_file: str) -> None:
    """Run the kernel tests of a file in a child process; raise with its output unless all of them
    passed.
    """
    root = pathlib.Path(test_file).resolve().parent.parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test_file]
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    run = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=580
    )
    summary = run.stdout.strip().splitlines()[-1:]
    passed = re.search(r"(\d+) passed", summary[0]) if summary else None
    clean = run.returncode == 0 and passed and "skipped" not in summary[0]
    assert clean, f"{run.stdout[-8000:]}\n{run.stderr[-2000:]}"


@pytest.fixture
def poisoned_outputs():
    """New tensors are filled with NaN: an element that no kernel writes shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def embed(tensor: torch.Tensor, margin: int = 67) -> torch.Tensor:
    """The same values and strides inside a larger buffer of NaN: what is read past an end shows in
    the result.

    The odd margin takes the pointer's alignment away as well.
    """
    if tensor.numel() == 0:
        return tensor.to(DEVICE)
    span = 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    buffer = torch.full((span + 2 * margin,), torch.nan, dtype=tensor.dtype, device=DEVICE)
    inside = buffer.as_strided(tensor.shape, tensor.stride(), margin)
    return inside.copy_(tensor)


class Margins:
    """Stands in for an op's functions that allocate: each result lies amid NaN, more of it than a
    tile that overruns an end by its whole length would reach.
    """

    def __init__(self, monkeypatch, op, *names: str):
        self.results: list[torch.Tensor] = []
        for name in names:
            monkeypatch.setattr(op, name, self._surround(getattr(op, name)))

    def _surround(self, allocate):
        def allocate_amid_nan(*args):
            self.results.append(embed(allocate(*args), margin=8192))
            return self.results[-1]

        return allocate_amid_nan

    def check(self) -> None:
        """Raise if anything was written outside, or nothing was allocated here at all."""
        assert self.results
        for result in self.results:
            buffer = result.new_empty(0).set_(result.untyped_storage())
            outside = int(buffer.isnan().sum()) - int(result.isnan().sum())
            assert outside == buffer.numel() - result.numel(), "written outside its tensor"


LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed")


def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """A (N, C, H, W) tensor of these values, lying in memory as `layout` says, amid NaN."""
    if layout == "contiguous":
        return embed(tensor.contiguous())
    if layout == "channels_last":
        return embed(tensor.contiguous(memory_format=torch.channels_last))
    if layout == "transposed":
        return embed(tensor.transpose(2, 3).contiguous()).transpose(2, 3)
    images, channels, height, width = tensor.shape
    larger = torch.full(
        (images, channels + 2, height, 2 * width + 1), torch.nan, dtype=tensor.dtype, device=DEVICE
    )
    view = larger[:, 1 : channels + 1, :, 1 : 2 * width + 1 : 2]
    return view.copy_(tensor)


@dataclasses.dataclass
class Judge:
    """Compares results with float64 truth, allowing a multiple of the error that eager PyTorch
    makes in this dtype.

    `magnitude` is the truth's formula taken over absolute values: the size of the terms that were
    added. One rounding of the dtype relative to it is the floor, as eager may happen to be exact
    where the order of a sum is luckier.
    """

    dtype: torch.dtype
    factors: dict[str, float]

    def check(self, name: str, ours, eager, truth, magnitude) -> None:
        ours, eager = ours.detach().cpu().double(), eager.detach().double()
        assert ours.shape == truth.shape, (
            f"{name}: shape {tuple(ours.shape)}, expected {tuple(truth.shape)}"
        )
        assert torch.isfinite(ours).all(), (
            f"{name}: {(~torch.isfinite(ours)).sum()} elements are not finite"
        )
        if truth.numel() == 0:
            return
        factor, ulp = self.factors[name], torch.finfo(self.dtype).eps
        error, eager_error = (ours - truth).abs(), (eager - truth).abs()
        excess = error - (factor * eager_error.max() + ulp * magnitude)
        assert excess.max() <= 0, (
            f"{name}: off by {error.max():.3g}, eager by {eager_error.max():.3g}"
        )
        if truth.numel() < 16:
            return  # so few that eager's luck with one of them would decide the norm
        allowed = factor * eager_error.norm() + ulp * truth.norm()
        assert error.norm() <= allowed, (
            f"{name}: L2 error {error.norm():.3g}, allowed {allowed:.3g}"
        )
