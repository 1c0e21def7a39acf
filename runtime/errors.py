"""The error that scripts report as one line."""


class InputError(ValueError):
    """Something the user gave is wrong, or not available; the message names it and the fix."""


def first_line(error: BaseException) -> str:
    """First line of another library's error message, or its type where the message is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
