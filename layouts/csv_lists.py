"""Reads a CSV list of a dataset: file names and labels."""

import os
import posixpath
from pathlib import Path

from runtime.errors import InputError

NAME_COLUMNS = ("filename", "image_path", "image", "file", "path")
LABEL_COLUMNS = ("label", "class", "category", "action")

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
    for line, value, label in zip(table.index, names, labels, strict=True):
        where = f"{path}, row {line}"
        if need_labels and not label:
            raise InputError(f"{where}: {value} has an empty label")
        given = relative_name(value, folder, where)
        name = find_file(given, folder)
        if name is None:
            missing.append(f"{folder / given} (row {line})")
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


def find_file(given: str, folder: Path) -> str | None:
    """The name of an image that a CSV lists, relative to the folder above `folder`; None where there is no such file.

    Args:
        given: relative to `folder`, or with that folder's name in front.
    """
    given = posixpath.normpath(given.replace("\\", "/"))
    first, _, rest = given.partition("/")
    candidates = [given, *([rest] if rest and first.lower() == folder.name.lower() else [])]
    return next((f"{folder.name}/{name}" for name in candidates if os.path.isfile(f"{folder}/{name}")), None)


def relative_name(value: str, folder: Path, where: str) -> str:
    """A relative path from a CSV, with "/". Raises: InputError where it is empty or leaves `folder`."""
    if not value:
        raise InputError(f"{where}: empty file name")
    name = posixpath.normpath(value.replace("\\", "/"))
    if name.startswith("/") or os.path.isabs(value) or name.split("/")[0] == "..":
        raise InputError(f"{where}: {value!r} leaves the folder {folder}; give names inside it")
    return name
