"""Trains a network with gates on images, in one process or in many; once killed, it goes on.

    python examples/train_images.py
    torchrun --nproc-per-node 2 examples/train_images.py --network resnet18-cbam-spatial

The images are CIFAR-100, where torchvision is installed and --data holds them, else scikit-learn's
handwritten digits. Every so many steps a checkpoint is written; the same command, given again, goes
on from there, and ends with the same weights, bit for bit, as if it had never stopped. At the end
there are two pictures: the course of the training, and where the gates look.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.distributed as dist
import torch.nn.functional as F
from attention_figure import save_attention_figure
from networks import NETWORKS, build_network
from rich.console import Console
from torch import nn
from training import (
    add_common_arguments,
    batches,
    learning_rate_factor,
    load_digits,
    parse,
    progress_bar,
)

LEARNING_RATE = 2e-3  # after WARM_UP steps; falls to nothing over the second half
WARM_UP = 50
PRECISIONS = {"bfloat16": torch.bfloat16, "float32": None}  # of autocast
SHOWN = 6  # images in the picture


@dataclass
class Images:
    """A data set: images (N, 3, H, W), labels (N,), and for people pictures of the test images."""

    name: str
    classes: int
    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    pictures: torch.Tensor  # (N, H, W) or (N, H, W, 3) in 0..1
    mirrored: bool  # whether an image may be shown from behind

    def to(self, device: torch.device) -> None:
        self.train, self.test = (tuple(t.to(device) for t in p) for p in (self.train, self.test))


@dataclass
class Training:
    """What a checkpoint holds."""

    settings: dict[str, object]
    net: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[float] = field(default_factory=list)  # of every step
    accuracies: dict[int, float] = field(default_factory=dict)  # of unseen images, by step

    def save(self, path: Path) -> None:
        """A process that is killed while it writes leaves the old file."""
        state = {name: getattr(self, name) for name in ("settings", "step", "losses", "accuracies")}
        state |= {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        unfinished = path.with_suffix(".unfinished")
        torch.save(state, unfinished)
        os.replace(unfinished, path)

    def load(self, path: Path, device: torch.device) -> None:
        state = torch.load(path, map_location=device, weights_only=True)
        if state["settings"] != self.settings:
            raise ValueError(f"{path} is of {state['settings']}, not of {self.settings}")
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.losses, self.accuracies = (
            state[name] for name in ("step", "losses", "accuracies")
        )


def load_images(folder: Path, size: int) -> Images:
    """CIFAR-100 if it is there, else the digits; size is the digits'."""
    if importlib.util.find_spec("torchvision") and (folder / "cifar-100-python").is_dir():
        return load_cifar100(folder)
    train, test, train_labels, test_labels = load_digits(size)
    low, high = test.amin((1, 2, 3), keepdim=True), test.amax((1, 2, 3), keepdim=True)
    pictures = ((test - low) / (high - low))[:, 0]
    train, test = (part.repeat(1, 3, 1, 1) for part in (train, test))
    return Images("digits", 10, (train, train_labels), (test, test_labels), pictures, False)


def load_cifar100(folder: Path) -> Images:
    from torchvision.datasets import CIFAR100

    parts = [CIFAR100(folder, train=train, download=False) for train in (True, False)]
    arrays = [torch.from_numpy(part.data).permute(0, 3, 1, 2) / 255 for part in parts]
    mean, std = arrays[0].mean((0, 2, 3), keepdim=True), arrays[0].std((0, 2, 3), keepdim=True)
    train, test = (
        ((array - mean) / std, torch.tensor(part.targets))
        for array, part in zip(arrays, parts, strict=True)
    )
    return Images("CIFAR-100", 100, train, test, arrays[1].permute(0, 2, 3, 1), True)


def shifted(images: torch.Tensor, mirrored: bool) -> torch.Tensor:
    """The batch, moved by up to a sixteenth of its size and, if it may be, mirrored."""
    most = images.shape[-1] // 16
    dy, dx = torch.randint(-most, most + 1, (2,)).tolist()
    images = images.roll((dy, dx), (2, 3))
    return images.flip(3) if mirrored and torch.rand(()) < 0.5 else images


