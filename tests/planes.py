"""What the tests of ops that see a map as planes share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from threads import threads

LAYOUTS = ("nchw", "channels_last")
STRIDES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sliced": lambda t: t[:, :, ::2, 1:-1],
    "transposed": lambda t: t.transpose(2, 3),
    "strided channels": lambda t: t[:, ::3],
    "expanded": lambda t: t.flip(1)[:1].expand(2, -1, -1, -1),
    "permuted": lambda t: t.permute(1, 0, 3, 2),
}


def acc_dtype(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def coefficients(x: torch.Tensor, count: int) -> list[torch.Tensor]:
    """So many (N, C) coefficients as the ops take them."""
    return list(torch.randn(count, *x.shape[:2], dtype=torch.float64).to(acc_dtype(x)))


def strided_like(x: torch.Tensor) -> torch.Tensor:
    """The same values with gaps between them."""
    return torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]


def assert_same(ours, truth) -> None:
    torch.testing.assert_close(ours, truth, rtol=0, atol=0)


def assert_same_with(function, *maps: torch.Tensor) -> None:
    """The strides of maps change no bit."""
    assert_same(function(*maps), function(*(map.contiguous() for map in maps)))


def assert_same_on_any_threads(function) -> None:
    results = []
    for count in (1, 2, 3, 4, 2):
        with threads(count):
            results.append(function())
    for result in results[1:]:
        assert_same(result, results[0])
