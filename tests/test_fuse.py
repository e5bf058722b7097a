"""fuse: pasted gates are found, equal their own forward, and stay what they were."""

import copy
import io
import pickle
import re
import subprocess
import sys

import pasted_gates as pasted
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import attn_kernels as ak
from attn_kernels.fusion import runtime
from attn_kernels.fusion.rewritten import rewritten_of

C = 16
MEAN, BOTH = "channel gate by mean", "channel gate by mean and max"
NORM, END = "batch norm", "addition + ReLU"
# What is found in each; amax needs the user's word.
GATES = {
    "SELinear": (lambda: pasted.SELinear(C), [MEAN]),
    "SEConv": (lambda: pasted.SEConv(C), [MEAN]),
    "SEFunctional": (lambda: pasted.SEFunctional(C), [MEAN]),
    "SquareSE": (lambda: pasted.SquareSE(C), [MEAN]),
    "HardSE": (lambda: pasted.HardSE(C), [MEAN]),
    "ECA": (lambda: pasted.ECA(C), [MEAN]),
    "ChannelGate": (lambda: pasted.ChannelGate(C), [BOTH]),
    "ChannelGate, mean": (lambda: pasted.ChannelGate(C, pool_types=("avg",)), [MEAN]),
    "StatisticsGate": (lambda: pasted.StatisticsGate(C), ["channel gate by var and max and min"]),
    "SCSE": (lambda: pasted.SCSE(C), ["scSE"]),
    "OneProductSCSE": (lambda: pasted.OneProductSCSE(C), ["scSE"]),
    "OfficialSCSE": (lambda: pasted.OfficialSCSE(C), ["scSE"]),
    "SpatialSE": (lambda: pasted.SpatialSE(C), ["gate by a map"]),
    "BAM": (lambda: pasted.BAM(C), ["BAM"]),
    "CoordAtt": (lambda: pasted.CoordAtt(C), ["coordinate gate"]),
    "OfficialSpatialGate": (pasted.OfficialSpatialGate, ["spatial gate"]),
    "LightSpatial": (pasted.LightSpatial, ["channel pool of a spatial gate"]),
    "OfficialCBAM": (lambda: pasted.OfficialCBAM(C), ["CBAM"]),
    "BlockWithCBAM": (lambda: pasted.BlockWithCBAM(C), [f"{NORM} + CBAM + {END}"]),
    "BasicBlock": (lambda: pasted.BasicBlock(C), [f"{NORM} + {END}"]),
    "BasicBlock, SE": (
        lambda: pasted.BasicBlock(C, pasted.SELinear(C)),
        [f"{NORM} + {MEAN} + {END}"],
    ),
    "BasicBlock, CBAM": (
        lambda: pasted.BasicBlock(C, pasted.OfficialCBAM(C)),
        [f"{NORM} + CBAM + {END}"],
    ),
    "BasicBlock, scSE": (lambda: pasted.BasicBlock(C, pasted.SCSE(C)), [f"scSE + {END}"]),
    "InvertedResidual": (lambda: pasted.InvertedResidual(C), [f"{NORM} + addition"]),
    "AmaxCBAM": (lambda: pasted.AmaxCBAM(C), ["CBAM"]),
    "ShuffleAttention": (lambda: pasted.ShuffleAttention(C), ["shuffle attention"]),
    "SimAM": (pasted.SimAM, ["SimAM"]),
    "RowGate": (lambda: pasted.RowGate(C), ["gate by a map"]),
    "SKConv": (lambda: pasted.SKConv(C), ["selection among 2 maps"]),
    "StackedSelection": (lambda: pasted.StackedSelection(C, 3), ["selection among 3 maps"]),
    "SplitAttention": (lambda: pasted.SplitAttention(C), ["selection among 2 maps"]),
    "AFF": (lambda: pasted.TwoBranches(C, pasted.AFF(C)), ["blend of two maps"]),
    "IAFF": (lambda: pasted.TwoBranches(C, pasted.IAFF(C)), ["blend of two maps"] * 2),
    "GAM": (lambda: pasted.GAM(C), ["GAM channel gate", "gate by a normalised map"]),
}


@pytest.fixture(params=GATES)
def case(request):
    make, kinds = GATES[request.param]
    module = make().double()
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return module, kinds


