"""Batch sources for the training loop: cached feature maps, or images passed through the backbone.

Both offer their length (training images), `forward` (inputs to logits), `train(epoch)` and `val()` (batches of inputs
and targets, whose order seed and epoch decide), so that the loop does not know which one it runs on. With several
processes a batch is shared by all of them, and each gets its shard.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataset import EvalTransform, HarDataset, Sample, TrainTransform
from features.batches import feature_batches
from features.cache import FeatureStore
from model import ActionNet
from runtime import distributed

Batches = Iterable[tuple[Tensor, Tensor]]
Forward = Callable[[Tensor], Tensor]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


class CachedSource:
    """Batches of cached feature maps; the first `low_res_epochs` see them downsampled to half their side, at least 2.

    That is half of the smallest store's side, to which later epochs crop larger maps.
    """

    def __init__(
        self,
        model: ActionNet,
        stores: Sequence[FeatureStore],
        train: tuple[list[str], list[int]],
        val: tuple[list[str], list[int]],
        batch_size: int,
        low_res_epochs: int,
        seed: int,
        dtype: torch.dtype,
    ) -> None:
        self.dtype = dtype
        self.forward, self.stores, self.batch_size, self.seed = model.from_features, stores, batch_size, seed
        self.train_rows, self.val_rows = train, val  # digests and class indices
        self.low_res_epochs = low_res_epochs
        self.low_res_side = max(2, (min(store.side for store in stores) + 1) // 2)

    def __len__(self) -> int:
        return len(self.train_rows[0])

    def train(self, epoch: int) -> Batches:
        generator = epoch_generator(self.seed, epoch)
        low_res = self.low_res_side if epoch <= self.low_res_epochs else 0
        return feature_batches(self.stores, *self.train_rows, self.batch_size, generator, low_res, self.dtype)

    def val(self) -> Batches:
        return feature_batches(self.stores, *self.val_rows, self.batch_size, dtype=self.dtype)


class ImageSource:
    """Batches of images as uint8, freshly cropped and mirrored in each epoch of training."""

    def __init__(
        self,
        model: ActionNet,
        train: Sequence[Sample],
        val: Sequence[Sample],
        classes: Sequence[str],
        size: int,
        batch_size: int,
        workers: int,
        seed: int,
    ) -> None:
        self.forward, self.seed, self.batch_size = model, seed, batch_size
        self.train_samples, self.val_samples, self.classes, self.size = list(train), list(val), classes, size
        self.options = {"num_workers": workers, "pin_memory": torch.cuda.is_available()}

    def __len__(self) -> int:
        return len(self.train_samples)

    def train(self, epoch: int) -> Batches:
        generator = epoch_generator(self.seed, epoch)
        order = torch.randperm(len(self), generator=generator)
        seeds = torch.randint(2**62, (len(self),), generator=generator).tolist()  # of crops and flips
        images = HarDataset(self.train_samples, self.classes, TrainTransform(self.size), seeds)
        return self.batches(images, order)

    def val(self) -> Batches:
        images = HarDataset(self.val_samples, self.classes, EvalTransform(self.size))
        return self.batches(images, torch.arange(len(images)))

    def batches(self, images: HarDataset, order: Tensor) -> Batches:
        """This process's shard of each batch."""
        own = [batch[distributed.shard(len(batch))].tolist() for batch in order.split(self.batch_size)]
        loader = iter(DataLoader(images, batch_sampler=[rows for rows in own if rows], **self.options))
        for rows in own:  # the last batch may leave none for the last processes
            yield next(loader) if rows else (torch.empty(0, 3, self.size, self.size).byte(), torch.empty(0).long())
