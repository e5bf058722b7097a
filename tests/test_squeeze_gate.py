"""squeeze_gate: any mix between statistics and a gate, and one pass for x's gradient."""

import copy

import pytest
import torch
from contract import Contract, Op, make_x
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import attn_kernels as ak

squeeze_gate = ak.functional.squeeze_gate
ALL = ("mean", "var", "max", "min")


def eager_gate(x, mix, squeeze=("mean",), *, residual=None, activation="identity"):
    """As a user would write it. A maximum goes to the first pixel."""
    pixels = x.flatten(2)
    found = {
        "mean": lambda: pixels.mean(2),
        "var": lambda: pixels.var(2, correction=0),
        "max": lambda: pixels.max(2).values,
        "min": lambda: pixels.min(2).values,
    }
    factors = mix(*(found[name]()[:, :, None, None] for name in squeeze))
    scale, shift = factors if isinstance(factors, tuple) else (factors, None)
    y = x * scale
    if shift is not None:
        y = y + shift
    if residual is not None:
        y = y + residual
    return torch.relu(y) if activation == "relu" else y


class Mix(nn.Module):
    """Scale and shift from all four statistics."""

    def __init__(self, channels):
        super().__init__()
        self.scale, self.shift = (nn.Conv2d(channels, channels, 1) for _ in range(2))

    def forward(self, mean, var, high, low):
        return torch.sigmoid(self.scale(mean - low)), self.shift(torch.tanh(high + var))


def of_parameters(gate):
    """The gate as a function of x and its mix's parameters."""

    def function(x, weight, bias):
        weight, bias = (p.to(x.dtype)[:, None, None] for p in (weight, bias))

        def mix(mean, var, high, low):
            return torch.sigmoid(weight * mean + high), torch.tanh(bias * var - low)

        return gate(x, mix, ALL)

    return function


def opcheck(x, parameters):
    ops = torch.ops.attn_kernels
    given = (torch.ones(x.shape[:2], dtype=ak.ops.acc_dtype(x)), None, x, "relu")
    return [
        (ops.squeeze_carried.default, (x, 6)),
        (ops.affine_gate_carried.default, (x, *given, *ak.ops.nothing(x))),
    ]


def term_sizes(x, parameters, dy):
    """Size of the terms in the parameters' gradients, whose signs cancel."""
    if x.numel() == 0:
        return [0.0, 0.0]
    var, mean = torch.var_mean(x, (2, 3), correction=0)
    of_scale, of_shift = (t.abs().sum((2, 3)) for t in (dy * x, dy))
    return [(of_scale * mean.abs()).sum(0).max(), (of_shift * var).sum(0).max()]


@pytest.mark.filterwarnings("ignore:var.*degrees of freedom:UserWarning")  # eager, empty batch
class TestSqueezeGate(Contract):
    op = Op(
        "squeeze",
        of_parameters(squeeze_gate),
        of_parameters(ak.reference.squeeze_gate),
        of_parameters(eager_gate),
        lambda channels, dtype, device: list(torch.randn(2, channels, dtype=dtype, device=device)),
        opcheck,
        saved_bytes_per_pixel=0,
        saved_bytes_per_channel=2 * (8 + 8 + 16 * 4),  # argmax, argmin; most of it is the mix's own
        scales=term_sizes,
        forward_ops=("squeeze_carried", "affine_gate_carried"),
        backward_ops=("affine_gate_sums", "squeeze_backward"),
    )


def gated(gate, mix, x, residual=None, statistics=ALL, activation="relu"):
    """y, and the gradients of x, the residual and the mix's parameters, as far as they are asked
    for."""
    inputs = [t for t in (x, residual, *mix.parameters()) if t is not None and t.requires_grad]
    y = gate(x, mix, statistics, residual=residual, activation=activation)
    return [y, *torch.autograd.grad(y.sin().sum(), inputs, allow_unused=True)]


def operands(device="cpu", shape=(2, 6, 5, 7)):
    """x, residual and a mix, in float64."""
    x, residual = (make_x(shape, torch.float64, device=device) for _ in range(2))
    mix = Mix(shape[1]).double().to(device)
    return x.requires_grad_(), residual.requires_grad_(), mix


@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_as_eager(layout, activation, device):
    """First and second derivatives, with a residual."""
    x, residual, mix = operands(device)
    if layout == "channels_last":
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()

    def found(gate):
        y = gate(x, mix, ALL, residual=residual, activation=activation)
        inputs = [x, residual, *mix.parameters()]
        first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(t.square().sum() for t in first), inputs)
        return [y, *first, *second]

    torch.testing.assert_close(found(squeeze_gate), found(eager_gate))
    torch.testing.assert_close(found(ak.reference.squeeze_gate), found(eager_gate))


