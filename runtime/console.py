"""Runs a script: parses its arguments, reports wrong input as one line, ends at Ctrl-C with another."""

import builtins
import io
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from runtime.arguments import parse
from runtime.errors import InputError, first_line
from runtime.status import on_terminal, say, set_quiet

STOPPED = 130  # the exit code of a program that Ctrl-C ended
WORKER_ENDED = ("DataLoader worker", "process pool was terminated abruptly")  # texts of torch and of Python
SIGNALS = (signal.SIGINT, signal.SIGTERM)
WAY_ON: list[str] = []  # how to continue what Ctrl-C stops, where something is saved


def in_notebook() -> bool:
    """Whether IPython runs the script (%run), in a process that lives on."""
    return hasattr(builtins, "__IPYTHON__")


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


class Interrupt:
    """Turns Ctrl-C and SIGTERM into an exception, so that temporary files are removed."""

    def __init__(self) -> None:
        self.process, self.came = os.getpid(), False

    def __call__(self, number: int, _: object) -> None:
        if os.getpid() == self.process:
            self.came = True
            raise KeyboardInterrupt
        if number == signal.SIGTERM:  # to a process that decodes; Ctrl-C, which reaches it too, is its parent's matter
            os._exit(STOPPED)


def stop_at_once(*_: object) -> None:
    """Ends a script that imports or exits; libraries that import might turn an exception into another."""
    os.write(2, b"\nstopped\n")
    os._exit(STOPPED)


def handle_signals(handler: Any) -> dict[int, Any]:
    """Sets the handler of Ctrl-C and SIGTERM; returns those before, by signal.

    Does nothing in a notebook, which has its own way, and where Python does not allow it (other threads).
    """
    if in_notebook() or threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in SIGNALS}


def parse_arguments(arguments: type, description: str | None, check: Callable[[Any], None] = lambda args: None) -> Any:
    """Parses the command line into the dataclass `arguments`.

    A script does so before it imports torch and what needs it, so that --help and wrong options answer at once.

    Args:
        check: raises InputError on wrong values.
    """
    handle_signals(stop_at_once)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's is not
        sys.stdout.reconfigure(errors="backslashreplace")  # class names that the console's encoding cannot show
    try:
        args, quiet = parse(arguments, description=description)
        check(args)
    except (InputError, OSError) as error:  # OSError: of paths that no system allows
        fail(str(error))
    set_quiet(quiet)
    if (quiet or not on_terminal()) and not in_notebook():
        os.environ["TQDM_DISABLE"] = "1"  # bars of libraries, which would fill a log with carriage returns
    return args


def run_script(main: Callable[[Any], None], args: Any) -> None:
    """Calls `main` with the parsed arguments.

    Exits with 2 after one line on stderr where `main` raises InputError or OSError (full disk, read-only folder) or
    runs out of GPU memory, with 130 on Ctrl-C and SIGTERM.
    """
    WAY_ON.clear()  # of a script before this one in a notebook
    interrupt = Interrupt()
    before = handle_signals(interrupt)
    try:
        main(args)
    except (Exception, KeyboardInterrupt) as error:
        if interrupt.came or isinstance(error, KeyboardInterrupt):  # libraries may have made it another exception
            end_stopped()
        report(error, args)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_stopped() -> NoReturn:
    """Ends a stopped script, whose temporary files are gone by now, with its processes that decode."""
    print(f"\nstopped{''.join(WAY_ON)}", file=sys.stderr)
    if in_notebook():
        sys.exit(STOPPED)
    from multiprocessing import active_children

    for child in active_children():
        child.kill()
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(STOPPED)  # else destructors of libraries print tracebacks about the ended processes


def report(error: Exception, args: Any) -> NoReturn:
    """Ends the script with one line for what the user can mend; raises other errors anew."""
    if isinstance(error, InputError):
        first = str(error.args[0])
        if first.startswith("Caught "):  # raised in a DataLoader worker, whose traceback is part of the message
            fail(first.strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: "))
        fail(str(error))
    if type(error).__name__ == "OutOfMemoryError":  # torch's; naming it would import torch here
        batch = "give a smaller --batch-size or --device cpu" if hasattr(args, "batch_size") else "give --device cpu"
        fail(f"GPU memory is full ({first_line(error)}); {batch}")
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in WORKER_ENDED):
        fail(
            f"a process that decodes images was ended from outside ({first_line(error).strip()}), perhaps for want of "
            "memory; give fewer --workers, or end other programs"
        )
    if isinstance(error, BrokenPipeError):  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python would write the rest at its end
        sys.exit(1)
    if isinstance(error, OSError):
        fail(str(error))
    raise error


def command_line(script: str, *words: object) -> str:
    """A command that calls another script as this one was called, quoted for a shell. Files are given as `Path`."""
    python = sys.orig_argv[0]  # as the user called it, perhaps by a relative path; not where IPython or torchrun did
    if in_notebook() or Path(python).is_absolute():
        python = "python"
    files = [f"./{word}" if isinstance(word, Path) and str(word)[0] == "-" else str(word) for word in words]
    return shlex.join([python, str(Path(sys.argv[0]).with_name(script)), *files])


def suggest(script: str, *words: object) -> None:
    """Prints the command that comes next, as the last line."""
    say(f"next: {command_line(script, *words)}")


def go_on_with(script: str, *words: object) -> None:
    """Sets the command that Ctrl-C names from now on, as the one that continues the work."""
    WAY_ON[:] = [f"; go on with: {command_line(script, *words)}"]
