"""Children that are not plain: the modules beside eager twins to which the same was done."""

import copy

import pytest
import torch
import torch.ao.nn.qat
import torch.distributed
from gam import EagerGAM
from test_modules import EagerSpatialAttention, EagerSpatialGate
from torch import nn
from torch.ao.quantization import get_default_qat_qconfig
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations, parametrize, prune
from torch.testing._internal.two_tensor import TwoTensor

import attn_kernels as ak

C = 16


class EagerChannelGate(nn.Sequential):
    """Named as ours, with the published code's arithmetic."""

    def __init__(self):
        super().__init__(nn.Linear(C, C // 4), nn.ReLU(), nn.Linear(C // 4, C))

    def forward(self, x):
        gate = super().forward(x.permute(0, 2, 3, 1).flatten(1, 2))
        return x * gate.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class EagerChannelPerceptron(nn.Module):
    """Squeeze and excitation: fc2(act(fc1(mean))), under the given names."""

    def __init__(self, names, hidden, bias, activation):
        super().__init__()
        self.names, self.activation = names, activation
        for name, (there, back) in zip(names, ((C, hidden), (hidden, C)), strict=True):
            self.add_module(name, nn.Conv2d(there, back, 1, bias=bias))

    def forward(self, x):
        first, second = (self.get_submodule(name) for name in self.names)
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(second(self.activation(first(mean))))


FC, CSE = ("fc1", "fc2"), ("Conv_Squeeze", "Conv_Excitation")

# Module, eager twin, the children that a fused gate reads.
MODULES = {
    "SpatialAttention": (
        lambda: ak.SpatialAttention(5, bias=True),
        lambda: EagerSpatialAttention(5, bias=True),
        ["conv1"],
    ),
    "SpatialGate": (
        lambda: ak.SpatialGate(5, bias=True),
        lambda: EagerSpatialGate(5, bias=True),
        ["conv1"],
    ),
    "GAMChannelGate": (lambda: ak.GAMChannelGate(C), EagerChannelGate, ["0", "1", "2"]),
    "GAMAttention": (
        lambda: ak.GAMAttention(C, groups=2, channel_shuffle=True),
        lambda: EagerGAM(C, C, groups=2, shuffle=True),
        [
            *("channel_attention", "channel_attention.0", "channel_attention.1"),
            *("channel_attention.2", "spatial_attention", "spatial_attention.4"),
        ],
    ),
    "SqueezeExcite": (
        lambda: ak.SqueezeExcite(C),
        lambda: EagerChannelPerceptron(FC, 8, True, torch.relu),
        FC,
    ),
    "ChannelSE": (
        lambda: ak.ChannelSE(C),
        lambda: EagerChannelPerceptron(CSE, C // 2, False, lambda t: t),
        CSE,
    ),
}


def pair(name):
    """Ours and its twin in the same state, in float64: what differs is no rounding."""
    make, make_eager, _ = MODULES[name]
    ours, eager = make().double(), make_eager().double()
    eager.load_state_dict(ours.state_dict(), strict=True)
    for module in eager.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # backward hooks do not allow it
    return ours, eager


def replace(module, path, child):
    parent, _, name = path.rpartition(".")
    module.get_submodule(parent)._modules[name] = child


def agree(ours, eager, fused=False):
    """Values, gradients, two steps of an optimiser, a round trip of the state, and eval mode; the
    repr tells the truth.
    """
    assert ("unfused" in repr(ours)) == (not fused)
    dtype = next(ours.parameters()).dtype
    batches = torch.randn(2, 3, C, 6, 7, dtype=dtype)
    dy = torch.randn(C, 10, 11, dtype=dtype)
    outcomes = []
    for module in (ours, eager):
        torch.manual_seed(1)
        start = copy.deepcopy(module.state_dict())
        optimiser = torch.optim.SGD(module.parameters(), lr=0.05)
        found = []
        for batch in batches:
            x = batch.clone().requires_grad_()
            optimiser.zero_grad()
            y = module(x)
            _, c, h, w = y.shape
            (y * dy[:c, :h, :w]).sum().backward()
            optimiser.step()
            gradients = {name: p.grad for name, p in module.named_parameters()}
            found += [y.detach(), x.grad, copy.deepcopy(gradients)]
        found.append(copy.deepcopy(module.state_dict()))
        module.eval()
        found.append(module(batches[0]).detach())
        module.load_state_dict(start, strict=True)
        found.append(module(batches[0]).detach())
        outcomes.append(found)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(*outcomes, rtol=10 * tolerance, atol=tolerance)


def scale_output(module, inputs, output):
    return output * 1.5


def scale_input(module, inputs):
    return (inputs[0] * 1.5,)


def own_forward(child):
    forward = child.forward
    child.forward = lambda t: forward(t) * 1.5


def gradient_hook(module, d_input, d_output):
    return tuple(d if d is None else d * 1.5 for d in d_input)


# What may be done to any child.
CHANGES = {
    "forward hook": lambda child: child.register_forward_hook(scale_output),
    "forward pre-hook": lambda child: child.register_forward_pre_hook(scale_input),
    "backward hook": lambda child: child.register_full_backward_hook(gradient_hook),
    "backward pre-hook": lambda child: child.register_full_backward_pre_hook(
        lambda module, d_output: tuple(d * 1.5 for d in d_output)
    ),
    "a forward of its own": own_forward,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name in MODULES for path in MODULES[name][2]]
)
def test_any_child(name, path, change):
    both = pair(name)
    for module in both:
        CHANGES[change](module.get_submodule(path))
    agree(*both)


class Adapter(nn.Module):
    """As LoRA wrappers are: the child inside, and something beside it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.scale = nn.Parameter(torch.full((), 1.5, dtype=torch.float64))

    def forward(self, x):
        return self.base(x) * self.scale


class ScaledConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 1.5


class ScaledLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 1.5


def normalised(conv):
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels).double())


def fake_quantised(cls):
    def convert(child):
        child.qconfig = get_default_qat_qconfig()
        return cls.from_float(child.float())

    return convert


def geometry(**options):
    def convert(conv):
        options_here = {"padding": 2, "bias": True} | options
        return nn.Conv2d(2, 1, 5, **options_here).double()

    return convert


def weight_norm(child):
    with pytest.warns(FutureWarning, match="deprecated"):
        return nn.utils.weight_norm(child)


def in_place_padding(conv):
    conv.padding = (3, 3)
    conv.weight = nn.Parameter(torch.ones(1, 2, 7, 7, dtype=torch.float64))
    return conv


def larger_weight(conv):
    conv.padding, conv.weight = (2, 2), nn.Parameter(torch.ones(1, 2, 3, 3, dtype=torch.float64))
    return conv


def pruned(child):
    return prune.l1_unstructured(child, "weight", 0.5)


def without(*buffers):
    def convert(norm):
        for name in buffers:
            setattr(norm, name, None)
        return norm

    return convert


MLP = [("GAMChannelGate", ""), ("GAMAttention", "channel_attention.")]
NORM = ("GAMAttention", "spatial_attention.4")
CONV = [("SpatialAttention", "conv1"), ("SpatialGate", "conv1")]
POINTWISE = [("SqueezeExcite", name) for name in FC] + [("ChannelSE", name) for name in CSE]
LINEAR = [(name, path + layer) for name, path in MLP for layer in ("0", "2")]
# What is put in a child's place, and into which places.
REPLACED = {
    "adapter": (Adapter, [*CONV, *LINEAR, *POINTWISE, NORM]),
    "pruned": (pruned, [*CONV, *LINEAR, *POINTWISE]),
    "old weight_norm": (weight_norm, [*CONV, *LINEAR, *POINTWISE]),
    "old spectral_norm": (nn.utils.spectral_norm, [*CONV, *LINEAR, *POINTWISE]),
    "pointwise subclass": (lambda child: ScaledConv(C, 8, 1).double(), POINTWISE[::2]),
    "pointwise groups": (lambda child: nn.Conv2d(C, 8, 1, groups=4).double(), POINTWISE[::2]),
    "pointwise stride": (lambda child: nn.Conv2d(C, 8, 1, 2).double(), POINTWISE[::2]),
    "pointwise padding": (lambda child: nn.Conv2d(C, 8, 3, padding=1).double(), POINTWISE[::2]),
    "conv subclass": (lambda child: ScaledConv(2, 1, 5, padding=2).double(), CONV),
    "linear subclass": (lambda child: ScaledLinear(C, C // 4).double(), LINEAR[::2]),
    "conv and norm": (normalised, CONV),
    "circular": (geometry(padding_mode="circular"), CONV),
    "dilation": (geometry(dilation=2, padding=4), CONV),
    "valid": (geometry(padding=1), CONV[:1]),
    "padding by name": (geometry(padding="same"), CONV),
    "stride": (geometry(stride=2), CONV[:1]),
    "weight of another shape": (in_place_padding, CONV),
    "smaller weight": (larger_weight, CONV[:1]),
    "map of many channels": (lambda child: nn.Conv2d(2, C, 5, padding=2).double(), CONV),
    "fake-quantised conv": (fake_quantised(torch.ao.nn.qat.Conv2d), CONV),
    "fake-quantised linear": (fake_quantised(torch.ao.nn.qat.Linear), LINEAR),
    "GELU": (lambda child: nn.GELU(), [(name, path + "1") for name, path in MLP]),
    "no bias": (lambda child: nn.Linear(C, C // 4, bias=False).double(), LINEAR[::2]),
    "group norm": (lambda child: nn.GroupNorm(4, C).double(), [NORM]),
    "synchronised norm": (nn.SyncBatchNorm.convert_sync_batchnorm, [NORM]),
    "identity": (lambda child: nn.Identity(), [NORM]),
    "no count": (without("num_batches_tracked"), [NORM]),
}


@pytest.mark.parametrize(
    ("change", "name", "path"),
    [(change, *place) for change, (_, places) in REPLACED.items() for place in places],
)
def test_replaced(change, name, path):
    ours, eager = pair(name)
    for module in (ours, eager):
        torch.manual_seed(2)
        replace(module, path, REPLACED[change][0](module.get_submodule(path)))
        if change.startswith("fake-quantised"):  # float32 only
            module.float()
    agree(ours, eager)


# What changes only how a parameter is read.
PARAMETRISED = {
    "weight_norm": (parametrizations.weight_norm, [*CONV, *LINEAR, *POINTWISE, NORM]),
    "spectral_norm": (parametrizations.spectral_norm, [*CONV, *LINEAR, *POINTWISE]),
    "bias": (
        lambda child: parametrize.register_parametrization(child, "bias", nn.Softplus()),
        [*CONV, *LINEAR, *POINTWISE[:2], NORM],
    ),
}


@pytest.mark.parametrize(
    ("change", "name", "path"),
    [(change, *place) for change, (_, places) in PARAMETRISED.items() for place in places],
)
def test_parametrised_children_are_plain(change, name, path):
    both = pair(name)
    for module in both:
        torch.manual_seed(2)
        PARAMETRISED[change][0](module.get_submodule(path))
    agree(*both, fused=True)


@pytest.mark.parametrize("name", MODULES)
def test_untouched(name):
    agree(*pair(name), fused=True)


@pytest.mark.parametrize("name", MODULES)
def test_a_child_is_plain_again(name):
    """Nothing is remembered of a hook that is gone."""
    ours, eager = pair(name)
    path = MODULES[name][2][-1]
    ours.get_submodule(path).register_forward_hook(scale_output).remove()
    agree(ours, eager, fused=True)


@pytest.mark.parametrize("name", MODULES)
def test_hooks_on_all_modules(name):
    """Global hooks see every child that eager calls, in its order."""
    x = torch.randn(2, C, 6, 7, dtype=torch.float64)
    both, seen = pair(name), []
    with nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: seen.append(type(module).__name__)
    ):
        outputs = [module(x) for module in both]
        assert "unfused" in repr(both[0])
    torch.testing.assert_close(*outputs)
    ours, eager = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert ours[:-1] == eager[:-1]  # the last is the module itself


def test_a_sharded_child():
    """fully_shard changes the child's class; only its own call gathers the weight."""
    torch.distributed.init_process_group(
        "gloo", rank=0, world_size=1, store=torch.distributed.HashStore()
    )
    try:
        ours, eager = pair("SpatialGate")
        fully_shard(ours.conv1, mesh=init_device_mesh("cpu", (1,)))
        assert "unfused: conv1 is a FSDPConv2d" in repr(ours)
        x = torch.randn(2, C, 6, 7, dtype=torch.float64)
        gradients = []
        for module in (ours, eager):
            y = module(x)
            y.square().sum().backward()
            gradients.append((y.detach(), module.conv1.weight.grad))
        gradients[0] = gradients[0][0], gradients[0][1].full_tensor()
        torch.testing.assert_close(*gradients)
    finally:
        torch.distributed.destroy_process_group()


def test_a_wrapped_parameter():
    """A tensor subclass has operators of its own: the child that has them is called."""
    ours, eager = pair("SpatialGate")
    weight = ours.conv1.weight.detach()
    for module in (ours, eager):
        module.conv1.weight = nn.Parameter(TwoTensor(weight, weight))
    assert "unfused: conv1 has parameters of class TwoTensor" in repr(ours)
    x = torch.randn(2, C, 6, 7, dtype=torch.float64)
    y, expected = ours(x), eager(x)
    assert type(y) is type(expected) is TwoTensor
    torch.testing.assert_close(y.a, expected.a)


def test_a_lazy_child():
    ours, eager = pair("SpatialGate")
    ours.conv1 = nn.LazyConv2d(1, 5, padding=2, dtype=torch.float64)
    assert "unfused: conv1 is a LazyConv2d" in repr(ours)
    x = torch.randn(2, C, 6, 7, dtype=torch.float64)
    ours(x)
    eager.load_state_dict(ours.state_dict())
    agree(ours, eager, fused=True)


def test_a_map_that_all_channels_share():
    """It is never fused, and the repr says so."""
    ours, eager = ak.GAMAttention(C, 1).double(), EagerGAM(C, 1).double()
    eager.load_state_dict(ours.state_dict())
    agree(ours, eager)


@pytest.mark.parametrize("name", MODULES)
def test_autocast(name):
    """Values and dtypes with a child that is called are those of eager."""
    both = [module.float() for module in pair(name)]
    x = torch.randn(2, C, 6, 7)
    for module in both:
        module.get_submodule(MODULES[name][2][-1]).register_forward_hook(scale_output)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = (module(x) for module in both)
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.02)


class PublicFunctionsAsLeaves(torch.fx.Tracer):
    def __init__(self):
        super().__init__(autowrap_modules=(ak.functional,))


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", MODULES)
def test_traced_and_compiled(name, training, called):
    """Which way is taken depends on the modules alone, so a proxy goes through as a tensor does."""
    ours, eager = pair(name)
    for module in (ours, eager):
        module.train(training)
        if called:
            module.get_submodule(MODULES[name][2][0]).register_forward_hook(scale_output)
    x = torch.randn(2, C, 6, 7, dtype=torch.float64)
    expected = eager(x)
    # A mix that is a method is no argument of a node: squeeze_gate is three pieces of a graph.
    mixed = called and name in ("SqueezeExcite", "ChannelSE")
    tracer = torch.fx.Tracer() if mixed else PublicFunctionsAsLeaves()
    traced = torch.fx.GraphModule(ours, tracer.trace(ours))
    torch.testing.assert_close(traced(x), expected)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
