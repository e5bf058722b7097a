"""Photographs beside the attention that a network's gates put on them."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # pictures go to files: no window system needed

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import nn

from attn_kernels import attention_maps


def local_contrast(images: torch.Tensor) -> torch.Tensor:
    """Images (N, C, H, W) less their 9x9 surroundings, in units of each image's deviation.

    What is left are strokes: so a photograph looks familiar to a network that learnt handwriting.
    """
    strokes = images - F.avg_pool2d(images, 9, stride=1, padding=4, count_include_pad=False)
    return strokes / strokes.std(dim=(1, 2, 3), keepdim=True)


def grey_photographs() -> dict[str, torch.Tensor]:
    """scikit-learn's two sample photographs in grey, by name: (1, 1, H, W) in 0..1."""
    samples = load_sample_images()
    luma = torch.tensor([0.299, 0.587, 0.114])  # how bright red, green and blue appear
    names = (Path(name).stem for name in samples.filenames)
    greys = ((torch.tensor(image.copy()) / 255 @ luma)[None, None] for image in samples.images)
    return dict(zip(names, greys, strict=True))


def familiar_photographs() -> tuple[torch.Tensor, list[torch.Tensor], list[str]]:
    """Photographs as `save_attention_figure` takes them."""
    photographs = grey_photographs()
    seen = torch.cat([local_contrast(photograph) for photograph in photographs.values()])
    return seen, [photograph[0, 0] for photograph in photographs.values()], list(photographs)


def upsampled_maps(net: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the gates make of the images (N, C, H, W), at the images' size, (N, H, W): of the last
    gate at every size of map, by "its path, h x w".
    """
    last = {map.shape[2:]: (path, map) for path, map in attention_maps(net, images).items()}
    return {
        f"{path}, {h}x{w}": F.interpolate(map.float(), images.shape[2:], mode="bilinear")[
            :, 0
        ].cpu()
        for (h, w), (path, map) in last.items()
    }


def save_attention_figure(
    path: Path,
    net: nn.Module,
    images: torch.Tensor,
    pictures: Sequence[torch.Tensor],
    names: Sequence[str],
    overlay: bool = False,
) -> None:
    """A row per image: the picture of it, then the attention of the network's gates.

    images: (N, C, H, W), what the network sees. pictures: N times (H, W) or (H, W, 3) in 0..1, what
    people see. overlay: lays the attention over the picture.
    """
    maps = upsampled_maps(net, images.to(next(net.parameters()).device))
    low = min(map.min().item() for map in maps.values())
    shape = len(pictures), 1 + len(maps)
    height, width = pictures[0].shape[:2]
    size = 1.7 * shape[1] * width / height + 1, 1.7 * shape[0] + 0.5  # inches
    figure, axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
    for row, picture, name in zip(axes, pictures, names, strict=True):
        row[0].set_ylabel(name)
        for axis in row if overlay else row[:1]:
            axis.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1)
    for column, (title, attention) in zip(axes.T[1:], maps.items(), strict=True):
        column[0].set_title(title, fontsize="medium")
        for axis, map in zip(column, attention, strict=True):
            alpha = 0.6 if overlay else 1
            shown = axis.imshow(map.numpy(), cmap="magma", vmin=low, vmax=1, alpha=alpha)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0, 0].set_title("image", fontsize="medium")
    bar = figure.colorbar(shown, ax=axes, label="attention", pad=0.01)
    bar.solids.set_alpha(1)
    figure.savefig(path, dpi=110)
    plt.close(figure)
