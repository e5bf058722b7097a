"""Models that are loaded where attn_kernels is not, in the way that the README says."""

import subprocess
import sys

import pytest
import torch
from calls import All, C, H, N, W

import attn_kernels as ak
from attn_kernels.libraries import file_of

LOADERS = {
    "saved.pt2": "torch.export.load(file).module()",
    "packaged.pt2": "torch._inductor.aoti_load_package(file)",
}


def run(directory, code):
    return subprocess.run(
        [sys.executable, "-I", "-c", "import sys, torch\n" + code],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def of_loader(file, first):
    return f"""
{first}
file = {file!r}
x, expected = torch.load("values.pt")
with torch.no_grad():
    found = {LOADERS[file]}(x)
assert "attn_kernels" not in sys.modules
torch.testing.assert_close(tuple(found), tuple(expected), rtol=0, atol=1e-6)
"""


@pytest.mark.filterwarnings("ignore")  # of the packager, about itself
@pytest.mark.parametrize(
    "file",
    ["saved.pt2", pytest.param("packaged.pt2", marks=pytest.mark.exhaustive)],  # half a minute
)
def test_the_library_is_all_that_a_loaded_model_needs(file, tmp_path):
    write(tmp_path, file)
    library = str(file_of("_cpu"))
    result = run(tmp_path, of_loader(file, f"torch.ops.load_library({library!r})"))
    assert result.returncode == 0, result.stderr
    without = run(tmp_path, of_loader(file, ""))
    assert without.returncode == 1
    assert "attn_kernels" in without.stderr


def write(directory, file):
    """What somebody with attn_kernels has written there."""
    model = All([ak.SpatialGate(3), ak.GAMAttention(C, rate=2)]).eval()
    x = torch.randn(N, C, H, W)
    with torch.no_grad():
        torch.save((x, model(x)), directory / "values.pt")
        program = torch.export.export(model, (x,))
    path = str(directory / file)
    if file == "saved.pt2":
        torch.export.save(program, path)
    else:
        torch._inductor.aoti_compile_and_package(program, package_path=path)
