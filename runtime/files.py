"""Writes files and folders whole or not at all: into a temporary one beside the place, then there in one step."""

import errno
import glob
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from runtime.errors import InputError

FULL = 2**20  # free bytes up to which a disk counts as full


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a temporary file, then puts it at `path`, whose folder is made if need be.

    A link stays: the file that it leads to is replaced.

    Raises: InputError where something else than a file is there, a folder or a device; OSError naming the file
        also where torch says "unexpected pos" of a full disk, NumPy "1000 requested".
    """
    if path.exists() and not path.is_file():  # root would replace /dev/null
        raise InputError(f"{path}: is {'a folder' if path.is_dir() else 'no file'}; give the name of a file")
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(partial)
        os.replace(partial, path)
    except (RuntimeError, OSError) as error:
        raise_named(error, path)
    finally:
        partial.unlink(missing_ok=True)


def raise_named(error: RuntimeError | OSError, path: Path) -> NoReturn:
    """Raises the error of writing to `path` with its name: of a full disk Python gives none, torch not even why."""
    if isinstance(error, OSError) and error.errno:
        if error.filename:
            raise error
        raise OSError(error.errno, error.strerror, str(path)) from error
    if shutil.disk_usage(path.parent).free > FULL:
        raise error
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def require_file(path: Path) -> None:
    """Raises OSError where something else than a file is at `path`: of a pipe, reading would wait for ever."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is a folder" if path.is_dir() else "is no file", str(path))


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8. Raises: OSError, ValueError."""
    require_file(path)
    return path.read_text(encoding="utf-8")


def read_known(path: Path) -> dict[str, Any]:
    """A dictionary that `write_json` wrote; empty where there is none, or another thing, or it is damaged."""
    try:
        value = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def check_archive(path: Path) -> None:
    """Verifies the checksums in a file of `torch.save`, which `torch.load` does not. Raises: OSError."""
    require_file(path)
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:  # what is no archive, torch refuses
        if archive.testzip():
            raise OSError("a checksum in it is wrong")


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to fill; at the end of the block it takes the place of `path` and of what was there.

    Where the block ends in an exception, `path` stays as it was.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.old"):  # of a process killed between the two steps
        if not path.exists():
            os.replace(left, path)
    partial, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{kind}") for kind in ("partial", "old"))
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    except OSError as error:
        raise_named(error, path)
    finally:
        if old.exists() and not path.exists():  # stopped between the two steps
            os.replace(old, path)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    r"""Writes UTF-8. Bytes of file names that are not UTF-8 become `\udcff` and the like, which JSON reads back."""
    write_atomically(path, lambda partial: partial.write_bytes(text.encode(errors="backslashreplace")))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_array(path: Path, values: np.ndarray) -> None:
    write_atomically(path, lambda partial: save_to(partial, lambda file: np.save(file, values)))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    write_atomically(path, lambda partial: save_to(partial, lambda file: np.savez(file, **arrays)))


def save_to(path: Path, save: Callable[[BinaryIO], None]) -> None:
    with path.open("wb") as file:  # given a name, NumPy would add a suffix
        save(file)


def write_csv(path: Path, data: Any, columns: Sequence[str] | None = None) -> None:
    """Writes whatever `pandas.DataFrame(data, columns=columns)` takes as UTF-8 CSV without an index column."""
    import pandas as pd

    write_text(path, pd.DataFrame(data, columns=columns).to_csv(index=False, lineterminator="\n"))
