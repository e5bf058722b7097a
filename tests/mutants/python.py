"""Faults of attn_kernels."""

from .mutation import Mutation

AUTOGRAD, NN = "attn_kernels/autograd/", "attn_kernels/nn/"
OPS, CHECKS = "attn_kernels/ops.py", "attn_kernels/checks.py"
DIFFERENTIABLE, VMAP = AUTOGRAD + "differentiable.py", AUTOGRAD + "vmap.py"

GAM = "tests/test_gam_channel_gate.py::TestGamChannelGate::"
GATE = "tests/test_spatial_gate.py::TestSpatialGate::"
MAP = "tests/test_spatial_attention.py::TestSpatialAttention::"
ARGUMENTS = "tests/test_spatial_arguments.py::"
CHILDREN = "tests/test_children.py::"
WHOLE_GAM = "tests/test_gam_attention.py::"
MODULES = "tests/test_modules.py::"
TAIL = "tests/test_tail.py::"
EXCITE, CHANNEL = "tests/test_squeeze_excite.py::", "tests/test_channel_gates.py::"
DTENSOR = "tests/test_dtensor.py::test_in_two_processes"

OPERATORS = [
    Mutation(
        "fake hidden in NCHW",
        OPS,
        "hidden = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=<<format>>)",
        "torch.contiguous_format",
        GAM + "test_opcheck[cpu-channels_last-torch.float32]",
    ),
    Mutation(
        "fake gradients in the parameters' dtype",
        OPS,
        "x.new_empty(p.shape, dtype=<<acc_dtype(x)>>) for p in parameters",
        "p.dtype",
        GAM + "test_opcheck_of_parameters_in_xs_dtype[cpu-torch.bfloat16]",
    ),
    Mutation(
        "fake: only stride(1) == 1 is a part of channels_last",
        OPS,
        "h * w > 1 and <<step > 0>> and",
        "step == 1",
        "tests/test_spatial_layouts.py::test_parts_of_a_map_keep_its_format"
        "[every other channel-channels_last]",
    ),
    Mutation(
        "a float64 map is narrowed under autocast",
        "attn_kernels/functional/operands.py",
        "if <<x.dtype == torch.float64 or >>not autocasts(x)",
        "",
        MAP + "test_autocast_gives_eagers_dtypes[cpu-torch.float64]",
    ),
    Mutation(
        "b2 is not kept for the backward",
        DIFFERENTIABLE,
        "t<<.clone()>> if i == kept else t",
        "",
        "tests/test_gam_channel_gate.py::test_biases_may_change_before_the_backward[4-identity]",
    ),
    Mutation(
        "the functions take K = 16",
        CHECKS,
        "if <<k % 2 == 0 or not 1 <= k <= 15>>:",
        "k % 2 == 0 and k != 16 or not 1 <= k <= 16",
        MODULES + "test_kernel_sizes_that_do_not_exist[16]",
    ),
    Mutation(
        "True is a number",
        CHECKS,
        "isinstance(value, int)<< or isinstance(value, bool)>>:",
        "",
        MODULES + "test_kernel_sizes_that_are_no_ints[SpatialAttention-True]",
    ),
    Mutation(
        "a forced backend stays after an error",
        "attn_kernels/backends.py",
        "        yield\n    <<finally:>>\n        _open_blocks -= 1",
        "except GeneratorExit:\n        raise\n    else:",
        "tests/test_backends.py::test_use_backend_is_undone",
    ),
]

