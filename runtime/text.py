"""Text for consoles and figures."""

import re
import textwrap

CONSOLE = 100  # characters in a line
# Control characters, bytes of file names that are not UTF-8 (surrogates), line separators and changes of direction.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text on one line, with what would not be shown, or would change its surroundings, as Python's escapes."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shorten(text: str, limit: int = 24) -> str:
    """Text on one line of at most `limit` characters, with an ellipsis in the middle of a longer one."""
    text = printable(text)
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[len(text) - limit + limit // 2 + 1 :]}"


def wrap(text: str) -> str:
    """Breaks a long line at blanks, so that its lines fit a console."""
    return textwrap.fill(text, CONSOLE, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