def train(
    training: Training,
    images: Images,
    options: argparse.Namespace,
    device: torch.device,
    console: Console,
) -> None:
    """The steps that are left, with a checkpoint every so many."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    net = nn.parallel.DistributedDataParallel(training.net) if world > 1 else training.net
    steps = options.epochs * (len(images.train[0]) // options.batch)
    per_epoch = steps // options.epochs
    every = options.checkpoint_every or per_epoch
    with progress_bar(console, disable=rank > 0) as progress:
        task = progress.add_task(
            "Training", total=steps, completed=training.step, loss=float("nan")
        )
        left = range(training.step, steps)
        for step, batch in zip(
            left, batches(len(images.train[0]), options.batch, left), strict=True
        ):
            # All that is random in a step follows from its number: nothing else is to be resumed.
            torch.manual_seed(step * world + rank)
            mine = batch[rank::world].to(device)
            seen = shifted(images.train[0][mine], images.mirrored)
            factor = learning_rate_factor(step, steps, WARM_UP)
            loss = take_step(net, training.optimizer, seen, images.train[1][mine], factor, options)
            training.losses.append(loss)
            training.step = step + 1
            progress.update(task, advance=1, loss=loss)
            if rank == 0:
                if training.step % per_epoch == 0:
                    training.accuracies[training.step] = accuracy(training.net, *images.test)
                if training.step % every == 0 or training.step == steps:
                    training.save(options.out / "checkpoint.pt")


def take_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    factor: float,
    options: argparse.Namespace,
) -> float:
    """The loss of the step, which is taken with LEARNING_RATE times the factor."""
    dtype = PRECISIONS[options.precision]
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        loss = F.cross_entropy(net(images), labels)
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE * factor
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    net.eval()
    found = torch.cat([net(part).argmax(1) for part in images.split(500)])
    net.train()
    return (found == labels).float().mean().item()


def save_curve(path: Path, training: Training) -> None:
    """The loss of every step, and the accuracy after every epoch."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(range(1, 1 + len(training.losses)), training.losses, color="#4c72b0", linewidth=1)
    axis.set(xlabel="step", yscale="log")
    axis.set_ylabel("loss", color="#4c72b0")
    right = axis.twinx()
    right.plot(*zip(*training.accuracies.items(), strict=True), "o-", color="#c44e52", markersize=4)
    right.set_ylim(0, 1.02)
    right.set_ylabel("accuracy on unseen images", color="#c44e52")
    right.yaxis.set_major_formatter("{x:.0%}")
    said = training.settings
    axis.set_title(f"{said['network']} on {said['data']}, batches of {said['batch']}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save_pictures(folder: Path, training: Training, images: Images) -> list[Path]:
    curve, attention = folder / "curve.png", folder / "attention.png"
    save_curve(curve, training)
    names = [f"class {label}" for label in images.test[1][:SHOWN].tolist()]
    pictures = list(images.pictures[:SHOWN])
    save_attention_figure(
        attention, training.net, images.test[0][:SHOWN], pictures, names, overlay=True
    )
    return [curve, attention]


@contextlib.contextmanager
def processes():
    """This process's device; under torchrun with the others at hand."""
    local, cuda = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_arguments(parser, epochs=10, out="out/images")
    parser.add_argument("--network", choices=NETWORKS, default="resnet20-cbam-spatial")
    parser.add_argument("--batch", type=int, default=64, help="images of a step, in all processes")
    parser.add_argument("--precision", choices=PRECISIONS, default="bfloat16")
    parser.add_argument("--size", type=int, default=32, help="of the digits, in pixels")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of CIFAR-100")
    parser.add_argument(
        "--checkpoint-every", type=int, metavar="STEPS", help="default: the steps of an epoch"
    )
    options = parse(parser, arguments)
    for name in ("batch", "size", "checkpoint_every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; got {value}")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    with processes() as device:
        console = Console(quiet=int(os.environ.get("RANK", 0)) > 0)
        images = load_images(options.data, options.size)
        images.to(device)
        torch.manual_seed(0)
        net = build_network(options.network, "fused", images.classes).to(device)
        names = ("network", "epochs", "batch", "precision")
        settings = {"data": images.name} | {name: getattr(options, name) for name in names}
        training = Training(settings, net, torch.optim.Adam(net.parameters(), LEARNING_RATE))
        checkpoint = options.out / "checkpoint.pt"
        if checkpoint.exists():
            try:
                training.load(checkpoint, device)
            except ValueError as error:
                console.print(f"train_images: {error}: remove it, or say another --out")
                return 1
            console.print(f"Going on from step {training.step}: {checkpoint}")
        train(training, images, options, device, console)
        if not console.quiet:
            console.print(f"Accuracy on unseen {images.name}: {accuracy(net, *images.test):.1%}")
            for path in save_pictures(options.out, training, images):
                console.print(f"Picture: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
