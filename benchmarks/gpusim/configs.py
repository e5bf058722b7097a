"""The simulated machines: configurations of GPGPU-Sim, or parts of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

# Kernels alone, without the 5000 cycles before each; and less to print.
QUIET = {
    "gpgpu_kernel_launch_latency": "0",
    "enable_ptx_file_line_stats": "0",
    "gpgpu_memlatency_stat": "0",
}


@dataclasses.dataclass(frozen=True)
class Machine:
    base: str  # in gpgpu-sim/configs/tested-cfgs
    cores: int
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def write(self, simulator: Path, folder: Path) -> None:
        """The configuration's files, for a run in `folder`."""
        for file in (simulator / "configs" / "tested-cfgs" / self.base).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        config = folder / "gpgpusim.config"
        text = config.read_text()
        for name, value in {**QUIET, **self.options}.items():
            text, count = re.subn(rf"^-{name} .*", f"-{name} {value}", text, flags=re.M)
            assert count == 1, f"{self.base} has {count} options {name}"
        config.write_text(text)


QUARTER = {"gpgpu_n_clusters": "20", "gpgpu_n_mem": "8"}
MACHINES = {
    # A quarter of a V100: of its cores, its channels and with them of its L2.
    "SM7_QV100+quarter": Machine("SM7_QV100", 20, QUARTER),
    # Half of a 3070: fewer channels than 8 the simulator's address hash does not take.
    "SM86_RTX3070+half": Machine(
        "SM86_RTX3070", 23, {"gpgpu_n_clusters": "23", "gpgpu_n_mem": "8"}
    ),
}
