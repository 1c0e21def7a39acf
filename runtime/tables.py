"""Reads CSV files of several delimiters and encodings; finds columns by any of several names."""

import codecs
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from runtime.errors import InputError, first_line


def read_table(path: Path) -> pd.DataFrame:
    """Reads a CSV file with a header; delimiter comma, semicolon or tab, whichever the header has most of.

    Returns: stripped strings ("" where a row is too short), indexed by line in the file (the header is line 1), without
        blank rows.

    Raises: InputError where the file is not text or not CSV, or has no rows.
    """
    text = read_text(path)
    first = next(iter(text.splitlines()), "")
    try:
        # The header is read as a row: otherwise pandas takes the first column of longer rows for an index.
        table = pd.read_csv(
            io.StringIO(text),
            sep=max(",;\t", key=first.count),
            header=None,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,  # they count as lines
        )
    except pd.errors.EmptyDataError as error:
        raise InputError(f"{path}: the first line is blank; it must name the columns") from error
    except pd.errors.ParserError as error:
        raise InputError(
            f"{path}: cannot be read as CSV ({first_line(error)}); put values that contain the delimiter in quotes"
        ) from error
    table = table.fillna("").apply(lambda column: column.str.strip())
    table.index += 1
    rows = table.iloc[1:].set_axis(list(table.iloc[0]), axis=1)
    rows = rows[(rows != "").any(axis=1)]
    if rows.empty:
        raise InputError(f"{path}: has no rows")
    return rows


def read_text(path: Path) -> str:
    """Decodes a text file: UTF-16 with a byte order mark, else UTF-8, else Windows-1252.

    Raises: InputError where the file is not text.
    """
    if not path.is_file():
        raise InputError(f"{path}: is not a file; give a CSV list")
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", "cp1252", "latin-1"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise InputError(f"{path}: is not a text file; save it as CSV in UTF-8")


def find_column(table: pd.DataFrame, path: Path, names: Sequence[str], required: bool = True) -> pd.Series:
    """Finds the column with one of these names, in any case; if it is missing and not `required`, it is all "".

    Raises: InputError where a required column is missing or several columns match.
    """
    found = [position for position, column in enumerate(table.columns) if column.lower() in names]
    if len(found) > 1:
        several = ", ".join(table.columns[found])
        raise InputError(f"{path}: the columns {several} mean the same; delete or rename all but one")
    if found:
        return table.iloc[:, found[0]]
    if required:
        raise InputError(f"{path}: no column {' or '.join(names)}, found {', '.join(table.columns)}")
    return pd.Series("", index=table.index)
