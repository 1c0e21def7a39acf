"""Text for consoles and figures."""


def shorten(text: str, limit: int = 24) -> str:
    """Text of at most `limit` characters, with an ellipsis in the middle of a longer one."""
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[len(text) - limit + limit // 2 + 1 :]}"
