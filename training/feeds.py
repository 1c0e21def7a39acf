"""Where batches come from: cached feature maps, or pictures with a pass of the backbone each time.

Both feeds offer the same: their length (training pictures), `forward` (a batch's inputs to logits), `train(epoch)` and
`val()` (batches of inputs and targets, in an order that seed and epoch decide), so that the training loop need not know
which one it runs. With several processes a batch is the one of them all, and each gets its part of it.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataset import EvalTransform, HarDataset, Sample, TrainTransform
from features.cache import FeatureStore, feature_batches
from model import ActionNet
from runtime import distributed

Batches = Iterable[tuple[Tensor, Tensor]]
Forward = Callable[[Tensor], Tensor]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


class CachedSource:
    """Feature maps from stores; `coarse_epochs` first epochs see them averaged to half their side, but not below 2.

    Half of the smallest store's side, of which the later epochs see a window of larger maps.
    """

    def __init__(
        self,
        model: ActionNet,
        stores: Sequence[FeatureStore],
        train: tuple[list[str], list[int]],
        val: tuple[list[str], list[int]],
        batch_size: int,
        coarse_epochs: int,
        seed: int,
        dtype: torch.dtype,
    ) -> None:
        self.dtype = dtype
        self.forward, self.stores, self.batch_size, self.seed = model.rest, stores, batch_size, seed
        self.train_rows, self.val_rows = train, val  # digests and class indices
        self.coarse_epochs = coarse_epochs
        self.coarse_side = max(2, (min(store.side for store in stores) + 1) // 2)

    def __len__(self) -> int:
        return len(self.train_rows[0])

    def train(self, epoch: int) -> Batches:
        generator = epoch_generator(self.seed, epoch)
        coarse = self.coarse_side if epoch <= self.coarse_epochs else 0
        return feature_batches(self.stores, *self.train_rows, self.batch_size, generator, coarse, self.dtype)

    def val(self) -> Batches:
        return feature_batches(self.stores, *self.val_rows, self.batch_size, dtype=self.dtype)


class ImageSource:
    """Pictures, freshly cropped and mirrored for each epoch of training."""

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
        pictures = HarDataset(self.train_samples, self.classes, TrainTransform(self.size), seeds)
        return self.batches(pictures, order)

    def val(self) -> Batches:
        pictures = HarDataset(self.val_samples, self.classes, EvalTransform(self.size))
        return self.batches(pictures, torch.arange(len(pictures)))

    def batches(self, pictures: HarDataset, order: Tensor) -> Batches:
        """This process's part of each batch, as bytes."""
        own = [batch[distributed.shard(len(batch))].tolist() for batch in order.split(self.batch_size)]
        loader = iter(DataLoader(pictures, batch_sampler=[rows for rows in own if rows], **self.options))
        for rows in own:  # in the last batch, none may be left for the last processes
            yield next(loader) if rows else (torch.empty(0, 3, self.size, self.size).byte(), torch.empty(0).long())
