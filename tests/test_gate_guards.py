"""The ops of GAM's channel gate and scale_gate guard every operand themselves.

A direct caller with a wrong dtype, shape or rank is told so, and empty tensors harm nobody.
"""

import pytest
import torch

from attn_kernels import ops

N, C, R, H, W = 2, 4, 3, 5, 6
MAP, HIDDEN, ACTIVATION = (N, C, H, W), (N, R, H, W), "identity"
MLP = {"w1": (R, C), "b1": (R,), "w2": (C, R), "b2": (C,)}
AFFINE = {"scale": (C,), "shift": (C,)}
OPERANDS = {
    "gam_channel_gate": {"x": MAP} | MLP,
    "gam_channel_gate_backward": {"dy": MAP, "x": MAP, "hidden": HIDDEN}
    | {name: MLP[name] for name in ("w1", "w2", "b2")},
    "scale_gate": {"x": MAP, "a": MAP} | AFFINE,
    "scale_gate_backward": {"dy": MAP, "x": MAP, "a": MAP} | AFFINE,
}
CASES = [(op, operand) for op, operands in OPERANDS.items() for operand in operands]
WRONG = {
    "float64": lambda t: t.double(),
    "float16": lambda t: t.half(),
    "int32": lambda t: t.int(),
    "one too many": lambda t: torch.cat([t, t[:1]]),
    "one too few": lambda t: t[1:],
    "last dimension longer": lambda t: torch.cat([t, t], -1),
    "last dimension empty": lambda t: t[..., :0],
    "a dimension more": lambda t: t[None],
    "a dimension less": lambda t: t[0],
    "flat and empty": lambda t: t.flatten()[:0],
}
# Where x is the only map, these make another x, as good as the first.
ANOTHER_X = ("float16", "one too many", "one too few", "last dimension longer")
ANOTHER_X += ("last dimension empty",)
REFUSED = [
    (*case, wrong)
    for case in CASES
    for wrong in WRONG
    if case != ("gam_channel_gate", "x") or wrong not in ANOTHER_X
]


def operands_of(op: str) -> dict[str, torch.Tensor]:
    return {name: torch.randn(shape) for name, shape in OPERANDS[op].items()}


def call(op: str, operands: dict[str, torch.Tensor]):
    activation = (ACTIVATION,) if op.startswith("gam") else ()
    return getattr(ops, op)(*operands.values(), *activation)


@pytest.mark.parametrize(("op", "operand", "wrong"), REFUSED)
def test_a_wrong_operand_is_refused(op, operand, wrong):
    operands = operands_of(op)
    call(op, operands)
    operands[operand] = WRONG[wrong](operands[operand])
    with pytest.raises(RuntimeError, match="attn_kernels"):
        call(op, operands)


@pytest.mark.parametrize(("op", "operand"), CASES, ids=str)
def test_a_parameter_of_other_strides_is_refused(op, operand):
    operands = operands_of(op)
    spread = torch.stack([operands[operand]] * 2, -1)[..., 0]
    operands[operand] = spread
    if spread.dim() == 4:
        call(op, operands)  # maps may have any strides
    else:
        with pytest.raises(RuntimeError, match="contiguous"):
            call(op, operands)


@pytest.mark.parametrize("op", OPERANDS)
@pytest.mark.parametrize("kind", ["to_sparse", "to_mkldnn"])
def test_an_x_of_another_kind_is_refused(op, kind):
    operands = operands_of(op)
    operands["x"] = getattr(operands["x"], kind)()
    with pytest.raises((RuntimeError, NotImplementedError)):
        call(op, operands)


def with_maps_of(op: str, n: int, h: int, w: int) -> dict[str, torch.Tensor]:
    return {
        name: t.new_empty((n, t.shape[1], h, w)) if t.dim() == 4 else t
        for name, t in operands_of(op).items()
    }


@pytest.mark.parametrize("op", OPERANDS)
@pytest.mark.parametrize("size", [(H, W), (1, 1)], ids=str)
def test_maps_without_images(op, size):
    """Nothing comes of nothing: gradients of parameters are zeros."""
    for result in torch.utils._pytree.tree_leaves(call(op, with_maps_of(op, 0, *size))):
        assert torch.equal(result, torch.zeros_like(result))


@pytest.mark.parametrize("op", OPERANDS)
@pytest.mark.parametrize(("n", "h", "w"), [(N, 0, W), (N, H, 0), (0, 0, 0)])
def test_maps_without_pixels_are_refused(op, n, h, w):
    with pytest.raises(RuntimeError, match="x must have C, H and W of at least 1"):
        call(op, with_maps_of(op, n, h, w))


@pytest.mark.parametrize("op", OPERANDS)
@pytest.mark.parametrize("without", ["channels", "hidden units"])
def test_without_channels_or_hidden_units(op, without):
    """No channels: nothing to gate. No hidden units: no gate."""
    sizes = (0, R) if without == "channels" else (C, 0)
    renamed = {C: sizes[0], R: sizes[1]}
    is_map = lambda t: t.dim() == 4  # noqa: E731
    operands = {
        name: t.new_empty((N, renamed[t.shape[1]], H, W))
        if is_map(t)
        else t.new_empty([renamed[size] for size in t.shape])
        for name, t in operands_of(op).items()
    }
    if without == "channels" or op.startswith("gam"):
        with pytest.raises(RuntimeError, match="attn_kernels"):
            call(op, operands)
    else:
        call(op, operands)
