"""Reads a dataset of labelled photographs, in the layout of Kaggle's Human Action Recognition set or as class folders.

    ROOT/Training_set.csv   filename,label      ROOT/train/<class>/*.jpg
    ROOT/train/*.jpg                            ROOT/test/<class>/*.jpg    (optional)
    ROOT/Testing_set.csv    filename[,label]
    ROOT/test/*.jpg

The first column may also be called `image_path`. ROOT may be the folder above `Human Action Recognition/`, which the
unzipped archive contains. Labels are any names; nothing here knows the fifteen actions.
"""

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from torchvision.transforms import v2

from runtime.errors import InputError, first_line

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TRAIN_CSV, TEST_CSV = "Training_set.csv", "Testing_set.csv"
ARCHIVE_FOLDER = "Human Action Recognition"
NAME_FILE = "dataset.json"  # optional, {"name": …}: what the dataset calls itself in results
NAME_COLUMNS = ("filename", "image_path")
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Sample:
    """One picture: name relative to the dataset's folder (with "/"), file, label (None where unlabelled)."""

    name: str
    path: Path
    label: str | None


@dataclass
class ActionData:
    """What a dataset folder holds. `test` is labelled as a whole or not at all."""

    name: str
    root: Path
    classes: list[str]
    train: list[Sample]
    test: list[Sample] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)  # picture files that no row names

    @property
    def test_is_labelled(self) -> bool:
        return bool(self.test) and self.test[0].label is not None

    @property
    def labelled(self) -> list[Sample]:
        """Everything that can be trained or tested on."""
        return self.train + (self.test if self.test_is_labelled else [])


def find_root(folder: Path) -> Path | None:
    """Returns the folder that holds a dataset (`folder` or the archive's folder inside it), or None."""
    for root in (folder, folder / ARCHIVE_FOLDER):
        if (root / TRAIN_CSV).is_file() or (root / "train").is_dir():
            return root
    return None


def read_dataset(folder: Path) -> ActionData:
    """Reads and checks a dataset's lists; opens no picture.

    Raises: InputError naming file, row and value.
    """
    root = find_root(folder)
    if root is None:
        raise InputError(f"{folder}: holds neither {TRAIN_CSV} nor a folder train/ (see README, 'The real data')")
    if (root / TRAIN_CSV).is_file():
        train, test = read_csv(root, TRAIN_CSV, "train", True), []
        if (root / TEST_CSV).is_file():
            test = read_csv(root, TEST_CSV, "test", False)
    else:
        train, test = read_class_folders(root / "train", root), read_class_folders(root / "test", root)
        if not train:
            raise InputError(f"{root}: {TRAIN_CSV} is missing, and train/ has no class folders with pictures in them")
    classes = sorted({sample.label for sample in train})
    if len(classes) < 2:
        raise InputError(f"{root}: only one class ({classes[0]}); at least two are needed")
    for sample in test:
        if sample.label is not None and sample.label not in classes:
            raise InputError(f"{root}: {sample.name} has the label {sample.label!r}, which no training picture has")
    if len(test) > 1 and len({sample.label for sample in test} - {None}) == 1:
        raise InputError(
            f"{root / TEST_CSV}: every row has the label {test[0].label!r}, which is a stand-in, since Kaggle gives no "
            "labels for its test set; delete the column"
        )
    listed = {sample.name for sample in train + test}
    on_disk = (file.relative_to(root).as_posix() for part in ("train", "test") for file in image_files(root / part))
    return ActionData(dataset_name(root), root, classes, train, test, sorted(set(on_disk) - listed))


