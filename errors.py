"""The one exception that scripts turn into one line for the user."""


class InputError(ValueError):
    """Something that the user gave is wrong; the message names it and the mend."""
