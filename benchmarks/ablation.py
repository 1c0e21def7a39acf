"""Measures what each ingredient of the recipe is worth: trains and tests for each row of a table and each seed.

Final recipes are tested with --tta too.

    python ablation.py --data DIR                 all rows; goes on where it was interrupted
    python ablation.py --data DIR --rows default "with mixup" --seeds 1

Writes results/ablation.json and results/ablation.md; the runs are results/ablation_<row>_<seed>_<options>/.
"""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from features.cache import FORMAT
from features.pca import DIRECTIONS_FORMAT
from runtime.console import run_script
from runtime.errors import InputError
from runtime.files import write_json, write_text
from training.recipe import IMAGE_SIZE, Recipe

OF_224 = ("--image-size", "224")
NOT_REGULARISED = ("--channel-dropout", "0", "--dropout", "0", "--label-smoothing", "0")
ALL = ("--channels", "0")
DEFAULT, MORE = "default", "default, 6 % for validation"  # rows
TUNED, LONGER = "layer4 unfrozen", "layer4 unfrozen, 12 epochs"
TUNING = ("--lr", "2e-4", "--stage-lr", "0.2", "--mixup", "0.2", "--head", DEFAULT)  # the row's run of the same seed
ROWS: dict[str, tuple[str, ...]] = {
    "plain head": (*OF_224, *NOT_REGULARISED, "--channels", "0", "--coarse", "0", "--warmup", "0"),
    DEFAULT: (),
    MORE: ("--val-share", "0.06"),
    "two views": ("--views", "2"),
    "with mixup": ("--mixup", "0.2"),
    "without channel dropout": ("--channel-dropout", "0"),
    "without dropout": ("--dropout", "0"),
    "without label smoothing": ("--label-smoothing", "0"),
    "without coarse maps": ("--coarse", "0"),
    "copies ignored": ("--ignore-copies",),
    "all channels": ALL,
    "all channels, two views": (*ALL, "--views", "2"),
    "all channels, four views": (*ALL, "--views", "4"),
    "224 pixels": OF_224,
    "224 pixels, all channels": (*OF_224, *ALL),
    "224 pixels, all channels, float32 maps": (*OF_224, *ALL, "--precision", "fp32"),
    TUNED: ("--unfreeze", "layer4", "--epochs", "6", *TUNING),
    LONGER: ("--unfreeze", "layer4", "--epochs", "12", *TUNING),
}
SEVERAL = (  # rows that get all seeds; the others get the first
    "plain head",
    DEFAULT,
    MORE,
    TUNED,
    "all channels, four views",
    "224 pixels, all channels",
    "224 pixels, all channels, float32 maps",
)
WITH_TTA = (DEFAULT, MORE, TUNED, LONGER)  # which takes longer than training a head


@dataclass
class Args:
    data: Path | None = None
    """Folder of the dataset. Without it: as train.py."""
    rows: tuple[str, ...] = ()
    """Which rows; without any, all."""
    seeds: int = 3
    """Seeds of the main rows; the others have one."""
    options: str = ""
    """Options for every training, over the row's own, as one text: --options="--epochs 2 --image-size 64"."""
    cache: Path = Path("data/cache")
    results: Path = Path("results")


def main(args: Args) -> None:
    for row in args.rows:
        if row not in ROWS:
            raise InputError(f"--rows {row}: there is no such row; there are: {', '.join(ROWS)}")
    if args.seeds < 1:
        raise InputError(f"--seeds {args.seeds}: must be 1 or more")
    path = args.results / "ablation.json"
    found = read(path)
    for row in args.rows or ROWS:
        runs = []
        for seed in range(args.seeds if row in SEVERAL else 1):
            print(f"{row}, seed {seed}", flush=True)
            runs.append(measure(args, row, seed))
            known = found | {row: runs}
            found = {name: known[name] for name in ROWS if name in known}
            write_json(path, found)
            write_text(path.with_suffix(".md"), table(found))
    print(table(found))


def trained(args: Args, row: str, seed: int) -> tuple[Path, list[str]]:
    """A run and the options of its training; trains unless that was done, the one first whose head it starts from."""
    if "--head" in ROWS[row]:
        trained(args, ROWS[row][-1], seed)
    run, options = find_run(args, row, seed)
    if not (run / "loss.png").exists():  # the last thing that train.py writes
        begin = ("--resume",) if (run / "last.pt").exists() else (*data_of(args), "--seed", seed, *options)
        call("train.py", *places(args, run), *begin)
    return run, options


def measure(args: Args, row: str, seed: int) -> dict[str, Any]:
    """Trains and tests unless that was done; returns the figures."""
    run, options = trained(args, row, seed)
    record = read(run / "best.json")
    tests = {}
    for folder, kind in (("test", ()), ("test_tta", ("--tta",)))[: 2 if row in WITH_TTA else 1]:
        asked = {"epoch": record["epoch"], "arithmetic": "auto"}  # a test by hand may have been another
        if not asked.items() <= read(run / folder / "metrics.json").items():
            call("predict5.py", *places(args, run), *data_of(args), *kind)
        values = read(run / folder / "metrics.json")
        tests[folder] = {"accuracy": values["accuracy"], "interval": values["intervals"]["accuracy"], "n": values["n"]}
    return {
        "seed": seed, "run": run.name, "commit": record["commit"], "options": options, "epoch": record["epoch"],
        "seconds": {name: record["seconds"].get(name, 0.0) for name in ("features", "training")},
        "val": record["val"]["accuracy"], "val_loss": record["calibrated"],
    } | tests  # fmt: skip


def places(args: Args, run: Path) -> tuple[object, ...]:
    return "--results", args.results, "--cache", args.cache, "--run", run.name


def data_of(args: Args) -> tuple[object, ...]:
    return ("--data", args.data) if args.data else ()


def find_run(args: Args, row: str, seed: int) -> tuple[Path, list[str]]:
    """The folder of a run, named after all that decides its figures, and the options of its training."""
    options = [*ROWS[row], *shlex.split(args.options)]  # the last of an option holds
    if "--head" in options:
        at = options.index("--head") + 1
        options[at] = find_run(args, options[at], seed)[0].name
    parts = (tuple(options), args.data and args.data.resolve(), Recipe(), IMAGE_SIZE, FORMAT, DIRECTIONS_FORMAT)
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return args.results / f"ablation_{re.sub(r'[^a-z0-9]+', '_', row)}_{seed}_{digest[:6]}", options


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def call(script: str, *arguments: object) -> None:
    command = [sys.executable, str(Path(__file__).parents[1] / script), *map(str, arguments)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise InputError(f"{script} failed; run it alone: {shlex.join(command)}")


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: one line a row; of several seeds mean ± standard deviation, of one its 95 % interval."""
    head = ("recipe", "seeds", "validation", "test, one view", "test, TTA", "training, s")
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row, runs in found.items():
        cells = [row, str(len(runs)), share([run["val"] for run in runs])]
        for name in ("test", "test_tta"):
            values = [run[name]["accuracy"] for run in runs if name in run]
            if not values:
                cells.append("")
                continue
            low, high = runs[0][name]["interval"]
            cells.append(share(values) + (f" ({100 * low:.1f} to {100 * high:.1f})" if len(values) == 1 else ""))
        lines.append(" | ".join([*cells, f"{mean(run['seconds']['training'] for run in runs):.0f}"]))
    return "".join(f"| {line} |\n" for line in lines)


def share(values: list[float]) -> str:
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread} %"


if __name__ == "__main__":
    run_script(main, Args, __doc__)
