"""Faults of triton_ops, which runs in Triton's interpreter."""

from .mutation import Mutation

COMMON = "triton_ops/common.py"
GAM, GAM_KERNELS = "triton_ops/gam_channel_gate.py", "triton_ops/gam_channel_gate_kernels.py"
SCALE_GATE = "triton_ops/scale_gate.py"

TEST_GAM = "tests/test_gam_channel_gate_triton.py::"
TEST_SCALE_GATE = "tests/test_scale_gate_triton.py::TestScaleGate::"
SPLITS = "TestGamChannelGate::test_several_tiles_in_a_split[one kernel]"

MUTATIONS = [
    Mutation(
        "Triton: 32-bit offsets in channels_last",
        COMMON,
        "return <<pixel.to(tl.int64) * CHANNELS>>",
        "(pixel * CHANNELS).to(tl.int64)",
        TEST_GAM + "TestAddressing::test_offsets_past_32_bits[True]",
    ),
    Mutation(
        "Triton: splits of unequal tiles are rounded down",
        COMMON,
        "per_split = <<triton.cdiv(tiles, max(1, wanted))>>",
        "max(1, tiles // max(1, wanted))",
        TEST_GAM + "TestSplits::test_split_evenly",
    ),
    Mutation(
        "Triton: ReLU's mask loses NaN",
        COMMON,
        "return <<tl.where(hidden <= 0, 0.0, d_hidden)>>",
        "tl.where(hidden > 0, d_hidden, 0.0)",
        TEST_GAM + "TestGamChannelGate::test_nan_goes_through_the_relu[one kernel]",
    ),
    Mutation(
        "Triton: a split reads its neighbour's tiles",
        GAM_KERNELS,
        "tile_range(<<split * tiles_per_split>> + step, P, INDEX)",
        "split",
        TEST_GAM + SPLITS,
    ),
    Mutation(
        "Triton: the last split is lost",
        GAM,
        "grid = (*columns, <<splits>>)",
        "splits - 1",
        TEST_GAM + SPLITS,
    ),
    Mutation(
        "Triton: d_pre is stored without its mask",
        GAM_KERNELS,
        "tl.store(d_pre_ptr + hidden_offset, d_pre<<, mask=hidden_mask>>)",
        "",
        TEST_GAM + "TestGamChannelGate::test_nothing_is_written_outside[one kernel]",
    ),
    Mutation(
        "Triton: d_shift is stored without its mask",
        SCALE_GATE,
        "tl.store(row_ptr + C + c, tl.sum(d_shift, axis=1)<<, mask=c < C>>)",
        "",
        TEST_SCALE_GATE + "test_nothing_is_written_outside[contiguous]",
    ),
    Mutation(
        "Triton: scale_gate's splits read their neighbours' tiles",
        SCALE_GATE,
        "tile_range(<<split * tiles_per_split>> + step, P, INDEX)",
        "split",
        TEST_SCALE_GATE + "test_several_tiles_in_a_split",
    ),
]
