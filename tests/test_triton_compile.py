"""Every Triton kernel, and every entry of its tables of tiles, compiled ahead of time: no GPU is
needed.

Held for each: nothing spills, shared memory fits, and the products run on the matrix unit of the
architecture.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pathlib

import pytest
import torch
from triton_aot import Case, compile_case

from triton_ops import gam_channel_gate
from triton_ops import gam_channel_gate_configs as configs

SHARED_LIMIT = {
    75: 64,
    80: 99,
    90: 227,
    100: 227,
    120: 99,
}  # KB; sm_80's tiles serve sm_86 and sm_89 too
MATRIX_INSTRUCTION = {75: None, 80: "mma.sync", 90: "wgmma", 100: "tcgen05.mma", 120: "mma.sync"}
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
LARGE, SMALL, ODD = (32, 56, 56), (2, 16, 16), (2, 7, 7)  # images, height, width
WEIGHTS = ("gam_weight_gradient_kernel",)

# {(kernel, R, channels_last): why} its sigmoid's products on wgmma wait for each other, as ptxas
# says (C7510 to C7515). The reasons are read from its registers, not proven. Nothing else may.
SERIALISED = {
    (
        "gam_backward_kernel",
        128,
        False,
    ): "the gate and its gradient lie in registers beside d_hidden",
    (
        "gam_backward_kernel",
        256,
        False,
    ): "the gate and its gradient lie in registers beside d_hidden",
    ("gam_backward_kernel", 60, False): "masked channels take the registers that R = 64 has left",
    ("gam_weight_gradient_kernel", 32, False): "da in registers is a product's left factor",
    ("gam_weight_gradient_kernel", 64, True): "da in registers is a product's left factor",
    ("gam_weight_gradient_kernel", 128, False): "da in registers is a product's left factor",
}


def gam(arch, dtype, hidden, size=LARGE, activation="sigmoid", channels=None, **options) -> Case:
    images, height, width = size
    shape = (images, channels or 4 * hidden, height, width)
    return Case("gam_channel_gate", arch, dtype, shape, hidden, activation, **options)


def gam_cases(
    arch: int, dtype: torch.dtype, widths: tuple[int, ...], tf32: bool = False
) -> list[Case]:
    """Every tile that one architecture uses for one kind of arithmetic, and the odd shapes beside
    it.
    """
    cases = [gam(arch, dtype, width, tf32=tf32) for width in widths]
    cases.append(gam(arch, dtype, 64, SMALL, "identity", tf32=tf32))
    cases.append(gam(arch, dtype, 61, ODD, "identity", 241, tf32=tf32))
    cases += [
        gam(arch, dtype, width, SMALL, "identity", tf32=tf32, only=WEIGHTS) for width in (16, 32)
    ]
    cases.append(gam(arch, dtype, 15, ODD, "identity", 61, tf32=tf32, only=WEIGHTS))
    return cases


ALL, NOT_256, SIMT = (16, 32, 64, 128, 256), (16, 32, 64, 128), (16, 32, 64)
# Of `make exhaustive`: the same kernels for other pairs of an architecture and an arithmetic.
OTHERS = [
    *gam_cases(80, HALF, ALL),
    *gam_cases(80, SINGLE, NOT_256, tf32=True),
    *gam_cases(90, SINGLE, NOT_256, tf32=True),
    *gam_cases(100, SINGLE, NOT_256, tf32=True),
    *gam_cases(90, SINGLE, SIMT),
    *gam_cases(75, HALF, SIMT),
    gam(120, BRAIN, 64),
    gam(120, BRAIN, 256),
]
CASES = [
    *gam_cases(90, HALF, ALL),
    *gam_cases(100, BRAIN, ALL),
    # The same kernels with the other constants that launchers pass, each on one architecture or
    # two: the plain gate, da given by a kernel of its own, bfloat16, masked channels with 8-byte
    # loads, channels_last, 2^31 pixels.
    gam(90, HALF, 128, SMALL, "identity", only=WEIGHTS),
    gam(90, HALF, 64, activation="identity"),
    gam(80, HALF, 64, SMALL),
    gam(90, HALF, 61, ODD, channels=241),
    gam(90, BRAIN, 64),
    gam(90, HALF, 60, (64, 14, 14), channels=248),
    gam(90, HALF, 64, channels_last=True),
    gam(80, BRAIN, 60, (64, 14, 14), channels=248, channels_last=True),
    gam(90, HALF, 16, (2**20, 56, 56)),
    Case("scale_gate", 75, HALF, (8, 256, 56, 56)),
    Case("scale_gate", 80, SINGLE, (8, 256, 7, 7)),
    Case("scale_gate", 90, HALF, (8, 256, 7, 7)),
    Case("scale_gate", 90, HALF, (8, 256, 56, 56), channels_last=True),
    Case("scale_gate", 100, BRAIN, (8, 256, 56, 56)),
]


@pytest.fixture(scope="module")
def compiled(request):
    """{case: its figures to come}; two processes work through the cases that this run asks for."""
    cache = pathlib.Path(__file__).parent.parent / "build" / "triton-cache"
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache))  # the processes inherit it
    cases = [
        item.callspec.params["case"]
        for item in request.session.items
        if "compiled" in item.fixturenames
    ]
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool:
        yield {case: pool.submit(compile_case, case) for case in cases}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "case",
    [*CASES, *(pytest.param(case, marks=pytest.mark.exhaustive) for case in OTHERS)],
    ids=str,
)
def test_kernels_fit(compiled, case):
    for figures in compiled[case].result():
        assert figures.stack == 0, f"spills: {figures}"
        assert figures.shared <= SHARED_LIMIT[case.arch] * 1024, f"shared memory: {figures}"
        assert figures.instructions == expected_instructions(case, figures), (
            f"instruction: {figures}"
        )
        assert bool(figures.serialised) == may_serialise(case, figures), f"serial: {figures}"


def may_serialise(case: Case, figures) -> bool:
    """Whether the list names it: one that is named and is not serialised any more goes from it."""
    on_wgmma = case.arch == 90 and case.dtype != SINGLE
    key = figures.kernel, figures.constants.get("R"), case.channels_last
    return on_wgmma and case.activation == "sigmoid" and key in SERIALISED


def expected_instructions(case: Case, figures) -> tuple[str, ...]:
    constants = figures.constants
    instruction = MATRIX_INSTRUCTION[case.arch]
    exact = case.dtype == SINGLE and not case.tf32
    if "R" not in constants or exact or instruction is None:
        return ()
    rows = constants["P"]
    if figures.kernel in WEIGHTS:
        rows = constants["BC" if constants["DA"] == "sigmoid" else "BR"]
    # The wide matrix instructions take 64 rows; smaller tiles fall back to the older one.
    return (instruction,) if rows >= 64 else ("mma.sync",)


@pytest.mark.parametrize(
    ("case", "one_kernel"),
    [
        (gam(90, HALF, 64, (8, 32, 32)), True),
        (gam(90, HALF, 64, (7, 32, 32)), False),  # too few pixels to fill a GPU
        (gam(90, HALF, 64, (256, 7, 7)), False),  # single-element loads
        (gam(90, HALF, 64, (8, 32, 32), channels=1028), False),  # channels past the table
        (gam(90, HALF, 512, (8, 32, 32), channels=1024), False),  # hidden units past the table
        (gam(90, SINGLE, 256, (8, 32, 32)), False),
        (gam(90, HALF, 64, (256, 7, 7), channels_last=True), True),  # there HW does not matter
    ],
)
def test_path_follows_the_shape(case, one_kernel):
    names = {launch.name for launch in case.launches()}
    fused = {"gam_forward_kernel", "gam_backward_kernel"}
    split = {"gam_hidden_kernel", "gam_gate_kernel", "gam_d_pre_kernel"}
    assert names == (fused if one_kernel else split) | {
        "gam_weight_gradient_kernel",
        "sum_partials_kernel",
    }


def test_every_entry_of_the_tables_is_compiled(monkeypatch):
    """A table entry that no case above looks up would never be compiled."""
    reached = set()
    for name in ("one_kernel_tile", "gemm_tile", "weight_gradient_tile"):
        lookup = getattr(gam_channel_gate, name)

        def recorded(*key, lookup=lookup):
            reached.add(id(lookup(*key)))
            return lookup(*key)

        monkeypatch.setattr(gam_channel_gate, name, recorded)
    for case in (*CASES, *OTHERS):
        case.launches()
    tables = {
        name: value for name, value in vars(configs).items() if name.isupper() and name != "ROWS"
    }
    missed = [
        f"{name}: {tile}"
        for name, table in tables.items()
        for tile in tiles(table)
        if id(tile) not in reached
    ]
    assert not missed


def tiles(table):
    return (
        [table]
        if isinstance(table, configs.Tile)
        else [tile for part in table.values() for tile in tiles(part)]
    )
