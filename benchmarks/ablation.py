"""Measures the effect of each ingredient of the recipe: trains and tests every row of a table with several seeds.

    python -m benchmarks.ablation --data DIR                 all rows; continues where it was interrupted
    python -m benchmarks.ablation --data DIR --rows default "with mixup" --seeds 1

The default recipe and fine-tuned rows are tested with --tta too. Writes results/ablation.json and results/ablation.md;
the runs are results/ablation_<row>_<seed>_<digest>/.
"""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from runtime.console import parse_arguments, run_script
from runtime.errors import InputError
from runtime.files import write_json, write_text
from runtime.options import require_range
from training.recipe import IMAGE_SIZE, Recipe

ABLATION_VERSION = 1  # raise it when the same options would give other figures
PIXELS_224 = ("--image-size", "224")
NO_REGULARISATION = ("--channel-dropout", "0", "--dropout", "0", "--label-smoothing", "0")
ALL_CHANNELS = ("--channels", "0")
DEFAULT, SMALL_VAL = "default", "default, 6 % for validation"  # rows
TUNED, TUNED_LONGER = "layer4 fine-tuned", "layer4 fine-tuned, 12 epochs"
TUNING = ("--lr", "2e-4", "--layer-decay", "0.2", "--mixup", "0.2", "--head", DEFAULT)  # that row's run, same seed
ROWS: dict[str, tuple[str, ...]] = {  # options of train.py; names are keys of results/ablation.json
    "plain head": (*PIXELS_224, *NO_REGULARISATION, *ALL_CHANNELS, "--low-res", "0", "--warmup", "0"),
    DEFAULT: (),
    SMALL_VAL: ("--val-share", "0.06"),
    "two views": ("--views", "2"),
    "with mixup": ("--mixup", "0.2"),
    "without channel dropout": ("--channel-dropout", "0"),
    "without dropout": ("--dropout", "0"),
    "without label smoothing": ("--label-smoothing", "0"),
    "without low-resolution epochs": ("--low-res", "0"),
    "duplicates ignored": ("--ignore-duplicates",),
    "all channels": ALL_CHANNELS,
    "all channels, two views": (*ALL_CHANNELS, "--views", "2"),
    "all channels, four views": (*ALL_CHANNELS, "--views", "4"),
    "224 pixels": PIXELS_224,
    "224 pixels, all channels": (*PIXELS_224, *ALL_CHANNELS),
    "224 pixels, all channels, float32 features": (*PIXELS_224, *ALL_CHANNELS, "--precision", "fp32"),
    TUNED: ("--unfreeze", "layer4", "--epochs", "6", *TUNING),
    TUNED_LONGER: ("--unfreeze", "layer4", "--epochs", "12", *TUNING),
}
WITH_ALL_SEEDS = (  # the other rows have only the first seed
    "plain head",
    DEFAULT,
    SMALL_VAL,
    TUNED,
    "all channels, four views",
    "224 pixels, all channels",
    "224 pixels, all channels, float32 features",
)
WITH_TTA = (DEFAULT, SMALL_VAL, TUNED, TUNED_LONGER)  # TTA takes longer than training a head


@dataclass
class Args:
    data: Path | None = None
    """Folder of the dataset. Default: as train.py."""
    rows: tuple[str, ...] = ()
    """Names of rows. Default: all."""
    seeds: int = 3
    """Number of seeds of the main rows; the others have one."""
    options: str = ""
    """Options of train.py that override those of every row, as one text: --options="--epochs 2 --image-size 64"."""
    cache: Path = Path("data/cache")
    results: Path = Path("results")


def main(args: Args) -> None:
    for row in args.rows:
        if row not in ROWS:
            raise InputError(f"--rows {row}: no such row; give one of: {', '.join(ROWS)}")
    require_range("seeds", args.seeds, 1)
    path = args.results / "ablation.json"
    results = read(path)
    for row in args.rows or ROWS:
        runs = []
        for seed in range(args.seeds if row in WITH_ALL_SEEDS else 1):
            print(f"{row}, seed {seed}", flush=True)
            runs.append(measure(args, row, seed))
            known = results | {row: runs}
            results = {name: known[name] for name in ROWS if name in known}
            write_json(path, results)
            write_text(path.with_suffix(".md"), markdown_table(results))
    print(markdown_table(results))