DERIVATIVES = [
    Mutation(
        "a tangent is not looked for",
        DIFFERENTIABLE,
        "level >= 0 and <<any(_has_tangent(t) for t in args)>>",
        "False",
        GATE + "test_forward_mode[cpu]",
    ),
    Mutation(
        "no gradients below a level of torch.func",
        DIFFERENTIABLE,
        "torch._C._set_grad_enabled(<<True>>)",
        "False",
        GATE + "test_func[cpu-grad-jacrev of jacrev]",
    ),
    Mutation(
        "no tangents below a level of torch.func",
        DIFFERENTIABLE,
        "torch._C._set_fwd_grad_enabled(<<True>>)",
        "False",
        GATE + "test_func[cpu-grad-hessian]",
    ),
    Mutation(
        "torch.jit.trace sees the Function instead of the op",
        DIFFERENTIABLE,
        "or <<_get_tracing_state() is not None>>",
        "False",
        GATE + "test_trace_then_train[cpu]",
    ),
    Mutation(
        "gradients of the wrong arguments in a second backward",
        DIFFERENTIABLE,
        "return tuple(found.get(<<i>>) for i in range(len(inputs)))",
        "len(inputs) - 1 - i",
        GATE + "test_gradgradcheck[cpu]",
    ),
    Mutation(
        "saved tensors in other strides",
        DIFFERENTIABLE,
        "if <<t is not None and not t.is_contiguous()>>:",
        "False",
        GAM + "test_saved_tensors_in_other_strides[cpu]",
    ),
    Mutation(
        "vmap: unfolded the other way around",
        VMAP,
        "return <<t.reshape(size, t.shape[0] // size, *t.shape[1:])>>",
        "t.reshape(t.shape[0] // size, size, *t.shape[1:]).transpose(0, 1)",
        GATE + "test_vmap_over_every_dimension[cpu]",
    ),
    Mutation(
        "vmap: the batch's dimension is moved to where it was",
        VMAP,
        "t.movedim(<<dim, 0>>)",
        "0, dim",
        GATE + "test_vmap_over_every_dimension[cpu]",
    ),
    Mutation(
        "vmap: one set of parameters for a backward",
        VMAP,
        "<<self.is_backward\n            or >>any(",
        "",
        GATE + "test_gradients_per_sample[cpu]",
    ),
    Mutation(
        "vmap: sets of a vmap inside are forgotten",
        VMAP,
        "or (<<self.grouped>> and any(",
        "False",
        GATE + "test_vmap_in_vmap[cpu]",
    ),
    Mutation(
        "second derivatives of GAM without its hidden units",
        AUTOGRAD + "gam_channel_gate.py",
        "if <<d_hidden is not None>>:",
        "False",
        GAM + "test_gradgradcheck[cpu]",
    ),
    Mutation(
        "second derivatives of the gate without its statistics",
        AUTOGRAD + "spatial_attention.py",
        "if <<d_pooled is not None>>:",
        "False",
        GATE + "test_gradgradcheck[cpu]",
    ),
    Mutation(
        "second derivatives of the gate by its own gradients alone",
        AUTOGRAD + "spatial_gate.py",
        "gradients = [<<added(a, b)>> for a, b in zip(",
        "a",
        GATE + "test_gradgradcheck[cpu]",
    ),
    Mutation(
        "a gradient for a bias that is not there",
        AUTOGRAD + "spatial_gate.py",
        "if <<not ctx.has_bias>>:",
        "False",
        ARGUMENTS + "test_the_gate",
    ),
    Mutation(
        "the map's gradient for a bias that is not there",
        AUTOGRAD + "spatial_attention.py",
        "d_bias if <<ctx.has_bias>> else None",
        "True",
        ARGUMENTS + "test_the_map",
    ),
    Mutation(
        "the residual's gradient before the ReLU",
        AUTOGRAD + "spatial_gate.py",
        "d_residual = <<dy if y is None else dr>>",
        "dy",
        ARGUMENTS + "test_the_gate",
    ),
    Mutation(
        "batch statistics: dx without its mean",
        AUTOGRAD + "batch_statistics.py",
        "offset = d_mean / count<< - slope * mean>>",
        "",
        WHOLE_GAM + "test_as_published[plain-identity-train]",
    ),
]

CHANGED_CHILDREN = [
    Mutation(
        "a backward pre-hook is no obstacle",
        NN + "children.py",
        '        or own["_forward_hooks"]\n<<        or own["_backward_pre_hooks"]\n>>',
        "",
        CHILDREN + "test_any_child[SpatialGate-conv1-backward pre-hook]",
    ),
    Mutation(
        "a forward of its own is no obstacle",
        NN + "children.py",
        'if <<"forward">> in own or',
        '"forwards"',
        CHILDREN + "test_any_child[GAMChannelGate-1-a forward of its own]",
    ),
    Mutation(
        "padding_mode is not looked at",
        NN + "spatial_attention.py",
        'own["groups"], <<own["padding_mode"]>>\n',
        '"zeros"',
        CHILDREN + "test_replaced[circular-SpatialGate-conv1]",
    ),
    Mutation(
        "hooks of GAM's MLP are not looked at",
        NN + "gam.py",
        "return <<obstacle(mlp, nn.Sequential) or >>mlp_obstacle(mlp)",
        "",
        CHILDREN + "test_any_child[GAMAttention-channel_attention-forward hook]",
    ),
    Mutation(
        "an empty batch is averaged",
        NN + "batch_norm.py",
        "if count <<== 0>>:",
        "< 0",
        WHOLE_GAM + "test_empty_batch[train-True]",
    ),
    Mutation(
        "momentum 0.0 is None",
        NN + "batch_norm.py",
        "if <<share is None>>:",
        "not share",
        WHOLE_GAM + "test_momentum[0.0]",
    ),
]

