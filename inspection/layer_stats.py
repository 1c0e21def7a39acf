"""Statistics of activations and weights, as the figures show them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runtime.options import KernelView

BINS = 60


def activity(maps: Tensor) -> Tensor:
    """Mean absolute value of each channel: maps (C, h, w) to (C,)."""
    return maps.float().abs().mean(dim=(1, 2))


def most_active(maps: Tensor, count: int) -> list[int]:
    """The `count` channels of maps (C, h, w) with the highest `activity`, highest first."""
    return activity(maps).argsort(descending=True, stable=True)[:count].tolist()


def kernel_tiles(conv: nn.Conv2d, view: KernelView = "norm") -> Tensor:
    """One tile per kernel of a convolution, in the units of its weights.

    Returns: (O, kh, kw, 3) for RGB input; otherwise (O, kh, kw): the L2 "norm" or the "mean" over the input channels,
        or the "first" input channel alone.
    """
    weight = conv.weight.detach().float().cpu()  # (O, I, kh, kw)
    if weight.shape[1] == conv.in_channels == 3:
        return weight.permute(0, 2, 3, 1)
    if view == "first":
        return weight[:, 0]
    return weight.mean(dim=1) if view == "mean" else torch.linalg.vector_norm(weight, dim=1)


def to_unit_range(tiles: Tensor) -> Tensor:
    """Scales each tile (N, …) to 0..1 by its own range; a constant tile becomes 0.5."""
    flat = tiles.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    spread = torch.where(high > low, (flat - low) / (high - low).clamp_min(1e-30), torch.full_like(flat, 0.5))
    return spread.view_as(tiles)


def relative_distance(now: Tensor, start: Tensor) -> float:
    """‖now − start‖ / ‖start‖."""
    return ((now - start).norm() / start.norm()).item()


def histogram(values: Tensor, bins: int = BINS) -> dict[str, Any]:
    """Histogram of all values, with their mean, std, range and share of exact zeros.

    `counts` sum to `n` - `not_finite`; all statistics are of the finite values.
    """
    flat = values.detach().double().flatten()
    finite = flat[flat.isfinite()].numpy()
    counts, edges = np.histogram(finite, bins)
    return {
        "n": flat.numel(),
        "not_finite": flat.numel() - finite.size,
        "mean": float(finite.mean()) if finite.size else 0.0,
        "std": float(finite.std()) if finite.size else 0.0,
        "min": float(finite.min()) if finite.size else 0.0,
        "max": float(finite.max()) if finite.size else 0.0,
        "zeros": float((finite == 0).mean()) if finite.size else 0.0,
        "counts": counts.tolist(),
        "edges": edges.tolist(),
    }
