"""Draws the built-in sample: the fifteen HAR actions as scenes with people, in Kaggle's layout.

    python sample_data.py        data/sample/: Training_set.csv, Testing_set.csv, train/, test/

It lets everything run on a machine that has no photographs; figures from it say nothing about real ones. The same seed
draws the same pictures.
"""

import json
from pathlib import Path

from tqdm import tqdm

from dataset import NAME_FILE, TEST_CSV, TRAIN_CSV
from runtime.errors import InputError
from runtime.files import write_csv, write_folder, write_json
from sample.scenes import SCENES, draw

NAME = "built-in sample"
VERSION = 1  # to be raised when the same seed would draw other pictures
PER_CLASS = 40
UNLABELLED = 30


def ensure_sample(folder: Path, seed: int = 0, per_class: int = PER_CLASS) -> None:
    """Draws the sample into `folder` unless it is there already, whole or not at all.

    Raises: InputError where the folder holds something else.
    """
    about = {"name": NAME, "version": VERSION, "seed": seed, "per_class": per_class}
    marker = folder / NAME_FILE
    there = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else {}
    if there == about:
        return
    if folder.exists() and there.get("name") != NAME:
        raise InputError(f"{folder}: holds something else than the {NAME}; move it away, or name a dataset with --data")
    with write_folder(folder) as partial:
        for part in ("train", "test"):
            (partial / part).mkdir()
        actions, labelled = list(SCENES), per_class * len(SCENES)
        names = [f"train/Image_{number + 1}.jpg" for number in range(labelled)]
        names += [f"test/Image_{number + 1}.jpg" for number in range(UNLABELLED)]
        jobs = [(name, actions[number % len(actions)]) for number, name in enumerate(names)]
        for number, (name, action) in enumerate(tqdm(jobs, "draw the sample", unit=" images")):
            draw(action, (seed, number)).save(partial / name, quality=90)
        rows = [(Path(name).name, action) for name, action in jobs]
        write_csv(partial / TRAIN_CSV, [("filename", "label"), *rows[:labelled]])
        write_csv(partial / TEST_CSV, [("filename",), *(row[:1] for row in rows[labelled:])])
        write_json(partial / NAME_FILE, about)


if __name__ == "__main__":
    ensure_sample(Path("data/sample"))
