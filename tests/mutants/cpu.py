"""Faults of the CPU kernels and of what guards every kernel, as switches in one build."""

from .mutation import Mutation

SIMD, GAM, TILES = "csrc/cpu/simd.h", "csrc/cpu/gam_kernels.h", "csrc/cpu/gam_tiles.h"
SCALE_GATE = "csrc/cpu/scale_gate_kernels.h"
LAYOUT, NCHW = "csrc/cpu/layout.h", "csrc/cpu/layout_nchw.h"
CHANNELS_LAST = "csrc/cpu/layout_channels_last.h"
SPATIAL, STENCIL = "csrc/cpu/spatial_kernels.h", "csrc/cpu/stencil.h"
FEATURE_MAP, OPERANDS = "csrc/common/feature_map.h", "csrc/common/spatial_operands.h"
ARITHMETIC = "csrc/common/spatial_gate.h"
SQUEEZE, AFFINE_GATE = "csrc/cpu/squeeze_kernels.h", "csrc/cpu/affine_gate_kernels.h"
EXCITE = "csrc/common/excite.h"
BANDS, BROADCAST_GATE = "csrc/cpu/bands_kernels.h", "csrc/cpu/broadcast_gate_kernels.h"
BROADCAST_SQUEEZE = "csrc/cpu/broadcast_squeeze_kernels.h"
SELF_GATE = "csrc/cpu/self_gate_kernels.h"

ROUNDING = "tests/test_gam_rounding.py::"
SUMS = "tests/test_gate_sums.py::"
LAYOUTS = "tests/test_spatial_layouts.py::"
VIEW = "tests/test_spatial_view.py::"
TEST_SQUEEZE, TEST_AFFINE_GATE = "tests/test_squeeze.py::", "tests/test_affine_gate.py::"
TEST_EXCITE = "tests/test_squeeze_excite.py::"
TEST_BROADCAST, TEST_SELF_GATE = "tests/test_broadcast_gate.py::", "tests/test_self_gate.py::"
FORMS = TEST_BROADCAST + "test_forms"
EVERY_RESULT = TEST_EXCITE + "test_every_result"

