"""Text for consoles and figures."""

import textwrap
from collections.abc import Iterable
from pathlib import Path

CONSOLE = 100  # characters in a line


def shorten(text: str, limit: int = 24) -> str:
    """Text of at most `limit` characters, with an ellipsis in the middle of a longer one."""
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[len(text) - limit + limit // 2 + 1 :]}"


def written(folder: Path, names: Iterable[str]) -> str:
    """Tells which files lie in a folder, in lines that fit a console."""
    text = f"written: {folder}/: {' '.join(names)}"
    return textwrap.fill(text, CONSOLE, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
