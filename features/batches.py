"""Batches of cached feature maps: shuffled, mirrored, cropped or downsampled."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from features.cache import FeatureStore
from runtime import distributed


def epoch_order(count: int, generator: torch.Generator, shares: Tensor | None = None) -> Tensor:
    """Positions (N,) of an epoch's `count` images: each once, or with `shares` (N,) drawn that often on average."""
    if shares is None:
        return torch.randperm(count, generator=generator)
    return torch.multinomial(shares, count, replacement=True, generator=generator)


def feature_batches(
    stores: Sequence[FeatureStore],
    digests: Sequence[str],
    targets: Sequence[int],
    batch_size: int,
    generator: torch.Generator | None = None,
    low_res: int = 0,
    dtype: torch.dtype = torch.float32,
    shares: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields this process's shard of each batch: feature maps (B, C, h, w), channels last, and targets (B,).

    With a generator: in random order, each image in one of the stores' views, half of them mirrored (not those from
    before a fine-tuned stage), larger maps cropped at random to the side of the smallest store. Without: in the given
    order, from the first store.

    Args:
        low_res: > 0: side to which full maps are average-pooled instead of being cropped.
        shares: with a generator, how often to draw each image (see `epoch_order`).
    """
    labels = torch.tensor(targets)
    count, device = len(digests), stores[0].device
    side = low_res or (stores[0].side if generator is None else min(store.side for store in stores))
    order = torch.arange(count) if generator is None else epoch_order(count, generator, shares)
    for batch in order.split(batch_size):
        own, size = distributed.shard(len(batch)), len(batch)
        views, mirrored = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.bool)
        corners = torch.zeros(size, 2)
        if generator is not None:  # drawn for the whole batch, so that they do not depend on the number of processes
            views = torch.randint(len(stores), (size,), generator=generator)
            mirrored = (torch.rand(size, generator=generator) < 0.5) & (not stores[0].before_stage)
            corners = torch.rand(size, 2, generator=generator)
        chosen, views, mirrored, corners = batch[own], views[own], mirrored[own], corners[own]
        features = torch.empty(len(chosen), side * side, stores[0].row_shape[1], dtype=dtype, device=device)
        for view, store in enumerate(stores):
            where = (views == view).nonzero().flatten()
            if len(where):
                names = [digests[index] for index in chosen[where].tolist()]
                if low_res:
                    rows = downsample(store.read(names), side, mirrored[where])
                elif generator is None:
                    rows = store.read(names)
                else:
                    rows = store.read(names, crop_positions(store.side, side, corners[where], mirrored[where]))
                features[where.to(device)] = rows.to(device, dtype)
        yield features.unflatten(1, (side, side)).permute(0, 3, 1, 2), labels[chosen]


def crop_positions(side: int, crop: int, corners: Tensor, mirrored: Tensor) -> Tensor:
    """Positions (B, crop * crop) in flattened maps of `side` that make a crop, mirrored where `mirrored` (B,) is set.

    Args:
        corners: (B, 2), 0..1, where the crop lies, from the top and from the left.
    """
    top, left = (corners * (side - crop + 1)).long().clamp(max=side - crop)[..., None].unbind(1)  # (B, 1) each
    columns = torch.where(mirrored[:, None], torch.arange(crop).flip(0), torch.arange(crop))  # (B, crop)
    return (side * (top + torch.arange(crop))[:, :, None] + (left + columns)[:, None, :]).flatten(1)


def downsample(rows: Tensor, side: int, mirrored: Tensor) -> Tensor:
    """Average-pools flattened maps (B, h * h, C) to (B, side * side, C), mirrored where `mirrored` (B,) is set."""
    full = math.isqrt(rows.shape[1])
    cells = nn.functional.adaptive_avg_pool2d(rows.unflatten(1, (full, full)).permute(0, 3, 1, 2), side)
    cells[mirrored] = cells[mirrored].flip(-1)
    return cells.permute(0, 2, 3, 1).flatten(1, 2)
