"""Where batches come from: cached feature maps, or pictures with a pass of the backbone each time.

Both feeds offer the same: their length (training pictures), `forward` (a batch's inputs to logits), `train(epoch)` and
`val()` (batches of inputs and targets, in an order that seed and epoch decide), so that the training loop need not know
which one it runs.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataset import HarDataset, Sample, eval_transform, train_transform
from features import FeatureStore, map_batches
from model import ActionNet

Batches = Iterable[tuple[Tensor, Tensor]]
Forward = Callable[[Tensor], Tensor]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


class CachedFeed:
    """Feature maps from stores; `coarse_epochs` first epochs see them averaged to half their side, but not below 2."""

    def __init__(
        self,
        model: ActionNet,
        stores: Sequence[FeatureStore],
        train: tuple[list[str], list[int]],
        val: tuple[list[str], list[int]],
        batch_size: int,
        coarse_epochs: int,
        seed: int,
    ) -> None:
        self.forward, self.stores, self.batch_size, self.seed = model.head, stores, batch_size, seed
        self.train_rows, self.val_rows = train, val  # digests and class indices
        self.coarse_epochs, self.coarse_side = coarse_epochs, max(2, (stores[0].side + 1) // 2)

    def __len__(self) -> int:
        return len(self.train_rows[0])

    def train(self, epoch: int) -> Batches:
        coarse = self.coarse_side if epoch <= self.coarse_epochs else 0
        return map_batches(
            self.stores, *self.train_rows, self.batch_size, epoch_generator(self.seed, epoch), coarse=coarse
        )

    def val(self) -> Batches:
        return map_batches(self.stores, *self.val_rows, self.batch_size)


class PictureFeed:
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
        self.forward, self.seed = model, seed
        self.train_set = HarDataset(train, classes, train_transform(size))
        self.val_set = HarDataset(val, classes, eval_transform(size))
        self.options = {"batch_size": batch_size, "num_workers": workers, "pin_memory": torch.cuda.is_available()}

    def __len__(self) -> int:
        return len(self.train_set)

    def train(self, epoch: int) -> Batches:
        generator = epoch_generator(self.seed, epoch)  # also seeds the workers
        return DataLoader(self.train_set, shuffle=True, generator=generator, **self.options)

    def val(self) -> Batches:
        return DataLoader(self.val_set, **self.options)
