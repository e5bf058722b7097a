"""The package under test is the one that was installed, beside a CUDA build of PyTorch."""

from pathlib import Path

import pasted_gates
import pytest
import torch
from torch import nn

import attn_kernels as ak

PASTED = {
    "SELinear": 1,
    "SEConv": 1,
    "OfficialCBAM": 1,
    "GAM": 2,
    "ShuffleAttention": 1,
    "SCSE": 1,
    "OfficialSCSE": 1,
    "SimAM": 1,
    "BlockWithCBAM": 1,
    "BAM": 1,
    "CoordAtt": 1,
    "SKConv": 1,
    "SplitAttention": 1,
    "AFF": 1,
    "IAFF": 2,
}


def test_it_is_the_installed_package():
    assert "site-packages" in Path(ak.__file__).parts
    assert torch.version.cuda is not None
    assert "cpu" in ak.available_backends()


@pytest.mark.parametrize("name", PASTED)
def test_pasted_files(name):
    report = ak.fuse(nn.Sequential(getattr(pasted_gates, name)(16)))
    assert report.fused == PASTED[name]


def test_command_line(capsys, monkeypatch):
    from attn_kernels.__main__ import main

    monkeypatch.setattr("sys.argv", ["attn_kernels", "fuse", "timm:seresnet50"])
    assert main() == 0
    assert "16 gates and tails fused" in capsys.readouterr().out
