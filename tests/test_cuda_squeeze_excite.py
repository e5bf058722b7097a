"""squeeze_excite: the CUDA kernels on threads of the CPU, beside the formula."""

import itertools

import pytest
import test_squeeze_excite as plain
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import DTYPES
from cuda_on_cpu import build, check
from planes import LAYOUTS, acc_dtype, assert_same

from attn_kernels.reference.squeeze_excite import backward, forward

KINDS = list(itertools.product(plain.ACTIVATIONS, plain.GATES))
NUMBERS = {
    name: i for names in (("identity", "relu", "silu"), plain.GATES) for i, name in enumerate(names)
}
NAN, INF = float("nan"), float("inf")
# One pixel; planes in vectors that straddle; units shared out among threads; planes in parts.
SHAPES = [(2, 6, 1, 1), (3, 16, 5, 7), (1, 300, 3, 3), (1, 2, 80, 90)]


@pytest.fixture(scope="module")
def module():
    return build.load_module(build.module_path())


class ExciteKernels(check.Kernels):
    """The ops with the arguments and results of their schemas."""

    def squeeze_excite(self, x, w1, b1, w2, b2, *kind):
        acc = {"dtype": acc_dtype(x)}
        outputs = [torch.empty_like(x), *(torch.empty(x.shape[:2], **acc) for _ in range(2))]
        outputs.append(torch.empty(x.shape[0], w1.shape[0], **acc))
        numbers = torch.tensor([NUMBERS[name] for name in kind])
        return self.run("squeeze_excite", x, [x, w1, b1, w2, b2, numbers], outputs)

    def squeeze_excite_backward(self, dy, x, w1, w2, scale, mean, hidden, *kind):
        r, c = w1.shape[:2]
        shapes = [w1.shape, (r,), w2.shape, (c,)]
        outputs = [torch.empty_like(x), *(torch.empty(s, dtype=acc_dtype(x)) for s in shapes)]
        numbers = torch.tensor([NUMBERS[name] for name in kind])
        inputs = [dy, x, w1, w2, scale, mean, hidden, numbers]
        return self.run("squeeze_excite_backward", x, inputs, outputs)


def assert_forward_right(ops, given, kind):
    """Every result beside the formula's; returns those."""
    found, eager = ops.squeeze_excite(*given, *kind), forward(*given, *kind)
    truth = forward(*(t if t is None else t.double() for t in given), *kind)
    for name, *results in zip(("y", "scale", "mean", "hidden"), found, eager, truth, strict=True):
        # Sums of values of size 1.
        size = {"mean": 1 / given[0][0, 0].numel() ** 0.5, "hidden": 1.0}.get(name, 0.0)
        assert_accurate(name, *results, FORWARD, size)
    return eager


def assert_right(ops, given, kind):
    """Forward, with biases and without, and backward."""
    dy, x, (w1, b1, w2, b2) = given
    assert_forward_right(ops, (x, w1, None, w2, None), kind)
    saved = assert_forward_right(ops, (x, w1, b1, w2, b2), kind)[1:]
    found = ops.squeeze_excite_backward(dy, x, w1, w2, *saved, *kind)
    eager = backward(dy, x, w1, w2, *saved, *kind)
    wide = [t.double() for t in (dy, x, w1, w2, *saved)]
    truth = backward(*wide, *kind)
    sums = (wide[0] * wide[1]).abs().sum((2, 3)).sum(0).max()
    for i, results in enumerate(zip(found, eager, truth, strict=True)):
        assert_accurate(f"gradient {i}", *results, GRADIENT, sums if i else 0.0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_result(module, shape, dtype, layout):
    given = plain.operands(shape, dtype, layout)
    assert_right(ExciteKernels(module), given, ("relu", "sigmoid"))


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_every_kind(module, kind):
    assert_right(ExciteKernels(module), plain.operands((3, 20, 4, 6)), kind)


@pytest.mark.parametrize(("c", "r"), [(700, 200), (40, 3500)])
def test_many_weights(module, c, r):
    """Each layer in a launch of its own, with several blocks for each image."""
    x = plain.operands((2, c, 1, 1))[1]
    w1, w2 = torch.randn(r, c, 1, 1) / c**0.5, torch.randn(c, r, 1, 1) / r**0.5
    assert_forward_right(ExciteKernels(module), (x, w1, None, w2, torch.randn(c)), KINDS[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", [("relu", "hardsigmoid"), ("silu", "sigmoid")], ids="-".join)
def test_special_values(module, kind, value, layout):
    """An image is spoilt exactly where the formula's is, forward and backward."""
    dy, x, own = plain.operands((2, 8, 5, 7), layout=layout)
    x[0, 3, 2, 3] = value
    ops = ExciteKernels(module)
    found, truth = ops.squeeze_excite(x, *own, *kind), forward(x, *own, *kind)
    given = (dy, x, own[0], own[2], *truth[1:], *kind)
    for ours, expected in zip(
        (*found, *ops.squeeze_excite_backward(*given)), (*truth, *backward(*given)), strict=True
    ):
        assert torch.equal(ours.isnan(), expected.isnan())
        assert torch.equal(ours.isinf(), expected.isinf())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_in_any_order_of_blocks(module, layout):
    dy, x, (w1, b1, w2, b2) = plain.operands((3, 12, 9, 7), layout=layout)

    def run(order, alive):
        ops = ExciteKernels(module, order=order, alive=alive)
        y, *saved = ops.squeeze_excite(x, w1, b1, w2, b2, "silu", "sigmoid")
        return y, *saved, *ops.squeeze_excite_backward(dy, x, w1, w2, *saved, "silu", "sigmoid")

    expected = run("forward", 1)
    for order, alive in [("forward", 3), ("reverse", 2), ("shuffled", 3)]:
        assert_same(run(order, alive), expected)


@pytest.fixture(scope="module")
def host_ops():
    torch.ops.load_library(str(build.host_library()))
    return torch.ops.attn_kernels_on_threads


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_host_side(host_ops, dtype, layout):
    """With a gradient of other strides; an empty batch."""
    dy, x, own = plain.operands((2, 8, 3, 4), dtype, layout)
    dy = dy.transpose(2, 3).contiguous().transpose(2, 3)
    assert_right(host_ops, (dy, x, own), ("relu", "hardsigmoid"))
    w1, _, w2, _ = own
    y, *saved = host_ops.squeeze_excite(x[:0], *own, "relu", "sigmoid")
    gradients = host_ops.squeeze_excite_backward(y, x[:0], w1, w2, *saved, "relu", "sigmoid")
    assert y.shape == gradients[0].shape == (0, 8, 3, 4)
    assert [g.shape for g in gradients[1:]] == [p.shape for p in own]
    assert not any(g.any() for g in gradients[1:])


@pytest.mark.parametrize(("op", "arguments"), plain.REFUSED, ids=range(len(plain.REFUSED)))
def test_host_side_refuses_what_the_cpu_refuses(host_ops, op, arguments):
    name = str(op).partition(".")[2]
    with pytest.raises(RuntimeError, match="attn_kernels"):
        getattr(host_ops, name)(*arguments)
