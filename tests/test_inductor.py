"""torch.compile's default backend, which writes C++, on every public function: one graph of them
all, as each compilation takes seconds. What there is to say of each op alone, its contract says.
"""

import torch
from calls import All, C, H, N, W, functions
from torch.utils._pytree import tree_leaves


def trained(model, module, x):
    """Results of `model`, and the gradients of x and of the parameters, which are module's."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    results = [y for y in tree_leaves(model(x)) if y.is_floating_point()]
    loss = sum((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() for y in results)
    return results, torch.autograd.grad(loss, [x, *module.parameters()])


def test_every_function():
    module = All(functions().values())
    x = torch.randn(N, C, H, W).contiguous(memory_format=torch.channels_last)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True)
    torch.testing.assert_close(trained(compiled, module, x), trained(module, module, x))
