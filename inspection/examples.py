"""The pictures that a trained run is looked at with: those of its test set, or any file."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset import IMAGENET_MEAN, IMAGENET_STD, ActionData, EvalTransform, Sample, load_image, normalise, read_dataset
from figures.page import short
from runtime.errors import InputError, first_line
from splits.scan import check_images


@dataclass(frozen=True)
class Example:
    """One picture, ready for the network.

    Attributes:
        name: the file, relative to the dataset's folder or as given.
        index: its position in the run's test set, None for any other file.
        picture: the whole, upright.
        input: (3, S, S), normalised.
        true: its class, None where nobody said.
    """

    name: str
    index: int | None
    sha256: str
    picture: Image.Image
    input: Tensor
    true: str | None

    @property
    def folder(self) -> str:
        """A name for its folder and files, from where it lies in its dataset, or from the file's name alone."""
        name = Path(self.name if self.index is not None else Path(self.name).name)
        return re.sub(r"[^\w.-]+", "_", str(name.with_suffix(""))).strip("._") or "picture"

    @property
    def label(self) -> str:
        """The end of its name, short enough for a figure."""
        return short("/".join(Path(self.name).parts[-2:]), 40)

    @property
    def id(self) -> str:
        """What stands in file names: the position in the test set, else the file's name."""
        return self.folder if self.index is None else str(self.index)

    @property
    def view(self) -> np.ndarray:
        """What the network sees, (S, S, 3), 0..1."""
        colours = self.input.permute(1, 2, 0) * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
        return colours.clamp(0, 1).numpy()


def load_example(sample: Sample, index: int | None, size: int) -> Example:
    """Reads a picture. Raises: InputError naming it where that fails."""
    transform = EvalTransform(size)
    try:
        picture, content = load_image(sample.path), sample.path.read_bytes()
        pixels = transform(load_image(sample.path, transform.least))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and their own
        raise InputError(f"{sample.path}: cannot be read ({first_line(error)})") from error
    digest = hashlib.sha256(content).hexdigest()
    return Example(sample.name, index, digest, picture, normalise(pixels), sample.label)


def file_example(path: Path, size: int, true: str | None = None) -> Example:
    """Any picture file. Raises: InputError naming it."""
    return load_example(Sample(str(path), path, true), None, size)


def find_split_images(
    data: ActionData,
    names: Iterable[str],
    digests: dict[str, str],
    classes: Sequence[str],
    cache: Path,
    part: str = "test",
) -> list[Sample]:
    """Finds pictures of a part of a run's split in its dataset; makes sure that they are what they were in training.

    Args:
        names: which ones, keys of `digests`.
        digests: that part of the run's split (see `checkpoint.load_model`).
        cache: the folder of the cache.

    Raises: InputError where a picture is gone, or another one now, or of a class that the run does not know.
    """
    there, names = {sample.name: sample for sample in data.labelled}, list(names)
    missing = [name for name in names if name not in there]
    if missing:
        raise InputError(
            f"{data.root}: {missing[0]} and {len(missing) - 1} more of the run's {part} set are not there; give the "
            "dataset that it was trained on with --data"
        )
    samples = [there[name] for name in names]
    scans = check_images(samples, cache / "scans.json", skip_bad=False)
    changed = [name for name in names if scans[name].sha256 != digests[name]]
    if changed:
        raise InputError(
            f"{data.root}: {changed[0]} and {len(changed) - 1} more of the run's {part} set are not the pictures that "
            "they were in training; give the dataset that it was trained on with --data"
        )
    unknown = {sample.label for sample in samples} - set(classes)
    if unknown:
        raise InputError(f"{data.root}: the run does not know the class {min(unknown)!r}; give its own --data")
    return samples


def load_test_examples(
    indices: Sequence[int], record: dict[str, Any], digests: dict[str, str], data: Path | None, cache: Path
) -> list[Example]:
    """Pictures of the run's test set by their positions in it.

    Args:
        record: the run's, for the classes and for where the dataset lay in training.
        data: where the dataset lies now, if elsewhere.

    Raises: InputError as `find_split_images`, or naming the position.
    """
    names = list(digests)
    for index in indices:
        if not 0 <= index < len(names):
            raise InputError(f"--index {index}: the test set has {len(names)} pictures, 0 to {len(names) - 1}")
    dataset = read_dataset(data or Path(record["data"]))
    samples = find_split_images(dataset, [names[index] for index in indices], digests, record["classes"], cache)
    return [load_example(sample, index, record["image_size"]) for index, sample in zip(indices, samples, strict=True)]