class Maps(TorchDispatchMode):
    """How many maps are made: results that own at least as many bytes as x."""

    def __init__(self, x):
        super().__init__()
        self.bytes, self.seen, self.made = x.nbytes, set(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {self._storage(t) for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        results = function(*args, **(kwargs or {}))
        for t in filter(torch.is_tensor, tree_leaves(results)):
            if t.untyped_storage().nbytes() >= self.bytes and self._storage(t) not in given:
                self.made.append(str(function))
        return results

    @staticmethod
    def _storage(t):
        return t.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("activation", "made"),
    [
        ("identity", ["attn_kernels.squeeze_backward.default"]),
        # What the ReLU lets through is a map, which the residual's gradient is anyway.
        (
            "relu",
            ["attn_kernels.affine_gate_sums.default", "attn_kernels.squeeze_backward.default"],
        ),
    ],
)
def test_no_second_gradient_of_x(activation, made):
    """All that autograd moves: the forward makes y, the backward one map for x."""
    x, residual, mix = operands(shape=(2, 6, 20, 20))
    with Maps(x) as forward:
        y = squeeze_gate(x, mix, ALL, residual=residual, activation=activation)
    assert forward.made == ["attn_kernels.affine_gate_carried.default"]
    dy = torch.randn_like(y)
    with Maps(x) as backward:
        torch.autograd.grad(y, [x, residual, *mix.parameters()], dy)
    assert backward.made == made

    # The counter sees what is to be avoided.
    leaf = x.detach().requires_grad_()
    y = ak.functional.affine_gate(leaf, *mix(*ak.functional.squeeze(leaf, ALL)))
    with Maps(x) as backward:
        torch.autograd.grad(y, leaf, dy)
    assert len(backward.made) == 3


def test_frozen_x():
    """Nothing but sums over x for the mix's parameters."""
    x, _, mix = operands()
    x.requires_grad_(False)
    expected = gated(eager_gate, mix, x, activation="identity")
    torch.testing.assert_close(gated(squeeze_gate, mix, x, activation="identity"), expected)
    y = squeeze_gate(x, mix, ALL)
    dy = torch.randn_like(y)
    with Maps(x) as backward:
        torch.autograd.grad(y, list(mix.parameters()), dy)
    assert backward.made == []


@pytest.mark.parametrize(
    ("mix", "statistics"),
    [
        (lambda mean, var, high, low: torch.sigmoid(high), ALL),
        (lambda mean, high: torch.ones_like(mean[:1]), ("mean", "max")),
        (lambda mean: mean.detach(), ("mean",)),
        (lambda low, var: (low.detach(), var), ("min", "var")),
        (lambda var: (var[:1], var[1:]), ("var",)),
    ],
    ids=["one used", "none used", "none differentiated", "shift differentiated", "broadcast"],
)
def test_statistics_that_mix_does_not_use(mix, statistics):
    x, residual, _ = operands()

    def found(gate):
        y = gate(x, mix, statistics, residual=residual, activation="relu")
        return [y, *torch.autograd.grad(y.sin().sum(), [x, residual])]

    torch.testing.assert_close(found(squeeze_gate), found(eager_gate))


def test_frozen_mix():
    x, residual, mix = operands()
    mix.requires_grad_(False)
    expected = gated(eager_gate, mix, x, residual)
    torch.testing.assert_close(gated(squeeze_gate, mix, x, residual), expected)


def test_residual_is_x():
    x, _, mix = operands()

    def found(gate):
        return gated(lambda x, *args, **kwargs: gate(x, *args, **kwargs | {"residual": x}), mix, x)

    torch.testing.assert_close(found(squeeze_gate), found(eager_gate))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant):
    """Around the gate, and of the mix alone."""
    x, residual, mix = operands()
    expected = gated(eager_gate, mix, x, residual)

    def around(x, mix, statistics, *, residual, activation):
        def gate(x, residual):
            return squeeze_gate(x, mix, statistics, residual=residual, activation=activation)

        return checkpoint(gate, x, residual, use_reentrant=use_reentrant)

    def within(x, mix, statistics, **options):
        own = lambda *values: checkpoint(mix, *values, use_reentrant=use_reentrant)  # noqa: E731
        return squeeze_gate(x, own, statistics, **options)

    # A reentrant checkpoint has no torch.autograd.grad.
    for gate in (around, within):
        for t in (x, residual, *mix.parameters()):
            t.grad = None
        y = gate(x, mix, ALL, residual=residual, activation="relu")
        y.sin().sum().backward()
        found = [y, x.grad, residual.grad, *(p.grad for p in mix.parameters())]
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    """The mix's convolutions are narrowed; the result has the dtype of eager's product."""
    x = make_x((2, 6, 5, 7), dtype).requires_grad_()
    mix = Mix(6)
    with torch.autocast("cpu", torch.bfloat16):
        ours, truth = (
            gated(gate, mix, x, activation="identity") for gate in (squeeze_gate, eager_gate)
        )
    for a, b in zip(ours, truth, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)  # bfloat16's two digits


