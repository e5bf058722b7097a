"""Tail: batch norm, gate, residual and ReLU as one, beside the eager block's end."""

import copy
import pickle

import eager_gates
import pytest
import torch
from accuracy import FORWARD, GRADIENT, assert_accurate
from contract import make_x
from test_channel_gates import EagerChannelSE, EagerEfficientChannelAttention, EagerGSoP
from test_squeeze_gate import Maps
from torch import nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import attn_kernels as ak

C = 32


class EagerTail(nn.Module):
    def __init__(self, norm, gate, activation):
        super().__init__()
        self.norm, self.gate, self.activation = norm, gate, activation

    def forward(self, z, residual=None):
        y = z if self.norm is None else self.norm(z)
        y = y if self.gate is None else self.gate(y)
        y = y if residual is None else y + residual
        return torch.relu(y) if self.activation == "relu" else y


GATES = {
    "None": (lambda: None, lambda: None),
    "SE": (lambda: ak.SqueezeExcite(C), lambda: eager_gates.SqueezeExcite(C)),
    "ECA": (lambda: ak.EfficientChannelAttention(C), lambda: EagerEfficientChannelAttention(3)),
    "cSE": (lambda: ak.ChannelSE(C), lambda: EagerChannelSE(C)),
    "GSoP": (lambda: ak.GSoP(C, 4), lambda: EagerGSoP(C, 4)),
    "spatial": (ak.SpatialGate, eager_gates.SpatialGate),
    "CBAM": (lambda: ak.CBAM(C, 4), lambda: eager_gates.CBAM(C, 4)),
}
NORMS = {
    "None": lambda: None,
    "batch norm": lambda: nn.BatchNorm2d(C),
    "plain average": lambda: nn.BatchNorm2d(C, momentum=None),
    "no weight": lambda: nn.BatchNorm2d(C, affine=False),
    "no running statistics": lambda: nn.BatchNorm2d(C, track_running_stats=False),
}
gates = pytest.mark.parametrize("gate", GATES)


def twins(gate="CBAM", norm="batch norm", activation="relu", dtype=torch.float64):
    """Ours and the eager one in the same state; half of the norm's weights are negative."""
    torch.manual_seed(3)
    tails = []
    for make_gate, cls in zip(GATES[gate], (ak.nn.Tail, EagerTail), strict=True):
        of_norm = NORMS[norm]()
        if of_norm is not None and of_norm.affine:
            nn.init.uniform_(of_norm.weight, -2, 2)
            nn.init.normal_(of_norm.bias)
        tails.append(cls(of_norm, make_gate(), activation).to(dtype))
    ours, eager = tails
    eager.load_state_dict(ours.state_dict(), strict=True)
    return ours, eager


def maps(count=2, shape=(3, C, 9, 7), dtype=torch.float64, layout="nchw"):
    return [make_x(shape, dtype, layout) for _ in range(count)]


def trained(tail, z, residual, dy, around=lambda tail: tail):
    """y, the gradients of z, the residual and the parameters, and the buffers after the step."""
    z, residual = (t if t is None else t.detach().clone().requires_grad_() for t in (z, residual))
    inputs = [t for t in (z, residual, *tail.parameters()) if t is not None]
    y = around(tail)(z, residual)
    gradients = torch.autograd.grad(y, inputs, dy, allow_unused=True)
    return [y.detach(), *gradients, *(b.clone() for b in tail.buffers())]


def assert_twins(ours, eager, residual=True, steps=1, **options):
    for _ in range(steps):
        z, r, dy = maps(3)
        results = [trained(tail, z, r if residual else None, dy) for tail in (ours, eager)]
        torch.testing.assert_close(*results, rtol=1e-8, atol=1e-9)


@gates
@pytest.mark.parametrize("norm", NORMS)
def test_as_eager(norm, gate):
    """Three training steps, with the running statistics after each; then eval mode."""
    ours, eager = twins(gate, norm)
    assert "unfused" not in repr(ours)
    assert_twins(ours, eager, steps=3)
    ours.eval(), eager.eval()
    assert_twins(ours, eager)


@gates
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_endings(activation, residual, gate):
    assert_twins(*twins(gate, activation=activation), residual=residual)


@gates
def test_keys(gate):
    ours, eager = twins(gate)
    assert list(ours.state_dict()) == list(eager.state_dict())
    assert all(key.startswith(("norm.", "gate.")) for key in ours.state_dict())


