"""Writes the tables that a Markdown file shows: `python -m benchmarks.readme_table [README.md]`.

Between the marker lines of the results comes a table for each results folder
benchmarks/results/<name>/, and its speed-up plot where there is one; between those of the gates,
where the file has them, the table of gates. Nothing there is typed: with --check it fails unless
the file already says what the results and the traffic model say.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import gates_table
from .compare import Comparison, comparisons, noise_sentence
from .errors import InputError
from .results import FILE_NAME, read
from .table import NETWORK_STEP, ratio_text, share_text, time_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
GATES_BEGIN, GATES_END = "<!-- gates: begin -->", "<!-- gates: end -->"
HEADER = (
    *("op", "shape", "dtype", "mode", "ours", "eager", "compile"),
    *("x eager", "x compile", "of limit"),
)
PLOT = "speedup.png"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme_table", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results folders")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    options = parser.parse_args(argv)
    try:
        old = options.file.read_text()
        results = section(options.results, options.file.parent)
        new = updated(old, BEGIN, END, results, options.file)
        if GATES_BEGIN in old:
            new = updated(new, GATES_BEGIN, GATES_END, gates_table.section(), options.file)
        if options.check:
            return int(new != old)
        options.file.write_text(new)
    except OSError as error:
        print(f"readme_table: {options.file}: {error.strerror}", file=sys.stderr)
        return 2
    except InputError as error:
        print(f"readme_table: {error}", file=sys.stderr)
        return 2
    return 0


def updated(text: str, begin: str, end: str, content: str, file: Path) -> str:
    """The text with what lies between the markers replaced."""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"{file}: expected one line {begin} and, below it, one line {end}")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}{end}{rest.split(end)[1]}"


def section(results: Path, relative_to: Path) -> str:
    """Markdown of all results folders."""
    files = sorted(results.glob(f"*/{FILE_NAME}"))
    if not files:
        raise InputError(f"{results}: no results folder with a {FILE_NAME} in it")
    return "".join(results_section(file, relative_to) for file in files)


def results_section(file: Path, relative_to: Path) -> str:
    frame = read(file)
    if frame.empty:
        raise InputError(f"{file}: no rows")
    last = frame.iloc[-1]
    threads = f", {last['threads']} threads" if last["device"] == "cpu" else ""
    triton = f", triton {last['triton']}" if last["triton"] else ""
    link = file.parent.resolve().relative_to(relative_to.resolve())
    lines = [
        f"\n**{last['name']}**{threads}: torch {last['torch']}{triton}, {last['utc'][:10]}, commit "
        f"`{last['commit'][:12]}`; medians, all rows in [{link}]({link}/{FILE_NAME}).\n",
        markdown_row(HEADER),
        markdown_row("---" for _ in HEADER),
        *(markdown_row(cells(c)) for c in shown(frame)),
        f"\n{noise_sentence(frame)}",
    ]
    if (file.parent / PLOT).exists():
        lines.append(f"\n![Speed-up over eager PyTorch]({link}/{PLOT})")
    return "\n".join(lines) + "\n"


def shown(frame) -> list[Comparison]:
    """Plain launches, op by op; on CUDA with a cold cache."""
    cache = "cold" if (frame["cache"] == "cold").any() else "warm"
    found = [
        c
        for c in comparisons(frame)
        if c.launch == "plain" and (c.mode == NETWORK_STEP or c.cache == cache) and c.time(c.ours)
    ]
    ops = list(dict.fromkeys(c.op for c in found))
    return sorted(found, key=lambda c: ops.index(c.op))


def cells(c: Comparison) -> tuple[str, ...]:
    times = (time_text(c.time(provider)) for provider in (c.ours, "eager", "compile"))
    ratios = (ratio_text(c.speedup(c.ours, provider)) for provider in ("eager", "compile"))
    layout = "" if c.layout == "nchw" else f" {c.layout}"
    return (
        *(f"`{c.op}`", c.shape + layout, c.dtype, c.mode),
        *times,
        *ratios,
        share_text(c.limit_share(c.ours)),
    )


def markdown_row(values) -> str:
    return f"| {' | '.join(values)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
