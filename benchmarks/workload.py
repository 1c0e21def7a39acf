"""What benchmark candidates work on, and what they share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backbones.imagenet_weights import load_weights
from dataset import EvalTransform, HarDataset, Sample
from layers.conv3x3 import FastConv2d
from model import ActionNet, build_model

SIZE, BATCH, HEAD_BATCH = 224, 64, 128
CPU, FP32 = torch.device("cpu"), torch.float32
Step = Callable[[], float]


@dataclass(frozen=True)
class Workload:
    """Labelled images that candidates work on, and a scratch folder."""

    samples: list[Sample]
    classes: list[str]
    scratch: Path

    def images(self) -> Tensor:
        """(64, 3, 224, 224) uint8."""
        images = HarDataset(self.samples[:BATCH], [], EvalTransform(SIZE))
        return torch.stack([images[index][0] for index in range(len(images))])


def pretrained_network(classes: int = 15) -> ActionNet:
    return build_model(load_weights(), classes).eval()


def disable_winograd() -> None:
    """Makes all convolutions of this process PyTorch's own."""
    FastConv2d.MIN_POSITIONS = 10**9
