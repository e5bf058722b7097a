"""`make mutants`: puts one fault after another into the sources, and the test that is named beside
it must fail. With words as arguments: only the faults whose name has one of them.
"""

import multiprocessing
import os
import sys

# What takes seconds to import, before all the forks.
import hypothesis  # noqa: F401
import pytest
import torch._dynamo.backends.common  # noqa: F401
import triton  # noqa: F401
from rich.console import Console
from rich.progress import track
from rich.table import Table

from . import cpu, fuse, python, triton_ops
from .mutation import Mutation
from .tree import ROOT, TREE, Spoilt, build

SECONDS = 600
OUTPUT = TREE / "output.txt"
VERDICTS = {0: "survived", 1: "caught", None: "hung"}


def pytest_in_the_tree(environment: dict[str, str], nodes: list[str]) -> None:
    os.environ |= environment
    os.chdir(TREE)
    others = (path for path in sys.path if path not in ("", str(ROOT), str(ROOT / "tests")))
    sys.path[:] = [str(TREE), *others]
    file = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    # Rewritten assertions would say more, for seconds a file.
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", *nodes]))


def exit_code(nodes: list[str], number: int = 0) -> int | None:
    """Of pytest, with that switch of the CPU library; None where it does not end."""
    environment = {"ATTN_KERNELS_MUTATION": str(number)}
    child = multiprocessing.get_context("fork").Process(
        target=pytest_in_the_tree, args=(environment, nodes)
    )
    child.start()
    child.join(SECONDS)
    if child.is_alive():
        child.kill()
        child.join()
        return None
    return child.exitcode


def verdict(mutation: Mutation) -> str:
    if mutation in cpu.MUTATIONS:
        code = exit_code([mutation.test], cpu.MUTATIONS.index(mutation) + 1)
    else:
        with Spoilt(mutation):
            code = exit_code([mutation.test])
    return VERDICTS.get(code, f"broke everything ({code})")


def main(words: list[str]) -> None:
    console = Console()
    every = cpu.MUTATIONS + python.MUTATIONS + fuse.MUTATIONS + triton_ops.MUTATIONS
    chosen = [m for m in every if not words or any(word in m.name for word in words)]
    with console.status("building ..."):
        build()
    with console.status("without a fault ..."):
        code = exit_code(sorted({m.test for m in chosen}))
    if code != 0:
        raise SystemExit(f"without a fault the tests do not pass:\n{OUTPUT.read_text()}")
    verdicts: dict[str, list[bool]] = {}  # by file
    for mutation in track(chosen, "faults", console=console):
        found = verdict(mutation)
        verdicts.setdefault(mutation.file, []).append(found == "caught")
        console.print(f"{found}: {mutation.name}", highlight=False)
    table = Table("file", "faults", "caught")
    for file, caught in sorted(verdicts.items()):
        table.add_row(file, str(len(caught)), str(sum(caught)))
    console.print(table)
    score = sum(map(sum, verdicts.values()))
    console.print(f"{score} of {len(chosen)} faults caught")
    sys.exit(score != len(chosen))


if __name__ == "__main__":
    main(sys.argv[1:])