@gates
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("mean", [0, 10])
def test_accuracy(mean, layout, dtype, gate):
    """Against the float64 truth, judged by eager's error. Gradients of scales and shifts are sums
    of dy z and dy, whose signs cancel, with a large mean of z more so.
    """
    ours, eager = twins(gate, dtype=dtype)
    z, residual, dy = maps(3, (4, C, 14, 10), dtype, layout)
    z = z + mean
    truth = copy.deepcopy(eager).double()
    exact = trained(truth, *(t.double() for t in (z, residual, dy)))
    found, plain = (trained(tail, z, residual, dy) for tail in (ours, eager))
    size = (dy.double() * z.double()).abs().sum((0, 2, 3)).max().item()
    names = ["y", "dz", "dr", *dict(ours.named_parameters()), *dict(ours.named_buffers())]
    for i, (name, a, b, c) in enumerate(zip(names, found, plain, exact, strict=True)):
        if a is None or not a.is_floating_point():
            continue
        assert a.dtype == b.dtype
        assert_accurate(name, a, b, c, GRADIENT if i else FORWARD, size if i > 2 else 0.0)


def test_large_means_lose_no_digits():
    """Where the mean of squares less the square of the mean has none left in float32. The means
    themselves are known to half a unit, 5e-4, of their deviation.
    """
    ours, eager = twins("SE", dtype=torch.float32)
    z = maps(1, dtype=torch.float32)[0] + 1e4
    y, expected = ours(z), copy.deepcopy(eager).double()(z.double())
    assert (y - expected).abs().max() < 0.01
    variance = ours.norm.running_var.sub(0.9).div(0.1).double()
    torch.testing.assert_close(variance, z.double().var((0, 2, 3)), rtol=5e-4, atol=0)


@pytest.mark.parametrize("gate", ["SE", "spatial", "CBAM", "GSoP"])
def test_second_derivatives(gate):
    ours, eager = twins(gate)
    z, residual = maps(2, (2, C, 4, 3))

    def found(tail):
        inputs = [z.clone().requires_grad_(), residual.clone().requires_grad_()]
        y = tail(*inputs)
        inputs += tail.parameters()
        first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(t.sin().sum() for t in first), inputs, allow_unused=True)

    torch.testing.assert_close(found(ours), found(eager), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@gates
def test_forward_mode(gate, training):
    """And, with running statistics frozen or none, every transform of torch.func."""
    z, residual, tangent = maps(3, (2, C, 4, 3))

    def tangents(tail):
        with forward_ad.dual_level():
            y = tail(forward_ad.make_dual(z, tangent), residual)
            return [t.clone() for t in forward_ad.unpack_dual(y)]

    torch.testing.assert_close(*(tangents(tail.train(training)) for tail in twins(gate)))
    if gate != "GSoP":
        tails = twins(gate, "no running statistics")
        jvps = (torch.func.jvp(tail, (z, residual), (tangent, tangent)) for tail in tails)
        torch.testing.assert_close(*jvps)


def saved_maps(tail, z, residual):
    """How many maps autograd keeps between forward and backward, z and the residual aside."""
    kept = {}
    given = {t.untyped_storage().data_ptr() for t in (z, residual)}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t) is None or t, lambda t: t
    ):
        tail(z, residual)
    return sum(t.nbytes for at, t in kept.items() if at not in given) / z.nbytes


@pytest.mark.parametrize("gate", ["None", "SE", "ECA", "cSE", "spatial", "CBAM"])
def test_memory(gate):
    """Beside z only y, and what is small: at least one map less than eager."""
    ours, eager = twins(gate, dtype=torch.float32)
    given = [t.requires_grad_() for t in maps(2, (2, C, 40, 40), torch.float32)]
    per_pixel = 3 / C if gate in ("spatial", "CBAM") else 0
    assert saved_maps(ours, *given) < 1 + per_pixel + 0.1
    if gate != "None":
        assert saved_maps(ours, *given) <= saved_maps(eager, *given) - 0.98 + per_pixel


@pytest.mark.parametrize(
    ("gate", "made"),
    [
        ("SE", ["affine_gate_sums", "squeeze_backward"]),
        # dr, and z's gradient through the gate, to which the last pass adds the statistics' part
        ("CBAM", ["spatial_gate_backward", "spatial_gate_backward"]),
    ],
)
def test_no_second_gradient_of_z(gate, made):
    ours, _ = twins(gate)
    z, residual = (t.requires_grad_() for t in maps(2, (2, C, 20, 20)))
    with Maps(z) as forward:
        y = ours(z, residual)
    assert len(forward.made) == 1
    dy = torch.randn_like(y)
    with Maps(z) as backward:
        torch.autograd.grad(y, [z, residual, *ours.parameters()], dy)
    assert backward.made == [f"attn_kernels.{op}.default" for op in made]


def test_frozen_norm_reads_z_only_for_the_gate():
    """A spatial gate has no statistics of its own: no squeeze at all."""
    ours, _ = twins("spatial")
    z, residual = (t.requires_grad_() for t in maps(2, (2, C, 20, 20)))
    with Maps(z) as forward:
        ours.eval()(z, residual)
    assert forward.made == ["attn_kernels.spatial_gate.default"]


