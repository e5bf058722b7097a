"""GAM's modules beside the published one: same parameters, same results, same training."""

import copy
import pickle

import pytest
import torch
from contract import make_x
from gam import EagerGAM, channel_shuffle, eager_gate
from torch import nn

import attn_kernels as ak

VARIANTS = {
    "plain": {},
    "grouped": {"groups": 4},
    "grouped and shuffled": {"groups": 4, "shuffle": True},
    "one map": {"out_channels": 1},
}
C = 32


def pair(variant="plain", activation="identity", dtype=torch.float64, rate=4):
    """Our module and the published one in the same state, not the initial one."""
    options = VARIANTS[variant]
    out_channels, groups = options.get("out_channels", C), options.get("groups", 1)
    shuffle = options.get("shuffle", False)
    eager = EagerGAM(C, out_channels, rate, groups, shuffle, activation)
    for norm in (eager.spatial_attention[1], eager.spatial_attention[4]):
        nn.init.normal_(norm.running_mean, std=0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    ours = ak.GAMAttention(C, out_channels, rate, groups, shuffle, activation)
    ours.load_state_dict(eager.state_dict(), strict=True)
    eager.load_state_dict(ours.state_dict(), strict=True)
    return ours.to(dtype), eager.to(dtype)


def train_step(module, x, gradient):
    """Output, the gradient of x and of every parameter, and the state after it."""
    x = x.detach().clone().requires_grad_()
    module.zero_grad()
    y = module(x)
    y.backward(gradient)
    gradients = {name: p.grad for name, p in module.named_parameters()}
    return y.detach(), x.grad, gradients, module.state_dict()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("activation", ["identity", "sigmoid"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_as_published(variant, activation, training):
    ours, eager = pair(variant, activation)
    x = make_x((3, C, 9, 10), torch.float64)
    dy = torch.randn_like(x)
    for module in (ours, eager):
        module.train(training)
    for _ in range(2):  # a second step sees the running statistics of the first
        results = [train_step(module, x, dy) for module in (ours, eager)]
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dtypes_and_layouts(dtype, layout):
    ours, eager = pair("grouped and shuffled", dtype=dtype)
    x = make_x((2, C, 9, 10), dtype, layout)
    for module in (ours, eager):
        module.eval()
    truth = copy.deepcopy(eager).double()(x.double())
    y = ours(x)
    assert y.dtype == dtype
    error, allowed = (t.double().sub(truth).norm() for t in (y, eager(x)))
    assert error <= 2 * allowed
    assert y.is_contiguous(
        memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )


def test_batch_statistics_in_bfloat16():
    """They are kept in float32, as nn.BatchNorm2d does."""
    ours, eager = pair(dtype=torch.float32)
    x = make_x((4, C, 9, 10), torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y, z = ours(x), eager(x)
    assert y.dtype == z.dtype
    torch.testing.assert_close(y, z, rtol=0.05, atol=0.05)
    mine, theirs = (dict(m.named_buffers()) for m in (ours, eager))
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("momentum", [0.3, 0.0, None])
def test_momentum(momentum):
    ours, eager = pair()
    batches = torch.randn(3, 2, C, 5, 6, dtype=torch.float64)
    for module in (ours, eager):
        module.spatial_attention[4].momentum = momentum
        module.spatial_attention[4].num_batches_tracked.fill_(0)
        for x in batches:
            module(x)
    torch.testing.assert_close(ours.state_dict(), eager.state_dict(), rtol=1e-9, atol=1e-10)


def test_untracked_statistics():
    ours, eager = pair()
    x = make_x((2, C, 5, 6), torch.float64)
    for module in (ours, eager):
        norm = module.spatial_attention[4]
        norm.running_mean = norm.running_var = None
        module.eval()
    torch.testing.assert_close(ours(x), eager(x))


def test_one_value_per_channel_cannot_be_normalised():
    module = ak.GAMAttention(C)
    module.spatial_attention[1].eval()
    with pytest.raises(ValueError, match="more than one value per channel"):
        module(torch.randn(1, C, 1, 1))


def test_another_normalisation():
    """What convert_sync_batchnorm and the like put there is used as it is."""
    ours, eager = pair("grouped and shuffled")
    for module in (ours, eager):
        module.spatial_attention[4] = nn.GroupNorm(4, C).double()
    x = make_x((2, C, 5, 6), torch.float64)
    torch.testing.assert_close(ours(x), eager(x))


def test_the_shuffle_is_that_of_the_map():
    """Shuffling the map is not shuffling x, nor leaving it: the variants differ as they should."""
    ours, _ = pair("grouped and shuffled")
    plain = ak.GAMAttention(C, groups=4).double()
    plain.load_state_dict(ours.state_dict())
    x = make_x((2, C, 5, 6), torch.float64)
    gated = eager_gate(x, *ours.eval().channel_attention.parameters())
    map = plain.eval()(x) / gated
    torch.testing.assert_close(ours(x), gated * channel_shuffle(map, 4))
    assert not torch.allclose(ours(x), plain(x))


def test_gradients_of_gradients():
    ours, eager = pair("grouped and shuffled", "sigmoid")
    x = make_x((2, C, 4, 4), torch.float64)
    found = []
    for module in (ours, eager):
        t = x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(module(t).square().sum(), t, create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), [t, *module.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_compile(training):
    ours, eager = pair("grouped and shuffled", dtype=torch.float32)
    x, dy = torch.randn(2, 2, C, 6, 7)
    for module in (ours, eager):
        module.train(training)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    x.requires_grad_()
    y = compiled(x)
    y.backward(dy)
    torch.testing.assert_close(y, eager(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-5)


def test_export():
    ours, _ = pair("grouped and shuffled", dtype=torch.float32)
    x = torch.randn(2, C, 6, 7)
    exported = torch.export.export(ours.eval(), (x,), strict=False)
    graph = str(exported.graph)
    assert "attn_kernels.gam_channel_gate.default" in graph
    assert "attn_kernels.scale_gate.default" in graph
    torch.testing.assert_close(exported.module()(x), ours(x))


def test_channel_gate_module():
    gate = ak.GAMChannelGate(C, rate=2, activation="sigmoid")
    assert list(gate.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert gate[0].weight.shape == (C // 2, C)
    x = torch.randn(2, C, 5, 6)
    parameters = gate[0].weight, gate[0].bias, gate[2].weight, gate[2].bias
    torch.testing.assert_close(gate(x), eager_gate(x, *parameters, "sigmoid"))


def test_same_initial_weights_from_the_same_seed():
    torch.manual_seed(3)
    ours = ak.GAMAttention(C)
    torch.manual_seed(3)
    torch.testing.assert_close(ours.state_dict(), EagerGAM(C, C).state_dict(), rtol=0, atol=0)


def test_copies():
    ours, _ = pair("grouped and shuffled", dtype=torch.float32)
    x = torch.randn(2, C, 5, 6)
    ours.eval()
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(x), ours(x))


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"out_channels: expected in_channels \(32\) or 1, got 16", {"out_channels": 16}),
        ("rate: expected 1 to 32.*got 33", {"rate": 33}),
        ("rate: .*got 0", {"rate": 0}),
        (r"groups: expected a divisor of in_channels \(32\), got 5", {"groups": 5}),
        (r"groups: expected a divisor of in_channels // rate \(8\), got 16", {"groups": 16}),
        (r"groups: .*of out_channels \(1\), got 4", {"groups": 4, "out_channels": 1}),
        ("activation: expected one of identity, sigmoid, got 'relu'", {"activation": "relu"}),
    ],
)
def test_bad_arguments(message, arguments):
    with pytest.raises(ValueError, match=message):
        ak.GAMAttention(C, **arguments)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("in_channels: expected an int, got '8'", {"in_channels": "8"}),
        ("in_channels: expected an int, got None", {"in_channels": None}),
        ("out_channels: expected an int, got 32.0", {"out_channels": 32.0}),
        ("rate: expected an int, got 2.0", {"rate": 2.0}),
        ("rate: expected an int, got True", {"rate": True}),
        ("groups: expected an int, got 4.0", {"groups": 4.0}),
        ("channel_shuffle: expected True or False, got 1", {"channel_shuffle": 1}),
    ],
)
def test_arguments_of_another_type(message, arguments):
    with pytest.raises(TypeError, match=message):
        ak.GAMAttention(**{"in_channels": C} | arguments)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "channels: expected an int, got '8'", ("8",)),
        (TypeError, "rate: expected an int, got 2.0", (8, 2.0)),
        (ValueError, "channels: expected at least 1, got 0", (0,)),
        (ValueError, "activation: .*got None", (8, 4, None)),
    ],
)
def test_bad_arguments_of_the_channel_gate(error, message, arguments):
    with pytest.raises(error, match=message):
        ak.GAMChannelGate(*arguments)


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_empty_batch(training, tracked):
    """Nothing is learnt from it: statistics stay as they are, gradients are zero."""
    ours, eager = pair("grouped and shuffled")
    x = torch.randn(0, C, 6, 7, dtype=torch.float64)
    for module in (ours, eager):
        module.train(training)
        if not tracked:
            module.spatial_attention[4] = nn.BatchNorm2d(C, track_running_stats=False).double()
    results = [train_step(module, x, torch.ones_like(x)) for module in (ours, eager)]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert all(t.isfinite().all() for t in ours.state_dict().values())
