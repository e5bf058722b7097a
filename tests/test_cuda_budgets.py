"""What the CUDA kernels cost by their machine code: the committed table, and what must hold."""

import dataclasses
import re

import pytest
from cuda_on_cpu import build

from benchmarks.budgets import sass, table


@pytest.fixture(scope="module")
def measured():
    return table.measure()


def test_the_table_is_true(measured):
    changed = table.differences(table.read(), measured)
    assert not changed, "\n".join(["`make budgets` writes the table anew:", *changed])


def code(text):
    """Instructions, 16 bytes apart; a label's name stands where the address goes."""
    found, labels = [], {}
    for line in text.split("\n"):
        if line.endswith(":"):
            labels[line.strip(" :")] = 16 * len(found)
        elif line.strip():
            found.append(line.strip())
    instructions = []
    for i, line in enumerate(found):
        conditional = line.startswith("@")
        opcode, _, operands = re.sub(r"^@\S+ ", "", line).partition(" ")
        for label, address in labels.items():
            operands = operands.replace(label, hex(address))
        instructions.append(sass.Instruction(16 * i, opcode, operands, conditional))
    return instructions


LOOP = """
    IMAD R0, R1, R2, RZ
again:
    LDG.E.128 R4, desc[UR4][R2.64]
    LDG.E.128.CONSTANT R8, desc[UR4][R2.64+0x10]
    FADD R0, R0, {first}
    FADD R0, R0, R11
    @P0 BRA again
    LDG.E R1, desc[UR4][R2.64]
    EXIT
"""


def test_loops_of_machine_code():
    (loop,) = sass.loops(code(LOOP.format(first="R5")))
    assert [i.name for i in loop] == ["LDG", "LDG", "FADD", "FADD", "BRA"]
    assert [i.load_bytes for i in loop] == [16, 16, 0, 0, 0]


def test_an_inner_loop_counts_alone():
    nested = "outer:\n MOV R1, R2\ninner:\n LDG.E R3, [R4]\n @P0 BRA inner\n @P1 BRA outer\n EXIT"
    (loop,) = sass.loops(code(nested))
    assert [i.name for i in loop] == ["LDG", "BRA"]


def test_a_loop_around_counts_without_what_is_inside():
    around = "outer:\n LDG.E.128 R4, [R2]\ninner:\n LDG.E R3, [R4]\n @P0 BRA inner\n @P1 BRA outer"
    (loop,) = sass.loops_around(code(f"{around}\n EXIT"))
    assert [i.opcode for i in loop] == ["LDG.E.128", "BRA"]


def test_loads_in_flight():
    (burst,) = sass.loops(code(LOOP.format(first="R5")))
    assert sass.in_flight(burst, 16) == 2
    loaded, other, *rest = burst
    one_by_one = [loaded, rest[0], other, *rest[1:]]
    assert sass.in_flight(one_by_one, 16) == 1
    # Issued in one round, needed in the next.
    ahead = code(
        "again:\n FADD R0, R4, R8\n LDG.E R4, [R2]\n LDG.E R8, [R2]\n @P0 BRA again\n EXIT"
    )
    assert sass.in_flight(next(iter(sass.loops(ahead))), 4) == 2


def test_a_condition_is_in_front_of_a_branch_or_an_operand():
    whole = "again:\n LDG.E R3, [R4]\n BRA.U !UP0, over\n MOV R1, R2\nover:\n @P1 BRA again\n EXIT"
    (loop,) = sass.loops(code(whole))
    assert [i.name for i in loop] == ["LDG", "BRA", "MOV", "BRA"]


def test_a_change_is_named():
    (row, *_) = table.read()
    worse = dataclasses.replace(row, in_flight=row.in_flight + 7)
    (line,) = table.differences([row], [worse])
    assert f"in_flight {row.in_flight} -> {row.in_flight + 7}" in line
    assert table.differences([row], [row]) == []
    assert "gone" in table.differences([row], [])[0]


GATE = """
#include "gate.cuh"
template __global__ void attn_kernels::gate_kernel<__half, false, 8, true, false, false, false>(
    attn_kernels::GateArguments<__half>);
"""


@pytest.fixture(scope="module")
def gate_source():
    source = build.CACHE / "gate.cu"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(GATE)
    return source


