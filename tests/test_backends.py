import asyncio
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import attn_kernels as ak
from attn_kernels import backends

X, WEIGHT = torch.randn(2, 4, 6, 6), torch.randn(1, 2, 3, 3)


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    import os

    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_available():
    assert ak.available_backends()[-2:] == ("cpu", "reference")


def test_what_has_a_cuda_kernel_is_served_by_it():
    """And nothing else."""
    sources = (Path(ak.__file__).parents[1] / "csrc/cuda").glob("*.cu")
    registered = {op for s in sources for op in re.findall(r'm\.impl\("(\w+)"', s.read_text())}
    serving = {op for op, found in backends.KERNELS.items() if found.get("cuda") == "cuda"}
    assert serving == registered & backends.KERNELS.keys()


def test_use_backend_is_undone():
    with ak.use_backend("reference"), ak.use_backend("cpu"):
        assert backends.backend_for("spatial_gate", X) == "cpu"
    assert backends._forced.get() is None
    with pytest.raises(RuntimeError, match="boom"), ak.use_backend("reference"):
        raise RuntimeError("boom")
    assert backends._forced.get() is None


def test_use_backend_in_two_threads_that_leave_out_of_order():
    """Each thread has its own choice, and none is left over."""
    inside, first_left = threading.Barrier(2), threading.Event()
    found = {}

    def user(backend, leaves_first):
        with ak.use_backend(backend):
            inside.wait()
            found[backend] = backends.backend_for("spatial_gate", X)
            if not leaves_first:
                first_left.wait()
        first_left.set()
        found[backend, "after"] = backends.backend_for("spatial_gate", X)

    threads = [threading.Thread(target=user, args=a) for a in (("reference", True), ("cpu", False))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {
        "reference": "reference",
        "cpu": "cpu",
        ("reference", "after"): "cpu",
        ("cpu", "after"): "cpu",
    }
    assert backends.backend_for("spatial_gate", X) == "cpu"


def test_use_backend_in_two_tasks():
    async def user(backend):
        with ak.use_backend(backend):
            await asyncio.sleep(0)
            return backends.backend_for("spatial_gate", X)

    async def both():
        return await asyncio.gather(user("reference"), user("cpu"))

    assert asyncio.run(both()) == ["reference", "cpu"]


def test_a_compiled_function_follows_use_backend():
    torch._dynamo.reset()
    graphs = []

    def keep(graph, _):
        graphs.append(str(graph.graph))
        return graph.forward

    compiled = torch.compile(ak.functional.channel_pool, backend=keep, fullgraph=True)
    compiled(X)
    with ak.use_backend("reference"):
        compiled(X)
    compiled(X)
    assert ["attn_kernels.channel_pool" in graph for graph in graphs] == [True, False]


def test_unknown_backend():
    with (
        pytest.raises(ValueError, match="expected one of cuda, triton, cpu, reference, got 'gpu'"),
        ak.use_backend("gpu"),
    ):
        pass


@pytest.mark.parametrize("backend", [b for b in backends.BACKENDS if backends.why_not(b)])
def test_forced_backend_that_is_not_there(backend):
    with (
        pytest.raises(ValueError, match=f"'{backend}' was asked for but cannot serve here: .+"),
        ak.use_backend(backend),
    ):
        pass


def test_forced_backend_for_another_device(monkeypatch):
    monkeypatch.setattr(backends, "why_not", lambda backend: None)
    with (
        pytest.raises(ValueError, match="x: the forced backend 'cuda' has no spatial_gate kernel"),
        ak.use_backend("cuda"),
    ):
        ak.functional.spatial_gate(X, WEIGHT)


def test_environment():
    code = "import attn_kernels as ak, torch; ak.functional.channel_pool(torch.ones(1, 2, 3, 3))"
    assert python(code, ATTN_KERNELS_BACKEND="reference").returncode == 0
    assert (
        "ATTN_KERNELS_BACKEND: expected one of" in python(code, ATTN_KERNELS_BACKEND="fast").stderr
    )


def test_missing_library_is_said_once_and_the_reference_serves(monkeypatch):
    monkeypatch.setitem(backends.missing, "cpu", "the library was not built; make build")
    monkeypatch.setattr(backends, "_warned", set())
    with pytest.warns(UserWarning, match="the library was not built; make build"):
        y = ak.functional.spatial_gate(X, WEIGHT)
    assert torch.equal(
        ak.functional.spatial_gate(X, WEIGHT), y
    )  # a second warning would be an error
    assert torch.equal(y, ak.reference.spatial_gate(X, WEIGHT))


def test_other_devices_are_served_by_the_reference():
    assert ak.functional.spatial_gate(X.to("meta"), WEIGHT.to("meta")).shape == X.shape


def test_import_is_light():
    """A twentieth of what torch's own import takes (1 s, by CPU time, from bytecode), on a busy
    machine as well; and neither triton, dynamo nor a CUDA context comes along.
    """
    code = """
import sys, time
start = time.process_time()
import torch
before, of_torch = set(sys.modules), time.process_time()
import attn_kernels
print((time.process_time() - of_torch) / (of_torch - start))
assert not {"triton", "torch._dynamo", "rich", "numpy.testing"} & set(sys.modules) - before
assert not torch.cuda.is_initialized()
"""
    results = [python(code, PYTHONDONTWRITEBYTECODE="") for _ in range(3)]
    assert all(r.returncode == 0 for r in results), results[0].stderr
    assert min(float(r.stdout) for r in results) < 1 / 20
