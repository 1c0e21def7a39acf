"""Runs benchmark candidates in separate processes, interleaved, and returns images/s per round."""

import time
from multiprocessing import get_context
from multiprocessing.connection import Connection

from benchmarks.baselines import CANDIDATES
from benchmarks.workload import Workload
from runtime.device import keep_freed_memory
from runtime.status import track

KEEP_MEMORY = ("ours", "freed memory kept")  # in names of candidates whose allocator keeps freed memory


class Candidate:
    """A process that has prepared one candidate and runs a step of it when asked.

    Attributes:
        error: why it cannot run here, in one line; None where it can.
    """

    def __init__(self, name: str, work: Workload) -> None:
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, name, work), daemon=True)
        self.process.start()
        other.close()  # else the end of the process would go unnoticed
        try:
            self.error: str | None = self.connection.recv()
        except EOFError:
            self.error = "its process died while it prepared"

    def rate(self) -> float:
        """Runs one step and returns its images/s."""
        self.connection.send(None)
        return self.connection.recv()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def serve(connection: Connection, name: str, work: Workload) -> None:
    """Runs in the candidate's process: prepares, warms up, then sends images/s of a step for each request."""
    if any(word in name for word in KEEP_MEMORY):
        keep_freed_memory()
    try:
        step = CANDIDATES[name](work)
        step()
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])
        return
    connection.send(None)
    while True:
        connection.recv()
        begin = time.perf_counter()
        count = step()
        connection.send(count / (time.perf_counter() - begin))


def run_interleaved(group: str, work: Workload, rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Runs a step of each candidate of `group` in every round.

    Returns: images/s per round by candidate, and errors by candidate that could not run.
    """
    names = [name for name in CANDIDATES if name.startswith(f"{group}: ")]
    candidates = {name.removeprefix(f"{group}: "): Candidate(name, work) for name in names}
    errors = {name: candidate.error for name, candidate in candidates.items() if candidate.error}
    runs: dict[str, list[float]] = {name: [] for name in candidates if name not in errors}
    try:
        for _ in track(range(rounds), group, unit="rounds", leave=False):
            for name, rates in runs.items():
                rates.append(round(candidates[name].rate(), 3))
    finally:
        for candidate in candidates.values():
            candidate.stop()
    return runs, errors
