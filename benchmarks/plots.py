"""Pictures of a results file: speed-up bars, and a roofline."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, StrMethodFormatter

from .compare import MINIMUM_BYTES, Comparison, comparisons
from .providers import EAGER, YARDSTICKS

COLOURS = {
    "ours-cuda": "#c0392b",
    "ours-triton": "#8e44ad",
    "ours-cpu": "#c0392b",
    "eager": "#7f8c8d",
    "compile": "#2980b9",
    "compile-max-autotune": "#16a085",
    "compile-ours": "#8e44ad",
    "compile-gate": "#d35400",
    "timm": "#f39c12",
    "reference": "#bdc3c7",
    "copy": "#2c3e50",
}
NO_LINE = {"marker": "o", "linestyle": "", "color": "grey"}
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
MARKERS = {"fwd": "o", "bwd": "v", "full": "s"}


def draw(frame, folder: Path) -> list[Path]:
    """speedup and roofline, each as PNG and SVG; of CUDA's conditions the cold plain one."""
    plt.rcParams["svg.hashsalt"] = "attn-kernels"  # the same rows give the same file
    cache = "cold" if (frame["cache"] == "cold").any() else "warm"
    shown = [c for c in comparisons(frame) if c.launch == "plain" and c.cache == cache]
    return [
        path
        for name, figure in (("speedup", speedup(shown)), ("roofline", roofline(shown)))
        if figure is not None
        for path in save(figure, folder, name)
    ]


def save(figure, folder: Path, name: str) -> list[Path]:
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    figure.savefig(paths[0], dpi=130)
    figure.savefig(paths[1], metadata={"Date": None})
    plt.close(figure)
    return paths


def speedup(shown: list[Comparison]):
    """A panel for each op, dtype, layout and mode; a group of bars for each shape."""
    panels: dict[tuple[str, ...], list[Comparison]] = {}
    for c in shown:
        panels.setdefault((c.op, c.dtype, c.layout, c.mode), []).append(c)
    panels = {key: group for key, group in panels.items() if any(bars_of(group).values())}
    if not panels:
        return None
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6.5 * columns, 3.2 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (key, group) in zip(axes.flat, panels.items(), strict=False):
        draw_bars(axis, group)
        axis.set_title(" ".join(word for word in key if word != "nchw"), fontsize=10)
    figure.suptitle("Speed-up over eager PyTorch", fontsize=12)
    return figure


def bars_of(group: list[Comparison]) -> dict[str, list[float | None]]:
    providers = dict.fromkeys(name for c in group for name in c.rows)
    return {
        name: bars
        for name in providers
        if name not in (EAGER, *YARDSTICKS)
        and any(bars := [c.speedup(name, "eager") for c in group])
    }


def draw_bars(axis, group: list[Comparison]) -> None:
    bars = bars_of(group)
    width = 0.8 / len(bars)
    for i, (name, values) in enumerate(bars.items()):
        at = [g + (i - (len(bars) - 1) / 2) * width for g in range(len(group))]
        drawn = axis.bar(
            at, [value or 0 for value in values], width, label=name, color=COLOURS.get(name)
        )
        labels = ["" if value is None else f"{value:.1f}" for value in values]
        axis.bar_label(drawn, labels, fontsize=6)
    axis.axhline(1, color=COLOURS["eager"], linewidth=1, label="eager")
    axis.set_xticks(range(len(group)), [c.shape for c in group], fontsize=7)
    axis.set_ylabel("times eager")
    axis.margins(y=0.12)
    axis.legend(fontsize=7)


def roofline(shown: list[Comparison]):
    """Useful bandwidth against the share of the moved bytes that is useful.

    Who moves m bytes where l would do, at the bandwidth of a copy, gets l / m of it in useful
    bytes: that is the roof. A point's distance to the roof is its kernels' inefficiency; the roof's
    own descent from the copy is what is moved in vain.
    """
    panels: dict[tuple[str, str, str], list[Comparison]] = {}
    for comparison in shown:
        copy = comparison.rows.get("copy")
        if comparison.time("copy") and copy.limit_bytes >= MINIMUM_BYTES:
            key = (comparison.op, comparison.dtype, comparison.layout)
            panels.setdefault(key, []).append(comparison)
    if not panels:
        return None
    figure, axes = plt.subplots(
        *(1, len(panels)), figsize=(6.5 * len(panels), 5), squeeze=False, layout="constrained"
    )
    for axis, (key, group) in zip(axes.flat, panels.items(), strict=True):
        draw_roofline(axis, group)
        axis.set_title(" ".join(word for word in key if word != "nchw"), fontsize=10)
    figure.suptitle("Distance to the limit", fontsize=12)
    return figure


def draw_roofline(axis, group: list[Comparison]) -> None:
    peak = max(c.bandwidth("copy") for c in group) / 1e9
    least = 1.0
    for comparison in group:
        for name, row in comparison.rows.items():
            bandwidth = comparison.bandwidth(name)
            if not bandwidth or not row.moved_bytes > 0:
                continue
            useful = 1.0 if name == "copy" else row.limit_bytes / row.moved_bytes
            least = min(least, useful)
            axis.plot(
                *(useful, bandwidth / 1e9),
                marker=MARKERS[comparison.mode],
                color=COLOURS.get(name),
                markersize=point_size(comparison.shape),
                alpha=0.75,
                linestyle="",
            )
    roof = [least / 1.3, 1.0]
    axis.plot(roof, [peak * x for x in roof], color=COLOURS["copy"], linewidth=1)
    axis.axhline(peak, color=COLOURS["copy"], linewidth=1, linestyle="--")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(FixedLocator(SHARES))
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.xaxis.set_minor_locator(NullLocator())
    for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        which(StrMethodFormatter("{x:g}"))
    axis.set_xlabel("bytes that the limit moves / bytes moved (model)")
    axis.set_ylabel("useful GB/s")
    providers = dict.fromkeys(n for c in group for n in c.rows if n not in YARDSTICKS and c.time(n))

    def handle(label: str, **style):
        return plt.Line2D([], [], **NO_LINE | style, label=label)

    line = {"marker": "", "color": COLOURS["copy"]}
    handles = [
        *(handle(name, color=COLOURS.get(name)) for name in providers),
        *(handle(m, marker=MARKERS[m]) for m in dict.fromkeys(c.mode for c in group)),
        handle(f"copy: {peak:.0f} GB/s", linestyle="--", **line),
        handle("roof", linestyle="-", **line),
    ]
    axis.legend(handles=handles, fontsize=7, loc="upper left")  # nobody is above the roof there


def point_size(shape: str) -> float:
    """Larger maps, larger points."""
    elements = 1
    for extent in shape.split("x"):
        elements *= int(extent)
    return 3 + 1.2 * max(0, len(str(elements)) - 3)
