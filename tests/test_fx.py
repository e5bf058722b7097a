"""torch.fx: every public function is one node, and a traced model is the model."""

import copy
import pickle

import pytest
import torch
from calls import C, H, N, W, composed, every, functions

from attn_kernels.functional import spatial_gate


def run(module, x):
    """Values and gradients, those of parameters in the order of their names."""
    x = x.clone().requires_grad_()
    outputs = torch.utils._pytree.tree_leaves(module(x))
    sum(y.square().sum() for y in outputs).backward()
    return [*outputs, x.grad, *(p.grad for _, p in sorted(module.named_parameters()))]


def assert_same(module, other, x, **tolerance):
    for ours, expected in zip(run(other, x), run(copy.deepcopy(module), x), strict=True):
        torch.testing.assert_close(ours, expected, **tolerance)


def assert_traced_is(module, **tolerance):
    x = torch.randn(N, C, H, W)
    traced = torch.fx.symbolic_trace(copy.deepcopy(module))
    assert_same(module, traced, x, **tolerance)
    traced.zero_grad()
    assert_same(module, pickle.loads(pickle.dumps(traced)), x, **tolerance)
    assert torch.fx.symbolic_trace(traced).code == traced.code


@pytest.mark.parametrize("name", every())
def test_a_traced_model_is_the_model(name):
    assert_traced_is(every()[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", composed())
def test_a_traced_model_of_parts_is_the_model_up_to_rounding(name):
    assert_traced_is(composed()[name])


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
