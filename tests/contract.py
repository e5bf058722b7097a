"""What every op of this library must hold, written once: an op's test file subclasses these.

An op is seen as a function of (x, *parameters). `eager` is what users have now, `reference` is the
contract in plain PyTorch, `fused` is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from derivatives import Derivatives
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threads import threads
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

import attn_kernels as ak

Function = Callable[..., torch.Tensor]
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Schemas and registrations know no dtype, and tracing a step with its gradients, the slowest check
# by far, asks nothing of the dtype that the fakes do not answer.
OPCHECKS = dict.fromkeys(DTYPES, ("test_faketensor",)) | {
    torch.bfloat16: (
        "test_schema",
        "test_autograd_registration",
        "test_faketensor",
        "test_aot_dispatch_dynamic",
    )
}
SHAPES = (
    (2, 3, 5, 7),
    (1, 1, 1, 1),
    (3, 130, 9, 1),
    (2, 17, 1, 33),
    (2, 64, 14, 14),
    (1, 300, 7, 7),
)


@dataclass(frozen=True)
class Op:
    name: str
    fused: Function
    reference: Function
    eager: Function
    # (channels, dtype, device) -> the parameters, in any float dtype
    parameters: Callable[[int, torch.dtype, str], list[torch.Tensor]]
    # the registered op and its arguments beside x, for torch.library.opcheck
    opcheck: Callable[[torch.Tensor, list[torch.Tensor]], list[tuple]]
    saved_bytes_per_pixel: float
    saved_bytes_per_channel: float = 0
    # (x, parameters, d_output) in float64 -> size of the terms summed into parameters' gradients
    scales: Callable[..., list[float]] = lambda x, parameters, gradient: [0.0] * len(parameters)
    # whether the number of threads changes no bit
    same_on_any_threads: bool = True
    # the ops in the compiled forward and backward, where they are not those of that name
    forward_ops: tuple[str, ...] = ()
    backward_ops: tuple[str, ...] = ()


def make_x(shape, dtype=torch.float32, layout="nchw", device="cpu") -> torch.Tensor:
    """A map whose values lie inside a larger allocation, so that strides and offsets are real."""
    n, c, h, w = shape
    base = torch.randn(n + 1, c, h, w, dtype=torch.float64).to(dtype).to(device)
    x = base[1:]
    return x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x


def parameters_like(
    op: Op, x: torch.Tensor, dtype: torch.dtype | None = None
) -> list[torch.Tensor]:
    return op.parameters(x.shape[1], dtype or x.dtype, x.device.type)


def run(function: Function, x, parameters, gradient=None, downstream=None):
    """Output and gradients of x and the parameters."""
    inputs = [t.detach().clone(memory_format=torch.preserve_format) for t in (x, *parameters)]
    for t in inputs:
        t.requires_grad_()
    y = function(*inputs)
    if downstream is not None:
        downstream(y).backward()
    else:
        y.backward(gradient.to(y.dtype))
    return y.detach(), [t.grad for t in inputs]


def assert_right(op: Op, x, parameters, gradient, function: Function | None = None) -> None:
    """Forward and every gradient against the float64 truth, judged by eager's error."""
    function = function or op.fused
    wide = [t.double() for t in (x, *parameters)]
    truth, truths = run(op.reference, wide[0], wide[1:], gradient.double())
    eager, eagers = run(op.eager, x, [p.to(x.dtype) for p in parameters], gradient)
    ours, grads = run(function, x, parameters, gradient)
    assert ours.dtype == x.dtype
    assert_accurate("y", ours, eager, truth, FORWARD)
    scales = [0.0, *op.scales(wide[0], wide[1:], gradient.double())]
    for i, scale in enumerate(scales):
        name = "dx" if i == 0 else f"gradient of parameter {i}"
        assert grads[i].dtype == (x, *parameters)[i].dtype
        assert_accurate(name, grads[i], eagers[i], truths[i], GRADIENT, scale)


def output_gradient(op: Op, x, parameters) -> torch.Tensor:
    return torch.randn(op.fused(x, *parameters).shape, dtype=torch.float64).to(x)


def assert_deterministic(op: Op, x, repetitions: int) -> None:
    """The same bits every time, and on 1 to 4 threads, where the op promises that."""
    parameters = parameters_like(op, x)
    gradient = output_gradient(op, x, parameters)
    first = {}
    for repetition in range(repetitions):
        count = 1 + repetition % 4
        with threads(count):
            again = run(op.fused, x, parameters, gradient)
        one_of = first.setdefault(0 if op.same_on_any_threads else count, again)
        torch.testing.assert_close(again, one_of, rtol=0, atol=0)


