"""How right a result must be: judged by PyTorch's own error, not by a number that was chosen.

Against the float64 truth the error may be at most FACTOR times that of plain PyTorch in the same
dtype, plus one unit in the last place: for the worst element, and for the whole tensor in L2, so
that a small term that is missing everywhere shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

FORWARD, GRADIENT = 2.0, 3.0  # FACTOR
# Units in the last place. float64 results meet a truth with rounding errors of its own.
ULPS = {torch.float16: 1, torch.bfloat16: 1, torch.float32: 1, torch.float64: 64}


@dataclass(frozen=True)
class Verdict:
    """One norm of one result; `error` and `allowed` are in the unit of the result."""

    norm: str
    error: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.error <= self.allowed  # False for NaN


def judge(
    ours: torch.Tensor,
    plain: torch.Tensor,
    truth: torch.Tensor,
    factor: float,
    scale: float = 0.0,
) -> list[Verdict]:
    """Verdicts on `ours`, elementwise and in L2.

    `scale` is the size of the terms that were summed, where signs may cancel in the sums.
    Values that are not finite in `truth` must be the same ones in `ours`.
    """
    eps = ULPS[ours.dtype] * torch.finfo(ours.dtype).eps
    ours, plain, truth = (t.detach().double().cpu() for t in (ours, plain, truth))
    finite = truth.isfinite()
    same = ours.shape == truth.shape and torch.equal(
        ours[~finite].nan_to_num(nan=0.5), truth[~finite].nan_to_num(nan=0.5)
    )
    if not same:
        return [Verdict("shape, NaN and inf", float("inf"), 0.0)]
    ours, plain, truth = ours[finite], plain[finite], truth[finite]
    if truth.numel() == 0:
        return []
    plain = torch.where(
        plain.isfinite(), plain, truth
    )  # plain PyTorch may overflow where we do not
    verdicts = []
    for name, norm in (("elementwise", _largest), ("L2", _rms)):
        ulp = eps * max(norm(truth), scale)
        verdicts.append(Verdict(name, norm(ours - truth), factor * norm(plain - truth) + ulp))
    return verdicts


def _largest(t: torch.Tensor) -> float:
    return t.abs().max().item()


def _rms(t: torch.Tensor) -> float:
    return t.square().mean().sqrt().item()
