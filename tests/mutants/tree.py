"""A copy of the sources to spoil, in the git-ignored build/mutants, with a CPU library in which
every fault of cpu.py is behind a switch.
"""

import re
import subprocess
import sys
from pathlib import Path

from . import cpu
from .mutation import Mutation, with_switches

ROOT = Path(__file__).resolve().parents[2]
TREE = ROOT / "build" / "mutants"
SOURCES = ("attn_kernels/**/*.py", "triton_ops/*.py", "tests/**/*.*", "csrc/*.cpp")
SOURCES += ("examples/*.py",)
SOURCES += ("csrc/common/*.h", "csrc/cpu/*.*", "csrc/cpu/isa/*.*", "setup.py", "pyproject.toml")


def put(path: Path, text: str) -> None:
    """Writes a file where it says something else, so that only what changed is compiled."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def sources(root: Path) -> set[str]:
    files = {path for pattern in SOURCES for path in root.glob(pattern) if path.is_file()}
    return {str(p.relative_to(root)) for p in files if "__pycache__" not in p.parts}


def make_tree() -> None:
    texts = {f: spoilable(f, (ROOT / f).read_text()) for f in sources(ROOT)}
    for name in ("switch.h", "switch.cpp"):
        texts[f"csrc/cpu/{name}"] = (ROOT / "tests/mutants" / name).read_text()
    for file, text in texts.items():
        put(TREE / file, text)
    for file in sources(TREE) - set(texts):
        (TREE / file).unlink()


def spoilable(file: str, text: str) -> str:
    if file == "setup.py":
        return text.replace("-O3", "-O2")  # in less time; at -O1 last bits differ
    if not file.startswith("csrc/"):
        return text
    # What depends on a switch is no constant expression; the others remain it all the same.
    text = re.sub(r"(?<!static )\bconstexpr int64_t(?= \w+ =)", "const int64_t", text)
    mutated = with_switches(cpu.MUTATIONS, file, text)
    return mutated if mutated == text else f'#include "{TREE}/csrc/cpu/switch.h"\n{mutated}'


def build() -> None:
    make_tree()
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\n{done.stderr}")


class Spoilt:
    """While it lasts, a Python file of the tree has a fault."""

    def __init__(self, mutation: Mutation):
        self.path = TREE / mutation.file
        self.right = self.path.read_text()
        self.wrong = mutation.applied(self.right)

    def __enter__(self):
        self.path.write_text(self.wrong)

    def __exit__(self, *exception):
        self.path.write_text(self.right)
