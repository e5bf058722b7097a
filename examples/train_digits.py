"""Trains a small VGG with spatial gates on handwritten digits: eager gates against fused ones.

    python examples/train_digits.py [--epochs 8] [--out out]

Two networks with the same initial weights, one with eager_gates.SpatialGate and one with
attn_kernels.SpatialGate, see the same batches in the same order, and take their steps by turns, so
that whatever else the machine does slows both alike. At the end: a table, and pictures of where the
trained gates look (out/attention.png).
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from statistics import median

import torch
import torch.nn.functional as F
from attention_figure import familiar_photographs, save_attention_figure
from networks import spatial_gate, vgg_blocks
from rich.console import Console
from rich.table import Table
from torch import nn
from training import (
    add_common_arguments,
    batches,
    learning_rate_factor,
    load_digits,
    parse,
    progress_bar,
)

PLAN = [(16, 2), (32, 2), (64, 3)]  # channels and convolutions of each block
SIZE = 32  # the digits are 8x8 pixels: three poolings need more
BATCH = 64
LEARNING_RATE = 2e-3  # after WARM_UP steps; falls to nothing over the second half
WARM_UP = 50
GATE_ROUNDS = 40

# In exact arithmetic both networks stay the same. In float32 their roundings differ, and training
# is chaotic: where a ReLU or a maximum falls the other way the difference grows, until the two are
# as far apart as two seeds are. So gradients must agree at the start, and losses over the first
# steps (with eight seeds they came to 3e-5 there); later differences are only reported.
GRADIENT_TOLERANCE = 1e-4  # relative, in L2
STRICT_STEPS = 10
STRICT_TOLERANCE = 1e-4


def digits_vgg(gates: str) -> nn.Module:
    """(N, 1, SIZE, SIZE) -> (N, 10); its first part, the blocks, takes any size."""
    blocks = vgg_blocks(1, PLAN, spatial_gate(gates))
    features = PLAN[-1][0] * (SIZE // 2 ** len(PLAN)) ** 2
    return nn.Sequential(blocks, nn.Flatten(), nn.Linear(features, 10))


def gates_of(net: nn.Module) -> list[nn.Module]:
    return [block[-1] for block in net[0]]


@dataclass
class Run:
    """One network in training, with the loss and the seconds of every step."""

    name: str
    net: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        start = now(images.device)
        loss = F.cross_entropy(self.net(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.seconds.append(now(images.device) - start)
        self.losses.append(loss.item())

    @torch.no_grad()
    def accuracy(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        return (self.net(images).argmax(1) == labels).float().mean().item()


def now(device: torch.device) -> float:
    """Seconds, with the device's work done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def make_runs(steps: int, device: torch.device) -> list[Run]:
    """The eager network and the fused one, with the eager one's weights, both for so many steps."""
    torch.manual_seed(0)
    eager, fused = digits_vgg("eager").to(device), digits_vgg("fused").to(device)
    fused.load_state_dict(eager.state_dict(), strict=True)
    return [make_run("eager", eager, steps), make_run("fused", fused, steps)]


def make_run(name: str, net: nn.Module, steps: int) -> Run:
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps, WARM_UP)
    )
    return Run(name, net, optimizer, schedule)


def train(
    runs: list[Run], images: torch.Tensor, labels: torch.Tensor, steps: int, console: Console
) -> None:
    """So many steps of each run, by turns, on the same batches."""
    with progress_bar(console) as progress:
        task = progress.add_task("Training", total=steps, loss=float("nan"))
        for batch in batches(len(images), BATCH, range(steps)):
            for run in runs:
                run.step(images[batch], labels[batch])
            runs = runs[::-1]  # each goes first every other step
            progress.update(task, advance=1, loss=runs[0].losses[-1])


def gradient_difference(
    eager: Run, fused: Run, images: torch.Tensor, labels: torch.Tensor
) -> float:
    """Between the gradients of all parameters, as one vector: relative to eager's, in L2."""
    gradients = []
    for run in (eager, fused):
        loss = F.cross_entropy(run.net(images), labels)
        parts = torch.autograd.grad(loss, list(run.net.parameters()))
        gradients.append(torch.cat([part.flatten() for part in parts]))
    return ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item()


