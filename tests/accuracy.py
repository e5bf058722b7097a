"""The package's rule of accuracy as an assertion."""

from attn_kernels.accuracy import FORWARD, GRADIENT, judge

__all__ = ["FORWARD", "GRADIENT", "assert_accurate"]


def assert_accurate(name, ours, eager, truth, factor, scale=0.0) -> None:
    for verdict in judge(ours, eager, truth, factor, float(scale)):
        assert verdict.holds, (
            f"{name}, {verdict.norm}: error {verdict.error:.3g}, allowed {verdict.allowed:.3g}"
        )
