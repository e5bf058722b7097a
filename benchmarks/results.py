"""Results files: CSV in long format, a row as soon as it is measured, and the machine's facts."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
import importlib.util
import os
import platform
import subprocess
from pathlib import Path

import torch

import attn_kernels as ak

from .errors import InputError
from .timing import Samples

FILE_NAME = "results.csv"


@dataclasses.dataclass
class Row:
    """One op, provider, mode, dtype, shape, layout and way of launching. Times in microseconds.

    status: ok, or wrong (not right, so not timed), or failed (raised). error: the largest relative
    error of any result against float64. moved_bytes and limit_bytes are the traffic model's;
    saved_bytes and peak_bytes are measured. p50_early_us and p50_late_us are the medians of the
    even and of the odd rounds.
    """

    op: str
    provider: str
    mode: str
    dtype: str
    shape: str
    layout: str = "nchw"
    launch: str = "plain"
    cache: str = "warm"
    status: str = "ok"
    p20_us: float | None = None
    p50_us: float | None = None
    p80_us: float | None = None
    p50_early_us: float | None = None
    p50_late_us: float | None = None
    rounds: int = 0
    error: float | None = None
    moved_bytes: int | None = None
    limit_bytes: int | None = None
    peak_bytes: int | None = None
    saved_bytes: int | None = None
    note: str = ""

    def set_times(self, taken: Samples) -> None:
        self.p20_us, self.p50_us, self.p80_us = (taken.quantile(q) * 1e6 for q in (0.2, 0.5, 0.8))
        self.p50_early_us, self.p50_late_us = taken.early * 1e6, taken.late * 1e6
        self.rounds = len(taken.seconds)


MACHINE_COLUMNS = (
    "device",
    "name",
    "threads",
    "torch",
    "triton",
    "version",
    "commit",
    "utc",
)
COLUMNS = tuple(field.name for field in dataclasses.fields(Row)) + MACHINE_COLUMNS
KEYS = ("op", "mode", "dtype", "shape", "layout", "launch", "cache")  # one comparison


@functools.cache
def machine(device: str) -> dict[str, str | int]:
    """What of MACHINE_COLUMNS stays the same during a run."""
    return {
        "device": device,
        "name": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": triton_version(),
        "version": ak.__version__,
        "commit": commit(),
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def triton_version() -> str:
    if importlib.util.find_spec("triton") is None:
        return ""
    import triton

    return triton.__version__


def commit() -> str:
    """The commit of the source tree, with -dirty where it has been changed since.

    A tree that travelled without its history says it by ATTN_KERNELS_COMMIT.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("ATTN_KERNELS_COMMIT", "unknown")


class Writer:
    """Appends rows to a new file, each on the disk before the next is measured."""

    def __init__(self, folder: Path, device: str):
        self.path = folder / FILE_NAME
        self.device = device
        self.rows: list[dict] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", newline="")
        except OSError as error:
            raise InputError(f"--out: cannot write to {folder}: {error.strerror}") from error
        self._csv = csv.DictWriter(self._file, COLUMNS)
        self._csv.writeheader()

    def write(self, row: Row) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        values = dataclasses.asdict(row) | machine(self.device) | {"utc": now}
        values = {
            name: f"{value:.6g}" if isinstance(value, float) else value
            for name, value in values.items()
        }
        self._csv.writerow(values)
        self._file.flush()
        self.rows.append(values)

    def close(self) -> None:
        self._file.close()


def read(path: Path):
    """A results file as a pandas.DataFrame."""
    import pandas

    try:
        frame = pandas.read_csv(path, keep_default_na=False, na_values={c: [""] for c in NUMBERS})
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: not a readable results file: {reason}") from error
    absent = [name for name in COLUMNS if name not in frame.columns]
    if absent:
        raise InputError(f"{path}: not a results file: no column {', '.join(absent)}")
    for name in NUMBERS:
        try:
            frame[name] = pandas.to_numeric(frame[name])
        except ValueError as error:
            raise InputError(f"{path}: column {name} holds something else than numbers") from error
    return frame


NUMBERS = (
    *("p20_us", "p50_us", "p80_us", "p50_early_us", "p50_late_us", "rounds", "error"),
    *("moved_bytes", "limit_bytes", "peak_bytes", "saved_bytes"),
)
