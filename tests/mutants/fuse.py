"""Faults of `fuse`, beside its proof or in it: what the proof would catch is no fault."""

from .mutation import Mutation

FUSE, TESTS = "attn_kernels/fusion/", "tests/test_fuse.py::"

MUTATIONS = [
    Mutation(
        "the proof finds everything equal",
        FUSE + "proof.py",
        "        if <<not _close(new[name], expected, largest)>>:",
        "False",
        TESTS + "test_the_proof_decides",
    ),
    Mutation(
        "amax is fused without a word",
        FUSE + "find.py",
        "        if match.spreads and <<not self.first_max>>:",
        "False",
        TESTS + "test_equal_maxima",
    ),
    Mutation(
        "children that are read are not asked",
        FUSE + "rewritten.py",
        "        return <<all(obstacle(child_of(self.module, path), cls) is None for path, cls in "
        "program.read)>>",
        "True",
        TESTS + "test_a_child_that_was_exchanged_is_called",
    ),
    Mutation(
        "a copy made by DataParallel computes with the first one's parameters",
        FUSE + "rewritten.py",
        "        <<put(replica, self.program)>>",
        "pass",
        TESTS + "test_replicas_compute_with_their_own_parameters",
    ),
    Mutation(
        "a factor that others read is taken from them",
        FUSE + "site.py",
        "        if <<any(user not in own for node in nodes for user in node.users)>>:",
        "False",
        TESTS + "test_left_alone_with_the_reason[factor returned]",
    ),
    Mutation(
        "x += y is traced as x = x + y",
        FUSE + "trace.py",
        "        return <<InPlaceProxy(node, self)>>",
        "fx.Proxy(node, self)",
        TESTS + "test_float32_and_autocast[BlockWithCBAM]",
    ),
    Mutation(
        "every gate takes the user's random numbers",
        FUSE + "probe.py",
        "    with <<torch.random.fork_rng(devices=[])>>:",
        "torch.enable_grad()",
        TESTS + "test_stays_what_it_was[SELinear]",
    ),
    Mutation(
        "what is added in place changes the dtype",
        FUSE + "runtime.py",
        "return end.to(y.dtype) if <<in_place>> else end",
        "False",
        TESTS + "test_what_is_added_has_another_dtype_or_shape",
    ),
    Mutation(
        "what is added may have any shape in a tail",
        FUSE + "runtime.py",
        "    elif residual is not None and <<not matches(residual, z)>>:",
        "False",
        TESTS + "test_what_is_added_has_another_dtype_or_shape",
    ),
    Mutation(
        "a norm's children are not asked",
        FUSE + "runtime.py",
        "    if <<not only_identities(norm)>>:",
        "False",
        TESTS + "test_norms_of_another_class",
    ),
    Mutation(
        "a slope from a step of any size",
        FUSE + "runtime.py",
        "    step = <<torch.where(size > 0, size, 1)>>",
        "torch.ones_like(size)",
        TESTS + "test_logits_by_large_values_keep_their_digits",
    ),
]
