"""What a results file says: who is faster than whom, how near to the limit, how noisily."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from .errors import InputError
from .providers import EAGER, YARDSTICKS
from .results import KEYS

# Smaller maps measure the cost of a call, not memory: they have no distance to the limit.
MINIMUM_BYTES = 1 << 20
NEAR_LIMIT = 0.5
AGREEMENT = 0.15  # two runs are said to agree when every speed-up does so within this


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The rows that share all of KEYS, by provider."""

    key: tuple[str, ...]
    rows: dict[str, Any]

    def __getattr__(self, name: str) -> str:
        if name in KEYS:
            return self.key[KEYS.index(name)]
        raise AttributeError(name)

    @property
    def ours(self) -> str | None:
        """Our backend that serves here: the first measured."""
        return next((name for name in self.rows if name.startswith("ours-")), None)

    def time(self, provider: str | None, column: str = "p50_us") -> float | None:
        row = self.rows.get(provider)
        return getattr(row, column) if row is not None and row.status == "ok" else None

    def speedup(self, provider: str | None, over: str, column: str = "p50_us") -> float | None:
        ours, theirs = self.time(provider, column), self.time(over, column)
        return theirs / ours if ours and theirs else None

    def bandwidth(self, provider: str) -> float | None:
        """Useful bytes per second: those of the limit (for a copy, its own) over the time."""
        time = self.time(provider)
        if not time:
            return None
        row = self.rows[provider]
        return (row.moved_bytes if provider == "copy" else row.limit_bytes) / (time * 1e-6)

    def limit_share(self, provider: str | None) -> float | None:
        """1 where a provider is as fast as a copy of the bytes that it cannot avoid."""
        if provider is None or not self.time(provider) or not self.time("copy"):
            return None
        return self.bandwidth(provider) / self.bandwidth("copy")


def comparisons(frame) -> list[Comparison]:
    """In the order in which they were measured."""
    found: dict[tuple, dict[str, Any]] = {}
    for row in frame.itertuples(index=False):
        found.setdefault(tuple(getattr(row, key) for key in KEYS), {})[row.provider] = row
    return [Comparison(key, rows) for key, rows in found.items()]


def shortfalls(frame) -> list[str]:
    """Where somebody is faster than we are, and where we take over twice the limit's time."""
    found = []
    for c in comparisons(frame):
        for provider in c.rows:
            ratio = c.speedup(c.ours, provider)
            theirs = provider not in YARDSTICKS and not provider.startswith("ours-")
            if theirs and ratio is not None and ratio < 1:
                found.append(
                    f"{' '.join(c.key)}: {provider} is {1 / ratio:.2f}x as fast as {c.ours}"
                )
        share = c.limit_share(c.ours)
        if share is not None and share < NEAR_LIMIT and c.rows["copy"].limit_bytes >= MINIMUM_BYTES:
            found.append(f"{' '.join(c.key)}: {c.ours} at {share:.0%} of the limit")
    return found


def speedups(frame, column: str = "p50_us") -> dict[tuple[str, ...], float]:
    """Speed-ups over eager by comparison and provider."""
    found = {}
    for comparison in comparisons(frame):
        for provider in comparison.rows:
            value = comparison.speedup(provider, "eager", column)
            if value is not None and provider not in (EAGER, *YARDSTICKS):
                found[(*comparison.key, provider)] = value
    return found


def disagreement(a: dict[tuple[str, ...], float], b: dict[tuple[str, ...], float]):
    """How far the speed-ups that both have lie apart, each as a fraction: {key: fraction}."""
    return {key: max(a[key], b[key]) / min(a[key], b[key]) - 1 for key in a if key in b}


def noise_sentence(frame) -> str:
    """How far one run agrees with itself: its even rounds against its odd ones."""
    apart = disagreement(speedups(frame, "p50_early_us"), speedups(frame, "p50_late_us"))
    return sentence("Noise: between the even and the odd rounds of this run", apart)


def compare_sentence(frame, old) -> str:
    """How far two runs agree."""
    apart = disagreement(speedups(frame), speedups(old))
    if not apart:
        raise InputError("--compare: the two results files have no speed-up in common")
    return sentence("Against the other run", apart)


def sentence(opening: str, apart: dict[tuple[str, ...], float]) -> str:
    if not apart:
        return f"{opening}: no speed-up over eager was measured."
    worst = max(apart, key=lambda key: apart[key])
    beyond = sum(value > AGREEMENT for value in apart.values())
    verdict = (
        f"all {len(apart)} speed-ups over eager agree within {AGREEMENT:.0%}"
        if not beyond
        else f"{beyond} of {len(apart)} speed-ups over eager differ by more than {AGREEMENT:.0%}"
    )
    return (
        f"{opening}, {verdict}: median {statistics.median(apart.values()):.1%}, "
        f"largest {apart[worst]:.1%} ({' '.join(worst)})."
    )
