"""Photographs beside the attention that a network's gates put on them."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # pictures go to files: no window system needed

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import nn

from attn_kernels.functional import spatial_gate


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


@torch.no_grad()
def attention_maps(blocks: nn.Sequential, image: torch.Tensor) -> list[torch.Tensor]:
    """Maps of the gates that end the blocks, upsampled to the image (1, C, H, W): (H, W) each."""
    maps, x = [], image
    for block in blocks:
        *layers, gate = block
        for layer in layers:
            x = layer(x)
        x, map = spatial_gate(x, gate.conv1.weight, gate.conv1.bias, return_map=True)
        maps.append(F.interpolate(map, image.shape[2:], mode="bilinear")[0, 0].cpu())
    return maps


def save_attention_figure(path: Path, blocks: nn.Sequential) -> None:
    """A row per photograph: itself, then what the gate of each block makes of it."""
    device = next(blocks.parameters()).device
    photographs = grey_photographs()
    maps = [attention_maps(blocks, local_contrast(p).to(device)) for p in photographs.values()]
    colours = {"cmap": "magma", "vmin": min(m.min().item() for row in maps for m in row), "vmax": 1}
    figure, axes = plt.subplots(
        len(maps), 1 + len(blocks), figsize=(14, 5.2), layout="constrained", squeeze=False
    )
    for i, (name, photograph) in enumerate(photographs.items()):
        axes[i, 0].imshow(photograph[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
        axes[i, 0].set_ylabel(name)
        for axis, map in zip(axes[i, 1:], maps[i], strict=True):
            shown = axis.imshow(map.numpy(), **colours)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0, 0].set_title("photograph")
    for i, axis in enumerate(axes[0, 1:], start=1):
        axis.set_title(f"attention of block {i}")
    figure.colorbar(shown, ax=axes, label="attention", pad=0.01)
    figure.savefig(path, dpi=110)
    plt.close(figure)
