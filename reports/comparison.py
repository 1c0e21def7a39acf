"""The page that compares tested runs, and its numbers."""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.paired import compare_paired
from figures.curves import compared_curves
from reports.page import PAGE, embed, write_page
from reports.run import read_history
from reports.settings import differing
from reports.thumbnails import thumbnails
from runtime.errors import InputError, naming
from runtime.files import read_text, require_file, write_csv, write_json
from training.checks import SplitDigests, fits, require

SHOWN = 40  # images that only one of two runs gets right
METRICS = ("n", "accuracy", "macro_f1", "top5_accuracy", "loss")


@dataclass(frozen=True)
class TestedRun:
    """A run with its test.

    Attributes:
        digests: names and SHA-256 of the test images.
        values: content of metrics.json.
        rows: of test_predictions.csv, by file name.
        history: rows of metrics.jsonl.
    """

    name: str
    record: dict[str, Any]
    digests: dict[str, str]
    values: dict[str, Any]
    rows: dict[str, dict[str, str]]
    history: list[dict[str, Any]]

    @property
    def labels(self) -> dict[str, str]:
        return {name: row["true"] for name, row in self.rows.items()}

    def right(self, names: Sequence[str]) -> np.ndarray:
        """Whether each image is predicted rightly, (N,) bool."""
        return np.array([self.rows[name]["true"] == self.rows[name]["predicted"] for name in names], dtype=bool)


def read_tested(folder: Path, record: dict[str, Any], split: SplitDigests, tta: bool) -> TestedRun:
    """Raises: InputError where the run was not tested, or on other images than it has now."""
    test, option = folder / ("test_tta" if tta else "test"), " --tta" if tta else ""
    fix = f"run: python predict5.py --run {folder.name}{option}"
    try:
        with naming(test, fix):
            values = json.loads(read_text(test / "metrics.json"))
            require_file(test / "test_predictions.csv")
            with (test / "test_predictions.csv").open(newline="", encoding="utf-8") as file:
                rows = {row["filename"]: row for row in csv.DictReader(file)}
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: is missing; {fix}") from error
    with naming(test, fix):
        check_test(values, rows)
    if rows.keys() != split["test"].keys():
        raise InputError(f"{test}: is a test of other images than the run's; {fix}")
    return TestedRun(folder.name, record, split["test"], values, rows, read_history(folder))


def check_test(values: dict[str, Any], rows: dict[str, dict[str, str]]) -> None:
    """Raises ValueError, or what Python raises, where metrics or predictions lack what a comparison shows."""
    require(fits(values["n"], int), "n")
    for name in METRICS[1:]:
        low, high = values["intervals"][name]
        require(all(fits(value, float) for value in (values[name], low, high)), name)
    require(fits(values["calibration"]["ece"], float), "ece")
    for row in values["per_class"].values():
        require(isinstance(row, dict) and all(fits(value, float) for value in row.values()), "per_class")
    for name, row in rows.items():
        require(isinstance(row["true"], str) and isinstance(row["predicted"], str), f"the row of {name}")
        float(row["probability"])


def write_comparison(folder: Path, runs: Sequence[TestedRun], root: Path | None) -> dict[str, Any]:
    """Writes page, numbers and curves; returns the content of comparison.json.

    Args:
        root: folder of the first run's test images; None: not there.
    """
    first, *others = runs
    names = list(first.digests)
    values = {
        "runs": {run.name: summarise(run) for run in runs},
        "pairs": {run.name: compare(first, run) for run in others},
        "settings": dict(differing([run.record for run in runs])),
    }
    write_json(folder / "comparison.json", values)
    paired = [first, *(run for run in others if "refused" not in values["pairs"][run.name])]
    columns = ["filename", "true", *(f"{key} {run.name}" for run in paired for key in ("predicted", "probability"))]
    table = [[name, first.rows[name]["true"], *predictions(paired, name)] for name in names]
    write_csv(folder / "images.csv", table, columns)
    histories = {run.name: run.history for run in runs if run.history}
    if histories:
        compared_curves(histories, folder / "curves.png")
    write_comparison_page(folder, runs, values, paired, root)
    return values


def write_comparison_page(
    folder: Path, runs: Sequence[TestedRun], values: dict[str, Any], paired: Sequence[TestedRun], root: Path | None
) -> None:
    """Writes report.html.

    Args:
        values: content of comparison.json.
        paired: the first run and those that were tested on the same images.
    """
    first, *others = paired
    groups = {run.name: only_one(first, run) for run in others}
    wanted = {name for pair in groups.values() for group in pair for name in group[:SHOWN]}
    found = find_images(sorted(wanted), first.digests, root)
    uris = thumbnails(list(found.values()))
    write_page(
        folder / PAGE, "comparison.html", runs=runs, values=values, groups=groups, thumbnails=uris, shown=SHOWN,
        position={name: number for number, name in enumerate(found) if number < len(uris)},
        numbers={name: number for number, name in enumerate(first.digests)}, curves=embed(folder / "curves.png"),
        classes=sorted({name for run in runs for name in run.values["per_class"]}),
    )  # fmt: skip


def summarise(run: TestedRun) -> dict[str, Any]:
    intervals = {key: run.values["intervals"][key] for key in METRICS[1:]}
    return {key: run.values[key] for key in METRICS} | {"ece": run.values["calibration"]["ece"], "intervals": intervals}


def predictions(runs: Sequence[TestedRun], name: str) -> list[str]:
    return [run.rows[name][key] for run in runs for key in ("predicted", "probability")]


def compare(first: TestedRun, other: TestedRun) -> dict[str, Any]:
    """`evaluation.paired.compare_paired`; `refused`, why not, where the test sets are not the same."""
    if first.digests != other.digests:
        common = len(first.digests.items() & other.digests.items())
        sizes = f"{len(first.digests):,} and {len(other.digests):,} images, {common:,} of them in both"
        return {"refused": f"the test sets differ ({sizes}), so that nothing can be paired"}
    if first.labels != other.labels:
        changed = sum(label != other.labels[name] for name, label in first.labels.items())
        return {"refused": f"the labels of {changed:,} test images differ, so that nothing can be paired"}
    names = list(first.digests)
    return compare_paired(first.right(names), other.right(names))


def only_one(first: TestedRun, other: TestedRun) -> tuple[list[str], list[str]]:
    """Images that only the first, and only the other run predicts rightly; the most confident mistake first."""
    names = list(first.digests)
    right, other_right = first.right(names), other.right(names)

    def ordered(chosen: np.ndarray, wrong: TestedRun) -> list[str]:
        picked = [name for name, is_one in zip(names, chosen, strict=True) if is_one]
        return sorted(picked, key=lambda name: -float(wrong.rows[name]["probability"]))

    return ordered(right & ~other_right, other), ordered(~right & other_right, first)


def find_images(names: Sequence[str], digests: dict[str, str], root: Path | None) -> dict[str, Path]:
    """The files that are there and have not changed, by name."""
    paths = {name: root / name for name in names} if root else {}
    return {
        name: path
        for name, path in paths.items()
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digests[name]
    }
