"""How many hidden units published modules have."""

from __future__ import annotations


def divisible(value: float, divisor: int, least: int | None = None) -> int:
    """value rounded to a multiple of divisor, to no less than nine tenths of it: timm's rule."""
    rounded = max(
        divisor if least is None else least, int(value + divisor / 2) // divisor * divisor
    )
    return rounded + divisor if rounded < 0.9 * value else rounded


def check_ratio(name: str, ratio: object) -> None:
    if not isinstance(ratio, int | float) or isinstance(ratio, bool):
        raise TypeError(f"{name}: expected a number, got {ratio!r}")
    if not ratio > 0:
        raise ValueError(f"{name}: expected more than 0, got {ratio}")