def time_gates(runs: list[Run], images: torch.Tensor) -> dict[str, float]:
    """Median seconds of each network's gates alone, forward and backward, on a training batch."""
    inputs = gate_inputs(runs[0].net, images)
    d_outputs = [torch.randn_like(x) for x in inputs]
    seconds: dict[str, list[float]] = {run.name: [] for run in runs}
    for _ in range(GATE_ROUNDS):
        for run in runs:
            start = now(images.device)
            for gate, x, dy in zip(gates_of(run.net), inputs, d_outputs, strict=True):
                torch.autograd.grad(gate(x), [x, *gate.parameters()], dy)
            seconds[run.name].append(now(images.device) - start)
        runs = runs[::-1]
    return {name: median(times) for name, times in seconds.items()}


def gate_inputs(net: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """What each gate of the network sees: (N, C, H, W) of each block."""
    inputs: list[torch.Tensor] = []

    def keep(gate, arguments):
        inputs.append(arguments[0].detach().requires_grad_())

    hooks = [gate.register_forward_pre_hook(keep) for gate in gates_of(net)]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    return inputs


def loss_differences(eager: Run, fused: Run) -> list[float]:
    return [abs(a - b) for a, b in zip(eager.losses, fused.losses, strict=True)]


def results_table(
    eager: Run,
    fused: Run,
    gate_seconds: dict[str, float],
    accuracies: list[float],
    at_start: float,
) -> Table:
    table = Table(title="Small VGG with spatial gates", caption=machine(eager))
    for column in ("", "eager gates", "fused gates", "speed-up"):
        table.add_column(column, justify="right" if column else "left")
    steps = [median(run.seconds) for run in (eager, fused)]
    gates = [gate_seconds[run.name] for run in (eager, fused)]
    for what, times in (("training step", steps), ("its gates alone, both ways", gates)):
        ratio = f"{times[0] / times[1]:.2f}x"
        table.add_row(what, *(f"{1e3 * t:.2f} ms" for t in times), ratio)
    shares = (f"{gate / step:.0%}" for gate, step in zip(gates, steps, strict=True))
    table.add_row("gates' share of the step", *shares)
    table.add_row("accuracy on unseen digits", *(f"{a:.1%}" for a in accuracies))
    table.add_section()
    losses = loss_differences(eager, fused)
    first = losses[:STRICT_STEPS]
    table.add_row("gradient difference at the start", "", f"{at_start:.1e}")
    table.add_row(f"largest loss difference, {len(first)} steps", "", f"{max(first):.1e}")
    table.add_row(f"largest loss difference, all {len(losses)}", "", f"{max(losses):.1e}")
    return table


def machine(run: Run) -> str:
    device = next(run.net.parameters()).device
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"CPU, {torch.get_num_threads()} threads"
    return f"{where}, torch {torch.__version__}. The rest of a step is mostly convolutions."


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_arguments(parser, epochs=8, out="out")
    return parse(parser, arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    console = Console()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # convolutions in float32 proper, to compare losses
    train_images, test_images, train_labels, test_labels = (
        part.to(device) for part in load_digits(SIZE)
    )
    steps = options.epochs * (len(train_images) // BATCH)
    eager, fused = make_runs(steps, device)
    at_start = gradient_difference(eager, fused, train_images[:BATCH], train_labels[:BATCH])
    train([eager, fused], train_images, train_labels, steps, console)
    gate_seconds = time_gates([eager, fused], train_images[:BATCH])
    accuracies = [run.accuracy(test_images, test_labels) for run in (eager, fused)]
    console.print(results_table(eager, fused, gate_seconds, accuracies, at_start))
    picture = options.out / "attention.png"
    save_attention_figure(picture, fused.net[0], *familiar_photographs())
    console.print(f"Where the trained gates look: {picture}")
    return complain(at_start, max(loss_differences(eager, fused)[:STRICT_STEPS]))


def complain(gradient: float, loss: float) -> int:
    """1 and a line about it if the two networks differ by more than float32 allows, else 0."""
    # "not <=", so that NaN is a difference, too
    if not gradient <= GRADIENT_TOLERANCE:
        wrong = f"gradients differ by {gradient:.1e} at the start, {GRADIENT_TOLERANCE:.0e}"
    elif not loss <= STRICT_TOLERANCE:
        wrong = f"losses differ by {loss:.1e} in {STRICT_STEPS} steps, {STRICT_TOLERANCE:.0e}"
    else:
        return 0
    print(f"train_digits: eager and fused {wrong} is what float32 allows", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
