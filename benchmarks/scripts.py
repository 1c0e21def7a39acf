"""Times whole scripts, from files and an empty cache, beside a tutorial's loop at its measured speed."""

import hashlib
import json
import shutil
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from backbones.imagenet_weights import load_weights
from benchmarks.baselines import calibrated_int8
from benchmarks.bench import Bench, run_timed
from benchmarks.interleave import run_interleaved
from dataset import NAME_FILE
from features.spec import FeatureSpec, dataset_digest
from layouts.parts import TRAIN_CSV
from runtime.errors import InputError
from runtime.files import write_csv, write_json
from training.recipe import IMAGE_SIZE

ORIGINAL_ACCURACY = 0.6377  # validation accuracy reported by the work that this repository follows
PLAIN_EPOCHS = 20


def measure_training(
    bench: Bench, device: torch.device, name: str = "training", options: tuple[object, ...] = ()
) -> None:
    """Trains the default recipe, or with other options, from files and an empty cache.

    Beside it, `PLAIN_EPOCHS` epochs of the baselines at their measured speed.
    """
    results = bench.scratch / "results"
    places = ("--cache", bench.scratch / f"cache of {name}", "--results", results, "--run", name)
    seconds, memory = run_timed("train.py", "--data", bench.data.root, "--device", device, *places, *options)
    record = json.loads((results / name / "best.json").read_text(encoding="utf-8"))
    lines = (results / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [json.loads(line) for line in lines]
    train_rates, val_rate, notes = loop_rates(bench, device)
    train, val = record["split"]["train"], record["split"]["val"]
    totals = {candidate: PLAIN_EPOCHS * (train / rate + val / val_rate) for candidate, rate in train_rates.items()}
    value: dict[str, Any] = {
        "ours": round(seconds, 1),
        "peers": {candidate: round(total, 1) for candidate, total in totals.items()},
        "ratio": {candidate: round(total / seconds, 2) for candidate, total in totals.items()},
        "unit": f"seconds for {train} training and {val} validation images",
        "images_per_second": train_rates | {"tutorial loop, validation": round(val_rate, 2)},
        "notes": [
            f"baselines: {PLAIN_EPOCHS} epochs at the speed of {bench.args.rounds} rounds of each kind, 224 pixels",
            *notes,
            f"ours: {record['image_size']} pixels, {len(epochs)} epochs, "
            f"validation accuracy {record['val']['accuracy']:.4f}, peak {memory:.2f} GB; "
            + ", ".join(f"{phase} {took:.0f} s" for phase, took in record["seconds"].items()),
        ],
    }
    reached = next((n for n, row in enumerate(epochs, 1) if row["val"]["accuracy"] > ORIGINAL_ACCURACY), None)
    if reached:
        value["seconds_to_original"] = round(seconds - sum(record["epoch_seconds"][reached:]), 1)
        took = f"after {value['seconds_to_original']} s"
        value["notes"].append(f"ours exceeds {ORIGINAL_ACCURACY:.2%} in epoch {reached}, {took}")
    bench.save(name, value)


def loop_rates(bench: Bench, device: torch.device) -> tuple[dict[str, float], float, list[str]]:
    """Images/s of loops that train without a cache, images/s of a tutorial's validation, and notes.

    Raises: InputError where a GPU's loops were not measured before.
    """
    if device.type != "cpu":
        if "loop" not in bench.results:
            raise InputError("--parts: training and predict are compared with the loop; give loop before them")
        rates = bench.results["loop"]["peers"]
        val_rate = next(rate for name, rate in rates.items() if name.startswith("validation"))
        return {name: rate for name, rate in rates.items() if not name.startswith("validation")}, val_rate, []
    train_runs, errors = run_interleaved("plain training", bench.work, bench.args.rounds)
    val_runs, _ = run_interleaved("plain validation", bench.work, bench.args.rounds)
    notes = [f"{name}: left out ({error})" for name, error in errors.items()]
    rates = {candidate: median(rates) for candidate, rates in train_runs.items()}
    return rates, median(val_runs["tutorial loop"]), notes


def measure_fast_training(bench: Bench, device: torch.device) -> None:
    measure_training(bench, device, "fast", ("--image-size", 224))


def trained_run(bench: Bench, device: torch.device) -> tuple[object, ...]:
    """Options that name the run of the part training. Raises: InputError where it was not measured before."""
    results = bench.scratch / "results"
    if not (results / "training").exists():
        raise InputError("--parts: predict and visualize use the run of training; give training before them")
    places = "--cache", bench.scratch / "cache of training", "--results", results
    return *places, "--run", "training", "--device", device


def measure_prediction(bench: Bench, device: torch.device) -> None:
    """Times predict5.py on a folder of images and on the test set, start-up included, beside the tutorial's loop."""
    run = trained_run(bench, device)
    folder, count = bench.scratch / "images", bench.args.images
    folder.mkdir()
    for index, sample in enumerate(islice(cycle(bench.data.labelled), count)):
        shutil.copy(sample.path, folder / f"{index:05d}{sample.path.suffix}")  # links would count as checked
    seconds, memory = run_timed("predict5.py", folder, *run)
    test_seconds, tta_seconds = (run_timed("predict5.py", *run, *options)[0] for options in ((), ("--tta",)))
    tested = len(json.loads((bench.scratch / "results/training/split.json").read_text(encoding="utf-8"))["test"])
    _, val_rate, _ = loop_rates(bench, device)
    baseline = count / val_rate
    bench.save("predict", {
        "ours": round(seconds, 1), "peers": {"tutorial loop": round(baseline, 1)},
        "ratio": {"tutorial loop": round(baseline / seconds, 2)}, "unit": f"seconds for {count} images",
        "runs": {"ours": [round(seconds, 1)], "tutorial loop, images/s": [val_rate]},
        "test_set": {"images": tested, "seconds": round(test_seconds, 1), "seconds_with_tta": round(tta_seconds, 1)},
        "notes": [
            f"ours with start-up and the check of every file; peak {memory:.2f} GB",
            f"test set of {tested} images, metrics and figures: {test_seconds:.1f} s, with --tta {tta_seconds:.1f} s",
        ],
    })  # fmt: skip


def measure_visualization(bench: Bench, device: torch.device) -> None:
    run = trained_run(bench, device)
    runs = []
    for index in range(3):
        seconds, _ = run_timed("visualize_single_example.py", "--index", index, *run, "--out", bench.scratch)
        runs.append(round(seconds, 1))
    value = {"ours": median(runs), "peers": {}, "ratio": {}, "unit": "seconds for one image, start-up included"}
    bench.save("visualize", value | {"runs": {"ours": runs}})


def measure_scale(bench: Bench, device: torch.device) -> None:
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
        _, memory = run_timed("train.py", *places, *arguments, "--device", device)
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