MUTATIONS = [
    Mutation(
        "bfloat16 is truncated",
        SIMD,
        "rounded = <<(bits + 0x7fff + ((bits >> 16) & 1)) >> 16>>;",
        "bits >> 16",
        ROUNDING + "test_stores_of_scale_gate_round_as_pytorch[37-nchw-torch.bfloat16]",
    ),
    Mutation(
        "bfloat16 rounds ties up",
        SIMD,
        "rounded = <<(bits + 0x7fff + ((bits >> 16) & 1)) >> 16>>;",
        "(bits + 0x8000) >> 16",
        LAYOUTS + "test_stores_round_ties_to_even[torch.bfloat16-nchw]",
    ),
    Mutation(
        "GAM: ReLU's mask loses NaN",
        GAM,
        "<<load_lanes(at(hidden, c, p), lanes) <= 0 ? V{} : v>>",
        "load_lanes(at(hidden, c, p), lanes) > 0 ? v : V{}",
        ROUNDING + "test_nan_hidden_units_pass_gradients_on",
    ),
    Mutation(
        "GAM: hidden units go on unrounded",
        GAM,
        "<<rounded<T>(relu)>>, lanes);",
        "relu",
        ROUNDING + "test_forward_and_backward_see_the_same_hidden_units"
        "[1.000244140625-nchw-torch.float16]",
    ),
    Mutation(
        "GAM: a tile of one image many times",
        TILES,
        "fn(Piece{<<t.image + image>>, t.first, t.count, image * t.count});",
        "t.image",
        "tests/test_gam_channel_gate.py::TestGamChannelGate::test_many_tiles"
        "[cpu-(600, 24, 7, 7)-identity-nchw-torch.float32]",
    ),
    Mutation(
        "scale_gate: lanes that are not there are summed",
        SCALE_GATE,
        "sigmoid_backward(dy * load_lanes(g.x + at, lanes), gate), <<V{}>>, lanes);",
        "sigmoid_backward(dy * load_lanes(g.x + at, lanes), gate)",
        ROUNDING + "test_scale_gate_is_spoilt_where_eager_is[inf-scale-nchw-torch.float32]",
    ),
    Mutation(
        "scale_gate: sums in one part",
        SCALE_GATE,
        "kPart = <<kVectorsPerSum>> * kLanes<A>, kBlock",
        "int64_t{1} << 24",
        SUMS + "test_scale_gate_over_a_million_pixels[(1, 3, 1000, 1000)-nchw]",
    ),
    Mutation(
        "scale_gate: channels_last sums by thread",
        SCALE_GATE,
        "A *d_scale = g.partials + <<unit>> * 2 * p.c,",
        "begin",
        SUMS + "test_scale_gate_gives_the_same_bits_on_any_threads[(3, 70, 23, 19)-channels_last]",
        also=("std::fill_n(d_scale, <<2 * p.c>>, A(0));", "unit == begin ? 2 * p.c : 0"),
    ),
    Mutation(
        "means in one part",
        LAYOUT,
        "kChannelsPerPartial = <<128>>;",
        "int64_t{1} << 24",
        LAYOUTS + "test_a_mean_of_many_channels[nchw]",
    ),
    Mutation(
        "stride(1) == 1 is channels_last",
        FEATURE_MAP,
        "if (<<is_channels_last(x)>>) return",
        "x.stride(1) == 1",
        LAYOUTS + "test_parts_of_a_map_keep_its_format[channels-channels_last]",
    ),
    Mutation(
        "only stride(1) == 1 is a part of channels_last",
        FEATURE_MAP,
        "h * w > 1 && <<step > 0>> &&",
        "step == 1",
        LAYOUTS + "test_parts_of_a_map_keep_its_format[every other channel-channels_last]",
    ),
    Mutation(
        "the ops take K = 16",
        OPERANDS,
        "<<weight.size(2) % 2 == 1>> &&",
        "weight.size(2) % 2 == 1 || weight.size(2) == 16",
        "tests/test_checks.py::test_direct_callers_of_the_ops_are_stopped_too",
        also=("weight.size(2) <= <<15>>,", "16"),
    ),
    Mutation(
        "spatial: ReLU loses NaN",
        ARITHMETIC,
        "return <<value <= 0 ? T{} : value>>;",
        "value > 0 ? value : T{}",
        VIEW + "test_what_is_not_finite_spreads_as_in_eager[nan-residual-nchw]",
    ),
    Mutation(
        "spatial: ReLU's mask loses NaN",
        ARITHMETIC,
        "return <<y <= 0 ? T{} : dy>>;",
        "y > 0 ? dy : T{}",
        VIEW + "test_nan_passes_the_mask_of_the_relu[nchw]",
    ),
    Mutation(
        "spatial: the maximum of few channels is at least 0",
        CHANNELS_LAST,
        "fill_missing<A>(v, <<broadcast(-kInfinity<A>)>>, lanes)",
        "V{}",
        "tests/test_channel_pool.py::TestChannelPool::test_accuracy"
        "[cpu-(2, 3, 5, 7)-channels_last-torch.float32]",
    ),
    Mutation(
        "spatial: ties go to the highest channel",
        NCHW,
        "winner = <<if_max(v, best, IntVec<A>{} + static_cast<Int<A>>(c + g), winner)>>;",
        "winner < 0 ? if_max(v, best, IntVec<A>{} + static_cast<Int<A>>(c + g), winner) : winner",
        VIEW + "test_the_maximum_is_that_of_the_view[nchw]",
    ),
    Mutation(
        "spatial: d_shift of a unit takes the next one's pixels",
        NCHW,
        "gradient<kGate, kRelu>(upstream, pixels, c, i, at, out.dr, lanes), <<V{}>>, lanes);",
        "gradient<kGate, kRelu>(upstream, pixels, c, i, at, out.dr, lanes)",
        VIEW + "test_every_result[(2, 5, 40, 41)-nchw-torch.float32]",
    ),
    Mutation(
        "spatial: the mean's weights for the maximum",
        STENCIL,
        "d_max[u] += <<tap[k * k]>> * d;",
        "tap[0]",
        VIEW + "test_every_result[(2, 3, 5, 7)-nchw-torch.float32]",
    ),
    Mutation(
        "spatial: one weight for all groups",
        SPATIAL,
        "return weight + <<n / p.images_per_group>> * 2 * p.k * p.k;",
        "0 * n",
        VIEW + "test_every_result[(2, 3, 5, 7)-nchw-torch.float32]",
    ),
    Mutation(
        "spatial: d_weight of a group takes the next one's images",
        "csrc/cpu/spatial_stencil.h",
        "unit < <<units / groups * (g + 1)>>;",
        "units",
        VIEW + "test_every_result[(2, 3, 5, 7)-nchw-torch.float32]",
    ),
    Mutation(
        "squeeze: ties go to the last pixel of a lane",
        SQUEEZE,
        "argmax = <<v > max>> ? at : argmax;",
        "v >= max",
        TEST_SQUEEZE + "test_ties_go_to_the_first_pixel[(2, 37, 6, 9)-torch.float32-nchw]",
    ),
    Mutation(
        "squeeze: blocks' means do not spread",
        "csrc/common/squeeze.h",
        "sum * sum * one + <<delta * delta * before * share>>;",
        "0 * before",
        TEST_SQUEEZE + "test_a_large_mean_costs_no_digits[from 0-nchw]",
    ),
    Mutation(
        "squeeze: pixels of a later block count from its start",
        SQUEEZE,
        "best_at[c] = <<first + at[c]>>;",
        "at[c]",
        TEST_SQUEEZE + "test_accuracy[(2, 5, 120, 121)-channels_last-torch.float32]",
    ),
    Mutation(
        "squeeze: the variance of one infinite pixel is 0",
        SQUEEZE,
        "store_lanes(a.var + at + c, <<v - v>>, lanes);",
        "Vec<A>{}",
        TEST_SQUEEZE + "test_single_pixels_that_are_not_finite[torch.float32]",
    ),
    Mutation(
        "squeeze: a pixel that holds both extremes gets one gradient",
        "csrc/cpu/squeeze_backward_kernels.h",
        "a_.d_max[nc] + <<(min_at == max_at ? a_.d_min[nc] : A(0))>>);",
        "A(0)",
        TEST_SQUEEZE + "test_one_pixel_is_both_extremes[nchw]",
    ),
    Mutation(
        "affine_gate: the scale for the shift",
        AFFINE_GATE,
        "auto y = affine(load_lanes(a.x + at, lanes), k[0], <<k[1]>>, VectorFma{});",
        "k[0]",
        TEST_AFFINE_GATE + "test_accuracy[(2, 3, 5, 7)-nchw-torch.float32]",
    ),
    Mutation(
        "affine_gate: d_shift sums what d_scale does",
        AFFINE_GATE,
        "d_shift[c] += <<shift_[c]>>;",
        "scale_[c]",
        TEST_AFFINE_GATE + "test_sums[(2, 3, 5, 7)-channels_last-torch.float32]",
    ),
    Mutation(
        "affine_gate: the last group of pixels again and again",
        AFFINE_GATE,
        "add_group<group>(from + <<pixel * p_.c>>, t.channels);",
        "0 * pixel",
        TEST_AFFINE_GATE + "test_sums[(2, 3, 5, 7)-channels_last-torch.float32]",
    ),
    Mutation(
        "excite: SiLU's slope is its sigmoid",
        EXCITE,
        "return d_active * <<(s * (1 + hidden * (1 - s)))>>;",
        "s",
        EVERY_RESULT + "[(2, 3, 5, 7)-silu-sigmoid-nchw-torch.float32]",
    ),
    Mutation(
        "excite: the open hard sigmoid has a slope",
        EXCITE,
        "return <<scale < 1 ? within : T{}>>;",
        "within",
        TEST_EXCITE + "test_a_shut_gate_passes_no_gradient",
    ),
    Mutation(
        "excite: the first image's hidden units for all",
        "csrc/cpu/excite_kernels.h",
        "store_lanes(a.active + <<n * a.r>> + unit,",
        "0 * n",
        EVERY_RESULT + "[(2, 1100, 5, 5)-relu-sigmoid-nchw-torch.float32]",
    ),
    Mutation(
        "excite: biases' gradients sum neighbours instead of images",
        "csrc/cpu/excite_kernels.h",
        "sum += factors[<<i * units>>];",
        "i",
        EVERY_RESULT + "[(2, 3, 5, 7)-relu-sigmoid-nchw-torch.float32]",
    ),
    Mutation(
        "squeeze_excite: the mean's gradient is not shared out",
        "csrc/cpu/squeeze_excite.cpp",
        "<<A(1) / static_cast<A>(x.h * x.w)>>,",
        "A(1)",
        EVERY_RESULT + "[(2, 3, 5, 7)-relu-sigmoid-nchw-torch.float32]",
    ),
    Mutation(
        "squeeze_excite: image by image, each is the first",
        "csrc/cpu/squeeze_excite.cpp",
        "const auto own = of_image(excite, <<image>>);\n      run_image(k.squeeze,",
        "0 * image",
        TEST_EXCITE + "test_an_image_is_the_same_in_any_batch",
    ),
    Mutation(
        "broadcast_gate: nothing is skipped",
        BROADCAST_GATE,
        "load_lanes(g.x + at, lanes) * <<(gate + g.factor.skip)>>;",
        "gate",
        FORMS + "[(2, 3, 5, 7)-nchw]",
    ),
    Mutation(
        "broadcast_gate: a factor's gradient takes itself for the other",
        BROADCAST_GATE,
        "of_b[l] = fill_missing<A>(kSum ? d_u : d_u * <<va>>,",
        "vb",
        FORMS + "[(2, 3, 5, 7)-nchw]",
    ),
    Mutation(
        "broadcast_gate: the hard sigmoid has a slope above 3",
        "csrc/common/broadcast_gate.h",
        "return u <= -3 ? T{} : (<<u >= 3 ? T{} : T{} + 1 / T(T{} + 6)>>);",
        "T{} + 1 / T(T{} + 6)",
        FORMS + "[(2, 64, 14, 14)-nchw]",
    ),
    Mutation(
        "bands: the first row's factor for all",
        BANDS,
        "broadcast(from[<<row * of.row>>]);",
        "0 * row",
        FORMS + "[(2, 3, 5, 7)-nchw]",
    ),
    Mutation(
        "bands: columns after the first vector are left as they were",
        BANDS,
        "for (int64_t i = <<(of.width - 1) / kLanes<A> * kLanes<A>>>; i >= 0;",
        "0",
        FORMS + "[(1, 3, 50, 61)-nchw]",
    ),
    Mutation(
        "bands: a row's sum takes the next row's first pixels",
        BANDS,
        "<<fill_missing<A>(load(room + g * kPart<A> + row * of.width + i), Vec<A>{}, lanes)>>;",
        "load(room + g * kPart<A> + row * of.width + i)",
        FORMS + "[(2, 3, 5, 7)-nchw]",
    ),
    Mutation(
        "bands: a long row's parts are all its first",
        BANDS,
        "fn(row, 1, <<column>>, count);",
        "0 * column",
        FORMS + "[(1, 5, 3, 1100)-nchw]",
    ),
    Mutation(
        "bands: channels that are left after the groups are left out",
        BANDS,
        "if (<<left < end>>) fn(left, end - left,",
        "false",
        TEST_BROADCAST + "test_statistics[(2, 3, 5, 7)-nchw-torch.float32]",
    ),
    Mutation(
        "bands: the first band's sums for all",
        "csrc/cpu/bands_launch.h",
        "sum += sums_[<<band * size_>> + i];",
        "0 * band",
        TEST_BROADCAST + "test_statistics[(2, 64, 14, 14)-channels_last-torch.float32]",
    ),
    Mutation(
        "broadcast_squeeze: a sum over channels without its weight",
        BROADCAST_SQUEEZE,
        "x[l] *= <<weight(l, i, lanes)>>;",
        "Vec<A>{} + 1",
        TEST_BROADCAST + "test_statistics[(2, 3, 5, 7)-nchw-torch.float32]",
    ),
    Mutation(
        "broadcast_squeeze: rows share their gradient as columns do",
        BROADCAST_SQUEEZE,
        "d_rows(l, i, lanes) * <<of_row>>;",
        "of_column",
        TEST_BROADCAST + "test_statistics[(2, 3, 5, 7)-nchw-torch.float32]",
    ),
    Mutation(
        "self_gate: half of the polynomial's slope",
        SELF_GATE,
        "d_u * (<<2 * p2 * d>> + p1)",
        "p2 * d",
        TEST_SELF_GATE + "test_accuracy[(2, 3, 5, 7)-nchw-torch.float32]",
    ),
    Mutation(
        "self_gate: the shuffle is its inverse",
        SELF_GATE,
        "return <<c % per_group_ * groups_ + c / per_group_>>;",
        "c % groups_ * per_group_ + c / groups_",
        TEST_SELF_GATE + "test_shuffle[6-nchw]",
    ),
    Mutation(
        "self_gate: one group of channels in the stage",
        SELF_GATE,
        "within * groups_ + <<group>>;",
        "0 * group",
        TEST_SELF_GATE + "test_shuffle[6-channels_last]",
    ),
]
