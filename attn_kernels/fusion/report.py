"""What `fuse` did, module by module."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A module: the gates that were fused in it, what was not and why, and the maps that a training
    step no longer moves, in multiples of the gate's own map.
    """

    path: str
    cls: str
    gates: tuple[str, ...] = ()
    why_not: tuple[str, ...] = ()
    saves: int = 0


@dataclass
class Report:
    """Rows in the order of the model. ``print(report)`` shows a table, as rich does."""

    rows: list[Row] = field(default_factory=list)

    @property
    def gates(self) -> Counter[str]:
        """How many gates of each kind were fused."""
        return Counter(gate for row in self.rows for gate in row.gates)

    @property
    def fused(self) -> int:
        return self.gates.total()

    @property
    def left(self) -> list[Row]:
        """Modules in which something was not fused."""
        return [row for row in self.rows if row.why_not]

    @property
    def saves(self) -> int:
        return sum(row.saves for row in self.rows)

    def summary(self) -> str:
        counts = ", ".join(f"{count} x {gate}" for gate, count in self.gates.items())
        lines = [f"{self.fused} gates and tails fused" + (f": {counts}" if counts else "")]
        if self.saves:
            lines.append(
                f"{self.saves} maps are no longer read or written per training step (each counted "
                "as one map of its gate; by arithmetic, against eager PyTorch, not measured)"
            )
        return "\n".join(lines)

    def lines(self) -> list[tuple[str, str, str, str]]:
        """Cells of the table; modules of one class that came out the same share a line."""
        groups: dict[tuple[Any, ...], list[str]] = {}
        for row in self.rows:
            groups.setdefault((row.cls, row.gates, row.why_not), []).append(row.path)
        found = []
        for (cls, gates, why_not), paths in groups.items():
            where = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
            found.append((where or "(model)", cls, "\n".join(gates), "\n".join(why_not)))
        return found

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        table = Table(*("module", "class", "fused", "left alone, and why"))
        for cells in self.lines():
            table.add_row(*cells)
        return Group(table, self.summary())

    def __str__(self) -> str:
        try:
            from rich.console import Console
        except ImportError:
            texts = (" | ".join(cells).replace("\n", "; ") for cells in self.lines())
            return "\n".join((*texts, self.summary()))
        console = Console(width=120)
        with console.capture() as capture:
            console.print(self)
        return capture.get().rstrip()
