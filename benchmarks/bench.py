"""One run of the speed benchmark: what is measured on, the result file, ratios, and whole scripts as processes."""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from benchmarks.workload import Workload
from dataset import ActionData
from runtime.errors import InputError
from runtime.files import write_json
from runtime.version import commit
from training import checkpoint

Part = Literal[
    "start", "loop", "backbone", "head", "decoding", "finetuning", "training", "fast", "predict", "visualize", "scale",
    "looking",
]  # fmt: skip


@dataclass
class Args:
    data: Path | None = None
    """Folder of the dataset. Default: data/, or the built-in sample where data/ holds none."""
    device: str = "cpu"
    """cpu or cuda."""
    parts: tuple[Part, ...] = ()
    """What to measure. Default: everything that the device has. fast: training with --image-size 224; predict and
    visualize (once called looking) use the run of training, and on a GPU training uses the loop."""
    rounds: int = 7
    """Rounds in which each candidate runs once."""
    images: int = field(default=5000, metadata={"aliases": ["--pictures"]})
    """Number of images for predict5.py."""
    sizes: tuple[int, ...] = (1000, 5000, 10000)
    """Numbers of images for scale; those above the dataset's are left out."""
    out: Path | None = None
    """Result file. Default: results/benchmark.json, of a GPU results/benchmark_gpu.json."""

    @property
    def file(self) -> Path:
        return self.out or Path("results/benchmark.json" if self.device == "cpu" else "results/benchmark_gpu.json")


@dataclass
class Bench:
    """One run of the benchmark, and the content of its result file."""

    args: Args
    data: ActionData
    scratch: Path
    results: dict[str, Any]

    @property
    def work(self) -> Workload:
        return Workload(self.data.labelled, self.data.classes, self.scratch)

    def save(self, name: str, value: dict[str, Any]) -> None:
        """Prints a measurement and writes the result file."""
        self.results[name] = value | {"commit": commit()}
        write_json(self.args.file, self.results)
        print(f"\n{name} ({value['unit']})")
        for candidate, number in ({"ours": value["ours"]} | value["peers"]).items():
            ratio = value["ratio"].get(candidate)
            print(f"  {candidate:52s} {number:10.2f}" + (f"   ratio {ratio:.2f}" if ratio else ""))
        for line in value.get("notes", []):
            print(f"  {line}")


def machine() -> dict[str, Any]:
    names = [line.split(":")[1].strip() for line in read_lines("/proc/cpuinfo") if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    about = {"cpu": (names or [platform.processor()])[0], "cores": os.cpu_count(), "gpu": gpu}
    return about | {"system": platform.platform(), "versions": checkpoint.versions()}


def known_parts(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The content of a result file if it was measured on the same dataset, machine and packages, else nothing."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return known if about.items() <= known.items() else {}


def read_lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def compare(runs: dict[str, list[float]], errors: dict[str, str]) -> dict[str, Any]:
    """Medians, and how many times as fast as each other candidate the first of ours is: median of the rounds' ratios.

    Args:
        runs, errors: see `run_interleaved`.
    """
    best = next(name for name in runs if name.startswith("ours"))
    others = [name for name in runs if name != best]
    ratios = {name: [a / b for a, b in zip(runs[best], runs[name], strict=True)] for name in others}
    return {
        "ours": round(median(runs[best]), 2),
        "peers": {name: round(median(runs[name]), 2) for name in others},
        "ratio": {name: round(median(values), 3) for name, values in ratios.items()},
        "unit": "images/s",
        "runs": runs,
        "notes": [f"{name}: left out ({error})" for name, error in errors.items()],
    }


def run_timed(script: str, *arguments: object) -> tuple[float, float]:
    """Runs a script of this repository. Returns seconds and its peak memory in GB."""
    command = [sys.executable, str(Path(__file__).parents[1] / script), *map(str, arguments)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise InputError(f"{script} failed; run it alone: {' '.join(command)}")
    return seconds, usage.ru_maxrss * 1024 / 1e9