def dataset_name(root: Path) -> str:
    """The name in `dataset.json`, else the folder's."""
    try:
        return str(json.loads((root / NAME_FILE).read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, TypeError, KeyError):  # none there, or a file of that name with another purpose
        return root.resolve().name


def read_csv(root: Path, csv_name: str, folder: str, need_labels: bool) -> list[Sample]:
    """Reads one CSV. Labels must stand in all rows, or (unless `need_labels`) in none."""
    path = root / csv_name
    rows = parse_csv(path, need_labels)
    need_labels = need_labels or any(label for _, _, label in rows)
    samples, seen = [], {}
    for line, value, label in rows:
        where = f"{path}, row {line}"
        if need_labels and not label:
            raise InputError(f"{where}: {value} has an empty label")
        file = resolve_name(root, folder, value, where)
        name = file.relative_to(root).as_posix()
        if name in seen:
            raise InputError(f"{where}: {value} is listed already in row {seen[name]}; delete one of the two")
        seen[name] = line
        samples.append(Sample(name, file, label or None))
    return samples


def parse_csv(path: Path, need_labels: bool) -> list[tuple[int, str, str]]:
    """Rows as (line, name, label), blanks stripped, "" where there is none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if not columns or columns[0] not in NAME_COLUMNS:
                found = columns[0] if columns else "nothing"
                raise InputError(f"{path}: the first column must be filename or image_path, found {found}")
            if need_labels and "label" not in columns:
                raise InputError(f"{path}: no column 'label', found {', '.join(columns)}")
            name = columns[0]
            rows = [(reader.line_num, (row[name] or "").strip(), (row.get("label") or "").strip()) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({first_line(error)}); save it as such") from error
    if not rows:
        raise InputError(f"{path}: has no rows")
    return rows


def resolve_name(root: Path, folder: str, value: str, where: str) -> Path:
    """The file that a CSV's value names: inside `root/folder`, with or, as in most copies, without `folder/` before."""
    if not value:
        raise InputError(f"{where}: empty file name")
    pure = PurePosixPath(value.replace("\\", "/"))
    parts = Path(os.path.normpath(pure)).parts
    if pure.is_absolute() or Path(value).is_absolute() or ".." in parts:
        raise InputError(f"{where}: {value!r} leaves the folder {root / folder}; give names inside it")
    for candidate in (root.joinpath(folder, *parts), root.joinpath(*parts)):
        if candidate.is_file() and candidate.is_relative_to(root / folder):
            return candidate
    raise InputError(f"{where}: the file {root / folder / pure} does not exist")


def read_class_folders(folder: Path, root: Path) -> list[Sample]:
    """Reads `folder/<class>/*`; empty where there is no such folder. Files directly in `folder` have no label."""
    files = [file for file in image_files(folder) if file.parent != folder]
    return [Sample(file.relative_to(root).as_posix(), file, file.relative_to(folder).parts[0]) for file in files]


def image_files(folder: Path) -> list[Path]:
    """The picture files in `folder` and below, sorted; what is hidden or in a hidden folder is left out."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    shown = (file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    return sorted(file for file in shown if file.is_file())


def class_counts(samples: Sequence[Sample]) -> Counter[str]:
    return Counter(sample.label for sample in samples if sample.label is not None)


def load_image(path: Path, least: int = 0) -> Image.Image:
    """Decodes a picture file to upright 8-bit RGB, transparent parts over white.

    Args:
        least: pixels of the short side that are enough; a JPEG of many times as many is decoded at 1/2, 1/4 or 1/8 of
            its size, which takes a fraction of the time. 0: the whole.

    Raises: OSError (Pillow's) where the file is missing, truncated or no picture.
    """
    with Image.open(path) as file:
        if least:
            file.draft("RGB", (least, least))
        image = ImageOps.exif_transpose(file)  # also decodes
    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 257).convert("L")  # Pillow would clip 0..65535 at 255
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@dataclass(frozen=True)
class TrainTransform:
    """A random crop of `smallest` to 1 of the area, resized, mirrored half of the time: RGB to (3, S, S) uint8."""

    size: int
    smallest: float = 0.08
    flip: bool = True

    @property
    def least(self) -> int:
        """The short side that a picture needs, so that the smallest crop still has twice the pixels of the result."""
        return math.ceil(2 * self.size / math.sqrt(self.smallest * 3 / 4))

    def __call__(self, image: Image.Image) -> Tensor:
        top, left, height, width = v2.RandomResizedCrop.get_params(image, [self.smallest, 1.0], [3 / 4, 4 / 3])
        square = cut(image, (left, top, left + width, top + height), self.size)
        return square.flip(-1) if self.flip and torch.rand(()) < 0.5 else square


@dataclass(frozen=True)
class EvalTransform:
    """The middle of a picture, squeezed to a square and resized: RGB to (3, S, S) uint8.

    Args:
        reach: how far the middle goes along the longer side, in shorter sides. 1: a square as high or wide as the
            picture; below 1, a smaller one; infinite: the whole.
        mirrored: whether left and right change places in the end.
    """

    size: int
    reach: float = 1.0
    mirrored: bool = False

    @property
    def least(self) -> int:
        """The short side that a picture needs, so that the middle still has twice the pixels of the result."""
        return math.ceil(2 * self.size / min(1, self.reach))

    def __call__(self, image: Image.Image) -> Tensor:
        square = cut(image, middle(*image.size, self.reach), self.size)
        return square.flip(-1) if self.mirrored else square


def tta_views(size: int, whole: int = 0) -> list[EvalTransform]:
    """The views over which test-time augmentation takes the mean: the usual one, a closer and a wider one, mirrored.

    Mirror images of all three would double the time for nothing, and those of maps say what the maps say.

    Args:
        whole: where training has seen the whole, in what size; it is one more view then, and else would do harm.
    """
    views = [EvalTransform(size), EvalTransform(size, 7 / 8, mirrored=True), EvalTransform(size, 5 / 4, mirrored=True)]
    return [*views, EvalTransform(whole, math.inf)] if whole else views


def middle(width: int, height: int, reach: float = 1.0) -> tuple[float, float, float, float]:
    """Where `EvalTransform` looks in a picture of that size: left, top, right and bottom, in pixels."""
    most = reach * min(width, height)
    wide, high = min(width, most), min(height, most)
    return (width - wide) / 2, (height - high) / 2, (width + wide) / 2, (height + high) / 2


def cut(image: Image.Image, box: tuple[float, float, float, float], size: int) -> Tensor:
    """The box (left, top, right, bottom), in pixels, resized in one step: (3, size, size) uint8."""
    return v2.functional.pil_to_tensor(image.resize((size, size), Image.Resampling.BILINEAR, box))


def normalise(images: Tensor) -> Tensor:
    """Pixels (B, 3, S, S) uint8 to what ImageNet networks take, float32, on the same device."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.float() - mean) / std


Transform = TrainTransform | EvalTransform


class HarDataset(Dataset):
    """Pictures and class indices: item i is (transform(picture) of shape (3, S, S) uint8, class index or -1).

    Args:
        seeds: one number a picture makes random transforms repeatable, whatever the order of reading.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: Sequence[str],
        transform: Transform,
        seeds: Sequence[int] | None = None,
    ) -> None:
        self.samples, self.transform, self.seeds = list(samples), transform, seeds
        index = {name: position for position, name in enumerate(classes)}
        self.targets = [index.get(sample.label, -1) for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        try:
            image = load_image(self.samples[item].path, self.transform.least)
        except OSError as error:
            raise InputError(f"{self.samples[item].path}: cannot be read ({error})") from error
        if self.seeds is None:
            return self.transform(image), self.targets[item]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seeds[item])
            return self.transform(image), self.targets[item]

    def __getitems__(self, items: Sequence[int]) -> list[tuple[Tensor, int]]:
        """A batch's items; on all cores, for Pillow works without holding the interpreter, unless chance is seeded."""
        if self.seeds is not None or get_worker_info() is not None:
            return [self[item] for item in items]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self.__getitem__, items))
