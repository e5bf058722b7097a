"""What the examples that train share: digits, batches, a schedule, a progress bar, arguments."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from attention_figure import local_contrast
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split


def load_digits(size: int) -> tuple[torch.Tensor, ...]:
    """Training images (1437, 1, size, size), test images (360, ...), labels of both."""
    digits = sklearn_digits()
    parts = train_test_split(
        digits.images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    images = [
        F.interpolate(torch.tensor(part)[:, None], size, mode="bilinear") for part in parts[:2]
    ]
    train, test = (local_contrast(part.float()) for part in images)
    return train, test, *map(torch.tensor, parts[2:])


def batches(images: int, batch: int, steps: range) -> Iterator[torch.Tensor]:
    """Indices (batch,) of images, of each step; every pass over the images has an order of its own,
    the same whichever step is the first.
    """
    full, order = images // batch, ()
    for step in steps:
        number, i = divmod(step, full)
        if i == 0 or not order:
            generator = torch.Generator().manual_seed(number)
            order = torch.randperm(images, generator=generator).split(batch)
        yield order[i]


def learning_rate_factor(step: int, steps: int, warm_up: int) -> float:
    """Rises over the first `warm_up` steps; falls to nothing over the second half."""
    return min(1, (step + 1) / warm_up, 2 * (1 - step / steps))


def progress_bar(console: Console, **options) -> Progress:
    """For tasks with a field `loss`."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn("loss {task.fields[loss]:.4f}"), TimeRemainingColumn()]
    return Progress(*columns, console=console, **options)


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The arguments, with --epochs at least 1 and the folder --out made."""
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1; got {options.epochs}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {error}")
    return options


def add_common_arguments(parser: argparse.ArgumentParser, epochs: int, out: str) -> None:
    parser.add_argument(
        "--epochs", type=int, default=epochs, help=f"passes over the images (default {epochs})"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(out), help=f"output folder (default {out})"
    )
