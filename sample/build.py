"""Draws the built-in sample: the fifteen HAR actions as scenes with people, in Kaggle's layout.

    python -m sample.build       writes Training_set.csv, Testing_set.csv, train/, test/ to data/sample

Every script runs on it where there are no photographs; accuracies on it say nothing about photographs. The same seed
draws the same images.
"""

from dataclasses import dataclass
from pathlib import Path

from dataset import NAME_FILE
from layouts.parts import TEST_CSV, TRAIN_CSV
from runtime.console import parse_arguments, run_script
from runtime.errors import InputError
from runtime.files import read_known, write_csv, write_folder, write_json
from runtime.options import require_range
from runtime.status import track
from sample.scenes import SCENES, draw

NAME = "built-in sample"
VERSION = 1  # raise it when the same seed would draw other images
PER_CLASS = 40
UNLABELLED = 30


@dataclass
class Args:
    folder: Path = Path("data/sample")
    """Folder of the sample; an earlier sample there is replaced."""
    seed: int = 0
    """Seed of the random numbers."""
    per_class: int = PER_CLASS
    """Training images of each action."""


def main(args: Args) -> None:
    require_range("seed", args.seed, 0)
    require_range("per_class", args.per_class, 1)
    ensure_sample(args.folder, args.seed, args.per_class)
    print(f"{args.folder}: {args.per_class * len(SCENES)} training images, {UNLABELLED} unlabelled test images")


def ensure_sample(folder: Path, seed: int = 0, per_class: int = PER_CLASS) -> None:
    """Draws the sample into `folder` unless this sample is there already; writes all of it or nothing.

    Raises: InputError if the folder contains something else.
    """
    about = {"name": NAME, "version": VERSION, "seed": seed, "per_class": per_class}
    about_file = folder / NAME_FILE
    present = read_known(about_file)
    if present == about:
        return
    if folder.exists() and present.get("name") != NAME:
        raise InputError(f"{folder}: holds something else than the {NAME}; move it away, or give it with --data")
    actions, labelled = list(SCENES), per_class * len(SCENES)
    names = [f"train/Image_{number + 1}.jpg" for number in range(labelled)]
    names += [f"test/Image_{number + 1}.jpg" for number in range(UNLABELLED)]
    jobs = [(name, actions[number % len(actions)]) for number, name in enumerate(names)]
    rows = [(Path(name).name, action) for name, action in jobs]
    with write_folder(folder) as partial:
        for part in ("train", "test"):
            (partial / part).mkdir()
        for number, (name, action) in enumerate(track(jobs, "draw the sample")):
            draw(action, (seed, number)).save(partial / name, quality=90)
        write_csv(partial / TRAIN_CSV, rows[:labelled], ("filename", "label"))
        write_csv(partial / TEST_CSV, {"filename": [name for name, _ in rows[labelled:]]})
        write_json(partial / NAME_FILE, about)


if __name__ == "__main__":
    run_script(main, parse_arguments(Args, __doc__))
