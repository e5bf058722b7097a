"""The faults of `make mutants` are where their tables say: code moves on, and tables would rot."""

import pytest
from mutants import cpu, fuse, python, triton_ops
from mutants.tree import ROOT


@pytest.mark.parametrize(
    "mutation",
    cpu.MUTATIONS + python.MUTATIONS + fuse.MUTATIONS + triton_ops.MUTATIONS,
    ids=lambda m: m.name,
)
def test_every_fault_has_its_place_and_its_test(mutation):
    source = (ROOT / mutation.file).read_text()
    spoilt = mutation.applied(source)
    assert spoilt != source
    if mutation.file.endswith(".py"):
        compile(spoilt, mutation.file, "exec")
    file, *_, function = mutation.test.partition("[")[0].split("::")
    assert (ROOT / file).is_file()
    assert function.startswith("test_")
