"""Measures how fast this is, beside others' ways of doing the same work.

    python benchmark.py                          on the dataset in data/, or on the built-in sample
    python benchmark.py --data DIR --parts backbone head

Contenders take turns, each in a process of its own; figures are medians, and ratios are taken within one run. ONNX
Runtime takes part where it is installed (pip install -r requirements-benchmark.txt). Writes results/benchmark.json, in
which parts that were measured before on the same machine stay.
"""

import csv
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
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.peers import Work, ours_int8
from benchmarks.race import race
from dataset import NAME_FILE, ActionData, find_root, read_dataset
from runtime.console import run_script
from runtime.errors import InputError
from runtime.files import write_json
from sample.build import ensure_sample
from training import checkpoint

Part = Literal["training", "fast", "backbone", "head", "decoding", "predict", "looking", "scale"]
ORIGINAL = 0.6377  # validation accuracy of the work that this repository follows
PLAIN_EPOCHS = 20
RACES = {
    "backbone": ["backbone"],
    "head": ["head, maps of 5x5", "head, maps of 10x10"],
    "decoding": ["decoding, the dataset's", "decoding, 12 megapixels"],
}


@dataclass
class Args:
    data: Path | None = None
    """Folder of the dataset. Without it: data/, or where that holds none, the built-in sample."""
    parts: tuple[Part, ...] = ("backbone", "head", "decoding", "training", "fast", "predict", "looking", "scale")
    """What to measure; fast: training with --image-size 224; predict and looking use the run of training."""
    rounds: int = 7
    """How often contenders take turns."""
    pictures: int = 5000
    """How many pictures predict5.py gets."""
    sizes: tuple[int, ...] = (1000, 5000, 10000)
    """Sizes of the datasets of scale; those larger than the dataset are left out."""
    out: Path = Path("results/benchmark.json")


@dataclass
class Bench:
    """One run of the benchmark."""

    args: Args
    data: ActionData
    scratch: Path
    found: dict[str, Any]

    @property
    def work(self) -> Work:
        return Work(self.data.labelled, self.data.classes, self.scratch / "models", self.scratch, self.data.name)

    def keep(self, name: str, value: dict[str, Any]) -> None:
        """Prints a measurement and writes all that there are."""
        self.found[name] = value | {"commit": checkpoint.commit()}
        write_json(self.args.out, self.found)
        print(f"\n{name} ({value['unit']})")
        for peer, number in ({"ours": value["ours"]} | value["peers"]).items():
            ratio = value["ratio"].get(peer)
            print(f"  {peer:52s} {number:10.2f}" + (f"   ratio {ratio:.2f}" if ratio else ""))
        for line in value.get("notes", []):
            print(f"  {line}")


def main(args: Args) -> None:
    folder = args.data or Path("data")
    if args.data is None and find_root(folder) is None:
        folder = Path("data/sample")
        ensure_sample(folder)
    if args.rounds < 1:
        raise InputError(f"--rounds {args.rounds}: must be 1 or more")
    data = read_dataset(folder.resolve())
    with tempfile.TemporaryDirectory(prefix="benchmark") as scratch:
        about = {"machine": machine(), "dataset": data.name}
        bench = Bench(args, data, Path(scratch), known_parts(args.out, about) | about)
        bench.work.cache.mkdir()  # apart from the cache of training, which begins empty
        for part in args.parts:
            for title in RACES.get(part, []):
                bench.keep(title, compare(*race(title, bench.work, args.rounds)))
            if part not in RACES:
                PARTS[part](bench)
    print(f"\nwritten: {args.out}")


