"""Trains on scanned handwriting as if it were one's own images: few, uneven, a new class, none of the classes, groups.

    python -m benchmarks.own_images        ten minutes on two cores

The images are scikit-learn's digits (1,797 scans of 8x8 pixels), as PNG files in class folders. Forty a class that no
other set holds are the test set. Writes results/own_images.json and .md.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from PIL import Image

from runtime.console import parse_arguments, run_script
from runtime.errors import InputError
from runtime.files import write_json, write_text
from runtime.options import require_range
from runtime.status import track

TEST, MANY, FEW = 40, 50, 10  # images a class
RARE = range(5, 10)  # the classes that are few in the uneven set
CLIPS, FRAMES = 12, 5
THRESHOLDS = (0.5, 0.6, 0.9)
OPTIONS = ("--image-size", "96", "--ignore-duplicates")  # digits are so alike that many count as duplicates


@dataclass
class Args:
    parts: tuple[str, ...] = ()
    """Of amounts, balance, later, none, groups. Default: all."""
    seeds: int = 3
    """Seeds of each training."""
    results: Path = Path("results")
    """Folder of own_images.json and .md."""


class Bench:
    """Digits, and a folder for data sets and runs.

    Attributes:
        test: by digit, the images of the test set; pool: the others.
    """

    def __init__(self, folder: Path, seeds: int) -> None:
        from sklearn.datasets import load_digits

        self.folder, self.seeds = folder, seeds
        images, targets = load_digits(return_X_y=True)
        pixels = (images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        order = np.random.default_rng(0).permutation(len(pixels))
        by_digit = [pixels[[n for n in order if targets[n] == digit]] for digit in range(10)]
        self.test, self.pool = [rows[:TEST] for rows in by_digit], [rows[TEST:] for rows in by_digit]

    def write(self, name: str, counts: Sequence[int], none: int = 0) -> Path:
        """A data set with so many training images of each digit; `none` images of 8 make a class of that name."""
        root = self.folder / name
        for digit, count in enumerate(counts):
            if count:
                save(root / "train" / f"{digit}", self.pool[digit][:count])
                save(root / "test" / f"{digit}", self.test[digit])
        if none:
            save(root / "train/none", self.pool[8][:none])
            save(root / "test/none", self.test[8])
        return root

    def train(self, data: Path, run: str, *options: object, repeat: Sequence[object] = OPTIONS) -> dict[str, Any]:
        """Trains a run unless it is there; returns its record."""
        if not (self.folder / "results" / run / "loss.png").exists():
            self.call("train.py", "--data", data, "--run", run, "--no-report", *repeat, *options)
        return read(self.folder / "results" / run / "best.json")

    def tested(self, data: Path, run: str, *options: object, repeat: Sequence[object] = OPTIONS) -> list[dict]:
        """Trains with every seed, tests; returns the metrics."""
        values = []
        for seed in range(self.seeds):
            self.train(data, f"{run}_{seed}", "--seed", seed, *options, repeat=repeat)
            self.call("predict5.py", "--run", f"{run}_{seed}", "--no-report")
            values.append(read(self.folder / "results" / f"{run}_{seed}" / "test/metrics.json"))
        return values

    def predict(self, run: str, digits: Sequence[int]) -> list[dict[str, Any]]:
        """Predictions of the test set's images of these digits."""
        folder = self.folder / f"images_{'_'.join(map(str, digits))}"
        for digit in digits:
            save(folder / f"{digit}", self.test[digit])
        self.call("predict5.py", folder, "--run", run)
        return read(self.folder / "results" / run / "images/predictions.json")["images"]

    def call(self, script: str, *words: object) -> None:
        places = ("--results", self.folder / "results", "--cache", self.folder / "cache")
        command = [sys.executable, str(Path(__file__).parents[1] / script), *map(str, (*words, *places))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"{script} failed: {done.stderr.strip()}")


def save(folder: Path, images: Sequence[np.ndarray], names: Sequence[str] = ()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images):
        name = names[number] if names else f"{number:03d}"
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{name}.png")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds, in percent."""
    deviation = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{deviation}"


def amounts(bench: Bench) -> dict[str, Any]:
    """Accuracy with few and with many images a class."""
    found = {n: bench.tested(bench.write(f"{n}", [n] * 10), f"amount_{n}") for n in (FEW, MANY)}
    return {f"{n} images a class": {"test accuracy": spread([v["accuracy"] for v in found[n]])} for n in found}


