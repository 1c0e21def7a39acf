"""Text for consoles and figures."""

import textwrap

CONSOLE = 100  # characters in a line


def shorten(text: str, limit: int = 24) -> str:
    """Text of at most `limit` characters, with an ellipsis in the middle of a longer one."""
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[len(text) - limit + limit // 2 + 1 :]}"


def wrap(text: str) -> str:
    """Breaks a long line at blanks, so that its lines fit a console."""
    return textwrap.fill(text, CONSOLE, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
