"""What every op must hold of its derivatives: every kind, every order, every way to ask."""

import io

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint


def small(op, device, shape=(2, 3, 4, 3)):
    """(x, *parameters) in float64."""
    x = torch.randn(shape, dtype=torch.float64).to(device)
    return x, *op.parameters(shape[1], torch.float64, device)


def leaves(inputs):
    return [t.detach().clone().requires_grad_() for t in inputs]


def loss(y):
    return (y.sin() * torch.linspace(1, 2, y.numel()).to(y).view(y.shape)).sum()


def assert_same(function, op):
    """What `function` finds of the op is what it finds of the reference."""
    found, expected = (tree_leaves(function(f)) for f in (op.fused, op.reference))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def trained(module, x):
    """The output, and the gradients of x and of the module's parameters."""
    (x,) = leaves([x])
    y = module(x)
    loss(y).backward()
    return [y.detach(), x.grad, *(p.grad for p in module.parameters())]


class Holder(torch.nn.Module):
    """A function of x and parameters as a module."""

    def __init__(self, function, parameters):
        super().__init__()
        self.function = function
        self.own = torch.nn.ParameterList(p.clone() for p in parameters)

    def forward(self, x):
        return self.function(x, *self.own)


def gradients_after_a_change(function, inputs, i):
    """Gradients of `inputs` where the i-th was changed in place before the backward."""
    given = leaves(inputs)
    used = [t * 1 for t in given]  # a leaf cannot be changed in place
    y = function(*used)
    with torch.no_grad():
        used[i].add_(1)
    return torch.autograd.grad(loss(y), given)


TRANSFORMS = {
    "jvp": lambda f, inputs: torch.func.jvp(f, inputs, tuple(t.cos() for t in inputs)),
    "vjp": lambda f, inputs: torch.func.vjp(lambda *t: loss(f(*t)), *inputs)[1](
        torch.ones((), dtype=torch.float64, device=inputs[0].device)
    ),
    "jacrev": lambda f, inputs: torch.func.jacrev(f, tuple(range(len(inputs))))(*inputs),
    "jacfwd": lambda f, inputs: torch.func.jacfwd(f, tuple(range(len(inputs))))(*inputs),
    "hessian": lambda f, inputs: torch.func.hessian(lambda *t: loss(f(*t)))(*inputs),
    "jacrev of jacrev": lambda f, inputs: torch.func.jacrev(
        torch.func.jacrev(lambda *t: loss(f(*t)))
    )(*inputs),
    "linearize": lambda f, inputs: torch.func.linearize(f, *inputs)[1](*(t.cos() for t in inputs)),
}


