"""Statistics of activations and weights, as the figures show them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runtime.options import KernelView

BINS = 60


def is_rgb(conv: nn.Conv2d) -> bool:
    return conv.weight.shape[1] == conv.in_channels == 3


def kernel_tiles(conv: nn.Conv2d, view: KernelView = "norm") -> Tensor:
    """One tile per kernel of a convolution, in the units of its weights.

    Returns: (O, kh, kw, 3) for RGB input; otherwise (O, kh, kw): the L2 "norm" or the "mean" over the input channels,
        the "first" input channel alone, or the "strongest" (see `strongest_inputs`).
    """
    weight = conv.weight.detach().float().cpu()  # (O, I, kh, kw)
    if is_rgb(conv):
        return weight.permute(0, 2, 3, 1)
    if view == "strongest":
        return kernel_slices(conv, strongest_inputs(conv, 1))[:, 0]
    if view == "first":
        return weight[:, 0]
    return weight.mean(dim=1) if view == "mean" else torch.linalg.vector_norm(weight, dim=1)


def strongest_inputs(conv: nn.Conv2d, count: int) -> Tensor:
    """Numbers of the input channels for which a kernel's slices have the largest L2 norms.

    Returns: (O, n), the strongest first; n is `count`, or less where a kernel has fewer input channels.
    """
    weight = conv.weight.detach().float().cpu()  # (O, I / groups, kh, kw)
    order = weight.flatten(2).norm(dim=2).argsort(dim=1, descending=True, stable=True)[:, :count]
    group = torch.arange(len(weight)) // (len(weight) // conv.groups)
    return order + group[:, None] * weight.shape[1]


def kernel_slices(conv: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Slices (O, n, kh, kw) of each kernel for its input channels (O, n), signed, in the units of its weights."""
    weight = conv.weight.detach().float().cpu()
    return weight[torch.arange(len(weight))[:, None], inputs % weight.shape[1]]


def relative_distance(now: Tensor, start: Tensor) -> float:
    """‖now − start‖ / ‖start‖."""
    return ((now - start).norm() / start.norm()).item()


def histogram(values: Tensor, bins: int = BINS) -> dict[str, Any]:
    """Histogram of all values, with their mean, std, range and share of exact zeros.

    `counts` sum to `n` - `not_finite`; all statistics are of the finite values.
    """
    flat = values.detach().cpu().double().flatten()  # on the CPU first: MPS has no float64
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
