"""Gets Kaggle's Human Action Recognition set into data/ and checks it, or checks a dataset that is there already.

    python prepare_data.py                 downloads 12,600 labelled photographs (no account needed), then checks them
    python prepare_data.py --check DIR     checks only

Prints a table and writes it, with the names of everything it found, as JSON (results/data_check.json).
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dataset import TRAIN_CSV, ActionData, Sample, class_counts, find_root, read_dataset
from runtime.console import run_script
from runtime.errors import InputError, first_line
from runtime.files import write_json
from splits.scan import Scan, group_duplicates, scan_files

HANDLE = "meetnagadia/human-action-recognition-har-dataset"
PAGE = f"https://www.kaggle.com/datasets/{HANDLE}"


@dataclass
class Args:
    check: Path | None = None
    """Check this folder instead of downloading."""
    out: Path = Path("data")
    """Where the downloaded set goes."""
    json: Path = Path("results/data_check.json")
    cache: Path = Path("data/cache")


def main(args: Args) -> None:
    folder = args.check or args.out
    if args.check is None and find_root(folder) is None:
        download(folder)
    data = read_dataset(folder)
    samples = data.train + data.test
    scans = dict(zip(samples, scan_files([sample.path for sample in samples], args.cache / "scans.json"), strict=True))
    found = examine(data, scans)
    print_report(found)
    write_json(args.json, found)
    print(f"written: {args.json}")


def download(folder: Path) -> None:
    """Fetches the archive through kagglehub and moves what is in it into `folder` once it is complete."""
    import kagglehub  # takes a second, and nothing but the download needs it

    staging = folder / "kaggle-download"
    try:
        # Forced, since kagglehub refuses a folder in which an earlier download was interrupted.
        kagglehub.dataset_download(HANDLE, output_dir=str(staging), force_download=staging.exists())
    except Exception as error:  # requests, kagglehub and the unpacking raise their own
        raise InputError(
            f"the download from Kaggle failed ({type(error).__name__}: {first_line(error)[:80]}); connect to the "
            f"network and run again, or download {PAGE} with a browser, unzip it into {folder}/ and run again"
        ) from error
    if find_root(staging) is None:
        raise InputError(f"{staging}: the download holds no dataset; delete it and run again")
    parts = [part for part in staging.iterdir() if not part.name.startswith(".")]
    taken = [str(folder / part.name) for part in parts if (folder / part.name).exists()]
    if taken:
        raise InputError(f"{taken[0]} is in the way of the download; move it away and run again")
    for part in sorted(parts, key=lambda part: part.name == TRAIN_CSV):  # the list last: it makes the dataset
        os.replace(part, folder / part.name)
    shutil.rmtree(staging)


def examine(data: ActionData, scans: dict[Sample, Scan]) -> dict[str, Any]:
    """Everything that the report says, as plain values; pictures by name, duplicates in groups of names."""
    good = {sample: scan for sample, scan in scans.items() if scan.error is None}
    exact = collect(good, (scan.sha256 for scan in good.values()))
    near = collect(good, group_duplicates(list(good.values())).tolist())
    return {
        "dataset": data.name,
        "folder": str(data.root),
        "classes": {name: dict(size_of(data, good, name), n=n) for name, n in sorted(class_counts(data.train).items())},
        "train": len(data.train),
        "test": len(data.test),
        "test_is_labelled": data.test_is_labelled,
        "width": spread(scan.width for scan in good.values()),
        "height": spread(scan.height for scan in good.values()),
        "unreadable": {sample.name: scan.error for sample, scan in scans.items() if scan.error is not None},
        "unlisted": data.unlisted,
        "duplicates": {"exact": sort_out(exact), "near": sort_out(near)},
    }


def collect(samples: Iterable[Sample], keys: Iterable[Any]) -> list[list[Sample]]:
    """Groups of two and more samples with the same key."""
    groups = defaultdict(list)
    for sample, key in zip(samples, keys, strict=True):
        groups[key].append(sample)
    return [group for group in groups.values() if len(group) > 1]


def sort_out(groups: list[list[Sample]]) -> dict[str, Any]:
    """Counts groups of copies and names those that cross labels or the border between training and test."""

    def names(chosen: Iterable[list[Sample]]) -> list[list[str]]:
        return [[f"{sample.name} ({sample.label or 'unlabelled'})" for sample in group] for group in chosen]

    crossing = [group for group in groups if len({s.label for s in group if s.label}) > 1]
    leaking = [group for group in groups if len({s.name.split("/")[0] for s in group}) > 1]
    return {
        "groups": len(groups),
        "files": sum(map(len, groups)),
        "within_labels": len(groups) - len(crossing),
        "across_labels": names(crossing),
        "across_train_and_test": names(leaking),
    }


def size_of(data: ActionData, good: dict[Sample, Scan], label: str) -> dict[str, Any]:
    sizes = [good[sample] for sample in data.train if sample.label == label and sample in good]
    return {"width": spread(scan.width for scan in sizes), "height": spread(scan.height for scan in sizes)}


def spread(values: Iterable[int]) -> dict[str, float]:
    """Smallest, middle and largest, in pixels."""
    values = sorted(values) or [0]
    return {"min": values[0], "median": median(values), "max": values[-1]}


def print_report(found: dict[str, Any]) -> None:
    width = max(len(name) for name in found["classes"])
    print(f"{found['dataset']} ({found['folder']})\n\n{'class':{width}s}      n   width (median)   height (median)")
    for name, row in found["classes"].items():
        sides = (f"{row[side]['min']}–{row[side]['max']} ({row[side]['median']:g})" for side in ("width", "height"))
        print(f"{name:{width}s}  {row['n']:5d}   " + "   ".join(f"{text:15s}" for text in sides))
    labels = "labelled" if found["test_is_labelled"] else "unlabelled"
    print(f"\ntraining: {found['train']} pictures; test: {found['test']} ({labels})")
    for kind, meaning in (("exact", "equal bytes"), ("near", "look the same")):
        row = found["duplicates"][kind]
        print(
            f"copies ({meaning}): {row['files']} files in {row['groups']} groups; "
            f"across labels {len(row['across_labels'])}, across train/test {len(row['across_train_and_test'])}"
        )
    for key, meaning in (("unreadable", "cannot be read"), ("unlisted", "no row names them")):
        names = list(found[key])
        print(
            f"files that {meaning}: {len(names)}"
            + (f" ({', '.join(names[:5])}{' …' * (len(names) > 5)})" if names else "")
        )


if __name__ == "__main__":
    run_script(main, Args, __doc__)
