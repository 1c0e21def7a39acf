"""A trained network, ready to predict and to be inspected: one function loads it for every script."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset import ActionData, Sample, find_root, read_dataset
from inspection.examples import Example, Prediction, file_example, find_split_images, load_example
from layouts.parts import EXAMPLES
from model import ActionNet
from runtime import distributed
from runtime.errors import InputError
from runtime.files import read_known
from runtime.images import image_files
from runtime.options import RunOptions
from runtime.status import say
from runtime.text import wrap
from sample.build import NAME as SAMPLE_NAME
from splits.groups import join_groups
from splits.scan import check_images, group_duplicates
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
    def called(self) -> str:
        """Its name in titles."""
        return "pretrained network" if self.is_pretrained else f"run {self.name}"

    @property
    def classes(self) -> list[str]:
        return self.record["classes"]

    @property
    def image_size(self) -> int:
        return self.record["image_size"]

    @property
    def is_pretrained(self) -> bool:
        """Whether it is the network in this repository, which has no folder but one for results of tests."""
        return self.record["data"] is None

    @property
    def caution(self) -> str:
        """What kind of network it is where its predictions of photographs mean nothing; else ""."""
        if "random weights" in self.record["weights"]:
            return "a network with an untrained backbone"
        return "a network trained on drawings" if self.record["dataset"] == SAMPLE_NAME else ""

    @property
    def title(self) -> str:
        """Dataset, weights and run, for figures and the console."""
        return f"{self.record['dataset']} · {self.record['weights']} · {self.called}"

    @property
    def detail(self) -> str:
        """As `title`, with the epoch."""
        record = self.record
        return f"{record['dataset']} · {self.called}, epoch {record['epoch']} · {record['weights']}"

    @cached_property
    def dataset(self) -> ActionData:
        """Raises: InputError where the dataset is not where it was, or is none."""
        folder = self.data or (find_root(Path("data")) if self.is_pretrained else Path(self.record["data"]))
        if folder is None:
            raise InputError(
                "the pretrained network comes without its images, which tests, --tta and --precision int8 need: leave "
                "these out and give images of your own, or with --data the HAR photographs (python prepare_data.py)"
            )
        return read_dataset(folder, skip_missing=self.record["arguments"].get("skip_bad", False))

    def samples(self, part: str, names: Sequence[str] | None = None) -> list[Sample]:
        """Images of one part of the split ("train", "val" or "test"), or those of them that are named.

        Raises: InputError where an image is missing or has changed.
        """
        digests = self.split[part]
        words = {"train": "training", "val": "validation"}.get(part, part)
        return find_split_images(self.dataset, names or digests, digests, self.classes, self.cache, words)

    def have_duplicates_in_training(self, samples: Sequence[Sample]) -> list[bool]:
        """Whether a duplicate of each of these images was in the run's training set."""
        both = [*samples, *self.samples("train")]
        scans = check_images(both, self.cache / "scans.json", skip_bad=False)
        groups = group_duplicates([scans[sample.name] for sample in both]).tolist()
        in_training = set(groups[len(samples) :])
        return [group in in_training for group in groups[: len(samples)]]

    def groups(self, samples: Sequence[Sample]) -> np.ndarray | None:
        """Group numbers (N,) of images of a run whose split kept groups together (--group); else None."""
        if not self.record["arguments"].get("group"):
            return None
        names = read_known(self.folder / checkpoint.SPLIT).get("groups", {})
        return join_groups(range(len(samples)), [names.get(sample.name) for sample in samples]) if names else None

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

    def random_example(self, seed: int | None) -> Example:
        """A random test image; of the pretrained network, where its dataset is not there, a photograph beside it."""
        if self.is_pretrained and self.data is None and not self.has_test_images():
            return self.file_example(Path(np.random.default_rng(seed).choice(image_files(EXAMPLES))))
        return self.test_examples([self.random_index(seed)])[0]

    def has_test_images(self) -> bool:
        """Whether the dataset is there and holds all images of the test set, by name."""
        try:
            return self.split["test"].keys() <= {sample.name for sample in self.dataset.labelled}
        except InputError:
            return False

    def file_example(self, path: Path, true: str | None = None) -> Example:
        """Any image file, with a caution where this network cannot judge it. Raises: InputError naming it."""
        example = file_example(path, self.image_size, true)
        return replace(example, caution=self.warn([example.sha256]))

    def warn(self, digests: Iterable[str]) -> str:
        """Returns `caution`, and prints a warning, where an image of these digests is not of the run's dataset."""
        known = {digest for part in self.split.values() for digest in part.values()}
        if not self.caution or known.issuperset(digests):
            return ""
        message = (
            f"warning: {self.caution} predicts; on photographs its predictions mean nothing (try --run pretrained)"
        )
        if distributed.is_main():
            print(message, file=sys.stderr)
        return self.caution

    def prediction(self, example: Example, logits: torch.Tensor) -> Prediction:
        """The prediction that logits (1, K) of an example make."""
        return Prediction(example, self.classes, self.model.probabilities(logits.detach()[0]).cpu().numpy())


def load_run(options: RunOptions, device: torch.device) -> TrainedRun:
    """Loads the run that the options name, or the newest finished one, else the pretrained network; says which.

    Raises: InputError naming the runs that exist.
    """
    folder = None
    if options.run != checkpoint.PRETRAINED_NAME:
        folder = (
            checkpoint.find_run(options.results, options.run) if options.run else checkpoint.newest(options.results)
        )
    taken = options.results / checkpoint.PRETRAINED_NAME
    if (taken / checkpoint.BEST).exists():
        raise InputError(f"{taken}: this name now is that of the network in the repository; rename the run's folder")
    if folder is None:
        parts = checkpoint.load_pretrained(device)
        folder = options.results / checkpoint.PRETRAINED_NAME
    else:
        parts = checkpoint.load_model(folder, device)
    run = TrainedRun(folder, *parts, device, options.data, options.cache)
    if distributed.is_main():
        say(wrap(introduce(run, chosen=bool(options.run))))
    return run


def introduce(run: TrainedRun, chosen: bool) -> str:
    """One line that says which network predicts, from which data, and how good it is."""
    record, count = run.record, len(run.classes)
    if run.is_pretrained:
        why = "" if chosen else " (no finished run in results/)"
        accuracy = f"test accuracy {record['test']['accuracy']:.1%} on {record['test']['n']} images"
        return f"pretrained network{why}: {record['dataset']}, {count} classes, {accuracy}; {record['weights']}"
    accuracy = f"validation accuracy {record['val']['accuracy']:.1%}"
    done = "" if (run.folder / checkpoint.CURVES).exists() else ", unfinished"
    about = f"{record['dataset']}, {count} classes, {accuracy}, epoch {record['epoch']}{done}"
    return f"run {run.name}: {about}; {record['weights']}"
