"""Installs the wheel beside several versions of PyTorch, and tries it there: `make wheel-check`.

Each environment is made anew under build/wheel-environments: about 6 GB for a CUDA build of
PyTorch, none of which needs a GPU.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

ENVIRONMENTS = {"oldest": "torch==2.10.0", "tested": "torch==2.13.0", "newest": "torch"}
FOLDER = Path("build/wheel-environments")
# Both libraries load wherever PyTorch is a CUDA build; that there is no GPU is not their fault.
LOADED = """
import torch
from attn_kernels.libraries import missing
assert missing["cpu"] is None, missing["cpu"]
assert torch.version.cuda is None or missing["cuda"] is None, missing["cuda"]
print(torch.__version__, "CUDA", torch.version.cuda, missing)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--environments", nargs="+", choices=ENVIRONMENTS, default=ENVIRONMENTS)
    options = parser.parse_args()
    failed = [name for name in options.environments if not serves(options.wheel.resolve(), name)]
    print(f"{options.wheel.name}: " + (f"fails beside {failed}" if failed else "serves all"))
    return int(bool(failed))


def serves(wheel: Path, name: str) -> bool:
    folder = FOLDER / name
    print(f"{name} ({ENVIRONMENTS[name]}): making {folder}", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    python = (folder / "bin" / "python").absolute()
    commands = (
        ["-m", "pip", "install", "--quiet", ENVIRONMENTS[name], "numpy", f"{wheel}[cli]"],
        ["-c", LOADED],
        ["-m", "attn_kernels", "info"],
        ["-m", "attn_kernels", "verify", "--device", "cpu"],
    )
    # Not from the tree: the package that is imported must be the wheel's.
    return all(subprocess.run([python, *c], cwd=folder).returncode == 0 for c in commands)


if __name__ == "__main__":
    sys.exit(main())