class Contract(Derivatives):
    """Tests that hold for every op; subclasses say `op = Op(...)`."""

    op: Op

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_accuracy(self, shape, layout, dtype, device):
        x = make_x(shape, dtype, layout, device)
        parameters = parameters_like(self.op, x)
        assert_right(self.op, x, parameters, output_gradient(self.op, x, parameters))

    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(
        shape=st.tuples(
            st.integers(0, 3), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)
        ),
        dtype=st.sampled_from(DTYPES),
        layout=st.sampled_from(["nchw", "channels_last"]),
        seed=st.integers(0, 1000),
    )
    def test_any_shape(self, shape, dtype, layout, seed, device):
        torch.manual_seed(seed)
        x = make_x(shape, dtype, layout, device)
        parameters = parameters_like(self.op, x)
        with threads(1 + seed % 3):
            assert_right(self.op, x, parameters, output_gradient(self.op, x, parameters))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_parameters_in_float32(self, dtype, device):
        x = make_x((2, 20, 9, 8), dtype, device=device)
        parameters = parameters_like(self.op, x, torch.float32)
        assert_right(self.op, x, parameters, output_gradient(self.op, x, parameters))

    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    def test_memory_format_follows_x(self, layout, device):
        x = make_x((2, 8, 5, 6), layout=layout, device=device)
        y, (dx, *_) = run(self.op.fused, x, parameters_like(self.op, x), downstream=torch.sum)
        expected = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
        assert dx.is_contiguous(memory_format=expected)
        if y.shape == x.shape:
            assert y.is_contiguous(memory_format=expected)

    @pytest.mark.parametrize(
        "view",
        [
            lambda t: t[:, :, ::2, 1:-1],
            lambda t: t.transpose(2, 3),
            lambda t: t[:, ::3],
            lambda t: t.flip(1)[:1].expand(2, -1, -1, -1),
            lambda t: t.permute(1, 0, 3, 2),
        ],
        ids=["sliced", "transposed", "strided channels", "expanded", "permuted"],
    )
    def test_any_strides_of_x(self, view, device):
        x = view(make_x((4, 9, 8, 10), device=device))
        parameters = parameters_like(self.op, x)
        y, grads = run(self.op.fused, x, parameters, downstream=torch.sum)
        z, truths = run(self.op.fused, x.contiguous(), parameters, downstream=torch.sum)
        torch.testing.assert_close([y, *grads], [z, *truths], rtol=0, atol=0)
        if y.shape == x.shape:
            assert self.op.fused(x, *parameters).stride() == self.op.eager(x, *parameters).stride()

    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    @pytest.mark.parametrize(
        "downstream",
        [
            torch.sum,
            lambda y: torch.cat([y, 2 * y], 1)[:, 1:].square().sum(),
            lambda y: y[..., ::2].sum() + y.transpose(2, 3).contiguous().square().sum(),
            lambda y: y.contiguous(memory_format=torch.channels_last).square().sum(),
            lambda y: y.mean((2, 3)).square().sum(),
        ],
        ids=["sum", "cat", "slice", "channels_last", "mean"],
    )
    def test_any_strides_of_the_gradient(self, downstream, layout, device):
        x = make_x((2, 12, 6, 7), torch.float64, layout, device)
        parameters = parameters_like(self.op, x)
        ours = run(self.op.fused, x, parameters, downstream=downstream)
        truth = run(self.op.reference, x, parameters, downstream=downstream)
        torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-12)

    def test_deterministic(self, device):
        assert_deterministic(self.op, make_x((5, 70, 23, 19), device=device), repetitions=20)

    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    def test_empty_batch(self, layout, device):
        x = make_x((0, 6, 5, 4), layout=layout, device=device)
        y, grads = run(self.op.fused, x, parameters_like(self.op, x), downstream=torch.sum)
        assert y.shape[0] == 0
        assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    def test_opcheck(self, layout, dtype, device):
        """With two hidden units in GAM: of one alone, strides say nothing of the format."""
        x = make_x((2, 9, 6, 7), dtype, layout, device)
        acc = torch.float64 if dtype == torch.float64 else torch.float32
        for overload, args in self.op.opcheck(x, parameters_like(self.op, x, acc)):
            torch.library.opcheck(overload, args, test_utils=OPCHECKS[dtype])

    def test_compile(self, device):
        """Up to the compiler's own C++, which tests/test_inductor.py asks for."""
        x = make_x((2, 8, 6, 5), device=device)
        parameters = parameters_like(self.op, x)
        gradient = output_gradient(self.op, x, parameters)
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda *inputs: self.op.fused(*inputs).sin(), fullgraph=True, backend="aot_eager"
        )
        ours = run(compiled, x, parameters, gradient)
        truth = run(lambda *inputs: self.op.fused(*inputs).sin(), x, parameters, gradient)
        torch.testing.assert_close(ours, truth)

    def test_compiled_graphs_hold_our_ops(self):
        """Not the formulas behind them: the forward's and the backward's op are both there."""
        x = make_x((2, 8, 6, 5))
        graphs = []

        def keep(graph, _):
            graphs.append(str(graph.graph))
            return make_boxed_func(graph.forward)

        torch._dynamo.reset()
        backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
        compiled = torch.compile(self.op.fused, fullgraph=True, backend=backend)
        run(compiled, x, parameters_like(self.op, x), downstream=torch.sum)
        forward, backward = graphs
        name = self.op.name
        for graph, names in (
            (forward, self.op.forward_ops or (name,)),
            (backward, self.op.backward_ops or (f"{name}_backward",)),
        ):
            assert all(f"attn_kernels.{op}.default" in graph for op in names)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
    def test_autocast_gives_eagers_dtypes(self, dtype, device):
        """float64 stays what it is."""
        x = make_x((2, 8, 6, 5), dtype, device=device)
        parameters = parameters_like(self.op, x, torch.promote_types(dtype, torch.float32))
        with torch.autocast(device, torch.bfloat16):
            ours = run(self.op.fused, x, parameters, downstream=torch.sum)
            eager = run(self.op.eager, x, parameters, downstream=torch.sum)
        assert ours[0].dtype == eager[0].dtype
        assert [g.dtype for g in ours[1]] == [g.dtype for g in eager[1]]
        torch.testing.assert_close(ours[0], eager[0], rtol=0.03, atol=0.03)  # bfloat16's two digits

    def test_saved_for_backward(self, device):
        x = make_x((2, 64, 14, 14), device=device).requires_grad_()
        saved = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: saved.setdefault(t.untyped_storage().data_ptr(), t) is None or t, lambda t: t
        ):
            parameters = [p.requires_grad_() for p in parameters_like(self.op, x)]
            self.op.fused(x, *parameters)
        parameter_storages = {p.untyped_storage().data_ptr() for p in parameters}
        beside_x = sum(
            t.nbytes
            for storage, t in saved.items()
            if storage != x.untyped_storage().data_ptr() and storage not in parameter_storages
        )
        n, c, h, w = x.shape
        allowed = self.op.saved_bytes_per_pixel * n * h * w + self.op.saved_bytes_per_channel * c
        assert beside_x <= allowed

    def test_reference_backend(self, device):
        x = make_x((2, 8, 6, 5), device=device)
        parameters = parameters_like(self.op, x)
        with ak.use_backend("reference"):
            forced = run(self.op.fused, x, parameters, downstream=torch.sum)
        truth = run(self.op.reference, x, parameters, downstream=torch.sum)
        torch.testing.assert_close(forced, truth, rtol=0, atol=0)


