"""Reads a dataset of labelled images: CSV lists as in Kaggle's Human Action Recognition set, or class folders.

    ROOT/Training_set.csv   filename,label      ROOT/train/<class>/*.jpg              ROOT/<class>/*.jpg
    ROOT/train/*.jpg                            ROOT/val/<class>/*.jpg   (optional)
    ROOT/Testing_set.csv    filename[,label]    ROOT/test/<class>/*.jpg  (optional)
    ROOT/test/*.jpg

val/ may be valid/ or validation/, train/ and test/ also training/ and testing/, in any case; Validation_set.csv lists
val/ as the other lists do. Class folders may hold folders, and links to files and folders. ROOT may be the folder above
`Human Action Recognition/`, which the unzipped archive contains. CSV files have commas, semicolons or tabs, in UTF-8,
UTF-16 or Windows-1252. Columns are found by name, in any case: filename, image_path, image, file or path; label, class,
category or action. Others are ignored. Labels are any text, even "null" and "NA". Names may have
folders of another machine in front, or no suffix.
"""

import math
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from layouts.parts import TRAIN_CSV, class_folders, find_parts, list_dataset
from runtime.errors import InputError, first_line
from runtime.files import read_known
from runtime.images import load_image
from runtime.text import printable

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ARCHIVE_FOLDER = "Human Action Recognition"
NAME_FILE = "dataset.json"  # optional, {"name": …}: the dataset's name in results


@dataclass(frozen=True)
class Sample:
    """One image: name relative to the dataset's folder (with "/"), file, label (None if unlabelled)."""

    name: str
    path: Path
    label: str | None


@dataclass
class ActionData:
    """Contents of a dataset folder. Either all images of `test` are labelled or none.

    Attributes:
        val: the validation set that the dataset gives; empty where it gives none.
        sources: where each part is listed, for the console.
        left_out: names of what belongs to no part, by reason (`layouts.parts.LEFT_OUT`).
    """

    name: str
    root: Path
    classes: list[str]
    train: list[Sample]
    val: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def test_is_labelled(self) -> bool:
        return bool(self.test) and self.test[0].label is not None

    @property
    def labelled(self) -> list[Sample]:
        """All images with a label: `train`, `val`, and `test` if it is labelled."""
        return self.train + self.val + (self.test if self.test_is_labelled else [])


def find_root(folder: Path) -> Path | None:
    """Returns the folder that holds a dataset (`folder` or the archive's folder inside it), or None."""
    for root in (folder, folder / ARCHIVE_FOLDER):
        if "train" in find_parts(root):
            return root
    return folder if len(class_folders(folder)) > 1 else None


def read_dataset(folder: Path, skip_missing: bool = False) -> ActionData:
    """Reads and checks the file lists of a dataset; opens no image.

    Args:
        skip_missing: leave out files that a CSV lists and that do not exist.

    Raises: InputError naming file, row and value.
    """
    root = find_root(folder)
    if root is None:
        raise InputError(explain_no_dataset(folder))
    listing = list_dataset(root, skip_missing)
    parts = {part: [Sample(name, root / name, label) for name, label in rows] for part, rows in listing.rows.items()}
    classes = sorted({sample.label for sample in parts["train"]})
    if len(classes) < 2:
        raise InputError(f"{root}: only one class ({classes[0]}); at least two are needed")
    for sample in parts.get("val", []) + parts.get("test", []):
        if sample.label is not None and sample.label not in classes:
            raise InputError(f"{root}: {sample.name} has the label {sample.label!r}, which no training image has")
    return ActionData(dataset_name(root), root, classes, **parts, sources=listing.sources, left_out=listing.left_out)


