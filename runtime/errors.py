"""The error that scripts report as one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.text import printable


class InputError(ValueError):
    """Something the user gave is wrong, or not available; the message names it and the fix.

    Its text is one line: line breaks and control characters, which names of files or classes may hold, become Python's
    escapes.

    Args:
        details: lines that follow the message, each of which is made printable too.
    """

    def __init__(self, message: str, *details: str) -> None:
        super().__init__(message, *details)

    def __str__(self) -> str:
        return "\n".join(map(printable, self.args))


def first_line(error: BaseException) -> str:
    """First line of another library's error message, or its type where the message is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@contextmanager
def naming(path: Path, fix: str) -> Iterator[None]:
    """Makes an error that the content of a file raises an InputError that names the file.

    For files that this program wrote, which may be damaged, edited or of another program: their readers need not look
    at every value before they use it.
    """
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise InputError(f"{path}: damaged, or of another program ({what}); {fix}") from error
