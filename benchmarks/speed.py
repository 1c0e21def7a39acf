"""Measures speed beside other libraries' ways of doing the same work.

    python -m benchmarks.speed                                      the dataset in data/, or the built-in sample
    python -m benchmarks.speed --data DIR --parts backbone head

Candidates run interleaved, each in its own process; figures are medians, and ratios are taken within one round. ONNX
Runtime takes part where it is installed (pip install -r requirements-benchmark.txt). Writes results/benchmark.json, and
keeps in it the parts that were measured earlier on the same machine and dataset.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from backbones.imagenet_weights import load_weights
from benchmarks.baselines import Workload, calibrated_int8
from benchmarks.interleave import run_interleaved
from dataset import NAME_FILE, TRAIN_CSV, ActionData, find_root, read_dataset
from features.spec import FeatureSpec, dataset_digest
from runtime.console import parse_arguments, run_script
from runtime.errors import InputError
from runtime.files import write_csv, write_json
from runtime.options import require_range
from sample.build import ensure_sample
from training import checkpoint
from training.recipe import IMAGE_SIZE

Part = Literal["training", "fast", "backbone", "head", "decoding", "predict", "visualize", "scale", "looking"]
ORIGINAL_ACCURACY = 0.6377  # validation accuracy reported by the work that this repository follows
PLAIN_EPOCHS = 20
GROUPS = {  # parts that only compare candidates, with the candidates' groups
    "backbone": ["backbone"],
    "head": ["head, feature maps of 5x5", "head, feature maps of 10x10"],
    "decoding": ["decoding, dataset images", "decoding, 12 megapixels"],
}


@dataclass
class Args:
    data: Path | None = None
    """Folder of the dataset. Default: data/, or the built-in sample where data/ holds none."""
    parts: tuple[Part, ...] = ("backbone", "head", "decoding", "training", "fast", "predict", "visualize", "scale")
    """What to measure. fast: training with --image-size 224; predict and visualize (once called looking) use the run of
    training."""
    rounds: int = 7
    """Rounds in which each candidate runs once."""
    images: Annotated[int, tyro.conf.arg(aliases=["--pictures"])] = 5000
    """Number of images for predict5.py."""
    sizes: tuple[int, ...] = (1000, 5000, 10000)
    """Numbers of images for scale; those above the dataset's are left out."""
    out: Path = Path("results/benchmark.json")


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
        self.results[name] = value | {"commit": checkpoint.commit()}
        write_json(self.args.out, self.results)
        print(f"\n{name} ({value['unit']})")
        for candidate, number in ({"ours": value["ours"]} | value["peers"]).items():
            ratio = value["ratio"].get(candidate)
            print(f"  {candidate:52s} {number:10.2f}" + (f"   ratio {ratio:.2f}" if ratio else ""))
        for line in value.get("notes", []):
            print(f"  {line}")


def main(args: Args) -> None:
    require_range("rounds", args.rounds, 1)
    folder = args.data or Path("data")
    if args.data is None and find_root(folder) is None:
        folder = Path("data/sample")
        ensure_sample(folder)
    data = read_dataset(folder.resolve())
    with tempfile.TemporaryDirectory(prefix="benchmark") as scratch:
        about = {"machine": machine(), "dataset": data.name}
        bench = Bench(args, data, Path(scratch), known_parts(args.out, about) | about)
        for part in args.parts:
            for group in GROUPS.get(part, []):
                bench.save(group, compare(*run_interleaved(group, bench.work, args.rounds)))
            if part not in GROUPS:
                MEASUREMENTS[part](bench)
    print(f"\nwritten: {args.out}")


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
    """Runs a script of this repository on the CPU. Returns seconds and its peak memory in GB."""
    command = [sys.executable, str(Path(__file__).parents[1] / script), *map(str, arguments), "--device", "cpu"]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise InputError(f"{script} failed; run it alone: {' '.join(command)}")
    return seconds, usage.ru_maxrss * 1024 / 1e9


