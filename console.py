"""How every script starts and ends: arguments from a dataclass, and one clear line where the input is wrong."""

import sys
from collections.abc import Callable
from typing import Any

import tyro

from errors import InputError
from weights import WeightsUnavailable


def run_script(main: Callable[[Any], None], arguments: type, description: str | None) -> None:
    """Parses the command line into `arguments` and calls `main` with it.

    Exits with 2 after one line on stderr where `main` raises InputError or WeightsUnavailable, with 130 on Ctrl-C.
    """
    try:
        main(tyro.cli(arguments, description=description))
    except (InputError, WeightsUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
