"""Compares tested runs: settings, learning curves, metrics, paired tests, images that only one of two gets right.

    python compare.py RUN RUN …           each of the others with the first; test them with predict5.py before
    python compare.py RUN RUN --tta       their tests with test-time augmentation

Where two runs were tested on the same images, the difference of their accuracies comes with a paired 95 % bootstrap
interval and McNemar's exact test. Writes results/comparison_<RUN>_<RUN>/: report.html (one file), comparison.json,
images.csv (predictions of all images), curves.png.
"""

from dataclasses import dataclass, field
from pathlib import Path

from runtime.console import parse_arguments, run_script
from runtime.errors import InputError


@dataclass
class Args:
    runs: tuple[str, ...] = field(default=(), metadata={"positional": "RUN"})
    """Names of two or more runs in results/, or "pretrained"."""
    tta: bool = False
    """Compare the tests that predict5.py --tta made."""
    data: Path | None = None
    """Folder of the test images, for thumbnails. Default: the one that the first run was trained on."""
    results: Path = Path("results")
    """Folder of the runs."""


def check(args: Args) -> None:
    """Raises InputError on wrong arguments."""
    if len(args.runs) < 2:
        raise InputError("give two runs or more, by their names in results/")
    for name in args.runs:
        if args.runs.count(name) > 1:
            raise InputError(f"{name}: is given twice; give another run")


if __name__ == "__main__":
    ARGS = parse_arguments(Args, __doc__, check)  # before the imports below, which take seconds

from typing import Any

from dataset import find_root
from runtime.files import write_folder
from runtime.status import say
from runtime.text import wrap
from training import checkpoint


def main(args: Args) -> None:
    from reports.comparison import read_tested, write_comparison  # with matplotlib, which takes a second

    check(args)
    runs = [read_tested(*checkpoint.read_about(args.results, name), args.tta) for name in args.runs]
    folder = args.results / f"comparison_{'_'.join(args.runs)}"
    root = args.data or Path(runs[0].record["data"] or "data")
    with write_folder(folder) as partial:
        values = write_comparison(partial, runs, find_root(root))
    print_comparison(values)
    say(wrap(f"written: {folder}/: {' '.join(sorted(path.name for path in folder.iterdir()))}"))


def print_comparison(values: dict[str, Any]) -> None:
    first, *_ = values["runs"]
    width = max(len(name) for name in values["runs"])
    print(f"\n{'run':{width}s}  accuracy (95 % interval)     macro F1    loss     ECE")
    for name, row in values["runs"].items():
        low, high = row["intervals"]["accuracy"]
        numbers = f"{row['macro_f1']:8.4f}  {row['loss']:6.4f}  {row['ece']:6.4f}"
        print(f"{name:{width}s}  {row['accuracy']:.4f} ({low:.4f} to {high:.4f})  {numbers}")
    print()
    for name, row in values["pairs"].items():
        if "refused" in row:
            print(wrap(f"{name} and {first}: {row['refused']}"))
            continue
        low, high = row["interval"]
        print(f"{name} minus {first}: {row['difference']:+.4f} ({low:+.4f} to {high:+.4f}), p = {row['p_value']:.3g}")
        print(f"  right: both {row['both']}, only {first} {row['only_first']}, only {name} {row['only_second']}")


if __name__ == "__main__":
    run_script(main, ARGS)