UNFUSED = {
    "gate of another kind": (
        lambda tail: setattr(tail, "gate", nn.Sequential(nn.Conv2d(C, C, 1), nn.Sigmoid())),
        "gate is a Sequential",
    ),
    "norm of another kind": (
        lambda tail: setattr(tail, "norm", nn.GroupNorm(4, C)),
        "norm is a GroupNorm",
    ),
    "hook on the norm": (
        lambda tail: tail.norm.register_forward_hook(lambda m, i, y: y * 1.5),
        "norm has hooks",
    ),
    "hook on the gate": (
        lambda tail: tail.gate.register_forward_hook(lambda m, i, y: y * 1.5),
        "gate has hooks",
    ),
    "norm without a count": (
        lambda tail: setattr(tail.norm, "num_batches_tracked", None),
        "norm lacks a buffer",
    ),
    "hook within the gate": (
        lambda tail: tail.gate.sa.conv.register_forward_hook(lambda m, i, y: y * 1.5),
        "gate unfused: sa.conv has hooks",
    ),
}


@pytest.mark.parametrize("change", UNFUSED)
def test_unfused(change):
    """The same result, and the repr says why."""
    both, (alter, words) = twins("CBAM"), UNFUSED[change]
    for tail in both:
        torch.manual_seed(2)
        alter(tail)
        tail.double()
    assert f"activation='relu', unfused: {words}" in repr(both[0])
    assert_twins(*both, steps=2)


ENDING = {
    "SpatialSE": lambda: ak.SpatialSE(C),
    "SpatialChannelSE": lambda: ak.SpatialChannelSE(C),
    "BAM": lambda: ak.BAM(C, 4),
    "CoordinateAttention": lambda: ak.CoordinateAttention(C),
}


@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("gate", ENDING)
def test_gates_that_take_residual_and_activation_with_them(gate, activation):
    """Behind a norm that is called; a gate that has a hook is called, too, and so is its child."""
    for norm in (None, nn.BatchNorm2d(C)):
        ours = ak.nn.Tail(norm, ENDING[gate](), activation).double()
        eager = EagerTail(copy.deepcopy(norm), copy.deepcopy(ours.gate), activation).double()
        assert ("unfused: norm stands before" in repr(ours)) == (norm is not None)
        for with_residual in (True, False):
            assert_twins(ours, eager, with_residual)
        z, residual = maps()
        with Maps(z) as forward:
            copy.deepcopy(ours)(z, residual)
        assert not any("add" in name or "relu" in name for name in forward.made)
        for tail in (ours, eager):
            list(tail.gate.modules())[-1].register_forward_hook(lambda m, i, y: y * 1.5)
        assert_twins(ours, eager)
        for tail in (ours, eager):
            tail.gate.register_forward_hook(lambda m, i, y: y * 1.5)
        assert f"gate is a {gate}" in repr(ours)
        assert_twins(ours, eager)


class OwnGate(ak.SqueezeExcite):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_gate_that_is_derived():
    ours, eager = twins("SE")
    torch.manual_seed(2)
    ours.gate = eager.gate = OwnGate(C).double()
    assert "unfused: gate is a OwnGate" in repr(ours)
    assert_twins(ours, eager)


@pytest.mark.parametrize(
    "change",
    [
        lambda conv: setattr(conv, "bias", nn.Parameter(torch.ones(4, dtype=torch.float64))),
        lambda conv: setattr(conv, "stride", (2, 2)),
        lambda conv: conv.register_forward_hook(lambda m, i, y: y * 1.5),
    ],
)
def test_gsop_with_another_first_convolution(change):
    ours, eager = twins("GSoP")
    for tail in (ours, eager):
        change(tail.gate.conv_for_DR)
    assert "unfused: gate conv_for_DR" in repr(ours)
    assert_twins(ours, eager)


@pytest.mark.parametrize("gate", ["None", "SE", "GSoP", "spatial", "CBAM"])
def test_compiled(gate):
    ours, eager = twins(gate)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    z, residual, dy = maps(3)
    results = trained(ours, z, residual, dy, lambda tail: compiled)
    torch.testing.assert_close(results, trained(eager, z, residual, dy))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("gate", ["SE", "CBAM"])
def test_exported(gate, training):
    ours, eager = (tail.train(training) for tail in twins(gate))
    z, residual, dy = maps(3)
    with torch.no_grad():
        state = copy.deepcopy(ours.state_dict())
        exported = torch.export.export(copy.deepcopy(ours), (z, residual)).module()
    gate_op = "spatial_gate" if gate == "CBAM" else "affine_gate"
    assert f"attn_kernels.{gate_op}.default" in str(exported.graph)
    exported.load_state_dict(state)
    torch.testing.assert_close(
        trained(exported, z, residual, dy)[:3], trained(eager, z, residual, dy)[:3]
    )


