"""Kills trainings at random moments and resumes them: the numbers must be those of a training that nobody killed.

    python -m tests.soak --kills 20

Each training is killed once by SIGKILL, anywhere between its start and its last figure, on a feature cache of its own.
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
from typing import Any

import torch

from runtime.console import parse_arguments, run_script
from runtime.files import write_json
from runtime.version import commit
from sample.build import ensure_sample

REPOSITORY = Path(__file__).parents[1]
OPTIONS = ("--weights", "random", "--image-size", "64", "--precision", "fp32", "--channels", "64", "--epochs", "4")
FIRST = 0.5  # seconds after which the first kill may come


@dataclass
class Args:
    kills: int = 20
    """Number of trainings, each of which is killed once."""
    seed: int = 0
    """Chooses the moments."""
    json: Path = Path("results/soak.json")
    """File to write."""


def main(args: Args) -> None:
    moments = random.Random(args.seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        ensure_sample(folder / "sample", per_class=8)
        begin = time.perf_counter()
        if train(folder, "whole").wait():
            sys.exit("the training that nobody kills failed")
        seconds = time.perf_counter() - begin
        kills = [kill_once(folder, f"kill{n}", moments.uniform(FIRST, seconds)) for n in range(args.kills)]
    failed = [kill for kill in kills if not (kill["metrics_equal"] and kill["weights_equal"])]
    write_json(args.json, {"commit": commit(), "seconds_of_a_training": round(seconds, 1), "kills": kills})
    print(f"{len(kills)} trainings killed, {len(failed)} differ from the one that was not; written: {args.json}")
    sys.exit(bool(failed))


def train(folder: Path, run: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, REPOSITORY / "train.py", "--run", run, "--cache", f"cache_{run}", "-q", *more]
    start = () if "--resume" in more else ("--data", "sample", *OPTIONS)
    return subprocess.Popen(
        [*command, *start], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def kill_once(folder: Path, run: str, after: float) -> dict[str, Any]:
    """Kills a training after so many seconds, lets it go on, and compares."""
    process = train(folder, run)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = process.returncode == -signal.SIGKILL
    place = folder / "results" / run
    epochs = len(rows_of(place))
    again = train(folder, run, *(["--resume"] if (place / "last.pt").exists() else []))
    _, errors = again.communicate()
    whole = folder / "results/whole"
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
