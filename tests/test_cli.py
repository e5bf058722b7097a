"""`python -m attn_kernels info | verify`."""

import subprocess
import sys

import pytest
import torch

from attn_kernels import verify
from attn_kernels.__main__ import main
from attn_kernels.libraries import file_of


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["attn_kernels", *arguments])
    code = main()
    return code, capsys.readouterr()


def test_info(monkeypatch, capsys):
    code, output = run(monkeypatch, capsys, "info")
    assert code == 0
    for word in ("attn-kernels", torch.__version__, "cuda", "triton", "cpu", "reference"):
        assert word in output.out
    assert f"library {file_of('_cpu')}\n" in output.out


def test_verify(monkeypatch, capsys):
    code, output = run(monkeypatch, capsys, "verify", "--device", "cpu", "--dtype", "float32")
    assert code == 0
    assert output.out.count("right") == len(verify.OPS)


def test_verify_fails_when_an_op_is_wrong(monkeypatch, capsys):
    op = verify.OPS[-1]
    wrong = verify.Op(op.name, lambda *a: op.fused(*a) * 1.0001, op.reference, op.parameters)
    monkeypatch.setattr(verify, "OPS", (wrong,))
    code, output = run(monkeypatch, capsys, "verify", "--device", "cpu", "--dtype", "float32")
    assert code == 1
    assert "WRONG" in output.out


def test_verify_on_a_device_that_is_not_there(monkeypatch, capsys):
    code, output = run(monkeypatch, capsys, "verify", "--device", "nonsense")
    assert code == 2
    assert output.err.startswith("attn-kernels: --device nonsense:")
    assert len(output.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["wat"], ["verify", "--dtype", "int8"]])
def test_bad_arguments(arguments):
    found = subprocess.run(
        [sys.executable, "-m", "attn_kernels", *arguments], capture_output=True, check=False
    )
    assert found.returncode == 2
    assert b"usage:" in found.stderr
