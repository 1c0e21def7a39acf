"""Everything that a test leaves in results/<run>/test/: numbers, tables and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dataset import Sample
from evaluation.calibration import calibration, confused_pairs, coverage, intervals, suspected_label_errors
from evaluation.metrics import TOP, confusion_matrix, report, summarise
from figures import curves
from figures import trust as trust_pages
from runtime.files import write_csv, write_json

PANELS, MISTAKES, PAIRS, EXAMPLES = 5, 10, 5, 3
THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)  # of confidence, in metrics.json


def answers(samples: Sequence[Sample], probabilities: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """For each picture its name, true and predicted class, probability and the five most probable classes."""
    indices = probabilities.argsort(dim=1, descending=True, stable=True)[:, :TOP]  # of equal ones, the first
    values = probabilities.gather(1, indices)
    rows = []
    for sample, shares, order in zip(samples, values.tolist(), indices.tolist(), strict=True):
        top = [(classes[index], round(value, 6)) for index, value in zip(order, shares, strict=True)]
        rows.append({
            "filename": sample.name, "path": sample.path, "true": sample.label,
            "predicted": top[0][0], "probability": top[0][1], "top": top,
        })  # fmt: skip
    return rows


@dataclass(frozen=True)
class Test:
    """A test set and what a network said about it.

    Attributes:
        title: what stands above the pictures.
        logits: (N, K), as they came; `temperature` makes them probabilities.
    """

    folder: Path
    title: str
    samples: Sequence[Sample]
    classes: Sequence[str]
    logits: Tensor
    targets: Tensor
    temperature: float

    @cached_property
    def probabilities(self) -> Tensor:
        return (self.logits.double() / self.temperature).softmax(1)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        return answers(self.samples, self.probabilities, self.classes)

    @cached_property
    def mistakes(self) -> list[dict[str, Any]]:
        """The most confident first."""
        wrong = (row for row in self.rows if row["true"] != row["predicted"])
        return sorted(wrong, key=lambda row: -row["probability"])

    @cached_property
    def counts(self) -> np.ndarray:
        """The confusion matrix (K, K)."""
        return confusion_matrix(self.logits, self.targets, len(self.classes))

    def write(self, about: dict[str, Any], seed: int) -> dict[str, Any]:
        """Writes everything, and returns the content of metrics.json.

        Args:
            about: what else belongs there.
            seed: chooses the pictures of pred.png.
        """
        logits = self.logits / self.temperature
        values = report(logits, self.targets, self.classes)
        values["intervals"] = intervals(logits, self.targets, self.classes)
        values |= self.write_trust()
        values |= {"confused_pairs": self.write_pairs(), "label_issues": self.write_issues()} | about
        write_json(self.folder / "metrics.json", values)
        self.write_tables(values)
        self.draw(values, seed)
        return values

    def by_copies(self, copied: Sequence[bool]) -> dict[str, dict[str, float]]:
        """Accuracy of the pictures of which training had a copy, and of the others."""
        right = (self.logits.argmax(1) == self.targets).numpy()
        kinds = {"with a copy in training": np.array(copied), "without": ~np.array(copied)}
        return {
            kind: {"n": int(chosen.sum()), "accuracy": float(right[chosen].mean())}
            for kind, chosen in kinds.items()
            if chosen.any()
        }

    def write_trust(self) -> dict[str, Any]:
        """Calibration and coverage: trust.png and .json. Returns what of it belongs into metrics.json."""
        before, bins_before = calibration(self.logits.softmax(1), self.targets)
        after, bins_after = calibration(self.probabilities, self.targets)
        curve = coverage(self.probabilities, self.targets)
        kinds = {
            f"as the network says it, error {before:.3f}": bins_before,
            f"with temperature {self.temperature:.2f}, error {after:.3f}": bins_after,
        }
        trust_pages.trust(kinds, curve, self.title, self.folder / "trust.png")
        write_json(self.folder / "trust.json", {
            "bins_uncalibrated": bins_before, "bins": bins_after,
            "coverage": [dict(zip(("threshold", "coverage", "accuracy"), row, strict=True)) for row in curve.tolist()],
        })  # fmt: skip
        ends = [curve[curve[:, 0] >= threshold] for threshold in THRESHOLDS]
        return {
            "calibration": {
                "temperature": self.temperature, "expected_error": after, "expected_error_uncalibrated": before,
                "loss_uncalibrated": summarise(self.logits, self.targets)["loss"],
            },
            "coverage": [
                {"threshold": threshold, "coverage": rows[-1, 1], "accuracy": rows[-1, 2]}
                for threshold, rows in zip(THRESHOLDS, ends, strict=True) if len(rows)
            ],
        }  # fmt: skip

    def write_pairs(self) -> list[dict[str, Any]]:
        """The most confused pairs with pictures: confused.png."""
        pairs = confused_pairs(self.counts, self.classes, PAIRS)
        pictures = []
        for pair in pairs:
            first, second = pair["classes"]
            ways = ((first, second), (second, first))
            found = [[row for row in self.mistakes if (row["true"], row["predicted"]) == way] for way in ways]
            pictures.append([row for rows in found for row in rows[:EXAMPLES]])
        if pairs:
            trust_pages.confused(pairs, pictures, self.title, self.folder / "confused.png")
        return pairs

    def write_issues(self) -> int:
        """Labels to review: label_issues.csv, and the worst of them as label_issues.png. Returns how many."""
        found = suspected_label_errors(self.probabilities, self.targets)
        table = [("filename", "label", "probability_of_label", "predicted", "probability")]
        for index in found:
            row, own = self.rows[index], self.probabilities[index, self.targets[index]].item()
            table.append((row["filename"], row["true"], round(own, 6), row["predicted"], row["probability"]))
        write_csv(self.folder / "label_issues.csv", table)
        worst = [self.rows[index] for index in found[:MISTAKES]]
        if worst:
            title = f"{self.title}\nlabels to review, the least likely first"
            curves.predictions(worst, title, self.folder / "label_issues.png", given="label")
        return len(found)

    def write_tables(self, values: dict[str, Any]) -> None:
        columns = ("precision", "recall", "f1", "n")
        per_class = [(name, *(row[key] for key in columns)) for name, row in values["per_class"].items()]
        write_csv(self.folder / "per_class.csv", [("class", *columns), *per_class])
        matrix = [(name, *line) for name, line in zip(self.classes, self.counts.tolist(), strict=True)]
        write_csv(self.folder / "conf_matrix.csv", [("true \\ predicted", *self.classes), *matrix])
        keys = ("filename", "true", "predicted", "probability")
        write_csv(self.folder / "test_predictions.csv", [keys, *([row[key] for key in keys] for row in self.rows)])

    def draw(self, values: dict[str, Any], seed: int) -> None:
        """The confusion matrix, some pictures by chance and the most confident mistakes."""
        low, high = values["intervals"]["accuracy"]
        accuracy = f"test accuracy {values['accuracy']:.1%} ({low:.1%} to {high:.1%}) on {values['n']} pictures"
        curves.confusion(self.counts, self.classes, f"{self.title}\n{accuracy}", self.folder / "conf_matrix.png")
        chosen = np.random.default_rng(seed).permutation(len(self.rows)).tolist()
        new, more = [], []  # a picture of each class comes before a second one of any
        for row in (self.rows[index] for index in chosen):
            (more if row["true"] in {other["true"] for other in new} else new).append(row)
        for name, picked, what in (
            ("pred", (new + more)[:PANELS], "sample predictions"),
            ("mistakes", self.mistakes[:MISTAKES], "most confident mistakes"),
        ):
            if picked:
                curves.predictions(picked, f"{self.title}\n{what}", self.folder / f"{name}.png")
            write_json(self.folder / f"{name}.json", [{k: v for k, v in row.items() if k != "path"} for row in picked])
