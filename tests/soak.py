"""Kills trainings at random moments and resumes them: the numbers must be those of a training that nobody killed.

    python -m tests.soak --kills 20
    python -m tests.soak --kills 20 --processes 2 --precision int8

Each training is killed once by SIGKILL, anywhere between its start and its last figure, on a feature cache of its own;
with several processes, all of them at once. Two int8 calibrations differ, so that such a run is compared with another
one on the same cache.
Prints a line per kill and writes results/soak.json; exits with 1 where a number or a weight differs.
"""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from runtime.console import parse_arguments, run_script
from runtime.files import write_json
from runtime.version import commit
from sample.build import ensure_sample

REPOSITORY = Path(__file__).parents[1]
OPTIONS = ("--weights", "random", "--image-size", "64", "--channels", "64", "--epochs", "4")
FIRST = 0.5  # seconds after which the first kill may come


@dataclass
class Args:
    kills: int = 20
    """Number of trainings, each of which is killed once."""
    processes: int = 1
    """Processes of a training, started by torchrun."""
    precision: Literal["fp32", "int8"] = "fp32"
    """Of the backbone."""
    seed: int = 0
    """Chooses the moments."""
    json: Path = Path("results/soak.json")
    """File to write."""


def main(args: Args) -> None:
    moments = random.Random(args.seed)
    with TemporaryDirectory() as name:
        bench = Bench(Path(name), args.processes, args.precision)
        ensure_sample(bench.folder / "sample", per_class=8)
        begin = time.perf_counter()
        bench.train_whole("whole")
        seconds = time.perf_counter() - begin
        kills = [bench.kill_once(f"kill{n}", moments.uniform(FIRST, seconds)) for n in range(args.kills)]
    about = {"processes": args.processes, "precision": args.precision}
    failed = [kill for kill in kills if not (kill["metrics_equal"] and kill["weights_equal"])]
    write_json(args.json, {"commit": commit()} | about | {"seconds_of_a_training": round(seconds, 1), "kills": kills})
    print(f"{len(kills)} trainings killed, {len(failed)} differ from the one that was not; written: {args.json}")
    sys.exit(bool(failed))


@dataclass(frozen=True)
class Bench:
    """How trainings in a folder are started, killed and compared."""

    folder: Path
    processes: int
    precision: str

    def start(self, run: str, *more: str, cache: str = "") -> subprocess.Popen:
        several = ("-m", "torch.distributed.run", "--nproc-per-node", str(self.processes), "--")
        launcher = several if self.processes > 1 else ()
        words = [REPOSITORY / "train.py", "--run", run, "--cache", f"cache_{cache or run}", "-q", *more]
        new = () if "--resume" in more else ("--data", "sample", "--precision", self.precision, *OPTIONS)
        return subprocess.Popen(
            [sys.executable, *launcher, *words, *new], cwd=self.folder, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def train_whole(self, run: str, cache: str = "") -> Path:
        """Trains a run that nobody kills; returns its folder."""
        process = self.start(run, cache=cache)
        _, errors = process.communicate()
        if process.returncode:
            sys.exit(f"the training that nobody kills failed: {errors}")
        return self.folder / "results" / run

    def kill_once(self, run: str, after: float) -> dict[str, Any]:
        """Kills a training after so many seconds, lets it go on, and compares."""
        process = self.start(run)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            # Not by their group: torchrun gives each of its processes one of its own.
            subprocess.run(["pkill", "-KILL", "-f", f"cache cache_{run} "], check=True)
        process.communicate()
        killed = process.returncode == -signal.SIGKILL
        place = self.folder / "results" / run
        epochs = len(rows_of(place))
        again = self.start(run, *(["--resume"] if (place / "last.pt").exists() else []))
        _, errors = again.communicate()
        is_int8 = self.precision == "int8"
        whole = self.train_whole(f"{run}_whole", run) if is_int8 else self.folder / "results/whole"
        found = {
            "after_seconds": round(after, 2), "killed": killed, "epochs_done": epochs, "exit_code": again.returncode,
            "metrics_equal": rows_of(place) == rows_of(whole), "weights_equal": weights_of(place) == weights_of(whole),
        }  # fmt: skip
        print(f"{run}: {found} {errors.strip()[-200:] if again.returncode else ''}", flush=True)
        return found


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def weights_of(run: Path) -> dict[str, bytes]:
    path = run / "best.pt"
    model = torch.load(path, weights_only=True)["model"] if path.exists() else {}
    return {name: value.numpy().tobytes() for name, value in model.items()}


if __name__ == "__main__":
    run_script(main, parse_arguments(Args, __doc__))
