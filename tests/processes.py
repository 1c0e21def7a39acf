"""Scripts as processes of their own, forked from one that has imported torch: they start in 0.1 s instead of 2 to 6.

A fresh interpreter for each script would spend more time on imports than on its work. test_architecture.py,
`torchrun` and the programs run with `python -m` start fresh ones.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).parent.parent
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"  # Windows has no fork
CONTEXT = multiprocessing.get_context(METHOD)
CONTEXT.set_forkserver_preload(  # libraries that take long to import; none may start threads, as openvino does
    ["torch._dynamo", "torchcodec.decoders", "pandas", "scipy.optimize", "matplotlib.pyplot"]
)


class RunningScript:
    """A script of the repository, or another file by its full path, that runs in `folder`.

    `variables` are added to the environment of this process.

    Attributes:
        process: to send it signals and to wait for its end.
    """

    def __init__(self, folder: Path, name: str | Path, *arguments: object, **variables: str) -> None:
        self.command = [str(REPOSITORY / name), *map(str, arguments)]
        self.output = TemporaryDirectory()
        where = (folder, os.environ | variables, self.output.name)
        self.process = CONTEXT.Process(target=become_script, args=(self.command, *where))
        self.process.start()

    def finish(self, timeout: float = 280) -> subprocess.CompletedProcess:
        """Waits for its end; returns it with its output as text."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            raise subprocess.TimeoutExpired(self.command, timeout)
        with self.output as folder:
            texts = [Path(folder, stream).read_text(encoding="utf-8") for stream in ("stdout", "stderr")]
        return subprocess.CompletedProcess(self.command, self.process.exitcode, *texts)


def run_script(folder: Path, name: str | Path, *arguments: object) -> subprocess.CompletedProcess:
    """Runs a script of the repository in `folder`; returns it with its output as text."""
    return RunningScript(folder, name, *arguments).finish()


def become_script(command: list[str], folder: Path, environment: dict[str, str], output: str) -> None:
    """Makes this process what `python SCRIPT ARGUMENTS` would be; writes stdout and stderr to files in `output`."""
    for descriptor, stream in ((1, "stdout"), (2, "stderr")):
        with Path(output, stream).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")
