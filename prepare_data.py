"""Downloads Kaggle's Human Action Recognition set into data/ and checks it, or checks any dataset.

    python prepare_data.py                 downloads 12,600 labelled images (no account needed), then checks them
    python prepare_data.py --check DIR     checks only

Prints a table of image sizes by class, and counts duplicates, unreadable files and what is left out. Writes the numbers
and the files' names to results/data_check.json.
"""

from dataclasses import dataclass
from pathlib import Path

from runtime.console import parse_arguments, run_script, suggest
from runtime.options import RunOptions, same_run


@dataclass
class Args:
    check: Path | None = None
    """Check the dataset in this folder; download nothing."""
    out: Path = Path("data")
    """Folder of the downloaded dataset."""
    json: Path = Path("results/data_check.json")
    """File of the report."""
    cache: Path = Path("data/cache")
    """Folder of the cache, which stores scans of images."""


if __name__ == "__main__":
    ARGS = parse_arguments(Args, __doc__)  # before the imports below, which take seconds

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from dataset import ActionData, Sample, class_counts, find_root, read_dataset
from layouts.parts import LEFT_OUT, PARTS, TRAIN_CSV, describe_left_out
from runtime.errors import InputError, first_line
from runtime.files import write_json
from runtime.status import say
from splits.scan import Scan, group_duplicates, scan_files, sizes

HANDLE = "meetnagadia/human-action-recognition-har-dataset"
PAGE = f"https://www.kaggle.com/datasets/{HANDLE}"


def main(args: Args) -> None:
    folder = args.check or args.out
    if args.check is None and find_root(folder) is None:
        download(folder)
    data = read_dataset(folder, skip_missing=True)
    samples = data.train + data.val + data.test
    scans = dict(zip(samples, scan_files([sample.path for sample in samples], args.cache / "scans.json"), strict=True))
    report = make_report(data, scans)
    print_report(report)
    write_json(args.json, report)
    print(f"written: {args.json}")
    places = RunOptions(data=None if folder == Path("data") else folder, cache=args.cache)
    suggest("train.py", *same_run(places))


def download(folder: Path) -> None:
    """Downloads the archive with kagglehub; moves its contents into `folder` once they are complete."""
    import kagglehub  # takes a second to import; --check does not need it

    say(f"downloading {PAGE}")

    staging = folder / "kaggle-download"
    try:
        # kagglehub refuses the folder of an interrupted download unless forced.
        kagglehub.dataset_download(HANDLE, output_dir=str(staging), force_download=staging.exists())
    except Exception as error:  # requests, kagglehub and zipfile raise types of their own
        raise InputError(
            f"the download from Kaggle failed ({type(error).__name__}: {first_line(error)[:80]}); connect to the "
            f"network and run again, or download {PAGE} with a browser, unzip it into {folder}/ and run again"
        ) from error
    if find_root(staging) is None:
        raise InputError(f"{staging}: the download contains no dataset; delete it and run again")
    entries = [entry for entry in staging.iterdir() if not entry.name.startswith(".")]
    existing = [str(folder / entry.name) for entry in entries if (folder / entry.name).exists()]
    if existing:
        raise InputError(f"{existing[0]} exists already; move it away and run again")
    for entry in sorted(entries, key=lambda entry: entry.name == TRAIN_CSV):  # last: `find_root` looks for it
        os.replace(entry, folder / entry.name)
    shutil.rmtree(staging)


def make_report(data: ActionData, scans: dict[Sample, Scan]) -> dict[str, Any]:
    """The report as plain values: images by name, duplicates as groups of names, sizes in pixels."""
    readable = {sample: scan for sample, scan in scans.items() if scan.error is None}
    part_of = {sample.name: part for part in PARTS for sample in getattr(data, part)}
    exact = group_equal(readable, (scan.sha256 for scan in readable.values()))
    near = group_equal(readable, group_duplicates(list(readable.values())).tolist())
    return {
        "dataset": data.name,
        "folder": str(data.root),
        "classes": {
            name: sizes([readable[s] for s in data.train if s.label == name and s in readable]) | {"n": n}
            for name, n in sorted(class_counts(data.train).items())
        },
        "sources": data.sources,
        "train": len(data.train),
        "val": len(data.val),
        "test": len(data.test),
        "test_is_labelled": data.test_is_labelled,
        **sizes(readable.values()),
        "unreadable": {sample.name: scan.error for sample, scan in scans.items() if scan.error is not None},
        **data.left_out,
        "duplicates": {"exact": summarise_groups(exact, part_of), "near": summarise_groups(near, part_of)},
    }


def group_equal(samples: Iterable[Sample], keys: Iterable[Any]) -> list[list[Sample]]:
    """Groups samples by key; returns groups of two or more."""
    groups = defaultdict(list)
    for sample, key in zip(samples, keys, strict=True):
        groups[key].append(sample)
    return [group for group in groups.values() if len(group) > 1]


def summarise_groups(groups: list[list[Sample]], part_of: dict[str, str]) -> dict[str, Any]:
    """Counts groups of duplicates and names those with several labels or in several parts of the dataset."""

    def names(chosen: Iterable[list[Sample]]) -> list[list[str]]:
        return [[f"{sample.name} ({sample.label or 'unlabelled'})" for sample in group] for group in chosen]

    across_labels = [group for group in groups if len({s.label for s in group if s.label}) > 1]
    across_parts = [group for group in groups if len({part_of[s.name] for s in group}) > 1]
    return {
        "groups": len(groups),
        "files": sum(map(len, groups)),
        "within_labels": len(groups) - len(across_labels),
        "across_labels": names(across_labels),
        "across_parts": names(across_parts),
    }


def print_report(report: dict[str, Any]) -> None:
    width = max(len(name) for name in report["classes"])
    print(f"{report['dataset']} ({report['folder']})\n")
    print(f"{'class':{width}s}  images   width (median)   height (median)")
    for name, row in report["classes"].items():
        sides = (f"{row[side]['min']}–{row[side]['max']} ({row[side]['median']:g})" for side in ("width", "height"))
        print(f"{name:{width}s}  {row['n']:6d}   " + "   ".join(f"{text:14s}" for text in sides).rstrip())
    words = {"train": "training", "val": "validation", "test": "test"}
    counts = [f"{words[part]}: {report[part]} images ({report['sources'][part]})" for part in PARTS if report[part]]
    unlabelled = ", unlabelled" if report["test"] and not report["test_is_labelled"] else ""
    print(f"\n{'; '.join(counts)}{unlabelled}")
    for kind, meaning in (("exact", "identical files"), ("near", "similar images")):
        row = report["duplicates"][kind]
        print(
            f"duplicates ({meaning}): {row['files']} files in {row['groups']} groups, "
            f"{len(row['across_labels'])} of them with several labels, "
            f"{len(row['across_parts'])} in several parts of the dataset"
        )
    bad = report["unreadable"]
    print(f"unreadable files: {len(bad)}" + f" ({', '.join(list(bad)[:5])}{', …' * (len(bad) > 5)})" * bool(bad))
    print(f"left out: {describe_left_out({reason: report[reason] for reason in LEFT_OUT}) or 'nothing'}")


if __name__ == "__main__":
    run_script(main, ARGS)
