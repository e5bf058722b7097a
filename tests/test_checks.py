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


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("spatial_gate", (X[0], WEIGHT, None)),
        ("spatial_gate", (X, WEIGHT[:, :1], None)),
        ("spatial_gate", (X, WEIGHT.double(), None)),
        ("spatial_gate", (X.long(), WEIGHT, None)),
        ("spatial_gate_backward", (X, X, WEIGHT, X, X)),
        ("spatial_gate_backward", (X[:1], X, WEIGHT, X[:, :1].contiguous(), X[:, :2].contiguous())),
        (
            "spatial_attention_backward",
            (X[:1], X, WEIGHT, X[:, :1].contiguous(), X[:, :2].contiguous()),
        ),
        ("channel_pool_backward", (X[:1], X)),
    ],
)
def test_direct_callers_of_the_ops_are_stopped_too(name, arguments):
    with pytest.raises(RuntimeError, match="attn_kernels"):
        getattr(torch.ops.attn_kernels, name)(*arguments)
