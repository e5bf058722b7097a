"""`python -m attn_kernels bench`: options, progress, and what is written where."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from . import cases, compare, models, ncu, providers, results, runner, table
from .errors import InputError
from .ops import OPS

FILE_WIDTH = 140  # of tables that go into a file or a pipe
EXIT_BAD_INPUT, EXIT_WRONG, EXIT_INTERRUPTED = 2, 1, 130


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(message)


def parser() -> Parser:
    result = Parser(
        prog="python -m attn_kernels bench",
        description="Sets our kernels beside eager PyTorch, torch.compile and a copy of x. "
        "Without options: the matrix of `make bench`.",
    )
    add = result.add_argument
    add("--op", help=f"comma list of {', '.join(OPS)}")
    add("--mode", help=f"comma list of {', '.join(cases.MODES)}")
    add("--dtype", help=f"comma list of {', '.join(cases.DTYPES)}")
    add("--shapes", help=f"comma list of {', '.join(cases.SHAPES)} and NxCxHxW")
    add("--layout", help=f"comma list of {', '.join(cases.LAYOUTS)}")
    add(
        "--against",
        help=f"comma list of {', '.join(providers.NAMES)} "
        f"(default {','.join(providers.DEFAULT_AGAINST)}); always there: ours and the yardsticks "
        f"{' and '.join(providers.YARDSTICKS)}",
    )
    add("--device", help="cpu or cuda (default: cuda where there is one)")
    add("--threads", type=int, help="of the CPU (default: PyTorch's)")
    add("--seconds", type=float, default=2.0, help="of sampling per shape and mode (default 2)")
    add("--minutes", type=float, help="start no further case after this time")
    add("--out", type=Path, default=Path("out/bench"), help="folder (default out/bench)")
    add("--compare", type=Path, metavar="CSV", help="say how far this run agrees with that one")
    add("--show", type=Path, metavar="CSV", help="measure nothing: show and plot that file")
    add("--ncu", action="store_true", help="measure bytes moved instead of time (CUDA, ncu)")
    network = result.add_argument_group("whole networks")
    add = network.add_argument
    add("--model", help=f"comma list of {', '.join(models.NAMES)}, timm:NAME: time steps of these")
    add("--batch", type=int, default=models.DEFAULT_BATCH, help="images (default %(default)s)")
    add("--size", type=int, default=models.DEFAULT_SIZE, help="pixels a side (default %(default)s)")
    return result


def main(argv: list[str]) -> int:
    """Exit code 0; 1 where a result was wrong; 2 for bad input; 130 after Ctrl-C."""
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    try:
        return run(parser().parse_args(argv), console)
    except InputError as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def run(options: argparse.Namespace, console: Console) -> int:
    if options.show:
        return report(results.read(options.show), options, console)
    old = results.read(options.compare) if options.compare else None
    device = device_of(options)
    if options.threads is not None:
        if options.threads < 1:
            raise InputError(f"--threads: expected at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    if options.ncu:
        return ncu.run(plan_of(options, device), options.out, console)
    measure = measure_networks if options.model else measure_ops
    prepared = measure(options, device, console)  # complains before the file is opened
    writer = results.Writer(options.out, device)
    interrupted = False
    try:
        prepared(writer)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        writer.close()
    if interrupted:
        console.print(f"Interrupted: the {len(writer.rows)} rows measured so far are kept.")
    code = report(results.read(writer.path), options, console)
    if old is not None and not interrupted:
        console.print(compare.compare_sentence(results.read(writer.path), old), highlight=False)
    return EXIT_INTERRUPTED if interrupted else code


def device_of(options: argparse.Namespace) -> str:
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device: expected cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: PyTorch sees no CUDA device")
    return device


def plan_of(options: argparse.Namespace, device: str) -> runner.Plan:
    ops = names(options, "op", OPS, cases.DEFAULT_OPS)
    modes = names(options, "mode", cases.MODES, cases.DEFAULT_MODES)
    against = names(options, "against", providers.NAMES, providers.DEFAULT_AGAINST)
    if options.op or options.shapes or options.dtype or options.layout:
        dtypes = names(options, "dtype", cases.DTYPES, ("float32",))
        layouts = names(options, "layout", cases.LAYOUTS, ("nchw",))
        setups = cases.setups(ops, options.shapes, dtypes, layouts, device)
    else:
        setups = cases.default_setups(device)
    runner.check_memory(setups, device)
    if options.seconds <= 0:
        raise InputError(f"--seconds: expected more than 0, got {options.seconds}")
    return runner.Plan(
        setups,
        modes,
        list(dict.fromkeys([providers.OURS, *against, *providers.YARDSTICKS])),
        device,
        options.seconds,
        deadline(options),
    )


def names(options: argparse.Namespace, option: str, known, default) -> list[str]:
    text = getattr(options, option)
    return cases.parse_names(f"--{option}", text, known) if text else list(default)


def deadline(options: argparse.Namespace) -> float:
    return time.monotonic() + options.minutes * 60 if options.minutes else float("inf")


def measure_ops(options: argparse.Namespace, device: str, console: Console):
    plan = plan_of(options, device)

    def prepared(writer: results.Writer) -> None:
        said: set[str] = set()

        def say(text: str) -> None:
            if text not in said:
                said.add(text)
                bar.console.print(text, highlight=False, markup=False)

        with progress(console) as bar:
            task = bar.add_task("", total=plan.steps)
            runner.run(
                plan,
                writer,
                say,
                begin=lambda label: bar.update(task, description=label),
                done=lambda: bar.advance(task),
            )

    return prepared


def measure_networks(options: argparse.Namespace, device: str, console: Console):
    names = models.network_names(options.model)
    dtypes = cases.parse_names("--dtype", options.dtype or "float32", cases.DTYPES)
    shape = models.image_shape(options.batch, options.size)
    return models.prepare(names, dtypes, shape, device, options.seconds, console)


def progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", style="dim"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def report(frame, options: argparse.Namespace, console: Console) -> int:
    """Tables, plots, the noise, and the exit code that the rows deserve."""
    from . import plots

    table.show(frame, console)
    for line in compare.shortfalls(frame):
        console.print(f"Behind: {line}", highlight=False)
    console.print(compare.noise_sentence(frame), highlight=False)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        drawn = plots.draw(frame, options.out)
    except OSError as error:
        raise InputError(f"--out: cannot write to {options.out}: {error.strerror}") from error
    measured = options.show or options.out / results.FILE_NAME
    console.print("Written:", *(str(path) for path in (measured, *drawn)), highlight=False)
    bad = int((frame["status"] != "ok").sum())
    if bad:
        console.print(f"{bad} of {len(frame)} rows are wrong or failed; their notes say why.")
    ours_wrong = (frame["status"] == "wrong") & frame["provider"].str.contains("ours")
    return EXIT_WRONG if ours_wrong.any() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
