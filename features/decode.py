"""Batches of resized image crops, on a GPU: files are decoded once, by threads, and their pixels kept in its memory.

Crops are resized in batches there, by the filter that Pillow uses, so that GPU and CPU give the same pixels up to
rounding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

PADDED_PIXELS = 2**25  # of a batch of images of different sizes


def resize_crops(images: Sequence[Tensor], boxes: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """Resizes a crop of each image to (B, 3, size, size) uint8, as Pillow's `resize(…, BILINEAR, box)` does.

    Bilinear with antialiasing: the triangle filter is as wide as the crop's scale where it shrinks. Two
    matrix products, of rows and of columns.

    Args:
        images: B times (h, w, 3) uint8, of any sizes.
        boxes: (B, 4), left, top, right and bottom of the crop in pixels.
        mirrored: (B,) bool, which crops are flipped horizontally.
    """
    height, width = (max(image.shape[side] for image in images) for side in (0, 1))
    if len(images) > 1 and len(images) * height * width > PADDED_PIXELS:
        half = len(images) // 2
        parts = (slice(0, half), slice(half, None))
        return torch.cat([resize_crops(images[part], boxes[part], mirrored[part], size) for part in parts])
    device = images[0].device
    padded = torch.zeros(len(images), height, width, 3, dtype=torch.uint8, device=device)
    for row, image in zip(padded, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    sizes = torch.tensor([image.shape[:2] for image in images], device=device)
    left, top, right, bottom = boxes.to(device).unbind(1)
    rows = triangle_filter(top, bottom, sizes[:, 0], size, height)  # (B, size, height)
    columns = triangle_filter(left, right, sizes[:, 1], size, width)
    columns = torch.where(mirrored.to(device)[:, None, None], columns.flip(1), columns)  # (B, size, width)
    crops = rows @ padded.flatten(2).float()  # (B, size, width * 3)
    crops = crops.view(len(images), size, width, 3).permute(0, 1, 3, 2).flatten(1, 2)  # (B, size * 3, width)
    crops = (crops @ columns.mT).view(len(images), size, 3, size)  # (B, row, channel, column)
    return crops.round_().clamp_(0, 255).byte().transpose(1, 2)


def triangle_filter(start: Tensor, end: Tensor, length: Tensor, size: int, padded: int) -> Tensor:
    """Weights (B, size, padded) of the pixels of rows of `length` (B,) in `size` pixels from `start` to `end`."""
    scale = ((end - start) / size)[:, None, None]
    centres = start[:, None, None] + (torch.arange(size, device=start.device)[None, :, None] + 0.5) * scale
    positions = torch.arange(padded, device=start.device)[None, None, :] + 0.5
    weights = (1 - (positions - centres).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * (positions < length[:, None, None])
    return weights / weights.sum(2, keepdim=True)