def explain_no_dataset(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: no such folder; give the dataset's"
    found = class_folders(folder)
    only = f"; only {found[0].name}/ has images (if it holds the class folders, give {found[0]})" if found else ""
    return f"{folder}: holds neither {TRAIN_CSV} nor a folder train/, nor two class folders{only} (see README)"


def dataset_name(root: Path) -> str:
    """The name in `dataset.json`, else the folder's."""
    name = str(read_known(root / NAME_FILE).get("name", "")).strip()  # the file may have another purpose
    return printable(name or root.resolve().name)


def class_counts(samples: Sequence[Sample]) -> Counter[str]:
    return Counter(sample.label for sample in samples if sample.label is not None)


Box = tuple[float, float, float, float]  # left, top, right and bottom of a crop, in pixels


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop of `smallest` to 1 of the area, flipped half of the time: RGB image to (3, S, S) uint8."""

    size: int
    smallest: float = 0.08
    flip: bool = True

    @property
    def min_side(self) -> int:
        """Short side in pixels from which the smallest crop still has twice the pixels of the output."""
        return math.ceil(2 * self.size / math.sqrt(self.smallest * 3 / 4))

    def crop(self, width: int, height: int) -> tuple[Box, bool]:
        """Draws a crop of an image of that size, and whether it is mirrored, from torch's global generator."""
        return random_crop(width, height, self.smallest), self.flip and torch.rand(()).item() < 0.5

    def __call__(self, image: Image.Image) -> Tensor:
        return resized_crop(image, *self.crop(*image.size), self.size)


@dataclass(frozen=True)
class EvalTransform:
    """Centre crop, resized to a square without keeping the aspect ratio: RGB image to (3, S, S) uint8.

    Args:
        reach: longest side of the crop, in shorter sides of the image. 1: the largest square; infinite: the full image.
        mirrored: whether the result is flipped horizontally.
    """

    size: int
    reach: float = 1.0
    mirrored: bool = False

    @property
    def min_side(self) -> int:
        """Short side in pixels from which the crop still has twice the pixels of the output."""
        return math.ceil(2 * self.size / min(1, self.reach))

    def crop(self, width: int, height: int) -> tuple[Box, bool]:
        """The crop of an image of that size, and whether it is mirrored."""
        return middle(width, height, self.reach), self.mirrored

    def __call__(self, image: Image.Image) -> Tensor:
        return resized_crop(image, *self.crop(*image.size), self.size)


def tta_views(size: int, full_size: int = 0) -> list[EvalTransform]:
    """Views averaged by test-time augmentation: the centre crop, and a smaller and a wider one, both flipped.

    Args:
        full_size: output size of one more view, the full image; 0 (none) if training has not seen full images.
    """
    # Adding the other flip of each doubles the time and gains nothing.
    views = [EvalTransform(size), EvalTransform(size, 7 / 8, mirrored=True), EvalTransform(size, 5 / 4, mirrored=True)]
    return [*views, EvalTransform(full_size, math.inf)] if full_size else views


def middle(width: int, height: int, reach: float = 1.0) -> Box:
    """Centre crop of `EvalTransform` in an image of that size: left, top, right and bottom, in pixels."""
    most = reach * min(width, height)
    wide, high = min(width, most), min(height, most)
    return (width - wide) / 2, (height - high) / 2, (width + wide) / 2, (height + high) / 2


def random_crop(width: int, height: int, smallest: float) -> Box:
    """A crop of `smallest` to 1 of the area and of aspect ratio 3/4 to 4/3; after ten misfits the largest centre crop.

    Szegedy et al. 2014 (https://arxiv.org/abs/1409.4842), section 6; the crops of torchvision's `RandomResizedCrop`.
    """
    low, high = torch.log(torch.tensor([3 / 4, 4 / 3]))
    for _ in range(10):
        area = width * height * torch.empty(1).uniform_(smallest, 1).item()
        ratio = torch.empty(1).uniform_(low, high).exp().item()
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            top = torch.randint(height - tall + 1, (1,)).item()
            left = torch.randint(width - wide + 1, (1,)).item()
            return left, top, left + wide, top + tall
    wide, tall = min(width, round(height * 4 / 3)), min(height, round(width / (3 / 4)))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def resized_crop(image: Image.Image, box: Box, mirrored: bool, size: int) -> Tensor:
    """Crops to the box and resizes, in one step, then flips horizontally if `mirrored`: (3, size, size) uint8."""
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))[:, :: -1 if mirrored else 1]
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def normalise(images: Tensor) -> Tensor:
    """Scales pixels (B, 3, S, S) uint8 by ImageNet's mean and standard deviation: float32 on the same device."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.float() - mean) / std


Transform = TrainTransform | EvalTransform


class HarDataset(Dataset):
    """Images and class indices: item i is (transformed image, (3, S, S) uint8; class index, -1 if unlabelled).

    Args:
        seeds: one number per image makes random transforms repeatable, whatever the reading order.
    """

    def __init__(
        self, samples: Sequence[Sample], classes: list[str], transform: Transform, seeds: Sequence[int] | None = None
    ) -> None:
        self.samples, self.transform, self.seeds = list(samples), transform, seeds
        index = {name: position for position, name in enumerate(classes)}
        self.targets = [index.get(sample.label, -1) for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        try:
            image = load_image(self.samples[item].path, self.transform.min_side)
        except OSError as error:
            raise InputError(f"{self.samples[item].path}: cannot be read ({first_line(error)})") from error
        with torch.random.fork_rng(devices=[], enabled=self.seeds is not None):
            if self.seeds is not None:
                torch.manual_seed(self.seeds[item])
            return self.transform(image), self.targets[item]

    def __getitems__(self, items: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Items of a batch, decoded by threads (Pillow releases the GIL) unless `seeds` or workers are used."""
        if self.seeds is not None or get_worker_info() is not None:
            return [self[item] for item in items]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self.__getitem__, items))
