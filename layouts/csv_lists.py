"""Reads a CSV list of a dataset: file names and labels."""

import os
import posixpath
from functools import cached_property
from pathlib import Path, PurePosixPath

from runtime.errors import InputError
from runtime.images import file_names, is_image_name

NAME_COLUMNS = ("filename", "image_path", "image", "file", "path")
LABEL_COLUMNS = ("label", "class", "category", "action")

FOLDER_NAMES = {
    "train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing"),
}  # fmt: skip
MISSING_FIX = "add them, fix the CSV, or leave them out with --skip-bad"

Row = tuple[str, str | None]  # an image's name relative to the dataset's folder, with "/", and its label


def read_csv(path: Path, folder: Path, may_lack_labels: bool, skip_missing: bool) -> tuple[list[Row], list[str]]:
    """Reads one CSV of images in `folder`. All rows must have labels, or with `may_lack_labels` none.

    Returns: its rows, and the names of listed files that do not exist, which `skip_missing` allows.

    Raises: InputError naming file, row and value.
    """
    from runtime.tables import find_column, read_table  # imports pandas, which class folders do not need

    table = read_table(path)
    names = find_column(table, path, NAME_COLUMNS)
    labels = find_column(table, path, LABEL_COLUMNS, required=not may_lack_labels)
    need_labels = not may_lack_labels or any(labels)
    rows, missing, lines = [], [], {}
    finder = ImageFinder(folder)
    for line, value, label in zip(table.index, names, labels, strict=True):
        where = f"{path}, row {line}"
        if need_labels and not label:
            raise InputError(f"{where}: {value} has an empty label")
        if not value:
            raise InputError(f"{where}: empty file name")
        name = finder.find(value)
        if name is None:
            missing.append(f"{folder / value} (row {line})")
            continue
        if name in lines:
            raise InputError(f"{where}: {value} is already listed in row {lines[name]}; delete one of the two")
        lines[name] = line
        rows.append((name, label or None))
    if missing and not (skip_missing and rows):
        first = ", ".join(missing[:5]) + ", …" * (len(missing) > 5)
        raise InputError(f"{path}: {len(missing)} of {len(table)} files do not exist: {first}; {MISSING_FIX}")
    if may_lack_labels and len(rows) > 1 and len({label for _, label in rows} - {None}) == 1:
        raise InputError(f"{path}: every row has the label {rows[0][1]!r}, a stand-in; delete the column")
    return rows, missing


class ImageFinder:
    """Finds listed images in a folder, also under names that other machines and tools give them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = folder.name.lower()
        self.own_names = next((names for names in FOLDER_NAMES.values() if own in names), (own,))

    def find(self, given: str) -> str | None:
        """The name of an image relative to the folder above `folder`; None where there is none, or are several.

        Of a path from elsewhere (`/home/x/train/a.jpg`, `C:\\set\\a.jpg`, `../a.jpg`, `set/train/a.jpg`), the longest
        end that is a file in the folder counts, unless the last part named before it is another one, whose images may
        have the same names. A name without suffix is that of the only image that has it.
        """
        parts = PurePosixPath(posixpath.normpath(given.replace("\\", "/"))).parts
        starts = [start for start in range(len(parts)) if parts[start] not in ("/", "..")]
        ends = ["/".join(parts[start:]) for start in starts if start == 0 or self.is_elsewhere(parts[:start])]
        name = next((end for end in ends if os.path.isfile(f"{self.folder}/{end}")), None)
        name = name or next(filter(None, map(self.by_stem.get, ends)), None)
        return f"{self.folder.name}/{name}" if name else None

    def is_elsewhere(self, before: tuple[str, ...]) -> bool:
        """Whether folders in front of a name may be left out: those of another machine, or this part's own."""
        all_names = {name for names in FOLDER_NAMES.values() for name in names} | {*self.own_names}
        named = [folder for folder in map(str.lower, before) if folder in all_names]
        if named:
            return named[-1] in self.own_names
        return before[0] in ("/", "..") or ":" in before[0]

    @cached_property
    def by_stem(self) -> dict[str, str | None]:
        """Images in the folder by their names without suffix; None where several share one."""
        stems: dict[str, str | None] = {}
        for name in file_names(self.folder) if self.folder.is_dir() else ():
            if is_image_name(name):
                stem = posixpath.splitext(name)[0]
                stems[stem] = None if stem in stems else name
        return stems