class Derivatives:
    """Part of the contract: subclasses say `op = Op(...)`."""

    def test_gradcheck(self, device):
        inputs = leaves(small(self.op, device, (1, 2, 2, 3)))
        assert torch.autograd.gradcheck(
            self.op.fused, inputs, check_forward_ad=True, check_batched_grad=True, fast_mode=True
        )

    def test_gradgradcheck(self, device):
        inputs = leaves(small(self.op, device, (1, 2, 2, 3)))
        assert torch.autograd.gradgradcheck(
            self.op.fused, inputs, check_fwd_over_rev=True, fast_mode=True
        )

    @pytest.mark.parametrize("transform", TRANSFORMS)
    @pytest.mark.parametrize("gradients", ["grad", "no_grad"])
    def test_func(self, transform, gradients, device):
        inputs = small(self.op, device, (1, 2, 2, 3))
        with torch.set_grad_enabled(gradients == "grad"):
            assert_same(lambda f: TRANSFORMS[transform](f, inputs), self.op)

    def test_forward_mode(self, device):
        """A tangent comes through, with a gradient beside it and without."""
        x, *parameters = small(self.op, device)

        def found(f):
            results = []
            for requires_grad in (False, True):
                with forward_ad.dual_level(), torch.set_grad_enabled(requires_grad):
                    own = [p.clone().requires_grad_(requires_grad) for p in parameters]
                    y = f(forward_ad.make_dual(x, x.cos()), *own)
                    results += [t.detach() for t in forward_ad.unpack_dual(y)]
                    if requires_grad and own:
                        results += torch.autograd.grad(loss(y), own)
            return results

        assert_same(found, self.op)

    def test_vmap_over_every_dimension(self, device):
        """Values, and gradients that are asked for outside of vmap, of each argument in turn."""
        inputs = small(self.op, device)
        for i, t in enumerate(inputs):
            for dim in range(t.dim() + 1):
                batch = torch.stack([t, 2 * t, t.flip(0)], dim)
                in_dims = tuple(dim if j == i else None for j in range(len(inputs)))

                def found(f, i=i, batch=batch, in_dims=in_dims):
                    given = leaves([*inputs[:i], batch, *inputs[i + 1 :]])
                    y = torch.vmap(lambda *t: t[0] + f(*t).mean(), in_dims)(*given)
                    loss(y).backward()
                    return [y.detach(), *(t.grad for t in given)]

                assert_same(found, self.op)

    def test_vmap_in_vmap(self, device):
        x, *parameters = small(self.op, device)
        xs = torch.stack([x, 2 * x])
        batches = [torch.stack([p, -p, 2 * p]) for p in parameters]

        def found(f):
            inner = torch.vmap(f, in_dims=(0, *(None for _ in parameters)))
            if not parameters:
                return torch.vmap(inner)(torch.stack([xs, -xs]))
            ones = torch.vmap(inner, in_dims=(None, *(0 for _ in parameters)))(xs, *batches)
            inner = torch.vmap(f, in_dims=(None, *(0 for _ in parameters)))
            others = torch.vmap(inner, in_dims=(0, *(None for _ in parameters)))(xs, *batches)
            return ones, others

        assert_same(found, self.op)

    def test_gradients_per_sample(self, device):
        x, *parameters = small(self.op, device)
        in_dims = (0, *(None for _ in parameters))
        arguments = tuple(range(1 + len(parameters)))

        def found(f):
            one = torch.func.grad(lambda x, *t: loss(f(x[None], *t)), arguments)
            return torch.vmap(one, in_dims)(x, *parameters)

        assert_same(found, self.op)

    def test_checkpoint(self, device):
        """What is saved is computed again, and given out once."""
        inputs = small(self.op, device)

        def found(f):
            given = leaves(inputs)
            return torch.autograd.grad(loss(checkpoint(f, *given, use_reentrant=False)), given)

        assert_same(found, self.op)

    def test_changes_in_place_before_the_backward(self, device):
        """A change of what the backward reads raises, any other does not matter."""
        inputs = small(self.op, device)
        given = leaves(inputs)
        loss(self.op.reference(*given)).backward()
        expected = [t.grad for t in given]
        for i in range(len(inputs)):
            try:
                gradients = gradients_after_a_change(self.op.fused, inputs, i)
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)  # noqa: PT017
                continue
            torch.testing.assert_close(list(gradients), expected, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("strict", [False, True])
    @pytest.mark.parametrize("gradients", ["grad", "no_grad"])
    def test_export_then_train(self, gradients, strict, device):
        x, *parameters = small(self.op, device)

        with torch.set_grad_enabled(gradients == "grad"):
            exported = torch.export.export(Holder(self.op.fused, parameters), (x,), strict=strict)
        assert f"attn_kernels.{self.op.name}.default" in str(exported.graph)
        self.assert_trained_as_the_reference(exported.module(), x, parameters)

    def assert_trained_as_the_reference(self, module, x, parameters):
        expected = trained(Holder(self.op.reference, parameters), x)
        torch.testing.assert_close(trained(module, x), expected, rtol=1e-9, atol=1e-11)

    def test_export_with_frozen_parameters(self, device):
        """The input's gradient is there."""
        x, *parameters = small(self.op, device)

        def found(f):
            module = Holder(f, parameters).requires_grad_(False)
            exported = torch.export.export(module, (x,), strict=False)
            return trained(exported.module(), x)[:2]

        assert_same(found, self.op)

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of the checks of shapes
    def test_trace_then_train(self, device):
        """Also after a round trip to a file, which holds ops and no Python."""
        x, *parameters = small(self.op, device)

        file = io.BytesIO()
        torch.jit.save(
            torch.jit.trace(Holder(self.op.fused, parameters), x, check_trace=False), file
        )
        file.seek(0)
        self.assert_trained_as_the_reference(torch.jit.load(file), x, parameters)

    def test_saved_tensors_in_other_strides(self, device):
        """Hooks that offload or compress bring back the values, not the strides."""

        def elsewhere(t):
            return torch.stack([t, t], -1)[..., 0]

        inputs = small(self.op, device)

        def found(f):
            given = leaves(inputs)
            with torch.autograd.graph.saved_tensors_hooks(elsewhere, lambda t: t):
                y = f(*given)
            return torch.autograd.grad(loss(y), given)

        assert_same(found, self.op)
