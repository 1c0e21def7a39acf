"""Fewer channels for cached maps: the directions in which the maps of training pictures vary most.

A head learns from them in half the time, a quarter of the disk holds them, and since they are a linear map of all
channels, what it learned is a head for all channels (`ActionNet.wide`).
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from dataset import EvalTransform, HarDataset, Sample
from features.engines import Backbone, split_on_oom
from runtime.errors import InputError, first_line
from runtime.files import write_atomically

PICTURES = 256  # at least, where there are so many
BATCH = 32
DIRECTIONS_FORMAT = 2  # to be raised when the same pictures would give other directions


class Projection:
    """The leading `count` directions, in a file of the cache.

    All runs on a dataset share it, so that they share their feature maps too; labels are not looked at.

    Args:
        folder: the cache folder.
        network: digest of the weights, and where the frozen part ends (`backbone.frozen_id`).
        dataset: what tells the dataset from others, whose directions would be others.
        size: side of the square pictures in pixels.
        count: how many.
    """

    def __init__(self, folder: Path, network: str, dataset: str, size: int, count: int) -> None:
        key = hashlib.sha256(f"{DIRECTIONS_FORMAT} {network} {dataset} {size} {count}".encode()).hexdigest()
        self.file, self.size, self.count = folder / f"directions-{key[:16]}.pt", size, count

    @property
    def name(self) -> str:
        """What maps along these directions are called by."""
        return f"{self.count} directions {hashlib.sha256(self.load().contiguous().numpy().tobytes()).hexdigest()}"

    def load(self) -> Tensor:
        """Orthonormal columns (C, count). Raises: InputError where the file is damaged."""
        try:
            return torch.load(self.file, weights_only=True)
        except Exception as error:  # of many kinds
            raise InputError(f"{self.file}: damaged ({first_line(error)}); delete it") from error

    def fit(self, make: Callable[[int, int], Backbone], samples: Sequence[Sample]) -> None:
        """Finds them in the maps of some of the samples, unless the file is there.

        They are principal components without centring, for which zeros beyond a map's edge stay zeros, turned among
        each other by chance: dropout, which drops one at a time, is to find all of them alike.

        Args:
            make: gives the backbone for so many pictures of so many pixels' side.
        """
        with FileLock(self.file.with_suffix(".lock")):
            if self.file.exists():
                return
            some = samples[:: max(1, len(samples) // PICTURES)]
            pictures, backbone = HarDataset(some, [], EvalTransform(self.size)), make(len(some), self.size)
            moment = torch.zeros(())
            for start in range(0, len(some), BATCH):
                items = pictures.__getitems__(range(start, min(start + BATCH, len(some))))
                rows = (
                    split_on_oom(backbone, torch.stack([image for image, _ in items]))
                    .permute(0, 2, 3, 1)
                    .flatten(0, 2)
                    .float()
                    .cpu()
                )
                moment = moment + rows.T @ rows  # (C, C)
            leading = torch.linalg.eigh(moment).eigenvectors[:, -self.count :]
            chance = torch.randn(self.count, self.count, generator=torch.Generator().manual_seed(0))
            columns = leading @ torch.linalg.qr(chance).Q
            write_atomically(self.file, lambda partial: torch.save(columns, partial))


def along(make: Callable[[int, int], Backbone], directions: Tensor) -> Callable[[int, int], Backbone]:
    """Makes backbones whose maps have a channel for each of the directions (C, K)."""

    def narrow_maker(count: int, size: int) -> Backbone:
        backbone = make(count, size)

        def narrow(images: Tensor) -> Tensor:
            maps = backbone(images)
            return (maps.permute(0, 2, 3, 1).float() @ directions.to(maps.device)).permute(0, 3, 1, 2)

        return narrow

    return narrow_maker
