"""Parses a script's arguments into a dataclass, runs it, and reports wrong input as one line."""

import signal
import sys
from collections.abc import Callable
from typing import Any

import tyro

from runtime.errors import InputError, first_line


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def interrupt(*_: object) -> None:
    """Turns SIGTERM into an exception, so that temporary files are removed."""
    raise KeyboardInterrupt


def parse_arguments(arguments: type, description: str | None, check: Callable[[Any], None] = lambda args: None) -> Any:
    """Parses the command line into the dataclass `arguments`.

    A script does so before it imports torch and what needs it, so that --help and wrong options answer at once.

    Args:
        check: raises InputError on wrong values.
    """
    signal.signal(signal.SIGTERM, interrupt)
    sys.stdout.reconfigure(errors="replace")  # class names that the console's encoding cannot show
    args = tyro.cli(arguments, description=description)
    run_script(check, args)
    return args


def run_script(main: Callable[[Any], None], args: Any) -> None:
    """Calls `main` with the parsed arguments.

    Exits with 2 after one line on stderr where `main` raises InputError or OSError (full disk, read-only folder) or
    runs out of GPU memory, with 130 on Ctrl-C and SIGTERM.
    """
    try:
        main(args)
    except InputError as error:
        text = str(error)
        if text.startswith("Caught "):  # raised in a DataLoader worker, whose traceback is part of the message
            text = text.strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: ")
        fail(text)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; naming it would import torch here
            raise
        batch = "give a smaller --batch-size or --device cpu" if hasattr(args, "batch_size") else "give --device cpu"
        fail(f"GPU memory is full ({first_line(error)}); {batch}")
    except OSError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
