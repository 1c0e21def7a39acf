"""Maps and numbers in the form that the page reads: JSON, maps as bytes in base64."""

import base64
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from inspection.layer_names import describe_layer
from inspection.layer_stats import is_rgb, kernel_slices, strongest_inputs

TILE = 40  # longest side of a small map
SLICES = 8  # of a kernel


def small(maps: Tensor) -> Tensor:
    """Maps (N, h, w), averaged down to at most `TILE` positions a side."""
    side = [min(TILE, length) for length in maps.shape[1:]]
    return nn.functional.adaptive_avg_pool2d(maps.float()[None], side)[0]


def encode(maps: Tensor, high: float | None = None) -> dict[str, Any]:
    """Maps (N, h, w) on one scale, from 0, or -`high` where a value is negative, to `high`: 0..255.

    Args:
        high: end of the scale; None: the largest magnitude.
    """
    maps = maps.detach().float().cpu()
    high = high or maps.abs().max().item()
    signed = bool((maps < 0).any())
    share = maps / (high or 1)
    levels = (share.clamp(-1, 1) + 1) / 2 if signed else share.clamp(0, 1)
    data = (levels * 255).round().to(torch.uint8).numpy().tobytes()
    count, height, width = maps.shape
    return {
        "count": count, "height": height, "width": width, "high": high, "signed": signed,
        "data": base64.b64encode(data).decode(),
    }  # fmt: skip


def kernel(conv: nn.Conv2d, channel: int) -> dict[str, Any]:
    """A kernel: in RGB (3, kh, kw), or its slices for the input channels that have the largest L2 norms."""
    about = {"layer": describe_layer(conv)}
    if is_rgb(conv):
        return about | {"rgb": rounded(conv.weight[channel])}
    inputs, slices = strongest_slices(conv)
    return about | {"inputs": inputs[channel].tolist(), "slices": rounded(slices[channel])}


@lru_cache(maxsize=32)
def strongest_slices(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """For all kernels, since sorting the input channels of many takes longer than a click should."""
    inputs = strongest_inputs(conv, SLICES)
    return inputs, kernel_slices(conv, inputs)


def rounded(values: Tensor, digits: int = 6) -> list[Any]:
    """Nested lists of numbers, short enough to send."""
    return torch.round(values.detach().cpu().double(), decimals=digits).tolist()
