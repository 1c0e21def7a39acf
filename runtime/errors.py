"""The exception that scripts turn into one line for the user."""


class InputError(ValueError):
    """Something that the user gave is wrong; the message names it and the mend."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's code says, on one line; its kind where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