@gates
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("of_residual", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(of_residual, given, gate):
    """Eager's dtypes, also for a residual of another than z."""
    ours, eager = twins(gate, dtype=torch.float32)
    z, residual = maps(2, dtype=given)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = (tail(z, residual.to(of_residual)) for tail in (ours, eager))
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=0.03, atol=0.06)  # bfloat16's two digits


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant):
    results = []
    for tail in twins("CBAM"):
        torch.manual_seed(1)
        z, residual = (t.requires_grad_() for t in maps())
        y = checkpoint(tail, z, residual, use_reentrant=use_reentrant)
        y.sin().sum().backward()
        results.append([y, z.grad, residual.grad, *(p.grad for p in tail.parameters())])
    torch.testing.assert_close(*results)


@gates
def test_copies_traces_and_inference(gate):
    ours, eager = (tail.eval() for tail in twins(gate))
    z, residual = maps()
    with torch.inference_mode():
        y = ours(z, residual)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(z, residual), y)
    if gate != "GSoP":  # whose own forward looks at dtypes
        torch.testing.assert_close(torch.fx.symbolic_trace(ours)(z, residual), y)
    with ak.use_backend("reference"):
        torch.testing.assert_close(ours(z, residual), y)
        assert_twins(ours.train(), eager.train())


@gates
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_few_images(gate, training):
    """One, whose values are its batch; none, which leaves the running statistics alone."""
    ours, eager = (tail.train(training) for tail in twins(gate))
    z, residual, dy = maps(3, (1, C, 5, 4))
    torch.testing.assert_close(*(trained(tail, z, residual, dy) for tail in (ours, eager)))
    before = copy.deepcopy(ours.norm.state_dict())
    z, residual, dy = maps(3, (0, C, 5, 4))
    if gate != "GSoP":  # whose inner batch norms PyTorch averages over nothing
        y, *gradients = trained(ours, z, residual, dy)[: 3 + len(list(ours.parameters()))]
        assert y.shape == z.shape
        assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)
        assert torch.equal(ours.norm.running_var, before["running_var"])


def test_a_norm_of_weight_zero():
    """As residual branches are often initialised."""
    both = twins("CBAM")
    for tail in both:
        nn.init.zeros_(tail.norm.weight)
    z, residual, dy = maps(3)
    y, expected = (trained(tail, z, residual, dy)[:3] for tail in both)
    torch.testing.assert_close(y, expected)


Z = torch.randn(2, 4, 6, 6)
BAD = [
    (TypeError, "norm: expected a module or None, got str", lambda: ak.nn.Tail("bn", None)),
    (TypeError, "gate: expected a module or None, got type", lambda: ak.nn.Tail(None, ak.CBAM)),
    (
        ValueError,
        "activation: expected one of identity, relu, got 'gelu'",
        lambda: ak.nn.Tail(None, None, "gelu"),
    ),
    (TypeError, "z: expected a torch.Tensor, got int", lambda: ak.nn.Tail(None, None)(3)),
    (ValueError, "z: expected a 4-dimensional", lambda: ak.nn.Tail(None, None)(Z[0])),
    (
        ValueError,
        r"z: expected 6 channels \(as norm\), got 4",
        lambda: ak.nn.Tail(nn.BatchNorm2d(6), None)(Z),
    ),
    (
        ValueError,
        r"residual: expected shape \(2, 4, 6, 6\), got \(1, 4, 6, 6\)",
        lambda: ak.nn.Tail(nn.BatchNorm2d(4), None)(Z, Z[:1]),
    ),
    (
        ValueError,
        r"residual: expected shape \(2, 4, 6, 6\), got \(2, 1, 6, 6\)",
        lambda: ak.nn.Tail(nn.GroupNorm(2, 4), None)(Z, Z[:, :1]),
    ),
    (TypeError, "residual: expected one of .*got torch.int64", lambda: call(residual=Z.long())),
    (TypeError, "residual: expected a torch.Tensor, got float", lambda: call(residual=1.0)),
    (
        ValueError,
        "more than one value per channel when training",
        lambda: call(z=Z[:1, :, :1, :1], residual=None),
    ),
    (
        RuntimeError,  # PyTorch's words, from the layer that it does not fit
        "shapes",
        lambda: ak.nn.Tail(nn.BatchNorm2d(4), ak.SqueezeExcite(6))(Z),
    ),
]


def call(z=Z, residual=Z):
    return ak.nn.Tail(nn.BatchNorm2d(4), ak.SqueezeExcite(4))(z, residual)


@pytest.mark.parametrize(("error", "message", "given"), BAD, ids=[b[1] for b in BAD])
def test_bad_input(error, message, given):
    with pytest.raises(error, match=message):
        given()
