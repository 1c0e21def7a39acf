"""Contenders of the benchmark, each in a process of its own, that take turns at a piece of their work."""

import time
from multiprocessing import get_context
from multiprocessing.connection import Connection

from tqdm import tqdm

from benchmarks.peers import CONTENDERS, Work
from runtime.device import keep_freed_memory


class Contender:
    """A process that prepared one of the contenders and does its piece when asked."""

    def __init__(self, name: str, work: Work) -> None:
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, name, work), daemon=True)
        self.process.start()
        other.close()  # else the end of the process would go unnoticed
        try:
            self.trouble: str | None = self.connection.recv()
        except EOFError:
            self.trouble = "its process died while it prepared"

    def rate(self) -> float:
        """Images/s of one piece."""
        self.connection.send(None)
        return self.connection.recv()

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def serve(connection: Connection, name: str, work: Work) -> None:
    """Runs in the contender's process: prepares, warms up, then answers each request with the rate of a piece."""
    if "ours" in name or "memory kept" in name:
        keep_freed_memory()
    try:
        piece = CONTENDERS[name](work)
        piece()
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])
        return
    connection.send(None)
    while True:
        connection.recv()
        begin = time.perf_counter()
        count = piece()
        connection.send(count / (time.perf_counter() - begin))


def race(title: str, work: Work, rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Lets all contenders whose name begins with `title` take turns.

    Returns: images/s of every round by contender, and what kept others from taking part.
    """
    names = [name for name in CONTENDERS if name.startswith(f"{title}: ")]
    contenders = {name.removeprefix(f"{title}: "): Contender(name, work) for name in names}
    absent = {name: contender.trouble for name, contender in contenders.items() if contender.trouble}
    runs: dict[str, list[float]] = {name: [] for name in contenders if name not in absent}
    try:
        for _ in tqdm(range(rounds), title, leave=False):
            for name, rates in runs.items():
                rates.append(round(contenders[name].rate(), 3))
    finally:
        for contender in contenders.values():
            contender.end()
    return runs, absent