def fused_copy(module, **options):
    """Without its proof, which test_found_by_what_it_computes asks for."""
    twin = copy.deepcopy(module)
    report = ak.fuse(twin, first_max=True, verify=False, **options)
    assert report.fused
    return twin


def step(module, x):
    """Output, gradients, buffers."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    y = module(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    named = [*module.named_parameters(), *((n, b) for n, b in module.named_buffers())]
    gradients = {n: t.grad if isinstance(t, nn.Parameter) else t for n, t in named}
    return {"y": y.detach(), "dx": x.grad, **copy.deepcopy(gradients)}


def assert_same(ours, expected):
    assert ours.keys() == expected.keys()
    for name, t in expected.items():
        torch.testing.assert_close(ours[name], t, rtol=1e-8, atol=1e-8, msg=name)


def map_(dtype=torch.float64):
    return torch.randn(3, C, 6, 6, dtype=dtype)


def test_found_by_what_it_computes(case):
    module, kinds = case
    report = ak.fuse(module, first_max=True)
    assert list(report.gates.elements()) == kinds
    assert report.fused == len(kinds)
    (fused,) = filter(None, map(rewritten_of, module.modules()))
    if len(kinds) == 1 and "pool" not in kinds[0]:  # nothing that pools a map is computed besides
        assert not re.search(r"\b(mean|max|avg_pool\w*)\(", fused.program.forward.source)


@pytest.mark.parametrize("training", [True, False])
def test_is_equal_to_itself(case, training):
    module, _ = case
    module.train(training)
    ours = fused_copy(module)
    assert ours.training is training
    for x in (map_(), map_().to(memory_format=torch.channels_last)):
        assert_same(step(ours, x), step(module, x))


def test_stays_what_it_was(case):
    module, _ = case
    before = {name: (id(t), t.clone()) for name, t in module.state_dict(keep_vars=True).items()}
    names = [name for name, _ in module.named_modules()]
    state = torch.get_rng_state()
    cls = type(module)
    ak.fuse(module, first_max=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(module) is cls
    assert [name for name, _ in module.named_modules()] == names
    after = module.state_dict(keep_vars=True)
    assert list(after) == list(before)
    for name, (identity, value) in before.items():
        assert id(after[name]) == identity
        assert torch.equal(after[name], value)


def test_state_dict_both_ways(case):
    module, _ = case
    ours = fused_copy(module)
    with torch.no_grad():
        for p in ours.parameters():
            p.mul_(1.5)
    module.load_state_dict(ours.state_dict())
    assert_same(step(ours, x := map_()), step(module, x))
    ours.load_state_dict(copy.deepcopy(module).state_dict())


def test_copies_compute_with_their_own_parameters(case):
    module, _ = case
    ours, x = fused_copy(module), map_()
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    copies = [
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(file, weights_only=False),
    ]
    for twin in copies:
        assert (rewritten_of(twin) is None) == (rewritten_of(ours) is None)
        expected = step(copy.deepcopy(module), x)
        with torch.no_grad():
            for p in ours.parameters():
                p.zero_()
        assert_same(step(twin, x), expected)


def test_unfuse(case):
    module, _ = case
    before = [dict(m.__dict__) for m in module.modules()]
    ak.fuse(module, first_max=True)
    ak.unfuse(module)
    assert [m.__dict__.keys() for m in module.modules()] == [b.keys() for b in before]
    assert ak.fuse(module, first_max=True).fused


def test_twice_is_once(case):
    module, _ = case
    ours = fused_copy(module)
    again = ak.fuse(ours, first_max=True)
    assert again.fused == 0
    assert ("is fused already",) in [row.why_not for row in again.left]


@pytest.mark.slow
def test_compile(case):
    module, _ = case
    ours, x = fused_copy(module), map_()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    y = compiled(x.requires_grad_())
    torch.testing.assert_close(y, copy.deepcopy(module)(x))


def test_float32_and_autocast(case):
    module, _ = case
    module = module.float()
    ours, x = fused_copy(module), map_(torch.float32)
    torch.testing.assert_close(ours(x), module(x), rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        ours, expected = ours(x), module(x)
    assert ours.dtype == expected.dtype
    torch.testing.assert_close(ours, expected, rtol=5e-2, atol=5e-2)


def test_hooks_of_children_run(case):
    """A hook on any child sees what it saw: the child is called, or the gate is not fused then."""
    module, _ = case
    ours, x = fused_copy(module), map_()
    called = [n for n, m in module.named_modules() if not isinstance(m, nn.ModuleList)]
    for name in called[1:]:
        seen = []
        handles = [
            m.get_submodule(name).register_forward_hook(
                # a copy: a ReLU after it may work in place
                lambda m, i, y, s=seen: s.append(y.detach().clone())
            )
            for m in (module, ours)
        ]
        expected = module(x)
        count = len(seen)
        assert count > 0
        torch.testing.assert_close(ours(x), expected)
        assert len(seen) == 2 * count
        for a, b in zip(seen[:count], seen[count:], strict=True):
            torch.testing.assert_close(a, b)
        for handle in handles:
            handle.remove()


def test_hooks_of_its_own_run_before_and_after():
    module, seen = pasted.SELinear(C), []
    module.register_forward_hook(lambda m, i, y: seen.append("before"))
    ak.fuse(module)
    assert seen == []  # the proof is made on a copy
    module.register_forward_pre_hook(lambda m, i: seen.append("after"))
    module(map_(torch.float32))
    assert seen == ["after", "before"]


def test_a_child_that_was_exchanged_is_called():
    ours = fused_copy(module := pasted.SELinear(C))
    for m in (ours, module):
        m.fc[3] = nn.Hardsigmoid()
        m.avg_pool = nn.AdaptiveMaxPool2d(1)
    x = map_(torch.float32)
    torch.testing.assert_close(ours(x), module(x))


def test_other_input_takes_the_own_forward():
    ours = fused_copy(module := pasted.ECA(C))
    x = torch.randn(2, C, 4, 4)
    assert torch.equal(ours(x=x), module(x))
    square = fused_copy(pasted.SquareSE(C))
    wide = torch.randn(2, C, 4, 7)
    assert torch.equal(square(wide), ak.unfuse(square) or square(wide))


def test_equal_maxima():
    """Left alone unless the user says that the first of them may take the gradient."""
    module = pasted.AmaxCBAM(C)
    report = ak.fuse(module)
    assert report.fused == 0
    assert "first_max" in report.left[0].why_not[0]
    assert ak.fuse(module, first_max=True).fused == 1
    first = nn.Sequential(pasted.ChannelGate(C), pasted.OfficialSpatialGate())
    assert ak.fuse(first).fused == 1  # max gives it to the first: CBAM, in a Sequential


class Odd(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc = nn.Conv2d(C, C, 1)
        self.norm = nn.BatchNorm2d(C)
        self.drop = PathDropped()
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def gate_of(pooled):
    return lambda m, x: x * torch.sigmoid(m.fc(pooled(x)))


class Drop(nn.Module):
    def forward(self, x):
        return x * 0.5 if self.training else x


@torch.fx.wrap
def path_dropped(x, p, training):  # as torchvision's stochastic_depth
    return F.dropout(x, p, training)


class PathDropped(nn.Module):
    def forward(self, x):
        return path_dropped(x, 0.2, self.training)


def dropped(m, x):
    return x + m.drop(m.norm(m.fc(x)))


def used_twice(m, x):
    y = m.norm(m.fc(x))
    return x + y, y


def kept(m, x):
    m.last = m.fc(x.mean((2, 3), keepdim=True)).sigmoid()
    return x * m.last


def under_no_grad(m, x):
    with torch.no_grad():
        factor = m.fc(x.mean((2, 3), keepdim=True)).sigmoid()
    return x * factor


def shown(m, x):
    factor = m.fc(x.mean((2, 3), keepdim=True)).sigmoid()
    return x * factor, factor


def in_place(m, x):
    return x.mul_(m.fc(x.mean((2, 3), keepdim=True)).sigmoid())


def by_values(m, x):
    factor = m.fc(x.mean((2, 3), keepdim=True)).sigmoid()
    return x * factor if factor.mean() > 0 else x


def by_mode(m, x):
    factor = m.fc(x.mean((2, 3), keepdim=True)).sigmoid()
    return x * (factor * 0.5 if m.training else factor)


LEFT_ALONE = {
    "generalised mean": (gate_of(lambda x: x.pow(2).mean((2, 3), keepdim=True).sqrt()), "pools by"),
    "a part of the map": (gate_of(lambda x: F.avg_pool2d(x, 7)[..., :1, :1]), "pools by"),
    "narrower": (
        lambda m, x: x * m.fc(x.mean((2, 3), True)).float().sigmoid(),
        "a dtype of its own",
    ),
    "kept": (kept, "keeps something"),
    "no_grad": (under_no_grad, "no_grad"),
    "factor returned": (shown, "used elsewhere"),
    "in place": (in_place, "in place"),
    "control flow": (by_values, "cannot be traced"),
    "modes": (by_mode, "training"),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone_with_the_reason(name):
    function, reason = LEFT_ALONE[name]
    module = nn.Sequential(Odd(function))
    before = dict(module[0].__dict__)
    report = ak.fuse(module)
    assert report.fused == 0
    assert [row.path for row in report.left] == ["0"]
    assert reason in report.left[0].why_not[0]
    assert module[0].__dict__ == before


def test_gates_alone():
    """Without tails, what stands around a gate stays what it is."""
    report = ak.fuse(nn.Sequential(pasted.BasicBlock(C, pasted.SELinear(C))), tails=False)
    assert dict(report.gates) == {MEAN: 1}
    assert ak.fuse(nn.Sequential(pasted.BasicBlock(C)), tails=False).rows == []


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: pasted.InvertedResidual(C, p=0.2), "tail: computes one thing in training"),
        (lambda: Odd(dropped), "tail: path_dropped between batch norm and addition"),
        (lambda: Odd(used_twice), "used elsewhere"),
    ],
)
def test_tails_left_alone_with_the_reason(make, reason):
    report = ak.fuse(nn.Sequential(make()))
    assert report.fused == 0
    assert reason in report.left[0].why_not[0]


def test_gate_in_a_block_that_drops_its_path():
    """The gate is fused though the tail is not."""
    model = nn.Sequential(pasted.BasicBlock(C, nn.Sequential(pasted.SELinear(C), Drop())))
    report = ak.fuse(model)
    assert dict(report.gates) == {MEAN: 1}
    assert ("tail: computes one thing in training and another in evaluation",) in [
        row.why_not for row in report.left
    ]


def test_synchronised_norm():
    module = pasted.BasicBlock(C)
    module.bn2 = nn.SyncBatchNorm(C)
    twin = copy.deepcopy(module)
    twin.bn2.__class__ = nn.BatchNorm2d  # what it computes in one process
    report = ak.fuse(module)
    assert dict(report.gates) == {f"{NORM} + {END}": 1}
    x = map_(torch.float32)
    for training in (True, False):
        ours, expected = step(module.train(training), x), step(twin.train(training), x)
        for name, t in expected.items():
            torch.testing.assert_close(ours[name], t, rtol=1e-4, atol=1e-4, msg=name)


class NormAndMore(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def __init__(self, channels, act):
        super().__init__(channels)
        self.act = act

    def forward(self, x):
        return self.act(super().forward(x))


def test_norms_of_another_class():
    module = pasted.BasicBlock(C)
    module.bn2 = NormAndMore(C, nn.Identity())
    ours = fused_copy(module)
    assert_close(ours, module)
    for m in (ours, module):
        m.bn2.act = nn.SiLU()
    assert_close(ours, module)
    assert ak.fuse(module).fused == 0


def test_a_norm_of_another_class_is_folded_in_evaluation(monkeypatch):
    """timm's CBAM: the convolution's norm is no nn.BatchNorm2d; in training it is called."""
    module = pasted.OfficialSpatialGate()
    module.spatial.bn = NormAndMore(1, nn.Identity())
    ours, called = fused_copy(module), []
    monkeypatch.setattr(NormAndMore, "forward", lambda m, x: called.append(m) or F.relu(x))
    ours.train()(map_(torch.float32))
    assert len(called) == 1
    ours.eval()(map_(torch.float32))
    assert len(called) == 1
    ours.spatial.bn.act = nn.SiLU()
    ours(map_(torch.float32))
    assert len(called) == 2


def assert_close(ours, module):
    x = map_(torch.float32)
    torch.testing.assert_close(ours(x), module(x), rtol=1e-4, atol=1e-5)


def test_what_is_added_has_another_dtype_or_shape():
    module = pasted.InvertedResidual(C).eval()
    ours, x = fused_copy(module), map_(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):  # a residual in float32
        found, expected = ours(x), module(x)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-2)
    tail = runtime.tail
    z, norm = map_(torch.float32).bfloat16(), nn.BatchNorm2d(C)
    assert tail(z, norm, residual=x, in_place=True).dtype == torch.bfloat16
    assert tail(z, norm, residual=x).dtype == torch.float32
    torch.testing.assert_close(tail(x, norm, residual=x[:1]), norm(x) + x[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [1e-3, 1, 1e3])
def test_logits_by_large_values_keep_their_digits(factor):
    module = pasted.SimAM(e_lambda=1e-9)
    ours, x = fused_copy(module), map_() * factor
    truth, plain, found = (
        m(t).double() for m, t in ((module, x), (module, x.float()), (ours, x.float()))
    )
    assert (found - truth).norm() <= 3 * (plain - truth).norm()


def test_in_a_row_only_what_belongs_together_is_joined():
    model = nn.Sequential(
        pasted.SELinear(C), pasted.ECA(C), pasted.OfficialSpatialGate(), pasted.SELinear(C)
    )
    report = ak.fuse(model)
    assert [(row.path, row.gates) for row in report.rows] == [
        ("", ("CBAM",)),
        ("0", (MEAN,)),
        ("3", (MEAN,)),
    ]


def test_the_proof_decides(monkeypatch):
    """What is not equal is left alone, whatever was recognised."""
    module, channel_pool = pasted.OfficialSpatialGate(), ak.functional.channel_pool
    monkeypatch.setattr(ak.functional, "channel_pool", lambda x: channel_pool(x) * 1.001)
    report = ak.fuse(module)
    assert report.fused == 0
    assert report.left[0].why_not[0].startswith("not equal in training: output")
    assert ak.fuse(module, verify=False).fused == 1


@pytest.mark.parametrize("function", [F.silu, lambda x: x * torch.sigmoid(x), lambda x: x * 2])
def test_what_is_no_gate_is_not_named(function):
    assert ak.fuse(Odd(lambda m, x: function(m.fc(x)))).rows == []


def of_no_known_kind(m, x):
    return x * torch.tanh(m.fc(x.mean((2, 3), keepdim=True)) + x)


def test_report():
    gates = (*(pasted.SELinear(C) for _ in range(3)), pasted.SCSE(C), Odd(of_no_known_kind))
    report = ak.fuse(nn.Sequential(*gates))
    assert (report.fused, report.saves) == (4, 43)
    text = str(report)
    for part in ("0 and 2 more", "SELinear", "SCSE", MEAN, "not known", "43 maps"):
        assert part in text
    assert str(ak.fuse(nn.ReLU())).endswith("0 gates and tails fused")


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
def test_without_gradients_around_it(block):
    with block(), torch.device("meta"):
        report = ak.fuse(pasted.ChannelGate(C).to_empty(device="cpu"))
    assert report.fused == 1


def test_only_modules():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got list"):
        ak.fuse([])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_fused_models_can_be_traced():
    ours, x = fused_copy(pasted.OfficialCBAM(C).eval()), map_(torch.float32)
    model = nn.Sequential(ours)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x))
    torch.testing.assert_close(torch.jit.trace(model, x)(x), model(x))
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


def test_ddp(tmp_path):
    module = pasted.BlockWithCBAM(C)
    ours, x = fused_copy(module), map_(torch.float32)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        found = step(DistributedDataParallel(ours), x)
    finally:
        torch.distributed.destroy_process_group()
    expected = step(module, x)
    assert found.keys() == {f"module.{n}" if n not in ("y", "dx") else n for n in expected}
    for name, t in expected.items():
        ours_t = found[name if name in ("y", "dx") else f"module.{name}"]
        torch.testing.assert_close(ours_t, t, rtol=1e-3, atol=1e-4, msg=name)


def test_replicas_compute_with_their_own_parameters():
    """As nn.DataParallel makes them."""
    ours = fused_copy(pasted.SELinear(C))
    replica = ours._replicate_for_data_parallel()
    assert rewritten_of(replica).module is replica


def test_command_line_without_the_library():
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "attn_kernels", "fuse", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    for name, words in (("timm:seresnet50", "needs timm"), ("nonsense", "timm:NAME")):
        found = run(name)
        assert found.returncode == 2
        assert words in found.stderr
