"""The Triton kernels of scale_gate against float64 truth, forward and backward."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton_checks import (
    DEVICE,
    DTYPES,
    INTERPRETED,
    LAYOUTS,
    RUNS_KERNELS,
    Judge,
    Margins,
    embed,
    laid_out,
    poisoned_outputs,
    run_under_interpreter,
)

from triton_ops import scale_gate as op

RESULTS = ("y", "dx", "da", "d_scale", "d_shift")
TOLERANCES = {
    name: 2.0 if name == "y" else 3.0 for name in RESULTS
}  # multiples of eager's own error
SHAPES = ((2, 37, 5, 7), (1, 1, 1, 1), (3, 64, 7, 7), (1, 130, 3, 11), (2, 3, 29, 31))

pytestmark = [
    pytest.mark.usefixtures(poisoned_outputs.__name__),
    # numpy's word on how the interpreter of triton 3.6 reads a loop's bound
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]


class TestUnderTheInterpreter:
    __test__ = not INTERPRETED

    def test_all_kernels(self):
        run_under_interpreter(__file__)


@dataclasses.dataclass
class Case:
    x: torch.Tensor
    a: torch.Tensor
    vectors: list[torch.Tensor]  # scale and shift, float32
    dy: torch.Tensor

    @staticmethod
    def draw(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Case:
        random = torch.Generator().manual_seed(seed)
        x, a, dy = (torch.randn(shape, generator=random).to(dtype) for _ in range(3))
        return Case(x, a, [torch.randn(shape[1], generator=random) for _ in range(2)], dy)


def by_autograd(case: Case, dtype: torch.dtype, absolute: bool = False) -> list[torch.Tensor]:
    """RESULTS in `dtype`; with `absolute`, the size of the terms they sum, a sigmoid and its slope
    being under 1.
    """

    def prepare(tensor):
        return (tensor.abs() if absolute else tensor).to(dtype)

    x, a, scale, shift = inputs = [
        prepare(t).requires_grad_() for t in (case.x, case.a, *case.vectors)
    ]
    logit = a * scale[:, None, None] + shift[:, None, None]
    y = x * (1 + logit) if absolute else x * torch.sigmoid(logit)
    return [y.detach(), *torch.autograd.grad(y, inputs, prepare(case.dy))]


def ours(
    case: Case,
    layout: str = "contiguous",
    a_layout: str = "contiguous",
    dy_layout: str = "contiguous",
):
    x, a, dy = laid_out(case.x, layout), laid_out(case.a, a_layout), laid_out(case.dy, dy_layout)
    vectors = [embed(v) for v in case.vectors]
    return [op.scale_gate(x, a, *vectors), *op.scale_gate_backward(dy, x, a, *vectors)]


def judge(case: Case, results: list[torch.Tensor]) -> None:
    references = [by_autograd(case, dtype) for dtype in (case.x.dtype, torch.float64)]
    magnitude = by_autograd(case, torch.float64, absolute=True)
    judged = Judge(case.x.dtype, TOLERANCES)
    for name, *compared in zip(RESULTS, results, *references, magnitude, strict=True):
        judged.check(name, *compared)


class TestScaleGate:
    __test__ = RUNS_KERNELS

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_values(self, dtype, shape):
        case = Case.draw(shape, dtype)
        results = ours(case)
        judge(case, results)
        assert [result.dtype for result in results] == [dtype] * 3 + [torch.float32] * 2

    @pytest.mark.parametrize("dy_layout", LAYOUTS)
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, layout, dy_layout):
        case = Case.draw((2, 18, 3, 4), torch.float32)
        results = ours(case, layout, dy_layout, dy_layout)
        judge(case, results)
        expected = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        assert all(result.is_contiguous(memory_format=expected) for result in results[:3])

    def test_expanded_gradient(self):
        """What y.sum().backward() hands over: one element with strides of zero."""
        case = Case.draw((2, 18, 3, 4), torch.float32)
        case.dy = torch.full((1,), 0.75).expand(case.x.shape)
        x, a, vectors = embed(case.x), embed(case.a), [embed(v) for v in case.vectors]
        dy = case.dy[:1, :1, :1, :1].to(DEVICE).expand(case.x.shape)
        judge(case, [op.scale_gate(x, a, *vectors), *op.scale_gate_backward(dy, x, a, *vectors)])

    def test_operands_of_two_dtypes(self):
        case = Case.draw((2, 18, 3, 4), torch.float32)
        case.a = case.a.half()
        results = ours(case)
        assert results[2].dtype == torch.float16
        wide = Case(case.x, case.a.float(), case.vectors, case.dy)
        results[2] = ours(wide)[2]
        judge(wide, results)

    @settings(
        max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(data=st.data())
    def test_any_shape(self, data):
        sizes = st.integers(0, 3), st.integers(1, 70), st.integers(1, 11), st.integers(1, 11)
        shape = tuple(data.draw(size) for size in sizes)
        layouts = [data.draw(st.sampled_from(LAYOUTS)) for _ in range(3)]
        case = Case.draw(shape, data.draw(st.sampled_from(DTYPES)), seed=sum(shape))
        judge(case, ours(case, *layouts))

    def test_several_tiles_in_a_split(self, monkeypatch):
        """Two splits of six and five tiles, for each of two tiles of channels: with the shipped
        number of programs only large maps reach the loop over a split's tiles.
        """
        monkeypatch.setattr(op, "BACKWARD_PROGRAMS", 4)
        case = Case.draw((3, 5, 29, 31), torch.float32)
        judge(case, ours(case))

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    def test_nothing_is_written_outside(self, monkeypatch, layout):
        margins = Margins(monkeypatch, op, "new_map", "new_partials")
        case = Case.draw((2, 37, 5, 7), torch.float32)
        judge(case, ours(case, layout))
        margins.check()

    def test_same_bits_every_time(self):
        case = Case.draw((3, 40, 19, 17), torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(ours(case), ours(case), strict=True))

    @pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's, of exp(1e30)
    def test_extremes(self):
        """A gate that is shut or open without overflow, and NaN where x or a has it."""
        case = Case.draw((1, 2, 1, 3), torch.float32)
        case.a[0, :, 0] = torch.tensor([-1e30, 1e30, torch.nan])
        case.vectors = [torch.ones(2), torch.zeros(2)]
        y = ours(case)[0].cpu()
        torch.testing.assert_close(y, case.x * torch.sigmoid(case.a), equal_nan=True)


@triton.jit
def lost_vector(ptr, index, SIZE: tl.constexpr):
    return tl.zeros_like(index).to(tl.float32)


@triton.jit
def lost_last_pixels(tile, SIZE: tl.constexpr, INDEX: tl.constexpr):
    return tl.minimum(tile.to(INDEX) * SIZE + tl.arange(0, SIZE), 64)


MUTATIONS = {"load_vector": lost_vector, "tile_range": lost_last_pixels}


class TestTheComparisonHasTeeth:
    __test__ = INTERPRETED  # a compiled kernel keeps the functions it was compiled with

    @pytest.mark.parametrize("function", MUTATIONS)
    def test_mutation_is_seen(self, monkeypatch, function):
        case = Case.draw((2, 37, 5, 7), torch.float32)
        monkeypatch.setattr(op, function, MUTATIONS[function])
        results = ours(case)
        with pytest.raises(AssertionError, match=r"off by|L2 error|not finite"):
            judge(case, results)

    @pytest.mark.parametrize("name", RESULTS)
    def test_one_lost_term_is_seen(self, name):
        """Each result in turn, short of one part in ten thousand."""
        case = Case.draw((2, 37, 5, 7), torch.float32)
        results = ours(case)
        judge(case, results)
        results[RESULTS.index(name)] *= 1 - 1e-4
        with pytest.raises(AssertionError, match=r"off by|L2 error"):
            judge(case, results)
