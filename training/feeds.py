"""Batch sources for the training loop: cached feature maps, or images passed through the backbone.

Both offer their length (training images), `forward` (inputs to logits), `train(epoch)` and `val()` (batches of inputs
and targets, whose order seed and epoch decide), so that the loop does not know which one it runs on. With several
processes a batch is shared by all of them, and each gets its shard.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from dataset import EvalTransform, Sample, TrainTransform, Transform
from features.batches import epoch_order, feature_batches
from features.cache import FeatureStore
from features.decode import ImageReader
from model import ActionNet
from runtime import distributed

Batches = Iterable[tuple[Tensor, Tensor]]
Forward = Callable[[Tensor], Tensor]


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Weights (K,) that make all classes count alike, N / (K n), for targets (N,) of which n are of the class.

    Their mean over the targets is 1 (King & Zeng 2001, "Logistic Regression in Rare Events Data"; scikit-learn's
    "balanced").
    """
    return len(targets) / (classes * torch.bincount(targets, minlength=classes).clamp(min=1)).float()


def sampling_shares(targets: Tensor, classes: int) -> Tensor:
    """How often to draw each of the images (N,), relative to the others, for all classes to be drawn alike."""
    return class_weights(targets, classes)[targets]


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
        balanced: bool = False,
    ) -> None:
        self.dtype = dtype
        self.forward, self.stores, self.batch_size, self.seed = model.from_features, stores, batch_size, seed
        self.train_rows, self.val_rows = train, val  # digests and class indices
        self.targets = torch.tensor(train[1])
        self.shares = sampling_shares(self.targets, model.fc.out_features) if balanced else None
        self.low_res_epochs = low_res_epochs
        self.low_res_side = max(2, (min(store.side for store in stores) + 1) // 2)

    def __len__(self) -> int:
        return len(self.train_rows[0])

    @property
    def val_images(self) -> int:
        return len(self.val_rows[0])

    def train(self, epoch: int) -> Batches:
        generator = epoch_generator(self.seed, epoch)
        low_res = self.low_res_side if epoch <= self.low_res_epochs else 0
        options = (self.batch_size, generator, low_res, self.dtype, self.shares)
        return feature_batches(self.stores, *self.train_rows, *options)

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
        transform: TrainTransform,
        batch_size: int,
        reader: ImageReader,
        seed: int,
        balanced: bool = False,
    ) -> None:
        self.forward, self.seed, self.batch_size, self.reader = model, seed, batch_size, reader
        self.train_samples, self.val_samples, self.transform = list(train), list(val), transform
        self.index = {name: position for position, name in enumerate(classes)}
        self.targets = torch.tensor([self.index[sample.label] for sample in train])
        self.shares = sampling_shares(self.targets, len(classes)) if balanced else None

    def __len__(self) -> int:
        return len(self.train_samples)

    @property
    def val_images(self) -> int:
        return len(self.val_samples)

    def train(self, epoch: int) -> Batches:
        generator = epoch_generator(self.seed, epoch)
        order = epoch_order(len(self), generator, self.shares)
        seeds = torch.randint(2**62, (len(self),), generator=generator).tolist()  # of crops and flips
        if self.shares is None:
            return self.batches(self.train_samples, self.transform, order, seeds)
        drawn = [self.train_samples[row] for row in order.tolist()]  # a crop for each time that an image is drawn
        return self.batches(drawn, self.transform, torch.arange(len(drawn)), seeds)

    def val(self) -> Batches:
        order = torch.arange(len(self.val_samples))
        return self.batches(self.val_samples, EvalTransform(self.transform.size), order)

    def batches(
        self, samples: list[Sample], transform: Transform, order: Tensor, seeds: list[int] | None = None
    ) -> Batches:
        """This process's shard of each batch."""
        targets = torch.tensor([self.index[sample.label] for sample in samples])
        own = [batch[distributed.shard(len(batch))].tolist() for batch in order.split(self.batch_size)]
        images = iter(self.reader.batches(samples, transform, [rows for rows in own if rows], seeds))
        size = transform.size
        for rows in own:  # the last batch may leave none for the last processes
            yield next(images) if rows else torch.empty(0, 3, size, size, dtype=torch.uint8), targets[rows]
