"""The modules: what checkpoints, copies and users of the eager module rely on."""

import copy
import io
import pickle
import re

import pytest
import torch
from spatial import eager_pool
from torch import nn

import attn_kernels as ak


class EagerSpatialAttention(nn.Module):
    """The module as it is usually written."""

    def __init__(self, kernel_size=7, bias=False):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, x):
        return torch.sigmoid(self.conv1(eager_pool(x)))


class EagerSpatialGate(EagerSpatialAttention):
    def forward(self, x):
        return x * super().forward(x)


PAIRS = [(ak.SpatialAttention, EagerSpatialAttention), (ak.SpatialGate, EagerSpatialGate)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 3, 7, 15])
@pytest.mark.parametrize(("fused", "eager"), PAIRS)
def test_checkpoints_go_both_ways(fused, eager, kernel_size, bias):
    x = torch.randn(2, 8, 9, 9)
    ours, theirs = fused(kernel_size, bias=bias), eager(kernel_size, bias=bias)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    torch.testing.assert_close(ours(x), theirs(x))
    theirs.load_state_dict(fused(kernel_size, bias=bias).state_dict(), strict=True)


def test_state_dict_keys():
    assert list(ak.SpatialGate().state_dict()) == ["conv1.weight"]
    assert list(ak.SpatialAttention(bias=True).state_dict()) == ["conv1.weight", "conv1.bias"]


@pytest.mark.parametrize(("fused", "eager"), PAIRS)
def test_same_initial_weights_from_the_same_seed(fused, eager):
    torch.manual_seed(3)
    ours = fused()
    torch.manual_seed(3)
    torch.testing.assert_close(ours.state_dict(), eager().state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("fused", [ak.SpatialAttention, ak.SpatialGate])
def test_copies(fused):
    x = torch.randn(2, 8, 9, 9)
    module = fused(3, bias=True)
    stream = io.BytesIO()
    torch.save(module.state_dict(), stream)
    stream.seek(0)
    loaded = fused(3, bias=True)
    loaded.load_state_dict(torch.load(stream))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert torch.equal(other(x), module(x))


@pytest.mark.parametrize(("fused", "eager"), PAIRS)
def test_training_as_eager(fused, eager):
    """The same seed, the same data, the same losses."""
    losses = []
    for module in (fused(bias=True), eager(bias=True)):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), module, nn.AdaptiveAvgPool2d(1))
        for p in network.parameters():
            nn.init.normal_(p, std=0.3)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        x, target = torch.randn(4, 3, 10, 10), torch.randn(4, 1, 1, 1)
        for _ in range(5):
            optimiser.zero_grad()
            loss = (network(x) - target).square().mean()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert losses[:5] == pytest.approx(losses[5:], rel=1e-5)
    assert losses[4] < losses[0]


@pytest.mark.parametrize("fused", [ak.SpatialAttention, ak.SpatialGate])
def test_inference_and_half(fused):
    module = fused().bfloat16().eval()
    x = torch.randn(2, 8, 9, 9).bfloat16()
    with torch.inference_mode():
        y = module(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, module(x).detach())


@pytest.mark.parametrize("kernel_size", [0, 2, 16, 17, -1])
def test_kernel_sizes_that_do_not_exist(kernel_size):
    with pytest.raises(ValueError, match=f"kernel_size: .*odd and from 1 to 15, got {kernel_size}"):
        ak.SpatialGate(kernel_size)


@pytest.mark.parametrize("kernel_size", [(7, 7), 7.0, "7", None, True])
@pytest.mark.parametrize("fused", [ak.SpatialAttention, ak.SpatialGate])
def test_kernel_sizes_that_are_no_ints(fused, kernel_size):
    message = re.escape(f"kernel_size: expected an int, got {kernel_size!r}")
    with pytest.raises(TypeError, match=message):
        fused(kernel_size)


def test_bias_is_a_bool():
    with pytest.raises(TypeError, match="bias: expected True or False, got 'no'"):
        ak.SpatialGate(bias="no")
