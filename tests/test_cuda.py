"""What only a GPU can show: graphs, streams, devices, and that nothing waits for the device."""

import pytest
import torch
from contract import make_x, run
from spatial import spatial_parameters

import attn_kernels as ak

pytestmark = pytest.mark.gpu

GATE = ak.functional.spatial_gate


def inputs(index=0):
    device = f"cuda:{index}"
    return make_x((4, 64, 28, 28), device=device), spatial_parameters(64, torch.float32, device)


def test_the_cuda_library_serves():
    assert ak.available_backends()[0] == "cuda"
    x, parameters = inputs()
    with ak.use_backend("cuda"):
        assert GATE(x, *parameters).is_cuda


def test_graph_replay():
    """A captured forward and backward, replayed on new values, gives what plain calls give."""
    x, parameters = inputs()
    leaves = [t.clone().requires_grad_() for t in (x, *parameters)]
    dy = torch.randn_like(x)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(GATE(*leaves), leaves, dy)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = GATE(*leaves)
        grads = torch.autograd.grad(y, leaves, dy)
    for _ in range(3):
        with torch.no_grad():
            leaves[0].copy_(torch.randn_like(x))
        graph.replay()
        truth, truths = run(GATE, leaves[0], leaves[1:], dy)
        torch.testing.assert_close([y, *grads], [truth, *truths], rtol=0, atol=0)


def test_streams():
    """Calls on several streams at once do not disturb each other."""
    x, parameters = inputs()
    gradient = torch.randn_like(x)
    truth = run(GATE, x, parameters, gradient)
    streams = [torch.cuda.Stream() for _ in range(4)]
    results = []
    torch.cuda.synchronize()
    for stream in streams * 5:
        with torch.cuda.stream(stream):
            results.append(run(GATE, x, parameters, gradient))
    torch.cuda.synchronize()
    for result in results:
        torch.testing.assert_close(result, truth, rtol=0, atol=0)


def test_every_device():
    """Tensors may be on a device that is not the current one."""
    x, parameters = inputs()
    truth = run(GATE, x, parameters, downstream=torch.sum)
    for index in range(torch.cuda.device_count()):
        with torch.cuda.device(0):
            on_device = [t.to(f"cuda:{index}") for t in (x, *parameters)]
            y, grads = run(GATE, on_device[0], on_device[1:], downstream=torch.sum)
        assert y.device.index == index
        found = [t.to("cuda:0") for t in (y, *grads)]
        torch.testing.assert_close(found, [truth[0], *truth[1]], rtol=0, atol=0)


def test_nothing_waits_for_the_device():
    x, parameters = inputs()
    run(GATE, x, parameters, downstream=torch.sum)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(GATE, x, parameters, downstream=torch.sum)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype):
    x, parameters = inputs()
    network = torch.nn.Conv2d(64, 64, 3, padding=1, device="cuda")
    with torch.autocast("cuda", dtype):
        y = GATE(network(x), *parameters)
        y.float().square().mean().backward()
    assert y.dtype == dtype
    assert network.weight.grad.isfinite().all()