def machine() -> dict[str, Any]:
    names = [line.split(":")[1].strip() for line in read_lines("/proc/cpuinfo") if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    about = {"cpu": (names or [platform.processor()])[0], "cores": os.cpu_count(), "gpu": gpu}
    return about | {"system": platform.platform(), "versions": checkpoint.versions()}


def known_parts(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What a file holds, if that was measured on the same dataset, machine and packages."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return known if about.items() <= known.items() else {}


def read_lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def compare(runs: dict[str, list[float]], absent: dict[str, str]) -> dict[str, Any]:
    """Medians, and how many times as fast as each peer the first of ours is: the median of the rounds' ratios."""
    best = next(name for name in runs if name.startswith("ours"))
    peers = [name for name in runs if name != best]
    return {
        "ours": round(median(runs[best]), 2),
        "peers": {name: round(median(runs[name]), 2) for name in peers},
        "ratio": {name: round(median(a / b for a, b in zip(runs[best], runs[name], strict=True)), 3) for name in peers},
        "unit": "images/s",
        "runs": runs,
        "notes": [f"{name}: left out ({why})" for name, why in absent.items()],
    }


def timed(script: str, *arguments: object) -> tuple[float, float, str]:
    """Runs a script of ours. Returns seconds, the peak of its memory in GB, and what it printed."""
    arguments = (*arguments, "--device", "cpu")  # as the contenders
    command = [sys.executable, str(Path(__file__).parents[1] / script), *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=None)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        output.seek(0)
        if status:
            raise InputError(f"{script} ended with status {status}; run it alone: {' '.join(command)}")
        return seconds, usage.ru_maxrss * 1024 / 1e9, output.read()


def training(bench: Bench, name: str = "training", options: tuple[object, ...] = ()) -> None:
    """The default recipe, or another, from files and an empty cache, beside the tutorial's loop at its speed."""
    results = bench.scratch / "results"
    where = ("--cache", bench.scratch / f"cache of {name}", "--results", results, "--run", name)
    seconds, memory, _ = timed("train.py", "--data", bench.data.root, *where, *options)
    run = results / name
    record = json.loads((run / "best.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    before = seconds - sum(row["seconds"] for row in rows)
    passed = next((n for n, row in enumerate(rows, 1) if row["val"]["accuracy"] > ORIGINAL), None)
    steps, steps_absent = race("plain training", bench.work, bench.args.rounds)
    checks, _ = race("plain validation", bench.work, bench.args.rounds)
    count, held = record["split"]["train"], record["split"]["val"]
    rates = {name: median(runs) for name, runs in steps.items()}
    check = median(checks["tutorial loop"])
    plain = {name: PLAIN_EPOCHS * (count / rate + held / check) for name, rate in rates.items()}
    value = compare(steps, steps_absent)
    value |= {
        "ours": round(seconds, 1),
        "peers": {name: round(total, 1) for name, total in plain.items()},
        "ratio": {name: round(total / seconds, 2) for name, total in plain.items()},
        "unit": f"seconds for {count} training and {held} validation pictures",
        "images_per_second": rates | {"tutorial loop, validation": round(check, 2)},
        "notes": [
            f"peers: {PLAIN_EPOCHS} epochs at the speed of {bench.args.rounds} batches of each kind, 224 pixels",
            f"ours: {record['image_size']} pixels, {len(rows)} epochs, "
            f"validation accuracy {record['val']['accuracy']:.4f}, peak {memory:.2f} GB; "
            + ", ".join(f"{name} {took:.0f} s" for name, took in record["seconds"].items()),
        ],
    }
    if passed:
        value["seconds_to_original"] = round(before + sum(row["seconds"] for row in rows[:passed]), 1)
        value["notes"].append(f"ours passes {ORIGINAL:.2%} in epoch {passed}, after {value['seconds_to_original']} s")
    bench.keep(name, value)


def fast(bench: Bench) -> None:
    training(bench, "fast", ("--image-size", 224))


def places(bench: Bench) -> tuple[object, ...]:
    return "--cache", bench.scratch / "cache of training", "--results", bench.scratch / "results"


def predict(bench: Bench) -> None:
    """predict5.py over a folder of pictures, start-up included, beside the tutorial's loop."""
    folder, count = bench.scratch / "pictures", bench.args.pictures
    folder.mkdir()
    for index, sample in enumerate(islice(cycle(bench.data.labelled), count)):
        shutil.copy(sample.path, folder / f"{index:05d}{sample.path.suffix}")  # a link would be known already
    need_run(bench)
    seconds, memory, _ = timed("predict5.py", folder, *places(bench), "--run", "training")
    checks, _ = race("plain validation", bench.work, bench.args.rounds)
    plain = count / median(checks["tutorial loop"])
    bench.keep("predict", {
        "ours": round(seconds, 1), "peers": {"tutorial loop": round(plain, 1)},
        "ratio": {"tutorial loop": round(plain / seconds, 2)}, "unit": f"seconds for {count} pictures",
        "runs": {"ours": [round(seconds, 1)], "tutorial loop, images/s": checks["tutorial loop"]},
        "notes": [f"ours with start-up and the check of every file; peak {memory:.2f} GB"],
    })  # fmt: skip


def need_run(bench: Bench) -> None:
    if not (bench.scratch / "results" / "training").exists():
        raise InputError("--parts: predict and looking use the run of training; name training before them")


def looking(bench: Bench) -> None:
    need_run(bench)
    runs = []
    for index in range(3):
        seconds, _, _ = timed(
            "visualize_single_example.py", "--index", index, *places(bench), "--run", "training", "--out", bench.scratch
        )
        runs.append(round(seconds, 1))
    value = {"ours": median(runs), "peers": {}, "ratio": {}, "unit": "seconds for one picture, start-up included"}
    bench.keep("looking", value | {"runs": {"ours": runs}})


def scale(bench: Bench) -> None:
    """Training on parts of the dataset, each with an empty cache: one view, two epochs."""
    runs: dict[str, Any] = {}
    ours_int8(bench.work)  # calibrated once, whatever the size
    for size in [size for size in bench.args.sizes if size <= len(bench.data.labelled)]:
        root, places = part_of(bench, size), bench.scratch / f"scale_{size}"
        for model in bench.work.cache.glob("int8-*/"):
            shutil.copytree(model, places / "cache" / model.name)
        arguments = ("--views", 1, "--epochs", 2, "--coarse", 0.5, "--precision", "int8", "--run", "scale")
        where = ("--data", root, "--cache", places / "cache", "--results", places)
        _, memory, _ = timed("train.py", *where, *arguments)
        seconds = json.loads((places / "scale" / "best.json").read_text(encoding="utf-8"))["seconds"]
        runs[str(size)] = {name: round(1000 * took / size, 2) for name, took in seconds.items()} | {"peak_gb": memory}
        shutil.rmtree(places)
    steps = {size: row["features"] + row["training"] for size, row in runs.items()}
    if not steps:
        raise InputError(f"--sizes: the dataset has {len(bench.data.labelled)} pictures, and all sizes are larger")
    first, *others = steps
    bench.keep("scale", {
        "ours": round(steps[first], 2),
        "peers": {f"{size} pictures": round(steps[size], 2) for size in others},
        "ratio": {f"{size} pictures": round(steps[size] / steps[first], 3) for size in others},
        "unit": f"seconds per 1,000 pictures, features and two epochs; ours: {first} pictures",
        "runs": runs,
        "notes": [f"{size} pictures: peak {row['peak_gb']:.2f} GB" for size, row in runs.items()],
    })  # fmt: skip


def part_of(bench: Bench, size: int) -> Path:
    """A dataset of so many pictures, by chance from the whole, by links."""
    root, samples = bench.scratch / f"part_{size}", bench.data.labelled
    (root / "train").mkdir(parents=True)
    rows = [("filename", "label")]
    for index in np.random.default_rng(0).permutation(len(samples))[:size].tolist():
        sample = samples[index]
        name = f"{index:05d}{sample.path.suffix}"
        (root / "train" / name).symlink_to(sample.path)
        rows.append((name, sample.label))
    write_json(root / NAME_FILE, {"name": bench.data.name})  # which the calibrated model goes by
    with (root / "Training_set.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return root


PARTS = {"training": training, "fast": fast, "predict": predict, "looking": looking, "scale": scale}

if __name__ == "__main__":
    run_script(main, Args, __doc__)
