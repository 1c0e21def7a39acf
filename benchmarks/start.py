"""Times scripts until they answer, as multiples of importing torch and torchvision in a process of its own."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.bench import Bench, run_timed
from runtime.errors import InputError
from sample.build import ensure_sample

IMPORT = "import torch, torchvision"
EXAMPLE = Path(__file__).parents[1] / "data" / "examples" / "drinking.jpg"
TRAINING_BEGINS = "epoch "  # the table's heading, after which the first batch is trained


def measure_start(bench: Bench, device: torch.device) -> None:
    """On the built-in sample, with everything cached by an earlier training."""
    data = bench.scratch / "sample"
    ensure_sample(data)
    places = ("--results", bench.scratch / "start", "--cache", bench.scratch / "cache of start", "--device", device)
    train = ("train.py", "--data", data, "--epochs", 1, *places)
    out = ("--out", bench.scratch / "figures")
    run_timed(*train, "--run", "first")
    commands = {
        "predict5.py --help": ("predict5.py", "--help"),
        "predict5.py IMAGE": ("predict5.py", EXAMPLE, "--run", "pretrained", *places),
        "predict5.py, 90 test images": ("predict5.py", "--run", "first", *places),
        "visualize_activations.py IMAGE": ("visualize_activations.py", EXAMPLE, "--run", "pretrained", *places, *out),
        "visualize_single_example.py --index 0": (
            "visualize_single_example.py",
            "--index",
            0,
            "--run",
            "first",
            *places,
            *out,
        ),
    }
    runs: dict[str, list[float]] = {name: [] for name in (IMPORT, *commands, "train.py until its first batch")}
    for number in range(bench.args.rounds):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORT], check=True)
        runs[IMPORT].append(round(time.perf_counter() - begin, 2))
        for name, command in commands.items():
            runs[name].append(round(run_timed(*command)[0], 2))
        runs["train.py until its first batch"].append(round(until_training(*train, "--run", f"round{number}"), 2))
    ratios = {name: [a / b for a, b in zip(runs[name], runs[IMPORT], strict=True)] for name in runs}
    bench.save("start", {
        "ours": median(runs["predict5.py IMAGE"]), "peers": {name: median(values) for name, values in runs.items()},
        "ratio": {name: round(median(values), 2) for name, values in ratios.items()},
        "unit": f"seconds; ratios to {IMPORT}", "runs": runs,
    })  # fmt: skip


def until_training(script: str, *arguments: object) -> float:
    """Seconds until a training prints the heading of its table; stops it there."""
    command = [sys.executable, "-u", str(Path(__file__).parents[1] / script), *map(str, arguments)]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout:
            if line.startswith(TRAINING_BEGINS):
                process.kill()
                return time.perf_counter() - begin
    raise InputError(f"{script} ended before its training; run it alone: {' '.join(command)}")
