"""The page about a training: report.html in the run's folder."""

import json
from pathlib import Path
from typing import Any

from reports.data import PARTS, summarise_data
from reports.network import draw_run
from reports.page import PAGE, embed, write_page
from reports.settings import settings, training_command
from runtime.errors import InputError, first_line
from runtime.files import read_text
from training import checkpoint
from training.checks import check_history
from training.trained_run import TrainedRun


def write_run_report(run: TrainedRun) -> Path:
    """Writes the page; returns its path."""
    path = run.folder / PAGE
    write_page(path, "run.html", **describe_run(run), test_commands=[])
    return path


def describe_run(run: TrainedRun) -> dict[str, Any]:
    """What the pages about a training and about a test of it share."""
    record, history = run.record, read_history(run.folder)
    drawing = run.folder / "network.png"
    if not drawing.exists():
        draw_run(run, drawing)
    return {
        "run": run,
        "record": record,
        "settings": settings(record),
        "data": summarise_data(run),
        "parts": PARTS,
        "history": history,
        "curves": embed(run.folder / checkpoint.CURVES),
        "network": embed(drawing),
        "training_commands": training_command(record, "NAME" if run.is_pretrained else run.name),
    }


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`; none for the pretrained network."""
    path = folder / checkpoint.METRICS
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in read_text(path).splitlines()]
        check_history(rows)
        return rows
    except ValueError as error:
        raise InputError(
            f"{path}: damaged ({first_line(error)}); run: python train.py --resume --run {folder.name}"
        ) from error
