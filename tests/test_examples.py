"""The examples: whole networks with eager and with fused gates are one and the same network."""

import copy

import attention_figure
import eager_gates
import matplotlib.image
import networks
import pytest
import torch
import torch.nn.functional as F
import train_digits
from accuracy import FORWARD, GRADIENT, assert_accurate

import attn_kernels as ak

GATES = {
    "spatial": lambda module: module.SpatialGate(kernel_size=7),
    "spatial with bias": lambda module: module.SpatialGate(kernel_size=3, bias=True),
    "gam": lambda module: module.GAMAttention(16),
    "gam light": lambda module: module.GAMAttention(32, groups=4, channel_shuffle=True),
    "se": lambda module: module.SqueezeExcite(32),
    "cbam": lambda module: module.CBAM(32),
}
RESNET50 = ((256, 3), (512, 4), (1024, 6), (2048, 3))  # channels, blocks
PARAMETERS = {
    # the plain network, and its gates
    "vgg16-spatial": 138_357_544 + 5 * 98,
    # 16 to 64 channels, 1x1 convolutions in two shortcuts, a thousand classes
    "resnet20-cbam-spatial": 336_824 + 9 * 98,
    "resnet18-cbam-spatial": 11_689_512 + 8 * 98,
    "resnet50-gam": 25_557_032
    + sum(
        depth * ((c * c // 2 + c // 4 + c) + (49 * c * c // 8 + c // 4 + c) + 2 * (c // 4 + c))
        for c, depth in RESNET50
    ),
    "resnet18-cbam": 11_689_512 + sum(2 * (2 * c * (c // 16) + 98) for c in (64, 128, 256, 512)),
    "resnet50-cbam": 25_557_032 + sum(depth * (2 * c * (c // 16) + 98) for c, depth in RESNET50),
    "resnet50-se": 25_557_032
    + sum(depth * (2 * c * (c // 16) + c // 16 + c) for c, depth in RESNET50),
}


def gradients(net, x, dy):
    """Output, and the gradients of x and of all parameters as one vector each."""
    x = x.clone().requires_grad_()
    y = net(x)
    d_x, *d_parameters = torch.autograd.grad(y, [x, *net.parameters()], dy)
    return y.detach(), d_x, torch.cat([d.flatten() for d in d_parameters])


def assert_twins(eager, fused, x):
    """fused, with eager's weights, is as near to float64 as eager itself."""
    fused.load_state_dict(eager.state_dict(), strict=True)
    truth = copy.deepcopy(eager).double()
    dy = torch.randn_like(eager(x))
    names = ("output", "gradient of x", "gradients of the parameters")
    results = zip(
        names,
        gradients(fused, x, dy),
        gradients(eager, x, dy),
        gradients(truth, x.double(), dy.double()),
        strict=True,
    )
    for name, ours, theirs, exact in results:
        assert_accurate(name, ours, theirs, exact, FORWARD if name == "output" else GRADIENT)


@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.parametrize("gates", ["eager", "fused"])
def test_parameter_counts(name, gates):
    with torch.device("meta"):
        net = networks.build_network(name, gates)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_checkpoints_of_eager_and_fused_networks_are_the_same(name):
    with torch.device("meta"):
        eager, fused = (networks.build_network(name, gates, 10) for gates in ("eager", "fused"))
    for source, target in ((eager, fused), (fused, eager)):
        state = source.state_dict()
        target.load_state_dict(state, strict=True, assign=True)
        assert list(target.state_dict()) == list(state)


@pytest.mark.parametrize("make", GATES.values(), ids=list(GATES))
def test_fused_gate_is_its_eager_twin(make):
    eager, fused = make(eager_gates), make(ak)
    channels = (
        eager.spatial_attention[4].num_features
        if isinstance(eager, eager_gates.GAMAttention)
        else 32
    )
    x = torch.randn(3, channels, 9, 7)
    eager.load_state_dict(fused.state_dict(), strict=True)
    assert_twins(eager, fused, x)


@pytest.mark.parametrize("name", ["resnet18-cbam-spatial", "resnet18-cbam", "resnet50-se"])
def test_fused_resnet_is_its_eager_twin(name):
    eager, fused = (networks.build_network(name, gates, 10) for gates in ("eager", "fused"))
    assert_twins(eager.eval(), fused.eval(), torch.randn(2, 3, 40, 32))


@pytest.mark.parametrize("name", ["resnet18-cbam", "resnet50-cbam"])
def test_tails_keep_the_running_statistics_of_eager_blocks(name):
    """In training, and they are fused."""
    eager, fused = (
        networks.build_network(name, gates, 10).double() for gates in ("eager", "fused")
    )
    assert "unfused" not in repr(fused)
    eager.load_state_dict(fused.state_dict(), strict=True)
    x = torch.randn(2, 3, 40, 32, dtype=torch.float64)
    torch.testing.assert_close(fused(x), eager(x))
    torch.testing.assert_close(fused.state_dict(), eager.state_dict())


def test_names_in_blocks_with_tails():
    block = networks.build_network("resnet18-cbam", "fused", 10)[5]
    assert [name for name, _ in block.named_children()] == [
        *("conv1", "bn1", "conv2", "relu", "tail", "downsample"),
    ]
    names = {key.rpartition(".")[0] for key in block.tail.state_dict()}
    assert names == {"norm", "gate.ca.sharedMLP.0", "gate.ca.sharedMLP.2", "gate.sa.conv"}


def test_fused_digits_vgg_is_its_eager_twin():
    eager, fused = (train_digits.digits_vgg(gates) for gates in ("eager", "fused"))
    assert_twins(eager, fused, torch.randn(4, 1, train_digits.SIZE, train_digits.SIZE))


def test_unknown_names():
    with pytest.raises(ValueError, match=r"vgg16-spatial, .*, resnet50-gam"):
        networks.build_network("vgg17")
    with pytest.raises(ValueError, match="'fused' or 'eager'"):
        networks.build_network("vgg16-spatial", gates="triton")


def test_train_digits_prints_a_table_and_paints_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_digits, "PLAN", [(4, 1), (8, 1), (8, 1)])
    assert train_digits.main(["--epochs", "1", "--out", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out
    for row in ("training step", "gates alone", "accuracy", "largest loss difference"):
        assert row in printed
    picture = matplotlib.image.imread(tmp_path / "new" / "attention.png")[..., :3]  # (H, W, 3)
    assert picture.shape[0] > 400
    assert picture.shape[1] > 1000
    assert picture.std() > 0.1


def test_upsampled_maps_are_those_of_the_last_gate_of_every_size():
    blocks = train_digits.digits_vgg("fused")[0]
    blocks[2].append(ak.SpatialGate())
    seen = []
    for i, j in ((0, -1), (1, -1), (2, -1)):
        blocks[i][j].conv1.register_forward_hook(
            lambda conv, x, logit: seen.append(torch.sigmoid(logit))
        )
    images = torch.randn(2, 1, 32, 40)
    blocks(images)
    expected, seen = list(seen), []
    maps = attention_figure.upsampled_maps(blocks, images)
    assert list(maps) == ["0.5, 16x20", "1.5, 8x10", "2.8, 4x5"]
    for map, exact in zip(maps.values(), expected, strict=True):
        upsampled = F.interpolate(exact, (32, 40), mode="bilinear")[:, 0]
        torch.testing.assert_close(map, upsampled)


def test_train_digits_says_so_when_the_trainings_part(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_digits, "PLAN", [(4, 1), (8, 1), (8, 1)])

    def without_the_means_gradient(gate, x):
        pooled = torch.cat([x.mean(1, keepdim=True).detach(), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(gate.conv1(pooled))

    monkeypatch.setattr(ak.SpatialGate, "forward", without_the_means_gradient)
    assert train_digits.main(["--epochs", "1", "--out", str(tmp_path)]) == 1
    assert "eager and fused gradients differ by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--epochs", "0"], "at least 1; got 0"), (["--out", "{file}/x"], "--out")],
)
def test_train_digits_bad_arguments(arguments, message, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit:
        train_digits.main([a.format(file=tmp_path / "file") for a in arguments])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
