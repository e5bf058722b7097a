"""The models that people use, made with random weights, and the gates that `fuse` finds in each."""

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torchvision
from segmentation_models_pytorch import Unet
from torch import nn
from ultralytics.nn.modules import CBAM

MEAN = "channel gate by mean"
SELECTION = "selection among 2 maps"
NORM, END = "batch norm", "addition + ReLU"
# The ends of blocks: without a gate, with one, and without an activation.
BLOCK, SE_BLOCK, LINEAR_BLOCK = f"{NORM} + {END}", f"{NORM} + {MEAN} + {END}", f"{NORM} + addition"


@dataclass(frozen=True)
class Peer:
    """A model, and what is fused in it.

    `first_max`: its code says amax.
    """

    make: Callable[[], nn.Module]
    gates: dict[str, int]
    first_max: bool = False
    shape: tuple[int, ...] = (4, 3, 64, 64)


def of_timm(name: str, **options) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, **options)


def of_torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None)


def with_gate(name: str) -> Callable[[], nn.Module]:
    return of_timm("resnet18", block_args={"attn_layer": name})


PEERS = {
    "timm seresnet50": Peer(of_timm("seresnet50"), {SE_BLOCK: 16}),
    "timm efficientnet_b0": Peer(of_timm("efficientnet_b0"), {MEAN: 16, LINEAR_BLOCK: 9}),
    "timm mobilenetv3_large_100": Peer(
        of_timm("mobilenetv3_large_100"), {MEAN: 8, LINEAR_BLOCK: 10}
    ),
    "timm regnety_008": Peer(of_timm("regnety_008"), {MEAN: 14, BLOCK: 14}),
    "timm ecaresnet50d": Peer(of_timm("ecaresnet50d"), {SE_BLOCK: 16}),
    "timm skresnet18": Peer(of_timm("skresnet18"), {SELECTION: 8, BLOCK: 8}),
    "timm resnest14d": Peer(of_timm("resnest14d"), {SELECTION: 4, BLOCK: 4}),
    "timm cbam": Peer(with_gate("cbam"), {f"{NORM} + CBAM + {END}": 8}, first_max=True),
    "timm coord": Peer(with_gate("coord"), {f"coordinate gate + {END}": 8}),
    "timm rexnet_100": Peer(of_timm("rexnet_100"), {MEAN: 13}),
    # Its blocks drop their paths at random, but for those that add nothing.
    "torchvision efficientnet_b0": Peer(of_torchvision("efficientnet_b0"), {MEAN: 16}),
    "torchvision mobilenet_v3_small": Peer(
        of_torchvision("mobilenet_v3_small"), {MEAN: 9, LINEAR_BLOCK: 6}
    ),
    "torchvision regnet_y_400mf": Peer(of_torchvision("regnet_y_400mf"), {MEAN: 16, BLOCK: 16}),
    "torchvision resnet50": Peer(of_torchvision("resnet50"), {BLOCK: 16}),
    "smp scse": Peer(
        lambda: Unet("resnet18", encoder_weights=None, decoder_attention_type="scse"),
        {"scSE": 10, BLOCK: 8},
    ),
    "ultralytics CBAM": Peer(lambda: CBAM(64), {"CBAM": 1}, shape=(4, 64, 15, 17)),
}
