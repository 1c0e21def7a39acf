"""How every script starts and ends: arguments from a dataclass, and one clear line where the input is wrong."""

import signal
import sys
from collections.abc import Callable
from typing import Any

import torch
import tyro

from backbones.imagenet_weights import WeightsUnavailable
from runtime.errors import InputError, first_line


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def stop(*_: object) -> None:
    """A request to end is an exception too, so that nothing half-written is left behind."""
    raise KeyboardInterrupt


def run_script(main: Callable[[Any], None], arguments: type, description: str | None) -> None:
    """Parses the command line into `arguments` and calls `main` with it.

    Exits with 2 after a line on stderr where `main` raises InputError, WeightsUnavailable or OSError (a full disk, a
    folder that cannot be written) or the GPU's memory is full, with 130 on Ctrl-C or a request to end.
    """
    signal.signal(signal.SIGTERM, stop)
    sys.stdout.reconfigure(errors="replace")  # class names that the console's encoding does not know
    try:
        main(tyro.cli(arguments, description=description))
    except (InputError, WeightsUnavailable) as error:
        text = str(error)
        if text.startswith("Caught "):  # raised in a process that decodes pictures: the last line is ours
            text = text.strip().splitlines()[-1].removeprefix("errors.InputError: ")
        fail(text)
    except torch.OutOfMemoryError as error:
        mend = (
            "give a smaller --batch-size, or --device cpu" if hasattr(arguments, "batch_size") else "give --device cpu"
        )
        fail(f"the GPU's memory is full ({first_line(error)}); {mend}")
    except OSError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
