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


VECTOR = torch.randn(4)
OPERANDS = {
    "channel_pool": {"x": X, "scale": VECTOR, "shift": VECTOR},
    "spatial_attention": {"x": X, "weight": WEIGHT, "bias": VECTOR[:1], "scale": VECTOR},
    "spatial_gate": {"x": X, "weight": WEIGHT, "bias": VECTOR[:1], "shift": VECTOR, "residual": X},
    "gam_channel_gate": {
        "x": X,
        "w1": torch.randn(3, 4),
        "b1": VECTOR[:3],
        "w2": torch.randn(4, 3),
        "b2": VECTOR,
    },
    "scale_gate": {"x": X, "a": X, "scale": VECTOR, "shift": VECTOR},
    "squeeze_excite": {
        "x": X,
        "w1": torch.randn(3, 4, 1, 1),
        "b1": VECTOR[:3],
        "w2": torch.randn(4, 3, 1, 1),
        "b2": VECTOR,
    },
}
KINDS = {
    "sparse_coo": lambda t: t.to_sparse(),
    "mkldnn": lambda t: t.to_mkldnn(),
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
    "nested, jagged": lambda t: torch.nested.nested_tensor([t, t], layout=torch.jagged),
    "quint8": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.quint8),
    "meta": lambda t: t.to("meta"),
}


@pytest.mark.filterwarnings("ignore")  # all of these kinds are said to be experimental, or old
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("function", "name"), [(f, name) for f, operands in OPERANDS.items() for name in operands]
)
def test_other_kinds_of_tensors(function, name, kind):
    """One line that names the argument and the kind, from every argument of every function."""
    operands = dict(OPERANDS[function])
    if kind == "meta" and name == "x":
        name, expected = list(operands)[1], "cpu"  # all others are elsewhere than x
        operands["x"] = X.to("meta")
    else:
        operands[name], expected = KINDS[kind](operands[name]), kind.split(",")[0]
    with pytest.raises((TypeError, ValueError), match=f"^{name}: .*got .*{expected}[^\\n]*$"):
        getattr(ak.functional, function)(**operands)


BAD_ENDS = [
    (ValueError, r"scale: expected shape \(4,\) or \(2, 4\), got \(3,\)", {"scale": VECTOR[:3]}),
    (ValueError, r"shift: .*got \(1, 4\)", {"shift": torch.ones(1, 4)}),
    (ValueError, r"shift: .*got \(2, 4, 1, 1\)", {"shift": torch.ones(2, 4, 1, 1)}),
    (TypeError, "scale: .*got torch.int64", {"scale": VECTOR.long()}),
    (TypeError, "shift: expected a torch.Tensor, got float", {"shift": 1.0}),
    (ValueError, "scale: expected a tensor on cpu", {"scale": VECTOR.to("meta")}),
    (
        ValueError,
        r"residual: expected shape \(2, 4, 6, 6\), got \(1, 4, 6, 6\)",
        {"residual": X[:1]},
    ),
    (TypeError, "residual: expected torch.float32 .*got torch.float64", {"residual": X.double()}),
    (ValueError, "residual: expected a tensor on cpu", {"residual": X.to("meta")}),
    (TypeError, "residual: expected a torch.Tensor, got bool", {"residual": True}),
    (ValueError, "activation: expected one of identity, relu, got 'gelu'", {"activation": "gelu"}),
    (ValueError, "activation: .*got None", {"activation": None}),
]


@pytest.mark.parametrize(("error", "message", "ends"), BAD_ENDS, ids=[m for _, m, _ in BAD_ENDS])
def test_what_stands_around_a_gate(error, message, ends):
    with pytest.raises(error, match=message):
        ak.functional.spatial_gate(X, WEIGHT, **ends)


def test_only_the_residual_wants_a_gradient():
    residual = torch.randn_like(X).requires_grad_()
    y = ak.functional.spatial_gate(X, WEIGHT, residual=residual, activation="relu")
    y.sum().backward()
    assert torch.equal(residual.grad, (y > 0).float())


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


OPS = {
    "channel_pool": (X, VIEW, VIEW),
    "channel_pool_backward": (POOLED, X, VIEW, VIEW),
    "spatial_attention": (X, WEIGHT, VECTOR[:1], VIEW, VIEW),
    "spatial_attention_backward": (MAP, *SAVED, VIEW, VIEW),
    "spatial_gate": (X, WEIGHT, VECTOR[:1], VIEW, VIEW, X, "relu"),
    "spatial_gate_backward": (X, *SAVED, VIEW, VIEW, X),
    "gam_channel_gate": (*OPERANDS["gam_channel_gate"].values(), "identity"),
    "gam_channel_gate_backward": (
        *(X, X, torch.randn(2, 3, 6, 6)),
        *(OPERANDS["gam_channel_gate"][name] for name in ("w1", "w2", "b2")),
        "identity",
    ),
    "scale_gate": tuple(OPERANDS["scale_gate"].values()),
    "scale_gate_backward": (X, *OPERANDS["scale_gate"].values()),
    "squeeze_excite": (*OPERANDS["squeeze_excite"].values(), "relu", "sigmoid"),
    "squeeze_excite_backward": (
        *(X, X, OPERANDS["squeeze_excite"]["w1"], OPERANDS["squeeze_excite"]["w2"]),
        *(torch.ones(2, 4), torch.ones(2, 4), torch.ones(2, 3), "relu", "sigmoid"),
    ),
}


@pytest.mark.parametrize(
    ("name", "i"),
    [(name, i) for name, args in OPS.items() for i, t in enumerate(args) if not isinstance(t, str)],
)
def test_ops_refuse_operands_on_another_device(name, i):
    """Where one is a meta tensor the fake kernel is asked; the CPU kernel itself stops, too."""
    op = getattr(torch.ops.attn_kernels, name).default
    op(*OPS[name])
    arguments = [t.to("meta") if j == i else t for j, t in enumerate(OPS[name])]
    with pytest.raises(RuntimeError, match="attn_kernels: expected all tensors on one device"):
        op(*arguments)
    cpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    with pytest.raises(RuntimeError, match=r"attn_kernels: .* device"):
        op.redispatch(cpu, *arguments)
