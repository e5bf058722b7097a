"""`fuse` on the libraries' models: gates counted; logits, gradients and buffers as unfused."""

import copy

import pytest
import torch
from models import PEERS
from torch import nn

import attn_kernels as ak

UNKNOWN = "a gate of a kind that is not known"
KINKS = (nn.ReLU, nn.ReLU6, nn.Hardswish)
# Random depth and dropout draw other numbers in float64 than in float32.
CHANCES = ("p", "drop_prob")


@pytest.fixture(scope="module", params=PEERS)
def pair(request):
    """A model in float64, its fused twin, and an input."""
    peer = PEERS[request.param]
    torch.manual_seed(0)
    model = peer.make().double()
    for module in model.modules():
        for name in CHANCES:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # zeros at the ends of blocks hide them
    fused = copy.deepcopy(model)
    report = ak.fuse(fused, first_max=peer.first_max)
    return peer, report, model, fused, torch.randn(peer.shape, dtype=torch.float64)


def step(model, x, training):
    """Logits, then all gradients as one vector, then buffers."""
    model = copy.deepcopy(model).train(training)
    x = x.clone().requires_grad_()
    y = model(x)
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    (y * dy).sum().backward()
    gradients = [x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]
    buffers = [b.flatten().to(y.dtype) for b in model.buffers()] or [x.new_zeros(1)]
    return y.detach().flatten(), torch.cat([g.flatten() for g in gradients]), torch.cat(buffers)


def error(found, truth):
    return ((found.double() - truth).norm() / truth.norm().clamp_min(1e-30)).item()


def test_gates_are_found(pair):
    peer, report, *_ = pair
    print(report)
    assert dict(report.gates) == peer.gates
    assert not any(UNKNOWN in row.why_not for row in report.left)


@pytest.mark.parametrize("training", [True, False])
def test_float64(pair, training):
    _, _, model, fused, x = pair
    expected = step(model, x, training)
    for ours, truth in zip(step(fused, x, training), expected, strict=True):
        assert error(ours, truth) < 1e-9


def smooth(model):
    """The model without kinks: whether rounding takes a value over one is chance, and one such
    value changes the gradients by 1e-3 (as unfused ones differ from themselves in channels_last).
    """
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, KINKS):
                setattr(module, name, nn.SiLU())
    return model


@pytest.mark.parametrize("training", [True, False])
def test_float32_is_as_near_to_float64_as_unfused(pair, training):
    peer, report, model, _, x = pair
    model = smooth(model)
    fused = copy.deepcopy(model)
    assert ak.fuse(fused, first_max=peer.first_max).fused == report.fused
    truth = step(model, x, training)
    found = [step(copy.deepcopy(m).float(), x.float(), training) for m in (fused, model)]
    for ours, plain, expected in zip(*found, truth, strict=True):
        assert error(ours, expected) <= 3 * error(plain, expected) + 1e-6


def test_state_dict_both_ways(pair):
    _, _, model, fused, x = pair
    plain, ours = copy.deepcopy(model), copy.deepcopy(fused)
    assert list(plain.state_dict()) == list(ours.state_dict())
    with torch.no_grad():
        for p in ours.parameters():
            p.mul_(1.01)
    plain.load_state_dict(ours.state_dict(), strict=True)
    for a, b in zip(step(ours, x, False), step(plain, x, False), strict=True):
        assert error(a, b) < 1e-9
    ours.load_state_dict(model.state_dict(), strict=True)
    assert error(step(ours, x, False)[0], step(model, x, False)[0]) < 1e-9


def test_unfuse_gives_back_the_model(pair):
    _, _, model, fused, x = pair
    plain = copy.deepcopy(fused)
    ak.unfuse(plain)
    for a, b in zip(step(plain, x, True), step(model, x, True), strict=True):
        assert torch.equal(a, b)
