"""A trained run, ready to predict and to be inspected: one function turns a checkpoint into it for every script."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset import ActionData, Sample, read_dataset
from inspection.examples import Example, Prediction, file_example, find_split_images, load_example
from model import ActionNet
from runtime.errors import InputError
from runtime.options import RunOptions
from training import checkpoint


@dataclass(frozen=True)
class TrainedRun:
    """A run's network, its record (keys of `best.json`) and its dataset.

    Attributes:
        split: by part, file names and the SHA-256 of the files.
        data: folder of the dataset where it is not the one of the training; None: the same.
        cache: the cache folder.
    """

    folder: Path
    model: ActionNet
    record: dict[str, Any]
    split: checkpoint.SplitDigests
    device: torch.device
    data: Path | None
    cache: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def classes(self) -> list[str]:
        return self.record["classes"]

    @property
    def image_size(self) -> int:
        return self.record["image_size"]

    @property
    def title(self) -> str:
        """Dataset, weights and run, for figures and the console."""
        return f"{self.record['dataset']} · {self.record['weights']} · run {self.name}"

    @property
    def detail(self) -> str:
        """As `title`, with the epoch."""
        record = self.record
        return f"{record['dataset']} · run {self.name}, epoch {record['epoch']} · {record['weights']}"

    @cached_property
    def dataset(self) -> ActionData:
        """Raises: InputError where the dataset is not where it was, or is none."""
        return read_dataset(self.data or Path(self.record["data"]))

    def samples(self, part: str, names: Sequence[str] | None = None) -> list[Sample]:
        """Images of one part of the split ("train", "val" or "test"), or those of them that are named.

        Raises: InputError where an image is missing or has changed.
        """
        digests = self.split[part]
        words = {"train": "training", "val": "validation"}.get(part, part)
        return find_split_images(self.dataset, names or digests, digests, self.classes, self.cache, words)

    def test_examples(self, indices: Sequence[int]) -> list[Example]:
        """Test images by their positions in the test set. Raises: InputError naming a position out of range."""
        names = list(self.split["test"])
        for index in indices:
            if not 0 <= index < len(names):
                raise InputError(f"--index {index}: the test set has {len(names)} images, 0 to {len(names) - 1}")
        samples = self.samples("test", [names[index] for index in indices])
        return [load_example(sample, index, self.image_size) for index, sample in zip(indices, samples, strict=True)]

    def random_index(self, seed: int | None) -> int:
        """A random position in the test set; the same for the same seed."""
        return int(np.random.default_rng(seed).integers(len(self.split["test"])))

    def file_example(self, path: Path, true: str | None = None) -> Example:
        """Any image file. Raises: InputError naming it."""
        return file_example(path, self.image_size, true)

    def prediction(self, example: Example, logits: torch.Tensor) -> Prediction:
        """The prediction that logits (1, K) of an example make."""
        return Prediction(example, self.classes, self.model.probabilities(logits.detach()[0]).cpu().numpy())


def load_run(options: RunOptions, device: torch.device) -> TrainedRun:
    """Loads the run that the options name, or the newest one. Raises: InputError naming the runs that exist."""
    folder = checkpoint.find_run(options.results, options.run)
    return TrainedRun(folder, *checkpoint.load_model(folder, device), device, options.data, options.cache)
