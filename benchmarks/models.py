"""Whole networks: a training step with our gates and with eager ones, as they are and under
torch.compile, on ImageNet-shaped noise.

The networks are those of examples/networks.py, and timm's (`timm:NAME`, random weights), whose
gates and tails `fuse` fuses. Before it is timed, the network with our gates is held against the
eager one in float64: logits, and the gradients of all parameters taken together.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console

import attn_kernels as ak

from . import memory, timing
from .cases import DTYPES, parse_names, shape_text, words
from .check import complaint, relative_error
from .errors import InputError
from .results import Row, Writer
from .table import NETWORK_STEP

NAMES = (
    *("vgg16-spatial", "resnet18-cbam-spatial", "resnet50-gam"),
    *("resnet18-cbam", "resnet50-cbam", "resnet50-se"),
)
TIMM = "timm:"
CLASSES = 1000
DEFAULT_BATCH, DEFAULT_SIZE = 4, 224
MINIMUM_SIZE = 32  # five times halved
CHECK_IMAGES = 2
CHECK_FACTOR, CHECK_ROUNDINGS = 3, 64
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def network_names(text: str) -> list[str]:
    """`a,timm:b` -> names, each once, all of them there."""
    of_timm = [name for name in words(text) if name.startswith(TIMM)]
    if of_timm and importlib.util.find_spec("timm") is None:
        raise InputError(f"--model: {of_timm[0]} needs timm: `pip install timm`")
    for name in of_timm:
        if not importlib.import_module("timm").is_model(name.removeprefix(TIMM)):
            raise InputError(f"--model: timm has no {name.removeprefix(TIMM)!r}")
    return parse_names("--model", text, (*NAMES, *of_timm))


def image_shape(batch: int, size: int) -> tuple[int, ...]:
    if batch < 1:
        raise InputError(f"--batch: expected at least 1, got {batch}")
    if size < MINIMUM_SIZE:
        raise InputError(f"--size: expected at least {MINIMUM_SIZE}, got {size}")
    return batch, 3, size, size


def prepare(
    names: Sequence[str],
    dtypes: Sequence[str],
    shape: tuple[int, ...],
    device: str,
    seconds: float,
    console: Console,
) -> Callable[[Writer], None]:
    """What measures the networks, once it is sure that they are there."""
    build = None if all(name.startswith(TIMM) for name in names) else builder()

    def measure(writer: Writer) -> None:
        for name in names:
            for dtype in dtypes:
                with console.status(f"{name} {dtype}"):
                    measure_network(build, name, dtype, shape, device, seconds, writer)

    return measure


def both(build, name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The network with our gates and the eager one, from the same weights."""
    if name.startswith(TIMM):
        create = importlib.import_module("timm").create_model
        eager = create(name.removeprefix(TIMM), num_classes=CLASSES)
        ours = copy.deepcopy(eager)
        if ak.fuse(ours, first_max=True).fused == 0:
            raise InputError(f"--model: there is nothing to fuse in {name}")
        return ours, eager
    eager = build(name, gates="eager", num_classes=CLASSES)
    ours = build(name, gates="fused", num_classes=CLASSES)
    ours.load_state_dict(eager.state_dict())
    return ours, eager


def builder() -> Callable[..., torch.nn.Module]:
    """examples.networks.build_network, with the examples' folder where they look for each other."""
    if not (EXAMPLES / "networks.py").exists():
        raise InputError("--model: the networks are in examples/networks.py, which is not here")
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    return importlib.import_module("networks").build_network


def measure_network(
    build,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    device: str,
    seconds: float,
    writer: Writer,
) -> None:
    """Both networks, and both compiled; a row for each."""
    images, labels = batch_of(shape, device)
    ours_name = f"ours-{ak.available_backends()[0]}"
    ours, eager = (network.to(device) for network in both(build, name))
    networks = {
        ours_name: ours,
        "eager": eager,
        "compile": compiled(eager),
        f"{ours_name}-compile": compiled(ours),
    }
    wrong = compare(ours, eager, images[:CHECK_IMAGES], labels[:CHECK_IMAGES], dtype)
    tasks = [
        timing.Task(provider, training_step(network, images, labels, dtype))
        for provider, network in networks.items()
        if not (wrong and provider.startswith(ours_name))
    ]
    samples, failures = timing.measure(tasks, device, seconds, conditions=(timing.Condition(),))
    for provider in networks:
        row = Row(name, provider, NETWORK_STEP, dtype, shape_text(shape))
        if wrong and provider.startswith(ours_name):
            row.status, row.note = "wrong", wrong
        elif (provider, timing.Condition()) in failures:
            row.status, row.note = "failed", failures[provider, timing.Condition()]
        else:
            row.set_times(samples[provider, timing.Condition()])
            task = next(task for task in tasks if task.name == provider)
            row.peak_bytes = memory.peak_bytes(task, device)
        writer.write(row)


def compiled(network):
    torch.compiler.reset()
    return torch.compile(network, dynamic=False)


def batch_of(shape: tuple[int, ...], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=generator).to(device)
    labels = torch.randint(CLASSES, shape[:1], generator=generator).to(device)
    return images, labels


def training_step(network, images, labels, dtype: str) -> Callable[[object], None]:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)

    def step(_) -> None:
        optimizer.zero_grad()
        with precision(images.device.type, dtype):
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()

    return step


def precision(device: str, dtype: str) -> contextlib.AbstractContextManager:
    """Autocast for the half precisions; the weights stay float32."""
    return torch.autocast(device, DTYPES[dtype], enabled=dtype in ("float16", "bfloat16"))


def compare(ours, eager, images, labels, dtype: str) -> str:
    """What is wrong with our network's logits or gradients, or nothing."""
    truth = outcome(copy.deepcopy(eager).double(), images.double(), labels, "float64")
    expected, found = (outcome(network, images, labels, dtype) for network in (eager, ours))
    floor = CHECK_ROUNDINGS * torch.finfo(DTYPES[dtype]).eps
    complaints = []
    for name, true in truth.items():
        limit = max(CHECK_FACTOR * relative_error(expected[name], true), floor)
        error = relative_error(found[name], true)
        if not error <= limit:
            complaints.append(complaint(name, error, limit))
    return "; ".join(complaints)


def outcome(network, images, labels, dtype: str) -> dict[str, torch.Tensor]:
    """Logits and gradients in eval mode: without dropout, and with a batch norm that stays put."""
    network.eval()
    with precision(images.device.type, dtype):
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return {"logits": logits, "gradients": torch.cat([g.flatten() for g in gradients])}
