"""Results on the terminal."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.table import Table

from .compare import Comparison, comparisons

NETWORK_STEP = "step"


def time_text(us: float | None) -> str:
    if us is None:
        return ""
    if us < 1e3:
        return f"{us:.3g} us"
    return f"{us / 1e3:.3g} ms" if us < 1e6 else f"{us / 1e6:.3g} s"


def ratio_text(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def share_text(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def cell(comparison: Comparison, provider: str) -> str:
    row = comparison.rows.get(provider)
    if row is None:
        return ""
    return time_text(row.p50_us) if row.status == "ok" else row.status.upper()


def show(frame, console: Console) -> None:
    """One table for each op, dtype and layout."""
    everything = comparisons(frame)
    steps = [c for c in everything if c.mode == NETWORK_STEP]
    if steps:
        console.print(network_table(steps))
    everything = [c for c in everything if c.mode != NETWORK_STEP]
    for (op, dtype, layout), group in groupby(everything, key=lambda c: (c.op, c.dtype, c.layout)):
        console.print(table(f"{op}, {dtype}, {layout}", list(group)))
    if len(frame):
        last = frame.iloc[-1]
        console.print(
            f"Medians on {last['name']} ({last['device']}, {last['threads']} threads), torch "
            f"{last['torch']}, commit {last['commit'][:12]}. The last columns are ours over "
            "theirs; 'of limit' is ours against a copy of the bytes that cannot be avoided.",
            highlight=False,
        )


def table(title: str, group: list[Comparison]) -> Table:
    providers = list(dict.fromkeys(name for c in group for name in c.rows))
    several_conditions = len({(c.launch, c.cache) for c in group}) > 1
    result = Table(title=title, title_justify="left", header_style="bold")
    for name in ("shape", "mode", *(("launch", "cache") if several_conditions else ())):
        result.add_column(name, no_wrap=True)
    for name in (*providers, "x eager", "x compile", "of limit"):
        result.add_column(name, justify="right", no_wrap=True)
    for comparison in group:
        condition = (comparison.launch, comparison.cache) if several_conditions else ()
        result.add_row(
            *(comparison.shape, comparison.mode, *condition),
            *(cell(comparison, name) for name in providers),
            ratio_text(comparison.speedup(comparison.ours, "eager")),
            ratio_text(comparison.speedup(comparison.ours, "compile")),
            share_text(comparison.limit_share(comparison.ours)),
        )
    return result


def network_table(group: list[Comparison]) -> Table:
    """Training steps of whole networks: images/s is of the median step."""
    result = Table(title="Training steps", title_justify="left", header_style="bold")
    for name in ("network", "images", "dtype", "gates"):
        result.add_column(name, no_wrap=True)
    for name in ("step", "images/s", "peak memory", "x eager"):
        result.add_column(name, justify="right", no_wrap=True)
    for comparison in group:
        images = int(comparison.shape.split("x")[0])
        for provider, row in comparison.rows.items():
            time = comparison.time(provider)
            result.add_row(
                *(comparison.op, comparison.shape, comparison.dtype, provider),
                cell(comparison, provider),
                f"{images / (time * 1e-6):.3g}" if time else "",
                f"{row.peak_bytes / 2**20:.0f} MiB" if row.peak_bytes > 0 else "",
                ratio_text(comparison.speedup(provider, "eager")),
            )
    return result
