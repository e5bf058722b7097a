"""Everything that only a GPU can tell, in one go of under nine minutes, with nothing fetched.

    python benchmarks/gpu_check.py --out DIR

Builds in place for this GPU; runs the GPU tests, compute-sanitizer, the benchmark matrix and the
DRAM counters; leaves in DIR results.csv, ncu_traffic.csv, plots, log.txt and summary.md, a folder
to be committed as benchmarks/results/<gpu>-<date>/. A stage that fails is reported, the later ones
run, and the exit code is 1 at the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, Python looks beside it only

from benchmarks.stages import Outcome, Stage, run_stages  # noqa: E402

LOG, SUMMARY = "log.txt", "summary.md"
SUMMARY_SECONDS = 20  # kept back from the benchmark for its last case, table and plots
OPS = "spatial_gate,gam_channel_gate"
NCU_SHAPE = "64x256x56x56"  # larger than any L2 cache in half precision

VERSIONS = """
import importlib.metadata, sys, torch
print("python", sys.version.split()[0], "torch", torch.__version__, torch.cuda.get_device_name())
for name in ("triton", "pandas", "rich", "matplotlib", "pytest", "timm"):
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "is not installed")
"""
# The device's own architecture alone: the full list takes several times as long to build.
BUILD = """
import os, runpy, sys, torch
os.environ["TORCH_CUDA_ARCH_LIST"] = "{}.{}".format(*torch.cuda.get_device_capability())
sys.argv = ["setup.py", "build_ext", "--inplace"]
runpy.run_path("setup.py", run_name="__main__")
"""


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def sanitizer(tool: str) -> list[str]:
    return [
        *("compute-sanitizer", "--tool", tool, "--error-exitcode", "9"),
        *("--target-processes", "application-only"),
        *python("-m", "benchmarks.sanitize"),
    ]


def bench(out: Path, *arguments: str) -> list[str]:
    return python("-m", "attn_kernels", "bench", "--device", "cuda", "--out", str(out), *arguments)


def plan(out: Path) -> list[Stage]:
    """The stages; their budgets add up to the nine minutes less half a minute."""
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # each tensor an allocation with an end
    return [
        Stage("versions", 25, lambda _: python("-c", VERSIONS)),
        Stage("build", 150, lambda _: python("-c", BUILD)),
        Stage("gpu tests", 80, lambda _: python("-m", "pytest", "tests", "-m", "gpu", "-q")),
        Stage("memcheck", 35, lambda _: sanitizer("memcheck"), uncached),
        Stage("racecheck", 35, lambda _: sanitizer("racecheck"), uncached),
        Stage(
            "benchmark",
            125,
            lambda seconds: bench(
                out,
                *("--op", OPS, "--mode", "fwd,bwd,full", "--dtype", "float16,float32"),
                *("--seconds", "0.3", "--minutes", f"{max(0, seconds - SUMMARY_SECONDS) / 60:.2f}"),
            ),
        ),
        Stage(
            "dram traffic",
            60,
            lambda _: bench(
                out,
                *("--ncu", "--op", OPS, "--mode", "fwd,bwd"),
                *("--dtype", "float16", "--shapes", NCU_SHAPE),
            ),
        ),
    ]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/gpu-check"), help="results folder")
    out = parser.parse_args(argv).out.resolve()
    if shutil.which("nvidia-smi") is None:
        print("gpu-check: no NVIDIA GPU here (nvidia-smi is not on PATH)", file=sys.stderr)
        return 2
    try:
        out.mkdir(parents=True, exist_ok=True)
        log = (out / LOG).open("w")
    except OSError as error:
        print(f"gpu-check: cannot write to {out}: {error.strerror}", file=sys.stderr)
        return 2
    os.chdir(ROOT)
    with log:
        outcomes = run_stages(plan(out), log, lambda line: print(line, flush=True))
    text = summary(outcomes, out)
    (out / SUMMARY).write_text(text)
    print(text)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def summary(outcomes: list[Outcome], out: Path) -> str:
    """The stages, and what was measured where something was."""
    lines = ["| stage | seconds | outcome |", "| --- | --- | --- |"]
    lines += [f"| {o.name} | {o.seconds:.0f} | {o.complaint or 'ok'} |" for o in outcomes]
    text = "\n".join(lines) + "\n"
    if (out / "results.csv").exists():
        try:
            from benchmarks.readme_table import results_section

            text += results_section(out / "results.csv", out)
        except Exception as error:  # a summary without figures is better than none
            text += f"\nThe results could not be read: {error}\n"
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