def measure_training(bench: Bench, name: str = "training", options: tuple[object, ...] = ()) -> None:
    """Trains the default recipe, or with other options, from files and an empty cache.

    Beside it, `PLAIN_EPOCHS` epochs of the baselines at their measured speed.
    """
    results = bench.scratch / "results"
    places = ("--cache", bench.scratch / f"cache of {name}", "--results", results, "--run", name)
    seconds, memory = run_timed("train.py", "--data", bench.data.root, *places, *options)
    record = json.loads((results / name / "best.json").read_text(encoding="utf-8"))
    lines = (results / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [json.loads(line) for line in lines]
    train_runs, errors = run_interleaved("plain training", bench.work, bench.args.rounds)
    val_runs, _ = run_interleaved("plain validation", bench.work, bench.args.rounds)
    train_rates = {candidate: median(rates) for candidate, rates in train_runs.items()}
    val_rate = median(val_runs["tutorial loop"])
    train, val = record["split"]["train"], record["split"]["val"]
    totals = {candidate: PLAIN_EPOCHS * (train / rate + val / val_rate) for candidate, rate in train_rates.items()}
    value = compare(train_runs, errors)
    value |= {
        "ours": round(seconds, 1),
        "peers": {candidate: round(total, 1) for candidate, total in totals.items()},
        "ratio": {candidate: round(total / seconds, 2) for candidate, total in totals.items()},
        "unit": f"seconds for {train} training and {val} validation images",
        "images_per_second": train_rates | {"tutorial loop, validation": round(val_rate, 2)},
        "notes": [
            f"baselines: {PLAIN_EPOCHS} epochs at the speed of {bench.args.rounds} batches of each kind, 224 pixels",
            f"ours: {record['image_size']} pixels, {len(epochs)} epochs, "
            f"validation accuracy {record['val']['accuracy']:.4f}, peak {memory:.2f} GB; "
            + ", ".join(f"{phase} {took:.0f} s" for phase, took in record["seconds"].items()),
        ],
    }
    reached = next((n for n, row in enumerate(epochs, 1) if row["val"]["accuracy"] > ORIGINAL_ACCURACY), None)
    if reached:
        value["seconds_to_original"] = round(seconds - sum(row["seconds"] for row in epochs[reached:]), 1)
        took = f"after {value['seconds_to_original']} s"
        value["notes"].append(f"ours exceeds {ORIGINAL_ACCURACY:.2%} in epoch {reached}, {took}")
    bench.save(name, value)


def measure_fast_training(bench: Bench) -> None:
    measure_training(bench, "fast", ("--image-size", 224))


def trained_run(bench: Bench) -> tuple[object, ...]:
    """Options that name the run of the part training. Raises: InputError where it was not measured before."""
    results = bench.scratch / "results"
    if not (results / "training").exists():
        raise InputError("--parts: predict and visualize use the run of training; give training before them")
    return "--cache", bench.scratch / "cache of training", "--results", results, "--run", "training"


def measure_prediction(bench: Bench) -> None:
    """Times predict5.py on a folder of images, start-up included, beside the tutorial's loop."""
    run = trained_run(bench)
    folder, count = bench.scratch / "images", bench.args.images
    folder.mkdir()
    for index, sample in enumerate(islice(cycle(bench.data.labelled), count)):
        shutil.copy(sample.path, folder / f"{index:05d}{sample.path.suffix}")  # links would count as checked
    seconds, memory = run_timed("predict5.py", folder, *run)
    val_runs, _ = run_interleaved("plain validation", bench.work, bench.args.rounds)
    baseline = count / median(val_runs["tutorial loop"])
    bench.save("predict", {
        "ours": round(seconds, 1), "peers": {"tutorial loop": round(baseline, 1)},
        "ratio": {"tutorial loop": round(baseline / seconds, 2)}, "unit": f"seconds for {count} images",
        "runs": {"ours": [round(seconds, 1)], "tutorial loop, images/s": val_runs["tutorial loop"]},
        "notes": [f"ours with start-up and the check of every file; peak {memory:.2f} GB"],
    })  # fmt: skip


def measure_visualization(bench: Bench) -> None:
    run = trained_run(bench)
    runs = []
    for index in range(3):
        seconds, _ = run_timed("visualize_single_example.py", "--index", index, *run, "--out", bench.scratch)
        runs.append(round(seconds, 1))
    value = {"ours": median(runs), "peers": {}, "ratio": {}, "unit": "seconds for one image, start-up included"}
    bench.save("visualize", value | {"runs": {"ours": runs}})


def measure_scale(bench: Bench) -> None:
    """Trains two epochs on one view of subsets of the dataset, each with an empty cache but for the int8 model."""
    sizes = [size for size in bench.args.sizes if size <= len(bench.data.labelled)]
    if not sizes:
        raise InputError(f"--sizes: the dataset has only {len(bench.data.labelled)} images; give a smaller size")
    runs: dict[str, Any] = {}
    int8, weights = calibrated_int8(bench.work), load_weights()  # one calibration, whose time does not depend on size
    for size in sizes:
        root, folder = make_subset(bench, size), bench.scratch / f"scale_{size}"
        digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (root / "train").iterdir()}
        spec = FeatureSpec(weights.sha256, "none", dataset_digest({"labelled": digests}), IMAGE_SIZE)
        shutil.copytree(int8.folder, spec.int8_folder(folder / "cache"))
        arguments = ("--views", 1, "--epochs", 2, "--low-res", 0.5, "--precision", "int8", "--run", "scale")
        places = ("--data", root, "--cache", folder / "cache", "--results", folder)
        _, memory = run_timed("train.py", *places, *arguments)
        seconds = json.loads((folder / "scale" / "best.json").read_text(encoding="utf-8"))["seconds"]
        runs[str(size)] = {phase: round(1000 * took / size, 2) for phase, took in seconds.items()} | {"peak_gb": memory}
        shutil.rmtree(folder)
    totals = {size: row["features"] + row["training"] for size, row in runs.items()}
    first, *others = totals
    bench.save("scale", {
        "ours": round(totals[first], 2),
        "peers": {f"{size} images": round(totals[size], 2) for size in others},
        "ratio": {f"{size} images": round(totals[size] / totals[first], 3) for size in others},
        "unit": f"seconds per 1,000 images, features and two epochs; ours: {first} images",
        "runs": runs,
        "notes": [f"{size} images: peak {row['peak_gb']:.2f} GB" for size, row in runs.items()],
    })  # fmt: skip


def make_subset(bench: Bench, size: int) -> Path:
    """Writes a dataset of `size` images, drawn at random and linked to; returns its folder."""
    root, samples = bench.scratch / f"subset_{size}", bench.data.labelled
    (root / "train").mkdir(parents=True)
    rows = []
    for index in np.random.default_rng(0).permutation(len(samples))[:size].tolist():
        sample = samples[index]
        name = f"{index:05d}{sample.path.suffix}"
        (root / "train" / name).symlink_to(sample.path)
        rows.append((name, sample.label))
    write_json(root / NAME_FILE, {"name": bench.data.name})
    write_csv(root / TRAIN_CSV, rows, ["filename", "label"])
    return root


MEASUREMENTS = {
    "training": measure_training,
    "fast": measure_fast_training,
    "predict": measure_prediction,
    "visualize": measure_visualization,
    "looking": measure_visualization,  # its former name
    "scale": measure_scale,
}

if __name__ == "__main__":
    run_script(main, parse_arguments(Args, __doc__))
