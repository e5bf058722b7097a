"""What the simulator's tool makes of a log, and the committed rows."""

import csv

from benchmarks.gpusim import log, run, table

LOG = """
LAUNCH blocks=12 threads=256 shared=0
kernel_name = _ZN12attn_kernels10map_kernelIfEEvNS_12MapArgumentsIT_EE
gpu_sim_cycle = 1000
gpu_warp_cycles = 32000
L2_total_cache_accesses = 100
L2_total_cache_misses = 60
n_cmd=9 n_nop=1 n_req=1 n_rd=5 n_rd_L2_A=1 n_write=2 n_wr_bk=1 bw_util=0.5
n_cmd=9 n_nop=1 n_req=1 n_rd=3 n_rd_L2_A=0 n_write=0 n_wr_bk=0 bw_util=0.5
LAUNCH blocks=3 threads=64 shared=128
kernel_name = _ZN4base11copy_kernelEPK5uint4PS0_i
gpu_sim_cycle = 500
gpu_warp_cycles = 1000
L2_total_cache_accesses = 150
L2_total_cache_misses = 70
n_cmd=9 n_nop=1 n_req=1 n_rd=10 n_rd_L2_A=1 n_write=2 n_wr_bk=1 bw_util=0.5
n_cmd=9 n_nop=1 n_req=1 n_rd=3 n_rd_L2_A=0 n_write=0 n_wr_bk=0 bw_util=0.5
"""


def test_counters_that_only_grow_are_taken_apart():
    first, second = log.kernels(LOG)
    assert first == log.Kernel("map_kernel", 12, 256, 1000, 32000, 9 * 32, 3 * 32, 100, 60)
    assert second == log.Kernel("copy_kernel", 3, 64, 500, 1000, 5 * 32, 0, 50, 10)


def test_chains_are_set_beside_each_other(tmp_path):
    file = tmp_path / "simulated.csv"
    row = dict.fromkeys(run.COLUMNS, "") | {"right": "PASS", "read_N": "1", "write_N": "0.5"}
    for chain, cycles in (("copy", (80,)), ("compile", (60, 40)), ("ours", (50, 30))):
        rows = [row | {"chain": chain, "order": i, "cycles": c} for i, c in enumerate(cycles)]
        run.append(file, rows)
    lines = [[cell.strip() for cell in line.split("|")] for line in table.table(file).split("\n")]
    assert lines[-1][2:6] == ["ours", "0.1", "1.00", "0.80"]


def test_each_chain_has_one_that_it_is_set_beside():
    beside = {name: table.beside(name) for name in run.CHAINS}
    assert set(beside.values()) <= set(run.CHAINS)
    assert beside["ours"] == "compile"
    assert beside["ours_bwd"] == "recompute_bwd"
    assert beside["se_tail_ours_bwd"] == "se_tail_compile_bwd"


def test_what_is_committed_was_right():
    with run.RESULTS.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows
    assert {row["right"] for row in rows} == {"PASS"}
    assert all(row["commit"] and row["date"] for row in rows)