def test_a_burst_taken_out_is_seen(gate_source):
    def without_burst(file, text):
        assert file != "cuda/tiling.h" or "kBurst = 4;" in text
        return text.replace("kBurst = 4;", "kBurst = 1;")

    kept = {row.key: row for row in table.read()}
    csrc = build.edited_csrc("no_burst", without_burst)
    (gate, *others) = table.measure([(gate_source,)], ["sm_90"], csrc)
    assert not others
    assert kept[gate.key].in_flight >= 4
    assert gate.in_flight == 1
    (line,) = table.differences([kept[gate.key]], [gate])
    assert "in_flight" in line


# Plain maps in float16, NCHW: 16-byte loads in flight, at least, and instructions per 16 bytes.
# (The gate: 8 conversions, 8 products, 4 that pack, load and store, 2 addresses; the loop's own 7
# are shared by a burst.)
LIMITS = {
    "reduce_kernel<Pool<__half, float, false>, false, 8>": (4, 30),
    "gate_kernel<__half, false, 8, true, false, false, false>": (4, 25.8),
    "reduce_kernel<GateGradient<__half, false, false>, false, 8>": (8, 30),  # two streams
    "input_gradient_kernel<__half, false, 8, true, true, false, false>": (4, 44),
    "plane_reduce_kernel<Squeeze<__half, false, false>, false, 8, false>": (4, 22),
    "plane_reduce_kernel<Squeeze<__half, true, false>, false, 8, false>": (4, 46),
    "plane_reduce_kernel<GateSums<__half, false>, false, 8, false>": (8, 22),  # two streams
    "gate_kernel<__half, false, 8, false, true, false, false>": (4, 40),
    "squeeze_gradient_kernel<__half, false, 8, false>": (8, 46),  # two streams
    "broadcast_gate_kernel<__half, 8>": (8, 26),  # two streams; what is done to them comes behind
    "box_sums_kernel<BroadcastMap<__half>, 8>": (4, 44),
    "box_sums_kernel<BroadcastGateSums<__half>, 8>": (12, 35),  # three streams
    "mix_kernel<__half, false, 8>": (4, 45),  # a map after the other
    "plane_reduce_kernel<MixSums<__half>, false, 8, true>": (8, 52),  # two vectors of four streams
    "blend_kernel<__half, false, 8>": (12, 105),  # three streams
    "plane_reduce_kernel<BlendSums<__half>, false, 8, true>": (8, 122),  # two vectors of four
}


@pytest.mark.parametrize("kernel", LIMITS)
def test_streams_are_what_they_should_be(kernel):
    loads, instructions = LIMITS[kernel]
    here = (kernel, "sm_90", "global")
    loops = [r for r in table.read() if (r.kernel, r.architecture, r.memory) == here]
    stream = max(loops, key=lambda row: (row.load_bytes, row.loads))
    assert stream.load_bytes == 16
    assert stream.in_flight >= loads
    assert stream.per_16_bytes <= instructions


def test_the_weight_gradient_takes_few_instructions():
    """Of a warp, for each pixel: a round of the loop is 4 pixels of one of 14 (plane, ky)."""
    loops = [
        row
        for row in table.read()
        if (row.kernel, row.architecture, row.memory)
        == ("weight_kernel<7, float>", "sm_90", "shared")
    ]
    whole_quads = min(loops, key=lambda row: row.per_16_bytes * row.loads)
    instructions = whole_quads.per_16_bytes * whole_quads.loads
    assert instructions / 4 * 14 / 32 <= 8


def test_every_kernel_of_wide_vectors_has_a_burst():
    """Of those that go through x; what else is small."""
    through_x = re.compile(
        r"((plane_)?reduce|gate|squeeze_gradient|mix|blend)_kernel<"
        r"|input_gradient_kernel<\w+, \w+, \d, true"
        r"|(broadcast_gate|self_gate|self_gate_gradient|box_sums)_kernel<"
    )
    widest = {}
    for row in table.read():
        if through_x.match(row.kernel) and row.memory == "global" and row.load_bytes == 16:
            key = (row.kernel, row.architecture)
            widest[key] = max(widest.get(key, 0), row.in_flight)
    assert widest
    few = [key for key, loads in widest.items() if loads < 4]
    assert not few, few