def test_compiled_with_residual():
    x, residual, mix = operands()
    torch._dynamo.reset()
    compiled = torch.compile(squeeze_gate, fullgraph=True, backend="aot_eager")
    expected = gated(eager_gate, mix, x, residual)
    torch.testing.assert_close(gated(compiled, mix, x, residual), expected)


def test_backward_of_a_batch_of_gradients():
    """As torch.autograd.functional.jacobian asks with vectorize."""
    x, residual, mix = operands(shape=(1, 2, 2, 3))

    def found(gate):
        y = gate(x, mix, ALL, residual=residual, activation="relu")
        basis = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
        return torch.autograd.grad(y, [x, residual], basis, is_grads_batched=True)

    torch.testing.assert_close(found(squeeze_gate), found(eager_gate))


def test_one_token_for_many_gates():
    """A vmap over the mix alone: x's gradient is the sum over all of its gates."""
    x, *_ = operands()
    weights = torch.randn(3, 6, 1, 1, dtype=torch.float64).requires_grad_()

    def found(gate):
        y = torch.vmap(lambda w: gate(x, lambda mean: torch.sigmoid(w * mean)))(weights)
        return [y, *torch.autograd.grad(y.sin().sum(), [x, weights])]

    torch.testing.assert_close(found(squeeze_gate), found(eager_gate))


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = Mix(6).double()

    def forward(self, x, residual):
        return squeeze_gate(x, self.mix, ALL, residual=residual, activation="relu")


def test_fx():
    """The statistics, the mix and the gate, as three pieces of one graph."""
    gate, (x, residual, _) = Gate(), operands()
    traced = torch.fx.symbolic_trace(gate)
    targets = [node.target for node in traced.graph.nodes]
    assert targets.index(ak.functional.squeeze) < targets.index(ak.functional.affine_gate)
    assert "mix.scale" in targets
    torch.testing.assert_close(traced(x, residual), gate(x, residual))


def test_distributed(tmp_path):
    """DistributedDataParallel finds every gradient."""
    x, residual, _ = operands()
    gate = Gate()
    init = f"file://{tmp_path}/init"
    torch.distributed.init_process_group("gloo", init_method=init, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(gate))
        wrapped(x, residual).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    expected = torch.autograd.grad(gate(x, residual).sum(), list(gate.parameters()))
    torch.testing.assert_close([p.grad for p in wrapped.parameters()], list(expected))


X = torch.randn(2, 4, 6, 6)
BAD = [
    (TypeError, "x: expected a torch.Tensor, got int", (1, torch.sigmoid), {}),
    (TypeError, "mix: expected a callable, got Tensor", (X, X), {}),
    (TypeError, "squeeze: expected a tuple of names, got 'max'", (X, torch.sigmoid, "max"), {}),
    (ValueError, "squeeze: expected some of mean, .*'mode'", (X, torch.sigmoid, ("mode",)), {}),
    (TypeError, "positional argument", (X, lambda mean: mean, ("mean", "max")), {}),
    (TypeError, "mix's scale: expected a torch.Tensor, got float", (X, lambda mean: 1.0), {}),
    (TypeError, "mix: expected it to return .*got 3", (X, lambda mean: (mean,) * 3), {}),
    (ValueError, r"mix's scale: expected shape \(2 or 1, 4, 1, 1\)", (X, lambda m: m[:, :1]), {}),
    (ValueError, r"mix's shift: .*got \(2, 4\)", (X, lambda m: (m, m.flatten(1))), {}),
    (TypeError, "mix's scale: expected torch.float32", (X, lambda mean: mean.double()), {}),
    (TypeError, "mix's scale: .*got torch.int64", (X, lambda mean: mean.long()), {}),
    (ValueError, "residual: expected shape", (X, torch.sigmoid), {"residual": X[:1]}),
    (ValueError, "activation: expected one of", (X, torch.sigmoid), {"activation": "gelu"}),
]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("error", "message", "given", "options"), BAD, ids=[b[1] for b in BAD])
def test_bad_input(error, message, given, options, requires_grad):
    given = [t.clone().requires_grad_(requires_grad) if t is X else t for t in given]
    with pytest.raises(error, match=message):
        squeeze_gate(*given, **options)


def test_batch_norm_of_one_value():
    """PyTorch's own words."""
    mix = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Unflatten(1, (4, 1, 1)))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        squeeze_gate(X[:1], mix)
