"""torch.fx: every public function is one node, and a traced model is the model."""

import copy
import pickle

import pytest
import torch
from calls import C, H, N, W, every, functions

from attn_kernels.functional import spatial_gate


def run(module, x):
    """Values and gradients."""
    x = x.clone().requires_grad_()
    outputs = torch.utils._pytree.tree_leaves(module(x))
    sum(y.square().sum() for y in outputs).backward()
    return [*outputs, x.grad, *(p.grad for p in module.parameters())]


def assert_same(module, other, x):
    for ours, expected in zip(run(other, x), run(copy.deepcopy(module), x), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", every())
def test_a_traced_model_is_the_model(name):
    module, x = every()[name], torch.randn(N, C, H, W)
    traced = torch.fx.symbolic_trace(copy.deepcopy(module))
    assert_same(module, traced, x)
    traced.zero_grad()
    assert_same(module, pickle.loads(pickle.dumps(traced)), x)
    assert torch.fx.symbolic_trace(traced).code == traced.code


@pytest.mark.parametrize("name", functions())
def test_every_function_is_a_leaf(name):
    module = functions()[name]
    targets = [node.target for node in torch.fx.symbolic_trace(module).graph.nodes]
    assert targets.count(module.function) == 1


def of_a_user(x, weight):
    return spatial_gate(x, weight, residual=x).relu()


def test_a_function_of_a_user_that_imported_ours_by_name():
    x, weight = torch.randn(N, C, H, W), torch.randn(1, 2, 3, 3)
    traced = torch.fx.symbolic_trace(of_a_user)
    assert spatial_gate in [node.target for node in traced.graph.nodes]
    assert torch.equal(traced(x, weight), of_a_user(x, weight))
