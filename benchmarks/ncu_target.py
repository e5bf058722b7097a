"""The program that ncu profiles: each case once, from an evicted cache, between two markers.

python -m benchmarks.ncu_target request.json labels.jsonl
"""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from .cases import Setup
from .runner import contestants, inputs_of, make_task
from .timing import FLUSH_BYTES, Task, first_line

WARM_UPS = 3


def main(request_path: str, labels_path: str) -> None:
    request = json.loads(Path(request_path).read_text())
    evict = Evictor()
    with open(labels_path, "w") as labels:
        for fields in request["setups"]:
            setup = Setup(**fields | {"shape": tuple(fields["shape"])})
            torch.compiler.reset()
            inputs = inputs_of(setup, "cuda")
            providers = contestants(request["providers"], setup, inputs, print)
            for mode in request["modes"]:
                for provider in providers:
                    try:
                        profile(make_task(provider, mode, inputs), evict)
                    except Exception as error:
                        print(f"{provider.name} failed on {setup.label}: {first_line(error)}")
                        continue
                    label = {
                        "setup": dataclasses.asdict(setup),
                        "mode": mode,
                        "provider": provider.name,
                    }
                    labels.write(json.dumps(label) + "\n")
                    labels.flush()


class Evictor:
    """Fills the L2 cache with clean lines: by reading, so that nothing of it is written later."""

    def __init__(self) -> None:
        self.buffer = torch.zeros(FLUSH_BYTES // 4, device="cuda")
        self.marked = torch.zeros(1, device="cuda")

    def __call__(self) -> None:
        self.buffer.sum()

    def mark(self) -> None:
        torch.special.erfinv(self.marked)


def profile(task: Task, evict: Evictor) -> None:
    with task.context():
        for _ in range(WARM_UPS):  # compiles, too: what fails, fails here, before a marker
            task.run(task.prepare())
        state = task.prepare()
        evict()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        evict.mark()
        kept = task.run(state)
        evict.mark()
        evict()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
        del kept


if __name__ == "__main__":
    main(*sys.argv[1:])