def balance(bench: Bench) -> dict[str, Any]:
    """What --balance changes where half of the classes are rare, on a test set of even classes."""
    data = bench.write("uneven", [FEW if digit in RARE else MANY for digit in range(10)])
    rows = {}
    for mode in ("none", "sampling", "loss"):
        values = bench.tested(data, f"balance_{mode}", "--balance", mode)
        rare = [mean(v["per_class"][f"{digit}"]["recall"] for digit in RARE) for v in values]
        common = [mean(v["per_class"][f"{digit}"]["recall"] for digit in range(5)) for v in values]
        rows[f"--balance {mode}"] = {
            "macro F1": spread([v["macro_f1"] for v in values]),
            "recall, common classes": spread(common), "recall, rare classes": spread(rare),
            "calibrated loss": f"{mean(v['loss'] for v in values):.3f}",
        }  # fmt: skip
    return rows


def later(bench: Bench) -> dict[str, Any]:
    """Seconds for feature maps of a set, and of the set with one more class: only new images are computed."""
    rows, bench = {}, Bench(bench.folder / "later", bench.seeds)  # with a cache of its own
    for classes in (9, 10):
        seconds = bench.train(bench.write(f"later{classes}", [MANY] * classes), f"later_{classes}")["seconds"]
        rows[f"{classes} classes"] = {f"{phase}, s": f"{seconds[phase]:.0f}" for phase in ("features", "training")}
    return rows


def none(bench: Bench) -> dict[str, Any]:
    """How often images of other classes are told apart: by a threshold, and by a class of such images."""
    rows = {}
    for run, count in (("threshold alone", 0), (f"and a class none of {MANY} eights", MANY)):
        name = f"none_{count}"
        bench.train(bench.write(name, [MANY] * 8, count), name)
        known, strange = bench.predict(name, range(8)), bench.predict(name, [9])
        for threshold in THRESHOLDS:
            right = [Path(row["filename"]).parent.name == answer(row, threshold) for row in known]
            rows[f"--unsure {threshold}, {run}"] = {
                "images of the 8 classes: right": spread([mean(right)]),
                "not sure or none": spread([mean(answer(row, threshold) == "none" for row in known)]),
                "nines: not sure or none": spread([mean(answer(row, threshold) == "none" for row in strange)]),
            }
    return rows


def answer(row: dict[str, Any], threshold: float) -> str:
    return row["predicted"] if row["probability"] >= threshold else "none"


def groups(bench: Bench) -> dict[str, Any]:
    """Test accuracy that a run reports on frames of clips, and its accuracy on scans that are in no clip."""
    rng = np.random.default_rng(0)
    root = bench.folder / "clips"
    for digit in range(10):
        frames, names = [], []
        for clip in range(CLIPS):
            scan = Image.fromarray(bench.pool[digit][clip]).resize((64, 64), Image.Resampling.BICUBIC)
            for frame in range(FRAMES):
                moved = scan.rotate(rng.uniform(-8, 8), translate=rng.integers(-4, 5, 2).tolist())
                frames.append(np.asarray(moved))
                names.append(f"clip_{clip:02d}_frame_{frame}")
        save(root / f"{digit}", frames, names)
    rows = {}
    for option in ((), ("--group", r"(\d+/clip_\d+)_")):
        run = f"clips_{len(option)}"
        reported = [v["accuracy"] for v in bench.tested(root, run, *option, repeat=OPTIONS[:2])]
        true = []
        for seed in range(bench.seeds):
            images = bench.predict(f"{run}_{seed}", range(10))
            true.append(mean(Path(row["filename"]).parent.name == row["predicted"] for row in images))
        rows["--group" if option else "without --group"] = {
            "reported test accuracy": spread(reported), "on scans of no clip": spread(true),
        }  # fmt: skip
    return rows


PARTS = {part.__name__: part for part in (amounts, balance, later, none, groups)}


def main(args: Args) -> None:
    require_range("seeds", args.seeds, 1)
    for name in args.parts:
        if name not in PARTS:
            raise InputError(f"--parts {name}: no such part; give some of: {', '.join(PARTS)}")
    file = args.results / "own_images.json"
    results = read(file) if file.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), args.seeds)
        for name in track(args.parts or PARTS, "own images", unit="parts"):
            results |= {name: PARTS[name](bench)}
            write_json(file, results)
    text = "\n".join(table(rows) for rows in results.values())
    write_text(args.results / "own_images.md", text)
    print(text)


def table(rows: dict[str, dict[str, str]]) -> str:
    columns = list(next(iter(rows.values())))
    lines = [["", *columns], ["---"] * (len(columns) + 1), *([name, *row.values()] for name, row in rows.items())]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    run_script(main, parse_arguments(Args, __doc__))
