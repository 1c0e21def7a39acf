"""Loads images to inspect: test-set images by index, or any image file; and holds a network's prediction of one."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset import IMAGENET_MEAN, IMAGENET_STD, ActionData, EvalTransform, Sample, normalise
from runtime.errors import InputError, first_line
from runtime.images import decode_pixels, read_file
from runtime.text import shorten
from splits.scan import check_images


@dataclass(frozen=True)
class Example:
    """One image, ready for the network.

    Attributes:
        name: the file, relative to the dataset's folder or as given.
        index: its position in the run's test set, None for any other file.
        image: the full image, upright, RGB.
        input: (3, S, S), cropped and normalised.
        true: its class, None where unknown.
        caution: kind of a network that cannot judge it, as "a network trained on drawings"; else "".
    """

    name: str
    index: int | None
    sha256: str
    image: Image.Image
    input: Tensor
    true: str | None
    caution: str = ""

    @property
    def folder(self) -> str:
        """A name for its folder and files: that of its file, after "test_<index>" where it is a test image."""
        # Not the file's folder: a test image may lie in train/. Not the index alone: each run counts its own.
        stem = re.sub(r"[^\w.-]+", "_", Path(self.name).stem).strip("._") or "image"
        return stem if self.index is None else f"test_{self.index}_{stem}"

    @property
    def id(self) -> str:
        """Identifies it in file names: its position in the test set, else the file's name."""
        return self.folder if self.index is None else str(self.index)

    @property
    def label(self) -> str:
        """For figures: "test image 12", or the end of any other file's path."""
        return shorten("/".join(Path(self.name).parts[-2:]), 40) if self.index is None else f"test image {self.index}"

    @property
    def reference(self) -> str:
        """For the console: the file as given, or the test image and the option that chooses it again."""
        return self.name if self.index is None else f"{self.label} (--index {self.index})"

    @property
    def input_pixels(self) -> np.ndarray:
        """The network's input before normalisation, (S, S, 3), 0..1."""
        return pixels_of(self.input)


@dataclass(frozen=True)
class Prediction:
    """A network's calibrated `probabilities` (K,) over `classes` for an example."""

    example: Example
    classes: Sequence[str]
    probabilities: np.ndarray

    @property
    def predicted(self) -> str:
        return self.classes[int(self.probabilities.argmax())]

    @property
    def summary(self) -> str:
        """True class, where known, and predicted class with its probability."""
        predicted = f"predicted {shorten(self.predicted)} ({self.probabilities.max():.0%})"
        if self.example.caution:
            predicted += f" by {self.example.caution}"
        return predicted if self.example.true is None else f"true {shorten(self.example.true)}, {predicted}"

    @property
    def by_class(self) -> dict[str, float]:
        return {name: round(float(value), 6) for name, value in zip(self.classes, self.probabilities, strict=True)}


def load_example(sample: Sample, index: int | None, size: int) -> Example:
    """Reads a sample's image. Raises: InputError naming the file where that fails."""
    try:
        content = read_file(sample.path)
        image, input = Image.fromarray(decode_pixels(content)), eval_input(content, size)
    except OSError as error:
        raise InputError(f"{sample.path}: cannot be read ({first_line(error)})") from error
    return Example(sample.name, index, hashlib.sha256(content).hexdigest(), image, input, sample.label)


def eval_input(content: bytes, size: int) -> Tensor:
    """Content of an image file as the network's input, (3, S, S). Raises: OSError."""
    transform = EvalTransform(size)
    return normalise(transform(Image.fromarray(decode_pixels(content, transform.min_side))))


def pixels_of(input: Tensor) -> np.ndarray:
    """A network's input (3, S, S) before normalisation: (S, S, 3), 0..1."""
    colours = input.cpu().permute(1, 2, 0) * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    return colours.clamp(0, 1).numpy()


def file_example(path: Path, size: int, true: str | None = None) -> Example:
    """Reads any image file. Raises: InputError naming it where that fails."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return load_example(Sample(str(path), path, true), None, size)


def find_split_images(
    data: ActionData,
    names: Iterable[str],
    digests: dict[str, str],
    classes: Sequence[str],
    cache: Path,
    part: str = "test",
) -> list[Sample]:
    """Finds images of one part of a run's split in its dataset; checks that their content is what it was in training.

    Args:
        names: of the images, keys of `digests`.
        digests: that part of the run's split, SHA-256 by file name.
        cache: the cache folder.

    Raises: InputError where an image is missing or changed, or has a class that the run does not know.
    """
    there, names = {sample.name: sample for sample in data.labelled}, list(names)
    missing = [name for name in names if name not in there]
    if missing:
        more = f" and {len(missing) - 1} others" * (len(missing) > 1)
        raise InputError(
            f"{data.root}: {missing[0]}{more} of the run's {part} images are missing. Pass the original dataset with "
            "--data."
        )
    samples = [there[name] for name in names]
    scans = check_images(samples, cache / "scans.json", skip_bad=False)
    changed = [name for name in names if scans[name].sha256 != digests[name]]
    if changed:
        raise InputError(
            f"{data.root}: {changed[0]} and {len(changed) - 1} other {part} images have changed since this run was "
            "trained. Pass the original dataset with --data."
        )
    unknown = {sample.label for sample in samples} - set(classes)
    if unknown:
        raise InputError(f"{data.root}: the run does not know the class {min(unknown)!r}; pass its own --data")
    return samples
