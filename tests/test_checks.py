"""Bad input: one line that names the argument, what was expected and what came."""

import pytest
import torch

import attn_kernels as ak

X = torch.randn(2, 4, 6, 6)
WEIGHT = torch.randn(1, 2, 3, 3)
GATES = [ak.functional.spatial_gate, ak.functional.spatial_attention]

BAD = [
    (TypeError, "x: expected a torch.Tensor, got list", ([1.0], WEIGHT)),
    (TypeError, "x: .*float32.*got torch.int64", (X.long(), WEIGHT)),
    (TypeError, "x: .*got torch.complex64", (X.to(torch.complex64), WEIGHT)),
    (ValueError, r"x: expected a 4-dimensional \(N, C, H, W\).*got \(4, 6, 6\)", (X[0], WEIGHT)),
    (ValueError, r"x: expected C, H and W of at least 1, got \(2, 0, 6, 6\)", (X[:, :0], WEIGHT)),
    (ValueError, r"x: expected C, H and W of at least 1, got \(2, 4, 6, 0\)", (X[..., :0], WEIGHT)),
    (TypeError, "weight: .*got torch.int32", (X, WEIGHT.int())),
    (TypeError, "weight: expected a torch.Tensor, got NoneType", (X, None)),
    (
        ValueError,
        r"weight: expected shape \(1, 2, K, K\), got \(1, 3, 3, 3\)",
        (X, torch.ones(1, 3, 3, 3)),
    ),
    (
        ValueError,
        r"weight: expected shape \(1, 2, K, K\), got \(1, 2, 3, 5\)",
        (X, torch.ones(1, 2, 3, 5)),
    ),
    (ValueError, r"weight: .*got \(2, 3, 3\)", (X, torch.ones(2, 3, 3))),
    (ValueError, "weight: .*odd and from 1 to 15, got 4", (X, torch.ones(1, 2, 4, 4))),
    (ValueError, "weight: .*odd and from 1 to 15, got 16", (X, torch.ones(1, 2, 16, 16))),
    (ValueError, "weight: .*odd and from 1 to 15, got 17", (X, torch.ones(1, 2, 17, 17))),
    (
        ValueError,
        r"weight: expected a tensor on cpu \(as x\), got one on meta",
        (X, WEIGHT.to("meta")),
    ),
    (ValueError, r"bias: expected shape \(1,\), got \(2,\)", (X, WEIGHT, torch.ones(2))),
    (TypeError, "bias: .*got torch.bool", (X, WEIGHT, torch.ones(1, dtype=torch.bool))),
    (ValueError, "bias: expected a tensor on cpu", (X, WEIGHT, torch.ones(1, device="meta"))),
]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("error", "message", "arguments"), BAD, ids=[m for _, m, _ in BAD])
def test_spatial(gate, error, message, arguments):
    with pytest.raises(error, match=message):
        gate(*arguments)


@pytest.mark.parametrize("bad", [X[0], X.long()])
def test_channel_pool(bad):
    with pytest.raises((TypeError, ValueError), match="x: expected"):
        ak.functional.channel_pool(bad)


PLAIN = (None, None, None, "identity")
MAP, POOLED, VIEW = torch.randn(2, 1, 6, 6), torch.randn(2, 2, 6, 6), torch.randn(2, 4)
SAVED = (X, WEIGHT, MAP, POOLED)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("spatial_gate", (X[0], WEIGHT, None, *PLAIN)),
        ("spatial_gate", (X[:, :0], WEIGHT, None, *PLAIN)),
        ("spatial_gate", (X[..., :0], WEIGHT, None, *PLAIN)),
        ("spatial_gate", (X.long(), WEIGHT, None, *PLAIN)),
        ("spatial_gate", (X, WEIGHT[:, :1], None, *PLAIN)),
        ("spatial_gate", (X, WEIGHT.double(), None, *PLAIN)),
        ("spatial_gate", (X, torch.empty(0), None, *PLAIN)),
        ("spatial_gate", (X, WEIGHT.transpose(2, 3), None, *PLAIN)),
        ("spatial_gate", (X, torch.ones(1, 2, 4, 4), None, *PLAIN)),
        ("spatial_gate", (X, torch.ones(1, 2, 16, 16), None, *PLAIN)),
        ("spatial_gate", (X, torch.ones(1, 2, 17, 17), None, *PLAIN)),
        ("spatial_gate", (X, torch.ones(3, 2, 3, 3), None, *PLAIN)),
        ("spatial_gate", (X, torch.ones(0, 2, 3, 3), None, *PLAIN)),
        ("spatial_gate", (X, WEIGHT, torch.empty(0), *PLAIN)),
        ("spatial_gate", (X, WEIGHT, torch.ones(1).double(), *PLAIN)),
        ("spatial_gate", (X, WEIGHT, torch.ones(2), *PLAIN)),
        ("spatial_gate", (X, WEIGHT, None, VIEW, None, None, "relu")),
        ("spatial_gate", (X, WEIGHT, None, None, VIEW, None, "relu")),
        ("spatial_gate", (X, WEIGHT, None, VIEW[0], VIEW[0], None, "relu")),
        ("spatial_gate", (X, WEIGHT, None, VIEW.double(), VIEW, None, "relu")),
        ("spatial_gate", (X, WEIGHT, None, VIEW, VIEW.t().contiguous().t(), None, "relu")),
        ("spatial_gate", (X, WEIGHT, None, None, None, X[:1], "relu")),
        ("spatial_gate", (X, WEIGHT, None, None, None, X.double(), "relu")),
        ("spatial_gate", (X, WEIGHT, None, None, None, None, "gelu")),
        ("spatial_gate_backward", (X, X, WEIGHT, X, X, None, None, None)),
        ("spatial_gate_backward", (X[:1], *SAVED, None, None, None)),
        ("spatial_gate_backward", (X.double(), *SAVED, None, None, None)),
        ("spatial_gate_backward", (X, *SAVED, None, VIEW, None)),
        ("spatial_gate_backward", (X, *SAVED, VIEW, VIEW[:, :3].contiguous(), None)),
        ("spatial_gate_backward", (X, *SAVED, None, None, X[:1])),
        ("spatial_gate_backward", (X, *SAVED, None, None, X.double())),
        ("spatial_gate_backward", (X, X, WEIGHT, MAP.double(), POOLED, None, None, None)),
        ("spatial_gate_backward", (X, X, WEIGHT, MAP, POOLED.reshape(2, 1, 12, 6), *[None] * 3)),
        ("spatial_attention", (X, WEIGHT, torch.empty(0), None, None)),
        ("spatial_attention", (X, WEIGHT, None, VIEW, None)),
        ("spatial_attention_backward", (X[:1], *SAVED, None, None)),
        ("spatial_attention_backward", (MAP, *SAVED, VIEW, VIEW[:1])),
        ("channel_pool", (X, VIEW, VIEW[0])),
        ("channel_pool", (X[:, :0], None, None)),
        ("channel_pool_backward", (X[:1], X, None, None)),
        ("channel_pool_backward", (POOLED, X, VIEW, None)),
    ],
)
def test_direct_callers_of_the_ops_are_stopped_too(name, arguments):
    with pytest.raises(RuntimeError, match="attn_kernels"):
        getattr(torch.ops.attn_kernels, name)(*arguments)
