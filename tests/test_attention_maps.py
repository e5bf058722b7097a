"""attention_maps: the maps of every spatial gate, and a model that is as it was before."""

import copy

import pytest
import torch
from torch import nn

import attn_kernels as ak

C = 4


class Shared(nn.Module):
    """A gate in a block, a map of its own, and one gate that is called twice."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, C, 3), nn.BatchNorm2d(C), ak.SpatialGate(bias=True))
        self.map = ak.SpatialAttention(3)
        self.twice = ak.SpatialGate(5)
        self.unused = ak.SpatialGate()
        self.drop = nn.Dropout()

    def forward(self, x):
        x = self.drop(self.block(x))
        x = self.twice(x * self.map(x))
        return self.twice(nn.functional.max_pool2d(x, 2))


def state(model):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return [m.training for m in model.modules()], hooks, copy.deepcopy(model.state_dict())


def expected(model, x):
    """Step by step, by the functions."""
    f, net = ak.functional, copy.deepcopy(model).eval()
    conv, norm, gate = net.block
    x, first = f.spatial_gate(norm(conv(x)), gate.conv1.weight, gate.conv1.bias, return_map=True)
    second = net.map(x)
    x = nn.functional.max_pool2d(net.twice(x * second), 2)
    _, last = f.spatial_gate(x, net.twice.conv1.weight, return_map=True)
    return {"block.2": first, "map": second, "twice": last}


def test_maps_by_path_in_the_order_of_the_calls():
    model, images = Shared(), torch.randn(2, 3, 14, 12)
    model.block.eval()  # modes differ from module to module
    before = state(model)
    maps = ak.attention_maps(model, images)
    truth = expected(model, images)
    assert list(maps) == list(truth)
    for path, map in maps.items():
        torch.testing.assert_close(map, truth[path])
        assert not map.requires_grad
    for was, is_ in zip(before, state(model), strict=True):
        torch.testing.assert_close(is_, was, rtol=0, atol=0)


def test_hooks_of_the_user_stay():
    model, seen = Shared(), []
    handle = model.twice.conv1.register_forward_hook(lambda *_: seen.append(1))
    ak.attention_maps(model, torch.randn(2, 3, 14, 12))
    assert len(seen) == 2
    assert list(model.twice.conv1._forward_hooks) == [handle.id]


def test_a_model_that_raises_is_as_it_was():
    model = Shared()
    before = state(model)
    with pytest.raises(RuntimeError):
        ak.attention_maps(model, torch.randn(2, 5, 14, 12))
    for was, is_ in zip(before, state(model), strict=True):
        torch.testing.assert_close(is_, was, rtol=0, atol=0)


def test_a_gate_alone_and_a_model_without_gates():
    x = torch.randn(2, C, 6, 5)
    assert list(ak.attention_maps(ak.SpatialGate(), x)) == [""]
    assert ak.attention_maps(nn.Conv2d(C, C, 1), x) == {}


def test_a_compiled_model():
    model, images = Shared(), torch.randn(2, 3, 14, 12)
    compiled = torch.compile(model.eval(), backend="aot_eager")
    with torch.no_grad():
        y = compiled(images)
    maps = ak.attention_maps(compiled, images)
    assert [path.removeprefix("_orig_mod.") for path in maps] == list(expected(model, images))
    torch.testing.assert_close(compiled(images), y)


def test_no_module():
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
        ak.attention_maps([], torch.randn(2, C, 6, 5))
