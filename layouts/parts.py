"""Finds and lists the parts of a dataset folder, and names what they leave out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from layouts.csv_lists import FOLDER_NAMES, Row, read_csv
from runtime.errors import InputError
from runtime.images import HEIF_FIX, HEIF_SUFFIXES, file_names, is_image_name

EXAMPLES = (
    Path(__file__).resolve().parents[1] / "data" / "examples"
)  # photographs to try, beside which people put class folders
TRAIN_CSV, TEST_CSV = "Training_set.csv", "Testing_set.csv"
PARTS = ("train", "val", "test")
CSV_NAMES = dict(zip(PARTS, (TRAIN_CSV, "Validation_set.csv", TEST_CSV), strict=True))
LEFT_OUT = {
    "missing": "listed image(s) that do not exist",
    "unlisted": "image(s) without a CSV row or outside class folders",
    "other_files": "file(s) that Pillow does not open",
    "empty_folders": "folder(s) without images",
    "other_folders": "folder(s) of images that are no part of the dataset",
}


@dataclass(frozen=True)
class Part:
    """Where a part of the dataset is listed: its CSV, else the class folders in its folder."""

    csv: Path | None
    folder: Path | None

    @property
    def source(self) -> str:
        """For the console."""
        return self.csv.name if self.csv else f"{self.folder.name}/"


@dataclass(frozen=True)
class Listing:
    """Images by part ("train", "val", "test"), where each part is listed, and names of what is left out by reason."""

    rows: dict[str, list[Row]]
    sources: dict[str, str]
    left_out: dict[str, list[str]]


def find_parts(root: Path) -> dict[str, Part]:
    """The parts of a dataset that have a CSV or a folder in `root`. Raises: InputError where a part has two."""
    entries = list(os.scandir(root)) if root.is_dir() else []

    def find(names: Sequence[str], is_folder: bool) -> Path | None:
        wanted = {name.lower() for name in names}
        found = sorted(entry.name for entry in entries if entry.name.lower() in wanted and entry.is_dir() == is_folder)
        if len(found) > 1:
            raise InputError(f"{root}: holds both {found[0]} and {found[1]}; delete or rename one of them")
        return root / found[0] if found else None

    parts = {part: Part(find([CSV_NAMES[part]], False), find(FOLDER_NAMES[part], True)) for part in PARTS}
    return {part: place for part, place in parts.items() if place.csv or place.folder}


def subfolders(folder: Path) -> list[Path]:
    """Folders in `folder`, sorted, without hidden ones and links to folders that it lies in."""
    real = Path(os.path.realpath(folder))
    found = sorted(folder / entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    return [inner for inner in found if not real.is_relative_to(os.path.realpath(inner))]


def holds_images(folder: Path) -> bool:
    return any(map(is_image_name, file_names(folder)))


def is_dataset(folder: Path) -> bool:
    """Whether a folder has a list of training images, or a folder train/ of class folders, not just of images."""
    names = (TRAIN_CSV.lower(), *FOLDER_NAMES["train"])
    entries = [entry for entry in os.scandir(folder) if entry.name.lower() in names]
    return any(not entry.is_dir() or any(map(holds_images, subfolders(Path(entry.path)))) for entry in entries)


def class_folders(root: Path) -> list[Path]:
    """Folders in `root` that may be classes: with images, and neither a part nor a dataset of their own."""
    if not root.is_dir():
        return []
    parts = {part.folder for part in find_parts(root).values()}
    return [
        folder
        for folder in subfolders(root)
        if folder not in parts and not is_dataset(folder) and holds_images(folder)
        if folder.resolve() != EXAMPLES
    ]


def list_dataset(root: Path, skip_missing: bool = False) -> Listing:
    """Lists the images of a dataset whose folder is `root`; opens none.

    Args:
        skip_missing: leave out files that a CSV lists and that do not exist.

    Raises: InputError naming a file, row or folder that is wrong.
    """
    parts = find_parts(root)
    rows: dict[str, list[Row]] = {}
    missing: list[str] = []
    sources = {part: place.source for part, place in parts.items()}
    places = [place.folder for place in parts.values() if place.folder]  # all of whose files are listed or left out
    class_places = [place.folder for place in parts.values() if not place.csv]
    if "train" not in parts:
        places, class_places = class_folders(root), [root]
        if parts:
            own = next(iter(parts.values())).source
            raise InputError(f"{root}: holds {own} but no train/ (nor {TRAIN_CSV}); move the class folders into train/")
        rows, sources = {"train": folder_rows(root, places)}, {"train": "class folders"}
    for part, place in parts.items():
        if place.csv:
            rows[part], gone = read_csv(place.csv, place.folder or root / part, part == "test", skip_missing)
            missing += gone
        else:
            rows[part] = folder_rows(root, subfolders(place.folder))
    if not rows["train"]:
        raise InputError(explain_no_classes(parts["train"].folder))
    listed = {name for part in rows.values() for name, _ in part}
    return Listing(rows, sources, {"missing": missing} | find_left_out(root, listed, places, class_places))


def folder_rows(root: Path, folders: Sequence[Path]) -> list[Row]:
    """Images in class folders and below, which are labelled with the folder's name."""
    return [
        (f"{folder.relative_to(root).as_posix()}/{name}", folder.name)
        for folder in folders
        for name in file_names(folder)
        if is_image_name(name)
    ]


def explain_no_classes(train: Path) -> str:
    if not holds_images(train):
        return f"{train.parent}: {TRAIN_CSV} is missing, and {train.name}/ has no class folders with images in them"
    return (
        f"{train.parent}: {TRAIN_CSV} is missing, and {train.name}/ holds images but no class folders; sort them into "
        f"{train.name}/<class>/ (where {train.name!r} is a class itself, move all class folders into {train.name}/)"
    )


def find_left_out(
    root: Path, listed: set[str], places: Sequence[Path], class_places: Sequence[Path]
) -> dict[str, list[str]]:
    """Names of what a dataset leaves out, by reason (keys of `LEFT_OUT`).

    Args:
        listed: images that it holds.
        places: folders whose files should be listed, below `root`.
        class_places: folders whose folders should be classes.
    """
    files = [f"{place.relative_to(root).as_posix()}/{name}" for place in places for name in file_names(place)]
    rest = sorted(set(files) - listed)
    beside = sorted(entry.name for entry in os.scandir(root) if entry.is_file() and entry.name[0] != ".")
    empty = [folder for place in class_places for folder in subfolders(place) if not holds_images(folder)]
    # Beside part folders, a dataset of its own is nothing to tell of: data/ may hold several.
    candidates = subfolders(root) if root in class_places else class_folders(root)
    other = [folder for folder in candidates if folder not in (*places, *empty)]
    return {
        "unlisted": [name for name in [*rest, *beside] if is_image_name(name)],
        "other_files": [name for name in rest if not is_image_name(name)],
        "empty_folders": [f"{folder.relative_to(root).as_posix()}/" for folder in empty],
        "other_folders": [f"{folder.name}/" for folder in other],
    }


def describe_left_out(left_out: dict[str, list[str]]) -> str:
    """One line that counts and names what a dataset leaves out; empty where that is nothing."""
    texts = []
    for reason, names in left_out.items():
        if names:
            shown = ", ".join(names[:3]) + ", …" * (len(names) > 3)
            is_heif = any(name.lower().endswith(HEIF_SUFFIXES) for name in names)
            fix = f"; for HEIC, {HEIF_FIX}" if reason == "other_files" and is_heif else ""
            texts.append(f"{len(names)} {LEFT_OUT[reason]} ({shown}{fix})")
    return "; ".join(texts)