TAILS = [
    Mutation(
        "the maximum under a negative scale is the maximum's",
        NN + "tail.py",
        "torch.where(<<a > 0>>, found",
        "a == a",
        TAIL + "test_as_eager[batch norm-CBAM]",
    ),
    Mutation(
        "batch norm from its images: the variance between them is left out",
        NN + "batch_norm.py",
        'of_images["var"].mean(0)<< + between>>',
        "",
        TAIL + "test_as_eager[batch norm-None]",
    ),
    Mutation(
        "the channels of z are not looked at",
        NN + "tail.py",
        "if norm is not None and <<norm.num_features != z.shape[1]>>:",
        "False",
        TAIL + "test_bad_input",
    ),
    Mutation(
        "a derived gate is taken for its base",
        NN + "tail.py",
        "return <<obstacle(gate, kind.cls) or >>kind.obstacle(gate)",
        "",
        TAIL + "test_a_gate_that_is_derived",
    ),
    Mutation(
        "the spatial gate gives its gradient to x and to the token",
        AUTOGRAD + "carried.py",
        "return <<None>>, *others, dx, None",
        "dx",
        "tests/test_cbam.py::TestCBAM::test_gradcheck[cpu]",
    ),
    Mutation(
        "the last pass writes on what a second derivative needs",
        AUTOGRAD + "squeeze.py",
        '== "cpu"\n<<        and not torch.is_grad_enabled()\n>>',
        "",
        TAIL + "test_second_derivatives[CBAM]",
    ),
]

CHANNEL_GATES = [
    Mutation(
        "squeeze_excite: a second derivative ends at the statistics",
        AUTOGRAD + "squeeze_excite.py",
        "if any(<<d is not None>> for d in d_statistics):",
        "False",
        EXCITE + "TestSqueezeExcite::test_gradgradcheck[cpu]",
    ),
    Mutation(
        "squeeze_excite: gradients of biases that are not there",
        AUTOGRAD + "squeeze_excite.py",
        "has_b1, has_b2 = <<ctx.biases>>",
        "True, True",
        EXCITE + "test_only_what_is_asked_for[1]",
    ),
    Mutation(
        "squeeze_excite: autocast does not widen",
        "attn_kernels/functional/squeeze_excite.py",
        "return <<as_eager(y, x)>>",
        "y.to(torch.bfloat16)",
        EXCITE + "TestSqueezeExcite::test_autocast_gives_eagers_dtypes[cpu-torch.float32]",
    ),
    Mutation(
        "squeeze_excite: weights of another order",
        CHECKS,
        'check_operand("w2", w2, <<(channels, hidden, 1, 1)>>, x)',
        "w2.shape",
        EXCITE + "test_bad_input",
    ),
    Mutation(
        "SqueezeExcite reads layers with hooks",
        NN + "squeeze_excite.py",
        "if <<layers_obstacles(fc1, fc2) == PLAIN>>:",
        "True",
        CHILDREN + "test_any_child[SqueezeExcite-fc1-forward hook]",
    ),
    Mutation(
        "SqueezeExcite takes groups for none",
        NN + "squeeze_excite.py",
        "if <<geometry != POINTWISE or>> (weight",
        "",
        CHILDREN + "test_replaced[pointwise stride-SqueezeExcite-fc1]",
    ),
    Mutation(
        "ChannelAttention: the mean for the maximum",
        NN + "channel_attention.py",
        "torch.cat([mean, <<max>>])",
        "mean",
        CHANNEL + "test_as_eager[cpu-nchw-torch.float32-CBAM's map]",
    ),
    Mutation(
        "GSoP: no mean is taken off",
        NN + "gsop.py",
        "<<deviations @ deviations.mT>> /",
        "pixels @ pixels.mT",
        CHANNEL + "test_gsop_of_a_large_mean",
    ),
]

AT_SCALE = [
    Mutation(
        "a parameter's gradient over some images is taken for the whole of it",
        "attn_kernels/distributed.py",
        "[<<Partial()>> if result.name in sums",
        "Replicate()",
        DTENSOR + "[check_modules]",
    ),
    Mutation(
        "sets of weights are given to parts of a batch",
        "attn_kernels/distributed.py",
        "if <<weight is not None and weight.shape[0] > 1>>:",
        "False",
        DTENSOR + "[check_sets_of_weights]",
    ),
    Mutation(
        "plain zeros beside DTensors",
        DIFFERENTIABLE,
        "ctx.set_materialize_grads(<<False>>)  # as plain zeros",
        "True",
        DTENSOR + "[check_second_derivatives]",
    ),
    Mutation(
        "a DTensor with plain operands is not refused",
        CHECKS,
        "is_dtensor(t) <<!= is_dtensor(x)>>:",
        "and not is_dtensor(x)",
        DTENSOR + "[check_refusals]",
    ),
    Mutation(
        "attention_maps leaves its model in evaluation mode",
        "attn_kernels/maps.py",
        "            module.training = <<mode>>\n",
        "False",
        "tests/test_attention_maps.py::test_maps_by_path_in_the_order_of_the_calls",
    ),
]

MUTATIONS = OPERATORS + DERIVATIVES + CHANGED_CHILDREN + TAILS + CHANNEL_GATES + AT_SCALE