class NarrowParametersContract:
    """For ops that take parameters in x's dtype as well as in the accumulate dtype."""

    op: Op

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_opcheck_of_parameters_in_xs_dtype(self, dtype, device):
        """Their gradients are in the accumulate dtype all the same."""
        x = make_x((2, 9, 6, 7), dtype, device=device)
        for overload, args in self.op.opcheck(x, parameters_like(self.op, x)):
            torch.library.opcheck(overload, args, test_utils=OPCHECKS[dtype])


class MaximumContract:
    """For ops that take a maximum over channels: who gets its gradient, and what NaN and inf do."""

    op: Op

    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    def test_ties_go_to_the_lowest_channel(self, layout, device):
        x = torch.randint(0, 2, (2, 37, 6, 9), dtype=torch.float64)
        x = make_x(x.shape, torch.float64, layout, device).copy_(x)
        parameters = parameters_like(self.op, x)
        assert_right(self.op, x, parameters, output_gradient(self.op, x, parameters))

    @pytest.mark.parametrize("layout", ["nchw", "channels_last"])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_special_values(self, value, dtype, layout, device):
        """A pixel is spoilt exactly where eager's is, forward and backward."""
        x = make_x((2, 21, 17, 18), dtype, layout, device)
        x[0, [3, 7], 8, 9] = value
        x[1, 20, 0, 17] = value
        parameters = parameters_like(self.op, x)
        gradient = output_gradient(self.op, x, parameters)
        ours, (dx, *_) = run(self.op.fused, x, parameters, gradient)
        truth, (truth_dx, *_) = run(self.op.reference, x, parameters, gradient)
        for got, expected in ((ours, truth), (dx, truth_dx)):
            assert torch.equal(got.isnan(), expected.isnan())
            assert torch.equal(got.isinf(), expected.isinf())

    def test_nan_gradient_goes_to_the_first_nan(self, device):
        """As torch.max says: the first NaN is the maximum, whatever comes before it."""
        x = make_x((1, 40, 1, 3), torch.float64, device=device)
        x[0, [5, 9], 0, 1] = float("nan")
        dx = run(ak.functional.channel_pool, x, [], torch.tensor([[[[0.0] * 3], [[1.0] * 3]]]))[1][
            0
        ]
        assert dx[0, :, 0, 1].nonzero().flatten().tolist() == [5]
