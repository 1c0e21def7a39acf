"""The page about a test: report.html in results/<run>/test/."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from evaluation.report import EvaluationReport
from reports.page import PAGE, embed, write_page
from reports.run import describe_run
from reports.thumbnails import thumbnails
from training.trained_run import TrainedRun

SHOWN = 20  # mistakes and suspected label errors
PER_CELL = 24  # images of a cell of the confusion matrix
LARGEST = 40  # classes up to which the confusion matrix is a table; of more, its figure and the fullest cells
FULLEST = 100

Row = dict[str, Any]  # of EvaluationReport.rows, with the position of its `thumbnail`


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix: `n` images, of which `shown` have thumbnails."""

    true: str
    predicted: str
    name: str
    n: int
    share: float
    shown: list[Row]


def write_test_report(run: TrainedRun, report: EvaluationReport, values: dict[str, Any], commands: list[str]) -> Path:
    """Writes the page; returns its path.

    Args:
        values: content of metrics.json.
        commands: those that repeat the test.
    """
    suspected = [report.rows[index] for index in report.label_errors[:SHOWN]]
    mistakes, cells = report.mistakes[:SHOWN], group_rows(report)
    order = chain(suspected, mistakes, *zip_longest(*(rows[:PER_CELL] for rows in cells.values())))
    paths = list(dict.fromkeys(row["path"] for row in order if row))
    uris = thumbnails(paths)
    position = {path: number for number, path in enumerate(paths[: len(uris)])}

    def shown(rows: Sequence[Row]) -> list[Row]:
        return [row | {"thumbnail": position[row["path"]]} for row in rows if row["path"] in position]

    filled = make_cells(report, {key: shown(rows[:PER_CELL]) for key, rows in cells.items()})
    path = report.folder / PAGE
    write_page(
        path, "evaluation.html", **describe_run(run), values=values, thumbnails=uris, test_commands=commands,
        suspected=shown(suspected), label_probability=label_probabilities(report), mistakes=shown(mistakes),
        cells=filled, matrix=matrix(report, filled), figure=embed(report.folder / "conf_matrix.png"),
        calibration=embed(report.folder / "trust.png"), tta=report.folder.name.endswith("tta"),
        uneven=report.uneven,
    )  # fmt: skip
    return path


def group_rows(report: EvaluationReport) -> dict[tuple[str, str], list[Row]]:
    """Images by true and predicted class: of wrong predictions the most confident first, of right ones the least."""
    groups = defaultdict(list)
    for row in report.mistakes:
        groups[row["true"], row["predicted"]].append(row)
    for row in sorted(report.rows, key=lambda row: row["probability"]):
        if row["true"] == row["predicted"]:
            groups[row["true"], row["predicted"]].append(row)
    return groups


def make_cells(report: EvaluationReport, shown: dict[tuple[str, str], list[Row]]) -> dict[tuple[str, str], Cell]:
    """The cells that hold images, the fullest first; where there are many classes, not all of them."""
    totals = report.counts.sum(1)
    cells = {}
    for i, true in enumerate(report.classes):
        for j, predicted in enumerate(report.classes):
            if n := int(report.counts[i, j]):
                cells[true, predicted] = Cell(true, predicted, f"c{i}-{j}", n, n / totals[i], shown[true, predicted])
    if len(report.classes) <= LARGEST:
        return cells
    wrong = sorted((cell for cell in cells.values() if cell.true != cell.predicted), key=lambda cell: -cell.n)
    return {(cell.true, cell.predicted): cell for cell in wrong[:FULLEST]}


def matrix(report: EvaluationReport, cells: dict[tuple[str, str], Cell]) -> list[tuple[str, list[Cell | None]]] | None:
    """The lines of the confusion matrix; None where it is too large for a table."""
    if len(report.classes) > LARGEST:
        return None
    return [(true, [cells.get((true, predicted)) for predicted in report.classes]) for true in report.classes]


def label_probabilities(report: EvaluationReport) -> dict[str, float]:
    """The probability of their label for the suspected label errors, by file name."""
    return {
        report.rows[index]["filename"]: report.probabilities[index, report.targets[index]].item()
        for index in report.label_errors[:SHOWN]
    }
