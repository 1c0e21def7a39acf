"""Everything that a test writes into results/<run>/test/: metrics, tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dataset import Sample
from evaluation.bootstrap import bootstrap_intervals
from evaluation.calibration import (
    accuracy_by_coverage,
    calibration_error,
    confused_pairs,
    suspected_label_errors,
)
from evaluation.metrics import confusion_matrix, is_uneven, report, summarise
from evaluation.predictions import prediction_rows
from figures import calibration as calibration_figures
from figures import curves
from runtime.files import write_csv, write_json
from splits.scan import group_duplicates, scan_file

PANELS, MISTAKES, PAIRS, EXAMPLES = 5, 10, 5, 3
THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)  # of confidence, in metrics.json


def without_duplicates(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first row of every photograph, of which files may be duplicates (`splits.scan.group_duplicates`)."""
    groups = group_duplicates([scan_file(row["path"]) for row in rows])
    return [rows[index] for index in sorted(np.unique(groups, return_index=True)[1])]


@dataclass(frozen=True)
class EvaluationReport:
    """A test set with a network's logits.

    Attributes:
        folder: where everything is written.
        title: heading of the figures.
        logits: (N, K), before temperature scaling; targets: (N,).
        temperature: divides logits to make calibrated probabilities.
        is_test_set: of a run; its images go by their number (--index), others by their file names.
        groups: number of the group of each image where a split kept groups together (--group): intervals are then over
            groups.
    """

    folder: Path
    title: str
    samples: Sequence[Sample]
    classes: Sequence[str]
    logits: Tensor
    targets: Tensor
    temperature: float
    is_test_set: bool = True
    groups: np.ndarray | None = None

    @property
    def uneven(self) -> bool:
        return is_uneven(self.targets.bincount().tolist())

    @cached_property
    def probabilities(self) -> Tensor:
        """Calibrated, (N, K)."""
        return (self.logits.double() / self.temperature).softmax(1)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Predictions of the images, for a test set with `index`."""
        rows = prediction_rows(self.samples, self.probabilities, self.classes)
        return [{"index": index, **row} for index, row in enumerate(rows)] if self.is_test_set else rows

    @cached_property
    def mistakes(self) -> list[dict[str, Any]]:
        """Rows with a wrong prediction, the most confident first."""
        wrong = (row for row in self.rows if row["true"] != row["predicted"])
        return sorted(wrong, key=lambda row: -row["probability"])

    @cached_property
    def label_errors(self) -> list[int]:
        """Positions of suspected label errors, the least probable label first."""
        return suspected_label_errors(self.probabilities, self.targets)

    @cached_property
    def counts(self) -> np.ndarray:
        """The confusion matrix (K, K)."""
        return confusion_matrix(self.logits, self.targets, len(self.classes))

    def write(self, about: dict[str, Any], seed: int) -> dict[str, Any]:
        """Writes everything; returns the content of metrics.json.

        Args:
            about: further content of metrics.json.
            seed: chooses the images of pred.png.
        """
        logits = self.logits / self.temperature
        values = report(logits, self.targets, self.classes)
        count = 0 if self.groups is None else len(np.unique(self.groups))
        groups = self.groups if count > 1 else None  # of one group, no interval can be told
        values["intervals"] = bootstrap_intervals(logits, self.targets, self.classes, groups)
        values |= {"groups": count} if count else {}
        values |= self.write_calibration()
        values |= {"confused_pairs": self.write_confused_pairs(), "label_issues": self.write_label_errors()} | about
        write_json(self.folder / "metrics.json", values)
        self.write_tables(values)
        self.draw(values, seed)
        return values

    def by_duplicates(self, duplicated: Sequence[bool]) -> dict[str, dict[str, float]]:
        """Accuracy on images with a duplicate in the training set, and on the others."""
        right = (self.logits.argmax(1) == self.targets).numpy()
        kinds = {"with a copy in training": np.array(duplicated), "without": ~np.array(duplicated)}  # keys of the file
        return {
            kind: {"n": int(chosen.sum()), "accuracy": float(right[chosen].mean())}
            for kind, chosen in kinds.items()
            if chosen.any()
        }

    def write_calibration(self) -> dict[str, Any]:
        """Writes trust.png and .json (calibration, coverage); returns its part of metrics.json."""
        before, bins_before = calibration_error(self.logits.softmax(1), self.targets)
        after, bins_after = calibration_error(self.probabilities, self.targets)
        curve = accuracy_by_coverage(self.probabilities, self.targets)
        kinds = {
            f"before calibration, ECE {before:.3f}": bins_before,
            f"after temperature scaling (T = {self.temperature:.2f}), ECE {after:.3f}": bins_after,
        }
        calibration_figures.reliability_and_coverage(kinds, curve, self.title, self.folder / "trust.png")
        write_json(self.folder / "trust.json", {
            "bins_uncalibrated": bins_before, "bins": bins_after,
            "coverage": [dict(zip(("threshold", "coverage", "accuracy"), row, strict=True)) for row in curve.tolist()],
        })  # fmt: skip
        ends = [curve[curve[:, 0] >= threshold] for threshold in THRESHOLDS]
        return {
            "calibration": {
                "temperature": self.temperature, "ece": after, "ece_uncalibrated": before,
                "loss_uncalibrated": summarise(self.logits, self.targets)["loss"],
            },
            "coverage": [
                {"threshold": threshold, "coverage": rows[-1, 1], "accuracy": rows[-1, 2]}
                for threshold, rows in zip(THRESHOLDS, ends, strict=True) if len(rows)
            ],
        }  # fmt: skip

    def write_confused_pairs(self) -> list[dict[str, Any]]:
        """Writes confused.png, the most confused pairs of classes with images, none twice; returns the pairs."""
        pairs = confused_pairs(self.counts, self.classes, PAIRS)
        wanted, images = [set(pair["classes"]) for pair in pairs], []
        mistakes = without_duplicates([row for row in self.mistakes if {row["true"], row["predicted"]} in wanted])
        for pair in pairs:
            first, second = pair["classes"]
            directions = ((first, second), (second, first))
            found = [[row for row in mistakes if (row["true"], row["predicted"]) == way] for way in directions]
            images.append([row for rows in found for row in rows[:EXAMPLES]])
        if pairs:
            calibration_figures.confused_pairs(pairs, images, self.title, self.folder / "confused.png")
        return pairs

    def write_label_errors(self) -> int:
        """Writes suspected label errors as label_issues.csv, the worst as label_issues.png; returns their number."""
        table = []
        for index in self.label_errors:
            row, own = self.rows[index], self.probabilities[index, self.targets[index]].item()
            table.append((row["filename"], row["true"], round(own, 6), row["predicted"], row["probability"]))
        columns = ("filename", "label", "probability_of_label", "predicted", "probability")
        write_csv(self.folder / "label_issues.csv", table, columns)
        worst = [self.rows[index] for index in self.label_errors[:MISTAKES]]
        if worst:
            title = "Suspected label errors, the least probable label first"
            curves.predictions(worst, title, self.title, self.folder / "label_issues.png", given="label")
        return len(self.label_errors)

    def write_tables(self, values: dict[str, Any]) -> None:
        """Writes per_class.csv, conf_matrix.csv and test_predictions.csv."""
        columns = ("precision", "recall", "f1", "n")
        per_class = [(name, *(row[key] for key in columns)) for name, row in values["per_class"].items()]
        write_csv(self.folder / "per_class.csv", per_class, ("class", *columns))
        matrix = [(name, *line) for name, line in zip(self.classes, self.counts.tolist(), strict=True)]
        write_csv(self.folder / "conf_matrix.csv", matrix, ("true \\ predicted", *self.classes))
        keys = ("filename", "true", "predicted", "probability")
        write_csv(self.folder / "test_predictions.csv", [[row[key] for key in keys] for row in self.rows], keys)

    def draw(self, values: dict[str, Any], seed: int) -> None:
        """Draws the confusion matrix, random sample predictions and the most confident mistakes."""
        shown = {"macro_f1": "macro F1", "accuracy": "accuracy"} if self.uneven else {"accuracy": "accuracy"}
        texts = [
            f"{name} {values[key]:.1%} ({' to '.join(f'{end:.1%}' for end in values['intervals'][key])})"
            for key, name in shown.items()
        ]
        metrics = f"{'test ' * self.is_test_set}{', '.join(texts)} on {values['n']} images"
        curves.confusion(self.counts, self.classes, f"{self.title}\n{metrics}", self.folder / "conf_matrix.png")
        chosen = np.random.default_rng(seed).permutation(len(self.rows)).tolist()
        first, more = [], []  # an image of each class comes before a second one of any
        for row in (self.rows[index] for index in chosen):
            (more if row["true"] in {other["true"] for other in first} else first).append(row)
        for name, picked, what in (
            ("pred", (first + more)[:PANELS], "Sample predictions"),
            ("mistakes", self.mistakes[:MISTAKES], "Most confident mistakes"),
        ):
            if picked:
                curves.predictions(picked, what, self.title, self.folder / f"{name}.png")
            write_json(self.folder / f"{name}.json", [{k: v for k, v in row.items() if k != "path"} for row in picked])