def train(args: Args, row: str, seed: int) -> tuple[Path, list[str]]:
    """Trains a run unless it is complete, after the run whose head it starts from.

    Returns: its folder, and the options it was trained with.
    """
    if "--head" in ROWS[row]:
        train(args, ROWS[row][-1], seed)
    run, options = find_run(args, row, seed)
    if not (run / "loss.png").exists():  # the last file that train.py writes
        start = ("--resume",) if (run / "last.pt").exists() else (*data_option(args), "--seed", seed, *options)
        call("train.py", *run_options(args, run), *start)
    return run, options


def measure(args: Args, row: str, seed: int) -> dict[str, Any]:
    """Trains and tests a run, each unless it was done before; returns its figures."""
    run, options = train(args, row, seed)
    record = read(run / "best.json")
    tests = {}
    for folder, tta in (("test", ()), ("test_tta", ("--tta",)))[: 2 if row in WITH_TTA else 1]:
        expected = {"epoch": record["epoch"], "arithmetic": "auto"}  # a test by hand may have used other options
        if not expected.items() <= read(run / folder / "metrics.json").items():
            call("predict5.py", *run_options(args, run), *data_option(args), *tta)
        metrics = read(run / folder / "metrics.json")
        interval = metrics["intervals"]["accuracy"]
        tests[folder] = {"accuracy": metrics["accuracy"], "interval": interval, "n": metrics["n"]}
    return {
        "seed": seed, "run": run.name, "commit": record["commit"], "options": options, "epoch": record["epoch"],
        "seconds": {phase: record["seconds"].get(phase, 0.0) for phase in ("features", "training")},
        "val": record["val"]["accuracy"], "val_loss": record["calibrated"],
    } | tests  # fmt: skip


def run_options(args: Args, run: Path) -> tuple[object, ...]:
    return "--results", args.results, "--cache", args.cache, "--run", run.name


def data_option(args: Args) -> tuple[object, ...]:
    return ("--data", args.data) if args.data else ()


def find_run(args: Args, row: str, seed: int) -> tuple[Path, list[str]]:
    """The folder of a run, whose name digests everything that decides its figures, and the options of its training."""
    options = [*ROWS[row], *shlex.split(args.options)]  # of repeated options the last one counts
    if "--head" in options:
        position = options.index("--head") + 1
        options[position] = find_run(args, options[position], seed)[0].name
    key = {
        "version": ABLATION_VERSION,
        "options": options,
        "data": str(args.data.resolve()) if args.data else None,
        "recipe": asdict(Recipe()),
        "image_size": IMAGE_SIZE,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return args.results / f"ablation_{re.sub(r'[^a-z0-9]+', '_', row)}_{seed}_{digest[:6]}", options


def read(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def call(script: str, *arguments: object) -> None:
    command = [sys.executable, str(Path(__file__).parents[1] / script), *map(str, arguments)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise InputError(f"{script} failed; run it alone: {shlex.join(command)}")


def markdown_table(results: dict[str, list[dict[str, Any]]]) -> str:
    """One line per row: mean ± standard deviation over seeds, or for one seed the value and its 95 % interval."""
    columns = ("recipe", "seeds", "validation", "test, one view", "test, TTA", "training, s")
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    for row, runs in results.items():
        cells = [row, str(len(runs)), percent([run["val"] for run in runs])]
        for name in ("test", "test_tta"):
            tests = [run[name] for run in runs if name in run]
            text = percent([test["accuracy"] for test in tests]) if tests else ""
            if len(tests) == 1:
                low, high = tests[0]["interval"]
                text += f" ({100 * low:.1f} to {100 * high:.1f})"
            cells.append(text)
        lines.append(" | ".join([*cells, f"{mean(run['seconds']['training'] for run in runs):.0f}"]))
    return "".join(f"| {line} |\n" for line in lines)


def percent(values: list[float]) -> str:
    """Mean in percent, with the standard deviation of several values."""
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread} %"


if __name__ == "__main__":
    run_script(main, parse_arguments(Args, __doc__))
